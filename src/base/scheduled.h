// What base/mutex.h and base/thread.h stand on in the build variant UTHIN_SCHEDULES: threads of
// which one at a time runs, and a scheduler that decides at every call which one that is. The test
// program of the variant holds the scheduler and defines the functions (tests/schedules).
//
// Invariants
//   SC1  Between two calls from here no other thread does anything.
//   SC2  Time passes only when every thread waits, and when the scheduler says so.
// Threads   As the classes of the standard library that they stand for.
// Failures  Threads that all wait for each other end the program.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <utility>

namespace uthin::scheduled {

class mutex {
public:
    mutex() = default;
    mutex(const mutex&) = delete;
    mutex& operator=(const mutex&) = delete;
    void lock();
    [[nodiscard]] bool try_lock();
    void unlock();

private:
    friend class condition_variable;
    void acquire();
    void release();

    bool held_ = false;
};

class shared_mutex {
public:
    shared_mutex() = default;
    shared_mutex(const shared_mutex&) = delete;
    shared_mutex& operator=(const shared_mutex&) = delete;
    void lock();
    void unlock();
    void lock_shared();
    void unlock_shared();

private:
    bool held_ = false;
    std::uint32_t readers_ = 0;
};

class condition_variable {
public:
    condition_variable() = default;
    condition_variable(const condition_variable&) = delete;
    condition_variable& operator=(const condition_variable&) = delete;

    template <class Lock>
    void wait(Lock& held) {
        static_cast<void>(wait_on(*held.mutex(), std::nullopt));
    }
    template <class Lock, class Duration>
    std::cv_status wait_for(Lock& held, Duration timeout) {
        return wait_on(*held.mutex(),
                       std::chrono::duration_cast<std::chrono::nanoseconds>(timeout));
    }
    void notify_one() noexcept;
    void notify_all() noexcept;

private:
    std::cv_status wait_on(mutex& held, std::optional<std::chrono::nanoseconds> timeout);
};

class thread {
public:
    thread() = default;
    explicit thread(std::function<void()> body);
    thread(const thread&) = delete;
    thread& operator=(const thread&) = delete;
    thread(thread&& other) noexcept : task_(std::exchange(other.task_, 0)) {}
    thread& operator=(thread&& other) noexcept {
        task_ = std::exchange(other.task_, 0);
        return *this;
    }
    ~thread() = default;
    [[nodiscard]] bool joinable() const noexcept { return task_ != 0; }
    void join();

private:
    std::size_t task_ = 0;
};

// Another thread's turn, if there is one that can go on.
void yield() noexcept;
// Perhaps another thread's turn.
void point() noexcept;
// Of the calling thread; the first one of a schedule is 0.
[[nodiscard]] std::uint32_t number() noexcept;

}  // namespace uthin::scheduled
