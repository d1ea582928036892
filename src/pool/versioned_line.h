// What the cache lines of mapping_cache and mapping_runs have in common: a version that is odd
// while somebody writes to the line, and the epoch in two parts of two words.
//
// Threads   Any.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/interleaving.h"
#include "base/thread.h"

namespace uthin::pool_engine::versioned_line {

inline constexpr std::uint64_t virtual_block_limit = 1ULL << 48;  // larger ones are never cached

// Bits 0..15 of a first word, bits 42..63 of a second one.
constexpr std::uint64_t epoch_low(std::uint64_t epoch) {
    return epoch & 0xffff;
}
constexpr std::uint64_t epoch_high(std::uint64_t epoch) {
    return epoch >> 16 << 42;
}

// If it did not change since `expected` was read. Success orders the holder's stores behind it.
[[nodiscard]] inline bool try_hold(std::atomic<std::uint64_t>& version, std::uint64_t expected) {
    interleaving_point();
    return (expected & 1) == 0 &&
           version.compare_exchange_strong(expected, expected + 1, std::memory_order_acquire,
                                           std::memory_order_relaxed);
}

inline void hold(std::atomic<std::uint64_t>& version) {
    interleaving_point();
    for (;;) {
        std::uint64_t seen = version.load(std::memory_order_relaxed);
        if ((seen & 1) == 0 &&
            version.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire,
                                          std::memory_order_relaxed)) {
            return;
        }
        yield_thread();  // the holder stores a few words
    }
}

// Also when nothing was changed: a new version voids the misses of before (MC2).
inline void release(std::atomic<std::uint64_t>& version) {
    interleaving_point();
    version.store(version.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

}  // namespace uthin::pool_engine::versioned_line
