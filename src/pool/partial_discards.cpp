#include "pool/partial_discards.h"

#include <algorithm>

namespace uthin::pool_engine {

void partial_discards::add(virtual_block block, std::uint64_t begin, std::uint64_t end) {
    if (begin >= end) {
        return;
    }
    const lock_guard held(lock_);
    auto at = entries_.find(block.value());
    if (at == entries_.end()) {
        if (entries_.size() >= blocks_max) {
            erase(entries_.find(oldest_first_.front()));
        }
        std::list<std::uint64_t> youngest(1, block.value());
        at = entries_.emplace(block.value(), entry{{}, youngest.begin()}).first;
        oldest_first_.splice(oldest_first_.end(), youngest);
        count_.store(entries_.size());
    }
    std::vector<part>& parts = at->second.parts;
    part grown{static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end)};
    // Those that it touches become part of it.
    const auto first =
        std::ranges::find_if(parts, [&](const part& one) { return one.end >= grown.begin; });
    const auto last =
        std::find_if(first, parts.end(), [&](const part& one) { return one.begin > grown.end; });
    if (first == last && parts.size() >= parts_max) {
        return;
    }
    if (first != last) {
        grown.begin = std::min(grown.begin, first->begin);
        grown.end = std::max(grown.end, std::prev(last)->end);
    }
    parts.insert(parts.erase(first, last), grown);
}

bool partial_discards::covers(virtual_block block, std::uint64_t length) const {
    const lock_guard held(lock_);
    const auto at = entries_.find(block.value());
    return at != entries_.end() && !at->second.parts.empty() &&
           at->second.parts.front().begin == 0 && at->second.parts.front().end >= length;
}

void partial_discards::forget_parts(std::uint64_t block_bytes, std::uint64_t begin,
                                    std::uint64_t end) {
    const lock_guard held(lock_);
    const std::uint64_t first = begin / block_bytes;
    const std::uint64_t stop = (end + block_bytes - 1) / block_bytes;
    const auto cut_block = [&](auto at) REQUIRES(lock_) {
        const std::uint64_t block_begin = at->first * block_bytes;
        cut(at, begin > block_begin ? begin - block_begin : 0,
            std::min(end - block_begin, block_bytes));
    };
    if (stop - first > entries_.size()) {
        for (auto at = entries_.begin(); at != entries_.end();) {
            const auto here = at++;  // cut() may erase it
            if (here->first >= first && here->first < stop) {
                cut_block(here);
            }
        }
        return;
    }
    for (std::uint64_t block = first; block < stop; ++block) {
        if (const auto at = entries_.find(block); at != entries_.end()) {
            cut_block(at);
        }
    }
}

void partial_discards::cut(std::unordered_map<std::uint64_t, entry>::iterator at,
                           std::uint64_t begin, std::uint64_t end) {
    std::vector<part> left;
    for (const part& one : at->second.parts) {
        if (one.begin < begin) {
            left.push_back(
                {one.begin, static_cast<std::uint32_t>(std::min<std::uint64_t>(one.end, begin))});
        }
        if (one.end > end) {
            left.push_back(
                {static_cast<std::uint32_t>(std::max<std::uint64_t>(one.begin, end)), one.end});
        }
    }
    if (left.size() > parts_max) {
        left.pop_back();
    }
    at->second.parts = std::move(left);
    if (at->second.parts.empty()) {
        erase(at);
    }
}

void partial_discards::erase(std::unordered_map<std::uint64_t, entry>::iterator at) {
    oldest_first_.erase(at->second.age);
    entries_.erase(at);
    count_.store(entries_.size());
}

void partial_discards::forget_block(virtual_block block) {
    const lock_guard held(lock_);
    if (const auto at = entries_.find(block.value()); at != entries_.end()) {
        erase(at);
    }
}

void partial_discards::clear() {
    const lock_guard held(lock_);
    entries_.clear();
    oldest_first_.clear();
    count_.store(0);
}

}  // namespace uthin::pool_engine
