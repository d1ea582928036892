#include "pool/data_epochs.h"

#include <utility>

#include "base/thread.h"

namespace uthin::pool_engine {

// The generation is read again after counting: without that, a pin counted in a generation that
// has been left meanwhile would be missed by the next grace period. seq_cst orders the count
// against the second load here, and the flip against the reading of the counters in wait().
data_pin data_epochs::pin() noexcept {
    const std::uint32_t shard = thread_number() % shard_count;
    for (;;) {
        const std::uint32_t generation = generation_.load(std::memory_order_seq_cst);
        const std::uint32_t slot = generation * shard_count + shard;
        counters_[slot].pins.fetch_add(1, std::memory_order_seq_cst);
        if (generation_.load(std::memory_order_seq_cst) == generation) {
            data_pin pinned;
            pinned.owner_ = this;
            pinned.slot_ = slot;
            return pinned;
        }
        unpin(slot);
    }
}

// The decrement and the load of waiting_ pair with the store of waiting_ and the load of the
// counters in wait(): one of the two sees the other.
void data_epochs::unpin(std::uint32_t slot) noexcept {
    counters_[slot].pins.fetch_sub(1, std::memory_order_seq_cst);
    if (waiting_.load(std::memory_order_seq_cst)) {
        lock_guard held(lock_);
        dropped_.notify_all();
    }
}

std::uint32_t data_epochs::begin_grace() noexcept {
    const std::uint32_t left = generation_.load(std::memory_order_relaxed);  // only we store it
    generation_.store(1 - left, std::memory_order_seq_cst);
    return left;
}

bool data_epochs::ended(std::uint32_t generation) const noexcept {
    for (std::uint32_t shard = 0; shard < shard_count; ++shard) {
        const counter& one = counters_[generation * shard_count + shard];
        if (one.pins.load(std::memory_order_seq_cst) != 0) {
            return false;
        }
    }
    return true;
}

void data_epochs::wait(std::uint32_t generation) {
    if (ended(generation)) {
        return;
    }
    lock_guard held(lock_);
    waiting_.store(true, std::memory_order_seq_cst);
    while (!ended(generation)) {
        dropped_.wait(lock_);
    }
    waiting_.store(false, std::memory_order_seq_cst);
}

}  // namespace uthin::pool_engine

namespace uthin {

data_pin::data_pin(data_pin&& other) noexcept
    : owner_(std::exchange(other.owner_, nullptr)), slot_(other.slot_) {
}

data_pin& data_pin::operator=(data_pin&& other) noexcept {
    if (this != &other) {
        if (owner_ != nullptr) {
            owner_->unpin(slot_);
        }
        owner_ = std::exchange(other.owner_, nullptr);
        slot_ = other.slot_;
    }
    return *this;
}

data_pin::~data_pin() {
    if (owner_ != nullptr) {
        owner_->unpin(slot_);
    }
}

}  // namespace uthin
