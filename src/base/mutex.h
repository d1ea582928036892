// The standard mutexes with clang's thread-safety annotations; g++ ignores the attributes.
//
// Lock order is written down in docs/concurrency.md.
#pragma once

#include <condition_variable>
#include <mutex>
#include <shared_mutex>

#if defined(UTHIN_SCHEDULES)
#include "base/scheduled.h"
#endif

#if defined(__clang__)
#define UTHIN_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define UTHIN_THREAD_ATTRIBUTE(x)
#endif

#define CAPABILITY(x) UTHIN_THREAD_ATTRIBUTE(capability(x))
#define SCOPED_CAPABILITY UTHIN_THREAD_ATTRIBUTE(scoped_lockable)
#define GUARDED_BY(x) UTHIN_THREAD_ATTRIBUTE(guarded_by(x))
#define REQUIRES(...) UTHIN_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define REQUIRES_SHARED(...) UTHIN_THREAD_ATTRIBUTE(requires_shared_capability(__VA_ARGS__))
#define ACQUIRE(...) UTHIN_THREAD_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define ACQUIRE_SHARED(...) UTHIN_THREAD_ATTRIBUTE(acquire_shared_capability(__VA_ARGS__))
#define RELEASE(...) UTHIN_THREAD_ATTRIBUTE(release_capability(__VA_ARGS__))
#define RELEASE_SHARED(...) UTHIN_THREAD_ATTRIBUTE(release_shared_capability(__VA_ARGS__))
#define RELEASE_GENERIC(...) UTHIN_THREAD_ATTRIBUTE(release_generic_capability(__VA_ARGS__))
#define EXCLUDES(...) UTHIN_THREAD_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define NO_THREAD_SAFETY_ANALYSIS UTHIN_THREAD_ATTRIBUTE(no_thread_safety_analysis)

namespace uthin {

namespace threading {
#if defined(UTHIN_SCHEDULES)
using scheduled::condition_variable;
using scheduled::mutex;
using scheduled::shared_mutex;
#else
using std::condition_variable;
using std::mutex;
using std::shared_mutex;
#endif
}  // namespace threading

class CAPABILITY("mutex") mutex {
public:
    void lock() ACQUIRE() { mutex_.lock(); }
    void unlock() RELEASE() { mutex_.unlock(); }
    [[nodiscard]] threading::mutex& native() noexcept { return mutex_; }

private:
    threading::mutex mutex_;
};

class CAPABILITY("mutex") shared_mutex {
public:
    void lock() ACQUIRE() { mutex_.lock(); }
    void unlock() RELEASE() { mutex_.unlock(); }
    void lock_shared() ACQUIRE_SHARED() { mutex_.lock_shared(); }
    void unlock_shared() RELEASE_SHARED() { mutex_.unlock_shared(); }

private:
    threading::shared_mutex mutex_;
};

class SCOPED_CAPABILITY lock_guard {
public:
    explicit lock_guard(mutex& m) ACQUIRE(m) : mutex_(m) { mutex_.lock(); }
    ~lock_guard() RELEASE() { mutex_.unlock(); }
    lock_guard(const lock_guard&) = delete;
    lock_guard& operator=(const lock_guard&) = delete;

private:
    mutex& mutex_;
};

class SCOPED_CAPABILITY exclusive_lock {
public:
    explicit exclusive_lock(shared_mutex& m) ACQUIRE(m) : mutex_(m) { mutex_.lock(); }
    ~exclusive_lock() RELEASE() { mutex_.unlock(); }
    exclusive_lock(const exclusive_lock&) = delete;
    exclusive_lock& operator=(const exclusive_lock&) = delete;

private:
    shared_mutex& mutex_;
};

class SCOPED_CAPABILITY shared_lock {
public:
    explicit shared_lock(shared_mutex& m) ACQUIRE_SHARED(m) : mutex_(m) { mutex_.lock_shared(); }
    ~shared_lock() RELEASE_GENERIC() { mutex_.unlock_shared(); }
    shared_lock(const shared_lock&) = delete;
    shared_lock& operator=(const shared_lock&) = delete;

private:
    shared_mutex& mutex_;
};

// Waits with the mutex that the caller holds.
class condition {
public:
    void wait(mutex& m) REQUIRES(m) {
        std::unique_lock<threading::mutex> held(m.native(), std::adopt_lock);
        condition_.wait(held);
        held.release();
    }
    template <class Duration>
    bool wait_for(mutex& m, Duration timeout) REQUIRES(m) {
        std::unique_lock<threading::mutex> held(m.native(), std::adopt_lock);
        const bool notified = condition_.wait_for(held, timeout) == std::cv_status::no_timeout;
        held.release();
        return notified;
    }
    void notify_one() noexcept { condition_.notify_one(); }
    void notify_all() noexcept { condition_.notify_all(); }

private:
    threading::condition_variable condition_;
};

}  // namespace uthin
