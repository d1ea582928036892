// Where the library's messages go. The default sink drops them.
//
// Threads   set_log_sink before the first pool is opened; the sink may be called from any thread.
#pragma once

#include <cstdint>
#include <string_view>

namespace uthin {

// error: someone must act. warning: a mode change or a space threshold. info: life cycle.
// debug: per transaction.
enum class log_level : std::uint8_t { error, warning, info, debug };

using log_sink = void (*)(log_level level, std::string_view component, std::string_view message);

void set_log_sink(log_sink sink) noexcept;
void log(log_level level, std::string_view component, std::string_view message);

}  // namespace uthin
