#include "persistent_data/page.h"

#include <array>

#include "base/kept_by_thread.h"

namespace uthin::persistent_data {
namespace {

// A transaction drops about as many pages as it makes. Fresh memory is cold, and in a heap full of
// pages so is what malloc looks at.
struct kept_pages {
#if defined(__SANITIZE_ADDRESS__)
    static constexpr std::size_t count_max = 0;  // so that the use of a dropped page is seen
#else
    static constexpr std::size_t count_max = 64;
#endif

    kept_pages() = default;
    kept_pages(const kept_pages&) = delete;
    kept_pages& operator=(const kept_pages&) = delete;
    ~kept_pages() {
        while (count != 0) {
            delete pages[--count];
        }
    }

    // No vector: dropping a page never allocates.
    std::array<page*, 64> pages{};
    std::size_t count = 0;
};

}  // namespace

page* page::make(metadata_block where, block_kind kind) {
    kept_pages* const kept = kept_by_thread<kept_pages>();
    if (kept == nullptr || kept->count == 0) {
        return new page(where, kind);
    }
    page* const made = kept->pages[--kept->count];
    made->where_ = where;
    made->kind_ = kind;
    // relaxed: nobody else knows this page.
    made->recently_used_.store(true, std::memory_order_relaxed);
    return made;
}

void page::drop(page* dropped) noexcept {
    kept_pages* const kept = kept_by_thread<kept_pages>();
    if (dropped->shared_ != nullptr || kept == nullptr || kept->count >= kept_pages::count_max) {
        delete dropped;
        return;
    }
    kept->pages[kept->count++] = dropped;
}

}  // namespace uthin::persistent_data
