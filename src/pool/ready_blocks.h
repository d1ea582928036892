// Data blocks that are allocated ahead of the first writes that will want them: such a write then
// asks the executor once, to insert its mapping, instead of twice. Who has to write zeros to one
// does so to the ones that follow it on the device, too, and brings them back.
//
// Invariants
//   RB1  What is in here is in flight (EN2) and nobody's; it was allocated in the open transaction,
//        and a commit or an abort leaves nothing here.
//   RB2  Who took neighbours brings them back, or gives them back, in the work that inserts his
//        mapping: back to here only in the round in which he took them.
// Threads   take(), take_neighbours(), count() and lent(): any. The others: the executor.
// Failures  None.
#pragma once

#include <algorithm>
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
        std::uint64_t era = 0;    // engine::era() when it was allocated
        std::uint64_t round = 0;  // RB2
        bool zeroed = false;      // reads as zeros, and nobody has written to it
    };

    // In the order in which they were added, but for those that were brought back: they go first.
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
    // Those that follow `first` here and on the device and are not zeroed: at most `count_max`, and
    // half of what there is, since others want some, too. None unless they may be lent.
    [[nodiscard]] range<data_block> take_neighbours(const taken& first, std::size_t count_max) {
        range<data_block> found{first.block + 1, first.block + 1};
        const lock_guard held(lock_);
        if (first.round != round_ || !may_be_lent_) {
            return found;
        }
        for (std::size_t left = std::min(count_max, (end_ - begin_ + 1) / 2); left > 0; --left) {
            const taken& next = blocks_[begin_];
            if (next.block != found.end || next.zeroed) {
                break;
            }
            ++begin_;
            found.end = found.end + 1;
        }
        count_.store(end_ - begin_, std::memory_order_relaxed);
        lent_.fetch_add(found.count(), std::memory_order_relaxed);
        return found;
    }
    // Where `first` is about to be written to: it and those that follow it here and on the device,
    // at most `count_max`, for a file system to take their space at once. Empty: that was done for
    // it, or it is alone.
    [[nodiscard]] range<data_block> take_space(const taken& first, std::size_t count_max) {
        range<data_block> found{first.block, first.block + 1};
        const lock_guard held(lock_);
        if (first.round != round_ ||
            (space_taken_.begin <= first.block && first.block < space_taken_.end)) {
            return {};
        }
        for (std::size_t i = begin_; i < end_ && found.count() < count_max; ++i) {
            if (blocks_[i].block != found.end) {
                break;
            }
            found.end = found.end + 1;
        }
        if (found.count() == 1) {
            return {};
        }
        space_taken_ = found;
        return found;
    }
    // How many; a hint for who holds no lock.
    [[nodiscard]] std::size_t count() const noexcept {
        return count_.load(std::memory_order_relaxed);
    }
    // How many neighbours somebody has.
    [[nodiscard]] std::size_t lent() const noexcept {
        return lent_.load(std::memory_order_relaxed);
    }

    // While count() was 0 at the first of them, at most blocks_max. `may_be_lent`: so much is free
    // that nobody will want them before they come back.
    void add(data_block block, std::uint64_t era, bool may_be_lent) {
        const lock_guard held(lock_);
        if (begin_ == end_) {
            begin_ = blocks_max;  // there is room for those that come back
            end_ = blocks_max;
        }
        may_be_lent_ = may_be_lent;
        blocks_.at(end_++) = {block, era, round_, false};
        count_.store(end_ - begin_, std::memory_order_relaxed);
    }
    // Neighbours that were taken with `first` and are zeroed now. False: they do not belong here
    // any more, or there is no place for them; they are still lent.
    [[nodiscard]] bool bring_back(range<data_block> blocks, const taken& first) {
        const lock_guard held(lock_);
        if (first.round != round_) {
            return false;
        }
        if (begin_ == end_) {
            begin_ = blocks_max;
            end_ = blocks_max;
        }
        if (begin_ < blocks.count()) {
            return false;
        }
        lent_.fetch_sub(blocks.count(), std::memory_order_relaxed);
        begin_ -= blocks.count();
        for (std::size_t i = 0; i < blocks.count(); ++i) {
            blocks_.at(begin_ + i) = {blocks.begin + i, first.era, round_, true};
        }
        count_.store(end_ - begin_, std::memory_order_relaxed);
        return true;
    }
    // So many that were lent belong to the free ones now.
    void given_back(std::uint64_t count) { lent_.fetch_sub(count, std::memory_order_relaxed); }
    // Whoever comes back from now on does not belong here.
    void end_round() {
        const lock_guard held(lock_);
        ++round_;
        space_taken_ = {};
    }
    void clear() {
        const lock_guard held(lock_);
        ++round_;
        space_taken_ = {};
        begin_ = 0;
        end_ = 0;
        count_.store(0, std::memory_order_relaxed);
        lent_.store(0, std::memory_order_relaxed);
    }

private:
    mutex lock_;
    std::array<taken, 2 * blocks_max> blocks_ GUARDED_BY(lock_){};
    std::size_t begin_ GUARDED_BY(lock_) = 0;
    std::size_t end_ GUARDED_BY(lock_) = 0;
    std::uint64_t round_ GUARDED_BY(lock_) = 0;
    range<data_block> space_taken_ GUARDED_BY(lock_){};
    bool may_be_lent_ GUARDED_BY(lock_) = false;
    std::atomic<std::size_t> count_{0};
    std::atomic<std::size_t> lent_{0};
};

}  // namespace uthin::pool_engine
