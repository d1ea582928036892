#include "base/thread.h"

#include <algorithm>
#include <atomic>
#include <system_error>

#include "base/out_of_memory.h"

namespace uthin {

result<void> thread::start(std::function<void()> body) {
    return or_out_of_memory([&]() -> result<void> {
        try {
            thread_ = threading::thread(std::move(body));
        } catch (const std::system_error& refused) {
            return fail(error_code::out_of_memory, "starting a thread", refused.code().value());
        }
        return {};
    });
}

void thread::join() {
    if (thread_.joinable()) {
        thread_.join();
    }
}

void yield_thread() noexcept {
#if defined(UTHIN_SCHEDULES)
    scheduled::yield();
#else
    std::this_thread::yield();
#endif
}

void pause_thread() noexcept {
#if defined(UTHIN_SCHEDULES)
    scheduled::yield();
#elif defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
}

std::uint32_t processor_count() noexcept {
    return std::max(std::thread::hardware_concurrency(), 1U);
}

std::uint32_t thread_number() noexcept {
#if defined(UTHIN_SCHEDULES)
    return scheduled::number();
#else
    static std::atomic<std::uint32_t> next{0};
    thread_local const std::uint32_t number = next.fetch_add(1, std::memory_order_relaxed);
    return number;
#endif
}

}  // namespace uthin
