// An array of any nominal size whose pages take memory only once they are touched.
//
// Invariants
//   PA1  References to items stay valid as long as the array lives.
// Threads   One at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace uthin {

template <class Item, std::size_t page_items = 256>
class paged_array {
public:
    explicit paged_array(std::uint64_t item_count)
        : pages_((item_count + page_items - 1) / page_items) {}

    // Makes the page; `index` is below the nominal size.
    [[nodiscard]] Item& operator[](std::uint64_t index) {
        std::unique_ptr<Item[]>& page = pages_[index / page_items];
        if (page == nullptr) {
            page = std::make_unique<Item[]>(page_items);
        }
        return page[index % page_items];
    }
    // Null where nothing was touched, and beyond the end.
    [[nodiscard]] const Item* find(std::uint64_t index) const noexcept {
        const std::uint64_t page = index / page_items;
        if (page >= pages_.size() || pages_[page] == nullptr) {
            return nullptr;
        }
        return &pages_[page][index % page_items];
    }

private:
    std::vector<std::unique_ptr<Item[]>> pages_;
};

}  // namespace uthin
