// A failing list of operations made short: what is left fails still, and no single one of it can be
// left out (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002).
//
// Threads   One.
// Failures  None.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace uthin::test {

// `items` makes `fails` true; it is asked at most `trials_max` times, and what it said yes to last
// comes back.
template <class Item>
[[nodiscard]] std::vector<Item> shrunk(std::vector<Item> items,
                                       const std::function<bool(const std::vector<Item>&)>& fails,
                                       std::uint64_t trials_max) {
    const auto without = [&items](std::size_t begin, std::size_t end) {
        std::vector<Item> rest(items.begin(), items.begin() + static_cast<std::ptrdiff_t>(begin));
        rest.insert(rest.end(), items.begin() + static_cast<std::ptrdiff_t>(end), items.end());
        return rest;
    };
    std::size_t piece = std::max<std::size_t>(items.size() / 2, 1);
    while (!items.empty()) {
        bool has_shrunk = false;
        // The last ones first: what comes after the failure is not needed, and before it little.
        for (std::size_t end = items.size(); end != 0;) {
            const std::size_t begin = end - std::min(end, piece);
            if (trials_max == 0) {
                return items;
            }
            --trials_max;
            if (std::vector<Item> rest = without(begin, end); fails(rest)) {
                items = std::move(rest);
                has_shrunk = true;
            }
            end = begin;
        }
        if (!has_shrunk && piece == 1) {
            break;
        }
        piece = has_shrunk ? std::min(piece, std::max<std::size_t>(items.size() / 2, 1))
                           : std::max<std::size_t>(piece / 2, 1);
    }
    return items;
}

}  // namespace uthin::test
