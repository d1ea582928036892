// The parts of the mapping cache for blocks whose neighbours are neighbours on the data device,
// too: 32 units of one block, or of a power of two of blocks, in three words, 64 in a cache line.
// What was written in order takes a fraction of the memory that single mappings take, and stays
// near the processor.
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
    static constexpr std::uint32_t run_bits = 5;  // 32 units

    // Lines are rounded up to a power of two. `unit_bits`: logarithm of the blocks of a unit, at
    // most run_bits.
    mapping_runs(std::uint64_t lines, std::uint32_t unit_bits);

    // `version`: what fill() wants to know when nothing is found.
    [[nodiscard]] std::optional<lookup_result> find(virtual_block block, std::uint64_t epoch,
                                                    std::uint64_t& version) const;

    // `whole`: it is kept, and so are all 32 units of its run, all of them shared or none.
    enum class kept : std::uint8_t { no, yes, whole };
    // A mapping stands for its unit: all blocks of it are mapped accordingly.
    //
    // Adds to the run that the mapping continues, if there is one and its line did not change since
    // find() gave `version`. If it is not kept, start() may be asked with the same version.
    [[nodiscard]] kept fill(virtual_block block, std::uint64_t epoch, std::uint64_t& version,
                            const lookup_result& mapping);
    // The same where there is no run yet: begins one with this unit, unless the line's runs are
    // long and in use. For a mapping of which a neighbour's is known to be the neighbouring one.
    [[nodiscard]] bool start(virtual_block block, std::uint64_t epoch, std::uint64_t& version,
                             const lookup_result& mapping);

    // As fill() (or start(), if `starts`) for what was published now. Another mapping of the unit
    // is not kept any more, whatever is returned.
    [[nodiscard]] kept put(virtual_block block, std::uint64_t epoch, const lookup_result& mapping,
                           bool starts);
    // The whole unit.
    void invalidate(virtual_block block);

private:
    static constexpr std::size_t ways = 2;
    // Three words for the 32 units of a group. Its block i is mapped to data block base + i:
    //   first   group (48 bits), epoch bits 0..15
    //   second  base + span - 1 (41 bits; the base may lie below 0), valid (1), epoch bits 16..37
    //   bits    which units are known (32), which of them are shared (32)
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

    [[nodiscard]] std::uint64_t group_of(virtual_block block) const noexcept {
        return block.value() >> (unit_bits_ + run_bits);
    }
    [[nodiscard]] std::uint64_t unit_of(virtual_block block) const noexcept {
        return block.value() >> unit_bits_ & ((1U << run_bits) - 1);
    }
    // Of its group.
    [[nodiscard]] std::uint64_t index_of(virtual_block block) const noexcept {
        return block.value() & (span() - 1);
    }
    [[nodiscard]] std::uint64_t span() const noexcept { return 1ULL << (unit_bits_ + run_bits); }
    [[nodiscard]] line& line_of(virtual_block block) const noexcept {
        return lines_[group_of(block) & line_mask_];
    }
    [[nodiscard]] std::uint64_t first_word(virtual_block block, std::uint64_t epoch) const;
    [[nodiscard]] std::uint64_t second_word(virtual_block block, data_block mapped_to,
                                            std::uint64_t epoch) const;
    [[nodiscard]] std::uint64_t bit_of(virtual_block block, bool shared) const;

    [[nodiscard]] kept add(line& where, virtual_block block, std::uint64_t epoch,
                           const lookup_result& mapping);
    [[nodiscard]] bool begin(line& where, virtual_block block, std::uint64_t epoch,
                             const lookup_result& mapping);
    [[nodiscard]] static run* victim(line& where, std::uint64_t epoch);
    void forget(line& where, virtual_block block);

    const std::uint32_t unit_bits_;
    std::uint64_t line_mask_;
    std::unique_ptr<line[]> lines_;
};

}  // namespace uthin::pool_engine
