#include "base/large_heap.h"

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace uthin {

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

void use_large_heap() noexcept {
    constexpr std::uintptr_t huge_page_bytes = 2U << 20;
    // More of it would be resident without being used: what large tables leave behind as they grow.
    constexpr std::uintptr_t huge_bytes = 24U << 20;
    constexpr std::size_t probe_bytes = 1U << 20;
    // Larger pieces get mappings of their own, and give their memory back.
    ::mallopt(M_MMAP_THRESHOLD, 4 << 20);
    ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
    ::mallopt(M_ARENA_MAX, 1);
    ::mallopt(M_TOP_PAD, static_cast<int>(huge_bytes));
    void* volatile probe = std::malloc(probe_bytes);
    const auto first = reinterpret_cast<std::uintptr_t>(probe);
    std::free(probe);
    ::mallopt(M_TOP_PAD, 1 << 20);
    const auto end =
        reinterpret_cast<std::uintptr_t>(::sbrk(0)) / huge_page_bytes * huge_page_bytes;
    const std::uintptr_t begin = end - huge_bytes;
    // Nothing came from the heap when the program may not have so much of it.
    if (first != 0 && first < end && end - first <= huge_bytes + 2 * huge_page_bytes) {
        (void)::madvise(reinterpret_cast<void*>(begin), huge_bytes, MADV_HUGEPAGE);
    }
}

#else

void use_large_heap() noexcept {
}

#endif

}  // namespace uthin
