// How long a removal of many mappings may keep the executor before others have their turn.
//
// Invariants
//   RS1  A slice is at least one step and at most slice_blocks of exclusively owned metadata
//   blocks,
//        in a step or many; it ends with the step in which a request began to wait or slice_time
//        passed.
// Threads   The executor's.
// Failures  None.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "persistent_data/space_map_common.h"
#include "pool/engine.h"

namespace uthin::pool_engine {

class removal_slice {
public:
    explicit removal_slice(engine& owner) : engine_(owner), begun_(owner.now()) {}

    // What one call of remove_some() may visit. A leaf of 252 mappings is some 30 us of work. On
    // full metadata each step is followed by a commit, which takes longer. Every bitmap that counts
    // a block of a leaf may have to be copied until then: no more leaves than there is room for,
    // but for the first one.
    [[nodiscard]] std::uint64_t step_blocks() {
        const std::uint64_t most =
            engine_.mode() == pool_mode::out_of_metadata_space ? slice_blocks / 2 : 4;
        const std::uint64_t per_leaf =
            1 + std::min(leaf_mappings_max, persistent_data::bitmaps_for(engine_.data_blocks()));
        const auto space = engine_.metadata().metadata_space();
        const std::uint64_t free = space ? space->raw_free_blocks : 0;
        const std::uint64_t room = free - std::min(free, commit_blocks);
        step_blocks_ = std::clamp<std::uint64_t>(room / per_leaf, 1, most);
        return step_blocks_;
    }
    // Asked after each step.
    [[nodiscard]] bool is_over() {
        blocks_ += step_blocks_;
        engine_.spare_the_reserve();
        return blocks_ >= slice_blocks || engine_.commit_requested() ||
               engine_.worker().should_yield() || engine_.now() - begun_ >= slice_time;
    }

private:
    static constexpr std::uint64_t slice_blocks = 64;
    static constexpr std::uint64_t leaf_mappings_max = 252;
    static constexpr std::uint64_t commit_blocks = 12;  // of a slice and its commit, beside bitmaps
    static constexpr std::chrono::nanoseconds slice_time = std::chrono::milliseconds(1);

    engine& engine_;
    const std::chrono::nanoseconds begun_;
    std::uint64_t step_blocks_ = 0;  // of the last step
    std::uint64_t blocks_ = 0;
};

}  // namespace uthin::pool_engine
