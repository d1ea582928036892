#include "uthin/log.h"

#include <atomic>

namespace uthin {
namespace {

std::atomic<log_sink> current_sink{nullptr};

}  // namespace

void set_log_sink(log_sink sink) noexcept {
    current_sink.store(sink);
}

void log(log_level level, std::string_view component, std::string_view message) {
    if (const log_sink sink = current_sink.load(); sink != nullptr) {
        sink(level, component, message);
    }
}

}  // namespace uthin
