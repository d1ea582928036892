// Waiting for a server that has not noticed yet that its last client has gone.
//
// Threads   One.
// Failures  Those of what is tried.
#pragma once

#include <chrono>

#include "base/clock.h"
#include "uthin/error.h"

namespace uthin::replication {

// Calls `attempt` until it returns something else than busy, for about five seconds.
template <class Attempt>
[[nodiscard]] auto while_busy(const Attempt& attempt) -> decltype(attempt()) {
    constexpr int attempts_max = 50;
    constexpr std::chrono::milliseconds pause{100};
    for (int count = 1;; ++count) {
        auto done = attempt();
        if (done || done.error().code() != error_code::busy || count == attempts_max) {
            return done;
        }
        system_clock().sleep_for(pause);
    }
}

}  // namespace uthin::replication
