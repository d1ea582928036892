// The one place that starts threads.
//
// Threads   A thread object belongs to one owner.
// Failures  start: out_of_memory when the system refuses another thread.
#pragma once

#include <cstdint>
#include <functional>
#include <thread>

#include "base/result.h"

#if defined(UTHIN_SCHEDULES)
#include "base/scheduled.h"
#endif

namespace uthin {

namespace threading {
#if defined(UTHIN_SCHEDULES)
using scheduled::thread;
#else
using std::thread;
#endif
}  // namespace threading

class thread {
public:
    thread() = default;
    thread(const thread&) = delete;
    thread& operator=(const thread&) = delete;
    ~thread() { join(); }

    // At most once until join().
    [[nodiscard]] result<void> start(std::function<void()> body);
    // Waits for the body's end; nothing when none was started.
    void join();

private:
    threading::thread thread_;
};

// Lets another thread run, in loops that wait for a few instructions of it.
void yield_thread() noexcept;

// Spends some tens of nanoseconds, in loops that wait for little of a thread that runs now.
void pause_thread() noexcept;

// How many threads the machine runs at a time; at least 1.
[[nodiscard]] std::uint32_t processor_count() noexcept;

// A small number that differs between threads as far as possible; for picking shards.
[[nodiscard]] std::uint32_t thread_number() noexcept;

}  // namespace uthin
