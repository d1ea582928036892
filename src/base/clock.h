// Time as a dependency: nothing else in src/ may read a clock or sleep.
//
// Threads   Any thread.
#pragma once

#include <chrono>
#include <cstdint>

namespace uthin {

class clock {
public:
    clock() = default;
    clock(const clock&) = delete;
    clock& operator=(const clock&) = delete;
    virtual ~clock() = default;

    // Never goes backwards; for timeouts and intervals.
    [[nodiscard]] virtual std::chrono::nanoseconds monotonic() const = 0;
    // Seconds since 1970; for what people read.
    [[nodiscard]] virtual std::int64_t unix_seconds() const = 0;
    virtual void sleep_for(std::chrono::nanoseconds duration) = 0;
};

[[nodiscard]] clock& system_clock();

// A clock that moves only when told, for simulations.
class manual_clock final : public clock {
public:
    [[nodiscard]] std::chrono::nanoseconds monotonic() const override { return now_; }
    [[nodiscard]] std::int64_t unix_seconds() const override {
        return std::chrono::duration_cast<std::chrono::seconds>(now_).count();
    }
    void sleep_for(std::chrono::nanoseconds duration) override { now_ += duration; }
    void advance(std::chrono::nanoseconds duration) { now_ += duration; }

private:
    std::chrono::nanoseconds now_{0};
};

}  // namespace uthin
