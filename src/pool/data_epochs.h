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

#include "base/mutex.h"
#include "uthin/thin.h"

namespace uthin::pool_engine {

class data_epochs {
public:
    [[nodiscard]] data_pin pin() noexcept;

    [[nodiscard]] std::uint32_t begin_grace() noexcept;
    void wait(std::uint32_t generation);

private:
    friend class uthin::data_pin;
    static constexpr std::uint32_t shard_count = 16;
    struct alignas(64) counter {
        std::atomic<std::uint32_t> pins{0};
    };

    void unpin(std::uint32_t slot) noexcept;
    [[nodiscard]] bool ended(std::uint32_t generation) const noexcept;

    std::atomic<std::uint32_t> generation_{0};       // 0 or 1
    std::array<counter, 2 * shard_count> counters_;  // by generation, then by shard
    std::atomic<bool> waiting_{false};
    mutex lock_;
    condition dropped_;
};

}  // namespace uthin::pool_engine
