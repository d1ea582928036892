// The program's operator new and aligned_alloc, which count and fail when they are told to.
//
// Threads   Any: an allocation of every thread counts.
// Failures  std::bad_alloc, null from aligned_alloc.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "uthin/error.h"

namespace uthin::test {

class failing_allocator {
public:
    // From now on: the n-th allocation fails, or that and all behind it.
    static void arm(std::uint64_t nth, bool persistent) noexcept;
    // Failures since arm().
    static std::uint64_t disarm() noexcept;
    // What operator new gave and operator delete did not take.
    [[nodiscard]] static std::int64_t live() noexcept;
};

struct memory_totals {
    std::uint64_t runs = 0;
    std::uint64_t violations = 0;
    std::uint64_t out_of_memory = 0;
};

// One run. prepare() and judge() have memory; what is said by judge() is a violation. The object is
// made, used and dropped on a thread of its own, so that nothing is kept for the thread.
class memory_trial {
public:
    virtual ~memory_trial() = default;
    [[nodiscard]] virtual result<void> prepare() = 0;
    [[nodiscard]] virtual result<void> act() = 0;
    // Empty: all is well.
    [[nodiscard]] virtual std::string judge(const result<void>& outcome, bool injected) = 0;
};

// Runs trials with the n-th allocation of act() failing, n = 1, 2, ..., once and
// from then on, until act() ends without a failure. Violations are reported to GoogleTest; the
// first one ends it.
void fail_each_allocation(const char* name,
                          const std::function<std::unique_ptr<memory_trial>()>& make,
                          memory_totals& sums);

}  // namespace uthin::test
