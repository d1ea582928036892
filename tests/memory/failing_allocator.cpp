#include "memory/failing_allocator.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>

#include "base/large_heap.h"

namespace {

std::atomic<bool> is_armed{false};
std::atomic<bool> is_persistent{false};
std::atomic<std::uint64_t> nth{0};
std::atomic<std::uint64_t> seen{0};
std::atomic<std::uint64_t> failed{0};
std::atomic<std::int64_t> live_count{0};

bool fails() noexcept {
    if (!is_armed.load()) {
        return false;
    }
    const std::uint64_t number = seen.fetch_add(1) + 1;
    if (number < nth.load() || (number > nth.load() && !is_persistent.load())) {
        return false;
    }
    failed.fetch_add(1);
    return true;
}

void* take(std::size_t size_bytes, std::size_t alignment_bytes) noexcept {
    if (fails()) {
        return nullptr;
    }
    void* const given =
        alignment_bytes <= __STDCPP_DEFAULT_NEW_ALIGNMENT__
            ? std::malloc(size_bytes == 0 ? 1 : size_bytes)
            : std::aligned_alloc(alignment_bytes, (size_bytes + alignment_bytes - 1) /
                                                      alignment_bytes * alignment_bytes);
    live_count.fetch_add(given == nullptr ? 0 : 1);
    return given;
}

void* take_or_throw(std::size_t size_bytes, std::size_t alignment_bytes) {
    void* const given = take(size_bytes, alignment_bytes);
    if (given == nullptr) {
        throw std::bad_alloc();
    }
    return given;
}

void give(void* taken) noexcept {
    live_count.fetch_sub(taken == nullptr ? 0 : 1);
    std::free(taken);
}

}  // namespace

// NOLINTBEGIN: the names are the language's and the linker's.
void* operator new(std::size_t size) {
    return take_or_throw(size, 1);
}
void* operator new[](std::size_t size) {
    return take_or_throw(size, 1);
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    return take(size, 1);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
    return take(size, 1);
}
void* operator new(std::size_t size, std::align_val_t alignment) {
    return take_or_throw(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
    return take_or_throw(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* taken) noexcept {
    give(taken);
}
void operator delete[](void* taken) noexcept {
    give(taken);
}
void operator delete(void* taken, std::size_t) noexcept {
    give(taken);
}
void operator delete[](void* taken, std::size_t) noexcept {
    give(taken);
}
void operator delete(void* taken, const std::nothrow_t&) noexcept {
    give(taken);
}
void operator delete[](void* taken, const std::nothrow_t&) noexcept {
    give(taken);
}
void operator delete(void* taken, std::align_val_t) noexcept {
    give(taken);
}
void operator delete[](void* taken, std::align_val_t) noexcept {
    give(taken);
}
void operator delete(void* taken, std::size_t, std::align_val_t) noexcept {
    give(taken);
}
void operator delete[](void* taken, std::size_t, std::align_val_t) noexcept {
    give(taken);
}

// The linker puts it in the place of aligned_alloc (tests/CMakeLists.txt).
extern "C" void* __real_aligned_alloc(std::size_t alignment, std::size_t size);
extern "C" void* __wrap_aligned_alloc(std::size_t alignment, std::size_t size);
extern "C" void* __wrap_aligned_alloc(std::size_t alignment, std::size_t size) {
    return fails() ? nullptr : __real_aligned_alloc(alignment, size);
}
// NOLINTEND

namespace uthin::test {

void failing_allocator::arm(std::uint64_t number, bool persistent) noexcept {
    nth.store(number);
    is_persistent.store(persistent);
    seen.store(0);
    failed.store(0);
    is_armed.store(true);
}

std::uint64_t failing_allocator::disarm() noexcept {
    is_armed.store(false);
    return failed.load();
}

std::int64_t failing_allocator::live() noexcept {
    return live_count.load();
}

namespace {

// What a run ends with: whether an allocation failed, and what is wrong.
struct verdict {
    bool injected = false;
    bool out_of_memory = false;
    std::string complaint;
};

void run_once(const std::function<std::unique_ptr<memory_trial>()>& make, std::uint64_t number,
              bool persistent, verdict& found) {
    const auto trial = make();
    if (auto prepared = trial->prepare(); !prepared) {
        found.complaint = "preparation failed: " + prepared.error().to_string();
        return;
    }
    result<void> outcome;
    bool escaped = false;
    failing_allocator::arm(number, persistent);
    try {
        outcome = trial->act();
    } catch (const std::bad_alloc&) {
        escaped = true;
    }
    found.injected = failing_allocator::disarm() != 0;
    found.out_of_memory = !outcome && outcome.error().code() == error_code::out_of_memory;
    if (escaped) {
        found.complaint = "std::bad_alloc leaves the library";
    } else if (!outcome && !found.injected) {
        found.complaint = outcome.error().to_string();
    } else {
        found.complaint = trial->judge(outcome, found.injected);
    }
}

// With the allocations that it leaves behind.
std::int64_t run_on_a_thread(const std::function<std::unique_ptr<memory_trial>()>& make,
                             std::uint64_t number, bool persistent, verdict& found) {
    const std::int64_t before = failing_allocator::live();
    {
        verdict here;
        std::thread([&] { run_once(make, number, persistent, here); }).join();
        found.injected = here.injected;
        found.out_of_memory = here.out_of_memory;
        if (!here.complaint.empty()) {
            found.complaint = here.complaint;
            return 0;
        }
    }
    return failing_allocator::live() - before;
}

}  // namespace

void fail_each_allocation(const char* name,
                          const std::function<std::unique_ptr<memory_trial>()>& make,
                          memory_totals& sums) {
    // Memory of thousands of short-lived threads is not given back to the system each time.
    static std::once_flag is_large;
    std::call_once(is_large, use_large_heap);
    constexpr std::uint64_t never = UINT64_MAX;
    constexpr std::uint64_t number_max = 200'000;
    verdict healthy;
    // What is made once only is made by the first.
    for (int round = 0; round < 2; ++round) {
        static_cast<void>(run_on_a_thread(make, never, false, healthy));
        ASSERT_EQ(healthy.complaint, "") << name;
    }
    for (const bool persistent : {false, true}) {
        bool injected = true;
        for (std::uint64_t number = 1; injected; ++number) {
            verdict found;
            const std::int64_t left = run_on_a_thread(make, number, persistent, found);
            injected = found.injected;
            ++sums.runs;
            sums.out_of_memory += found.out_of_memory ? 1U : 0U;
            if (left != 0 && found.complaint.empty()) {
                found.complaint = fmt::format("{} allocations have leaked", left);
            }
            if (!found.complaint.empty() || number > number_max) {
                ++sums.violations;
                ADD_FAILURE() << name << ": allocation " << number
                              << (persistent ? " and all behind it fail: " : " fails: ")
                              << found.complaint;
                return;
            }
        }
    }
}

}  // namespace uthin::test
