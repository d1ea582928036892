#include "io/sequential_space.h"

namespace uthin::io {

sequential_space::stretch sequential_space::wanted(std::uint64_t begin_bytes,
                                                   std::uint64_t end_bytes) noexcept {
    std::uint64_t taken_until = taken_until_.load(std::memory_order_relaxed);
    const bool follows =
        begin_bytes <= taken_until + ahead_bytes && begin_bytes + 2 * ahead_bytes >= taken_until;
    if (follows && end_bytes <= taken_until) {
        return {};
    }
    const std::uint64_t until = follows ? end_bytes + ahead_bytes : end_bytes;
    if (!taken_until_.compare_exchange_strong(taken_until, until, std::memory_order_relaxed) ||
        !follows) {
        return {};
    }
    return {taken_until, until};
}

}  // namespace uthin::io
