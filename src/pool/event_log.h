// The last events of a pool, numbered, for those who wait for them.
//
// Invariants
//   EL1  Numbers ascend by one, and start above those that the same pool gave out when it was open
//        before (as long as the clock of the machine does not go backwards): a number that somebody
//        kept over a restart is not taken for a later one.
//   EL2  At most kept_max records are kept; who asks too late is told that some are lost.
// Threads   Any.
// Failures  None.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>

#include "base/clock.h"
#include "base/mutex.h"
#include "uthin/pool.h"

namespace uthin::pool_engine {

class event_log {
public:
    static constexpr std::size_t kept_max = 256;

    explicit event_log(clock& time);

    // `number` and `unix_seconds` are filled in.
    void add(pool_event_record record);
    // Those after `number`, all that are kept for 0; waits for the first one at most `wait`.
    [[nodiscard]] pool_events after(std::uint64_t number, std::chrono::nanoseconds wait);
    // Nobody waits any longer.
    void stop();

private:
    clock& clock_;
    const std::uint64_t first_;
    mutex lock_;
    condition added_;
    std::uint64_t last_ GUARDED_BY(lock_);
    bool stopped_ GUARDED_BY(lock_) = false;
    std::deque<pool_event_record> kept_ GUARDED_BY(lock_);
};

}  // namespace uthin::pool_engine
