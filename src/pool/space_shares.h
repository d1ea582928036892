// Who may take how many of the data blocks: the smallest number that a volume is promised, and the
// greatest that it gets.
//
// Invariants
//   SS1  Free blocks that are promised to volumes (the part of each promise that is not mapped yet)
//        are given to nobody else; breaking of sharing maps nothing more and takes none of them.
//   SS2  A volume maps no more than its limit, blocks in flight counted.
//   SS3  Nothing is kept on disk, and nothing is promised to a device without a policy.
// Threads   The executor.
// Failures  Those of reading the metadata.
// Source    ours; the kernel knows neither.
#pragma once

#include <cstdint>
#include <map>
#include <set>

#include "base/result.h"
#include "uthin/metadata.h"
#include "uthin/pool.h"

namespace uthin::pool_engine {

class space_shares {
public:
    void replace(std::map<device_id, space_policy> policies);
    [[nodiscard]] bool empty() const noexcept { return entries_.empty(); }

    // The number of mappings of this device may have changed; of any device.
    void mapped_changed(device_id id);
    void all_changed() noexcept { all_stale_ = true; }
    // Blocks for holes of the device were allocated; one of them got its mapping, or was given
    // back.
    void allocated(device_id id, std::uint64_t holes);
    void settled(device_id id);
    // After an abort: nothing is in flight.
    void aborted();

    // Free blocks that are spoken for.
    [[nodiscard]] result<std::uint64_t> promised_blocks(const metadata& from);

    // What one volume may have of `free_blocks`.
    enum class verdict : std::uint8_t { granted, over_limit, promised_to_others };
    class claim {
    public:
        // The next block: for a hole, or in place of a shared one.
        [[nodiscard]] verdict take(bool is_hole) noexcept;

    private:
        friend class space_shares;
        std::uint64_t free_blocks_ = 0;
        std::uint64_t promised_ = 0;        // to all
        std::uint64_t promised_to_us_ = 0;  // of these
        std::uint64_t below_limit_ = UINT64_MAX;
    };
    [[nodiscard]] result<claim> begin_claim(device_id id, std::uint64_t free_blocks,
                                            const metadata& from);

private:
    struct entry {
        space_policy policy;
        std::uint64_t mapped = 0;
        std::uint64_t in_flight = 0;
        [[nodiscard]] std::uint64_t promised() const noexcept {
            const std::uint64_t used = mapped + in_flight;
            return policy.reserved_blocks > used ? policy.reserved_blocks - used : 0;
        }
    };
    [[nodiscard]] result<void> refresh(const metadata& from);
    [[nodiscard]] result<void> refresh_one(device_id id, entry& of, const metadata& from);

    std::map<device_id, entry> entries_;
    std::set<device_id> stale_;
    bool all_stale_ = false;
    std::uint64_t promised_ = 0;
};

}  // namespace uthin::pool_engine
