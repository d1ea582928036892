// Pool-wide: which data I/O may still use a mapping that it looked up before some moment.
//
// Invariants
//   DE1  When wait(g) returns, every pin taken before the begin_grace() that returned g has ended.
//        (Looking up happens after the pin was taken; so I/O that could have seen a mapping that
//        was unpublished before begin_grace() is over.)
// Threads   pin() and the end of pins: any. begin_grace and wait: the executor, one grace at a
// time. Failures  None. A pin that is never dropped stops the pool: pins cover one device I/O,
// nothing
//           else, and their holder must not wait for the executor.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/interleaving.h"
#include "base/mutex.h"
#include "uthin/thin.h"

namespace uthin::pool_engine {

class data_epochs {
public:
    [[nodiscard]] data_pin pin() noexcept;
    // The same for the length of a scope and without a call. `thread`: thread_number().
    class scope {
    public:
        scope(data_epochs& of, std::uint32_t thread) noexcept
            : of_(of), slot_(of.enter(thread % shard_count)) {}
        ~scope() { of_.unpin(slot_); }
        scope(const scope&) = delete;
        scope& operator=(const scope&) = delete;

    private:
        data_epochs& of_;
        const std::uint32_t slot_;
    };

    [[nodiscard]] std::uint32_t begin_grace() noexcept;
    void wait(std::uint32_t generation);

private:
    friend class uthin::data_pin;
    static constexpr std::uint32_t shard_count = 16;
    struct alignas(64) counter {
        std::atomic<std::uint32_t> pins{0};
    };

    // The generation is read again after counting: without that, a pin counted in a generation that
    // has been left meanwhile would be missed by the next grace period. seq_cst orders the count
    // against the second load here, and the flip against the reading of the counters in wait().
    [[nodiscard]] std::uint32_t enter(std::uint32_t shard) noexcept {
        for (;;) {
            const std::uint32_t generation = generation_.load(std::memory_order_seq_cst);
            const std::uint32_t slot = generation * shard_count + shard;
            interleaving_point();
            counters_[slot].pins.fetch_add(1, std::memory_order_seq_cst);
            interleaving_point();
            if (generation_.load(std::memory_order_seq_cst) == generation) {
                return slot;
            }
            unpin(slot);
        }
    }
    // The decrement and the load of waiting_ pair with the store of waiting_ and the load of the
    // counters in wait(): one of the two sees the other.
    void unpin(std::uint32_t slot) noexcept {
        counters_[slot].pins.fetch_sub(1, std::memory_order_seq_cst);
        interleaving_point();
        if (waiting_.load(std::memory_order_seq_cst)) {
            tell_waiting();
        }
    }
    void tell_waiting() noexcept;
    [[nodiscard]] bool ended(std::uint32_t generation) const noexcept;

    std::atomic<std::uint32_t> generation_{0};  // 0 or 1
    std::atomic<bool> waiting_{false};
    std::array<counter, 2 * shard_count> counters_;  // by generation, then by shard
    mutex lock_;
    condition dropped_;
};

}  // namespace uthin::pool_engine
