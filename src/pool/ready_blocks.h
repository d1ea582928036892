// Data blocks that are allocated ahead of the first writes that will want them: such a write then
// asks the executor once, to insert its mapping, instead of twice.
//
// Invariants
//   RB1  What is in here is in flight (EN2) and nobody's; it was allocated in the open transaction,
//        and a commit or an abort leaves nothing here.
// Threads   take() and count(): any. The others: the executor.
// Failures  None.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "base/mutex.h"
#include "uthin/units.h"

namespace uthin::pool_engine {

class ready_blocks {
public:
    static constexpr std::size_t blocks_max = 64;

    struct taken {
        data_block block;
        std::uint64_t era = 0;  // engine::era() when it was allocated
    };

    // In the order in which they were added.
    [[nodiscard]] std::optional<taken> take() {
        if (count() == 0) {
            return std::nullopt;
        }
        const lock_guard held(lock_);
        if (begin_ == end_) {
            return std::nullopt;
        }
        const taken one = blocks_[begin_++];
        count_.store(end_ - begin_, std::memory_order_relaxed);
        return one;
    }
    // How many; a hint for who holds no lock.
    [[nodiscard]] std::size_t count() const noexcept {
        return count_.load(std::memory_order_relaxed);
    }

    // While count() was 0 at the first of them, at most blocks_max.
    void add(data_block block, std::uint64_t era) {
        const lock_guard held(lock_);
        if (begin_ == end_) {
            begin_ = 0;
            end_ = 0;
        }
        blocks_.at(end_++) = {block, era};
        count_.store(end_ - begin_, std::memory_order_relaxed);
    }
    void clear() {
        const lock_guard held(lock_);
        begin_ = 0;
        end_ = 0;
        count_.store(0, std::memory_order_relaxed);
    }

private:
    mutex lock_;
    std::array<taken, blocks_max> blocks_ GUARDED_BY(lock_){};
    std::size_t begin_ GUARDED_BY(lock_) = 0;
    std::size_t end_ GUARDED_BY(lock_) = 0;
    std::atomic<std::size_t> count_{0};
};

}  // namespace uthin::pool_engine
