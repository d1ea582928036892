// One request at a time for each (device, virtual block) that is being provisioned or unshared.
//
// Invariants
//   BP1  A cell has at most one holder; only its holder may insert a mapping for the block.
//   BP2  Nobody waits for a cell while it holds one.
// Threads   Any.
// Failures  None.
// Source    the kernel's dm-bio-prison in role, not in shape: waiters look up again.
#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <utility>

#include "base/mutex.h"
#include "uthin/units.h"

namespace uthin::pool_engine {

class bio_prison {
public:
    // Cells of consecutive blocks of one device, released together.
    class cells {
    public:
        // Takes the cell of `first`, waiting for its holder to leave if there is one: then it is
        // not taken, and empty() is true, because the mapping has probably changed. Afterwards as
        // many of the next blocks as are free, at most `count_max` in all.
        cells(bio_prison& prison, device_id device, virtual_block first, std::uint64_t count_max);
        ~cells();
        cells(const cells&) = delete;
        cells& operator=(const cells&) = delete;
        [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
        [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
        // Gives back all behind the first `count`.
        void keep(std::uint64_t count);

    private:
        bio_prison& prison_;
        const device_id device_;
        const virtual_block first_;
        std::uint64_t count_ = 0;
    };

private:
    using key = std::pair<std::uint64_t, std::uint64_t>;
    struct shard {
        mutex lock;
        condition released;
        std::set<key> held GUARDED_BY(lock);
    };
    static constexpr std::size_t shard_count = 32;

    [[nodiscard]] shard& shard_of(const key& cell) {
        return shards_[(cell.first * 31 + cell.second) % shard_count];
    }
    [[nodiscard]] bool try_take(const key& cell);
    void wait(const key& cell);
    void release(const key& cell);

    std::array<shard, shard_count> shards_;
};

}  // namespace uthin::pool_engine
