#include "persistent_data/page.h"

#include <vector>

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

    kept_pages() {
        pages.reserve(count_max);
    }

    std::vector<std::unique_ptr<page>> pages;
};

}  // namespace

page* page::make(metadata_block where, block_kind kind) {
    kept_pages* const kept = kept_by_thread<kept_pages>();
    if (kept == nullptr || kept->pages.empty()) {
        return new page(where, kind);
    }
    page* const made = kept->pages.back().release();
    kept->pages.pop_back();
    made->where_ = where;
    made->kind_ = kind;
    // relaxed: nobody else knows this page.
    made->recently_used_.store(true, std::memory_order_relaxed);
    return made;
}

void page::drop(page* dropped) noexcept {
    std::unique_ptr<page> owned(dropped);
    if (owned->shared_ != nullptr) {
        return;
    }
    kept_pages* const kept = kept_by_thread<kept_pages>();
    if (kept != nullptr && kept->pages.size() < kept_pages::count_max) {
        kept->pages.push_back(std::move(owned));
    }
}

}  // namespace uthin::persistent_data
