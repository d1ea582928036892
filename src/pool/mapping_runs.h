// The part of the mapping cache for blocks whose neighbours are neighbours on the data device, too:
// 32 mappings in three words, 64 in a cache line. What was written in order takes a twentieth of
// the memory that single mappings take, and stays near the processor.
//
// Invariants  Those of mapping_cache, for what is kept here: a version per line.
// Threads   find, fill, start: any. The others: the executor, after it published the change.
// Failures  None; a mapping may be missing at any time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "uthin/metadata.h"
#include "uthin/units.h"

namespace uthin::pool_engine {

class mapping_runs {
public:
    // Rounded up to a power of two.
    explicit mapping_runs(std::uint64_t lines);

    // `version`: what fill() wants to know when nothing is found.
    [[nodiscard]] std::optional<lookup_result> find(virtual_block block, std::uint64_t epoch,
                                                    std::uint64_t& version) const;
    // Adds to the run that the mapping continues, if there is one and its line did not change since
    // find() gave `version`. True: it is kept here. Else start() may be asked with the same
    // version.
    [[nodiscard]] bool fill(virtual_block block, std::uint64_t epoch, std::uint64_t& version,
                            const lookup_result& mapping);
    // The same where there is no run yet: begins one with this block, unless the line's runs are
    // long and in use. For a mapping of which a neighbour's is known to be the neighbouring one.
    [[nodiscard]] bool start(virtual_block block, std::uint64_t epoch, std::uint64_t version,
                             const lookup_result& mapping);

    // As fill() (or start(), if `starts`) for what was published now. Another mapping of the block
    // is not kept any more, whatever is returned.
    [[nodiscard]] bool put(virtual_block block, std::uint64_t epoch, const lookup_result& mapping,
                           bool starts);
    void invalidate(virtual_block block);

private:
    static constexpr std::uint64_t run_bits = 5;  // 32 blocks
    static constexpr std::size_t ways = 2;
    // Three words for the 32 blocks of a group, block i of which is mapped to data block base + i:
    //   first   group (48 bits), epoch bits 0..15
    //   second  base + 31 (41 bits; the base may lie below 0), valid (1), epoch bits 16..37
    //   bits    which blocks are known (32), which of them are shared (32)
    struct run {
        std::atomic<std::uint64_t> first{0};
        std::atomic<std::uint64_t> second{0};
        std::atomic<std::uint64_t> bits{0};
    };
    // `version` is odd while somebody writes to the line.
    struct alignas(64) line {
        std::atomic<std::uint64_t> version{0};
        std::array<run, ways> runs;
        std::uint64_t contenders = 0;  // who found no place; of whoever holds the line
    };
    static_assert(sizeof(line) == 64);

    [[nodiscard]] line& line_of(virtual_block block) const noexcept {
        return lines_[(block.value() >> run_bits) & line_mask_];
    }
    [[nodiscard]] static bool add(line& where, virtual_block block, std::uint64_t epoch,
                                  const lookup_result& mapping);
    [[nodiscard]] static bool begin(line& where, virtual_block block, std::uint64_t epoch,
                                    const lookup_result& mapping);
    [[nodiscard]] static run* victim(line& where, std::uint64_t epoch);
    static void forget(line& where, virtual_block block);

    std::uint64_t line_mask_;
    std::unique_ptr<line[]> lines_;
};

}  // namespace uthin::pool_engine
