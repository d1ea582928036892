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

#include "pool/engine.h"

namespace uthin::pool_engine {

class removal_slice {
public:
    explicit removal_slice(engine& owner) : engine_(owner), begun_(owner.now()) {}

    // What one call of remove_some() may visit. A leaf of 252 mappings is some 30 us of work. On
    // full metadata each step is followed by a commit, which takes longer.
    [[nodiscard]] std::uint64_t step_blocks() const noexcept {
        return engine_.mode() == pool_mode::out_of_metadata_space ? slice_blocks / 2 : 4;
    }
    // Asked after each step.
    [[nodiscard]] bool is_over() {
        blocks_ += step_blocks();
        engine_.spare_the_reserve();
        return blocks_ >= slice_blocks || engine_.commit_requested() ||
               engine_.worker().should_yield() || engine_.now() - begun_ >= slice_time;
    }

private:
    static constexpr std::uint64_t slice_blocks = 64;
    static constexpr std::chrono::nanoseconds slice_time = std::chrono::milliseconds(1);

    engine& engine_;
    const std::chrono::nanoseconds begun_;
    std::uint64_t blocks_ = 0;
};

}  // namespace uthin::pool_engine
