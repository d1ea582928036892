#include "base/clock.h"

#include <thread>

namespace uthin {
namespace {

class real_clock final : public clock {
public:
    [[nodiscard]] std::chrono::nanoseconds monotonic() const override {
        return std::chrono::steady_clock::now().time_since_epoch();
    }
    [[nodiscard]] std::int64_t unix_seconds() const override {
        return std::chrono::duration_cast<std::chrono::seconds>(
                   std::chrono::system_clock::now().time_since_epoch())
            .count();
    }
    void sleep_for(std::chrono::nanoseconds duration) override {
        std::this_thread::sleep_for(duration);
    }
};

}  // namespace

clock& system_clock() {
    static real_clock clock;
    return clock;
}

}  // namespace uthin
