#include "pool/data_epochs.h"

#include <utility>

#include "base/thread.h"

namespace uthin::pool_engine {

data_pin data_epochs::pin() noexcept {
    data_pin pinned;
    pinned.slot_ = enter(thread_number() % shard_count);
    pinned.owner_ = this;
    return pinned;
}

void data_epochs::tell_waiting() noexcept {
    lock_guard held(lock_);
    dropped_.notify_all();
}

std::uint32_t data_epochs::begin_grace() noexcept {
    const std::uint32_t left = generation_.load(std::memory_order_relaxed);  // only we store it
    generation_.store(1 - left, std::memory_order_seq_cst);
    interleaving_point();
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
    interleaving_point();
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
