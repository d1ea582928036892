// How much of a long-running harness this run does: UTHIN_TIER=0 (default) a few seconds of it,
// 1 each merge, 2 a night.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace uthin::test {

[[nodiscard]] inline std::uint64_t tier() {
    const char* text = std::getenv("UTHIN_TIER");
    return text != nullptr ? std::strtoull(text, nullptr, 0) : 0;
}

// Factor for numbers of workloads and operations.
[[nodiscard]] inline std::uint64_t tier_scale() {
    constexpr std::uint64_t merge = 12;
    constexpr std::uint64_t night = 400;
    switch (tier()) {
        case 0: return 1;
        case 1: return merge;
        default: return night;
    }
}

}  // namespace uthin::test
