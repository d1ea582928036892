#include "replication/rate_limit.h"

#include <algorithm>

#include "base/result.h"

namespace uthin::replication {

result<void> rate_limit::write(std::span<const std::byte> bytes) {
    // Not a whole record after a long pause: whoever reads could take that for a dead line.
    const std::size_t slice_bytes = std::max<std::uint64_t>(bytes_per_second_ / 10, 1);
    while (!bytes.empty()) {
        const std::size_t count = std::min(bytes.size(), slice_bytes);
        UTHIN_TRY(write_slice(bytes.first(count)));
        bytes = bytes.subspan(count);
    }
    return {};
}

result<void> rate_limit::write_slice(std::span<const std::byte> bytes) {
    constexpr std::chrono::milliseconds burst{100};
    constexpr double nanoseconds = 1e9;
    const std::chrono::nanoseconds now = time_.monotonic();
    if (free_at_ > now + burst) {
        time_.sleep_for(free_at_ - now - burst);
    }
    const double cost = static_cast<double>(bytes.size()) * nanoseconds /
                        static_cast<double>(std::max<std::uint64_t>(bytes_per_second_, 1));
    free_at_ = std::max(free_at_, now) + std::chrono::nanoseconds(static_cast<std::int64_t>(cost));
    return sink_.write(bytes);
}

}  // namespace uthin::replication
