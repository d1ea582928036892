#include "tools/progress_bar.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/clock.h"
#include "pool/names.h"

namespace uthin::tools {

namespace {

constexpr std::chrono::milliseconds redraw_interval{200};
constexpr std::size_t bar_width = 30;

// A terminal that went away ends no copy.
void tell(std::string_view text) {
    (void)std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace

progress_bar::progress_bar(std::string what, std::uint64_t total_bytes)
    : what_(std::move(what)),
      total_bytes_(total_bytes),
      visible_(::isatty(STDERR_FILENO) == 1),
      begun_(system_clock().monotonic()) {
}

progress_bar::~progress_bar() {
    if (visible_ && drawn_.count() != 0) {
        tell("\r\033[K");
    }
}

void progress_bar::show(std::uint64_t done_bytes) {
    const std::chrono::nanoseconds now = system_clock().monotonic();
    if (visible_ && now - drawn_ >= redraw_interval) {
        drawn_ = now;
        draw(std::min(done_bytes, total_bytes_));
    }
}

void progress_bar::draw(std::uint64_t done_bytes) {
    const double share = total_bytes_ == 0
                             ? 1.0
                             : static_cast<double>(done_bytes) / static_cast<double>(total_bytes_);
    const auto filled = static_cast<std::size_t>(share * static_cast<double>(bar_width));
    const double seconds = std::chrono::duration<double>(drawn_ - begun_).count();
    const auto per_second =
        static_cast<std::uint64_t>(static_cast<double>(done_bytes) / std::max(seconds, 0.001));
    tell(fmt::format("\r\033[K{} [{:<{}}] {:3.0f} %  {}/s", what_, std::string(filled, '#'),
                     bar_width, share * 100, readable_size(per_second)));
    std::fflush(stderr);
}

}  // namespace uthin::tools
