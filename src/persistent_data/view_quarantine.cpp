#include "persistent_data/view_quarantine.h"

namespace uthin::persistent_data {

void view_quarantine::freed(std::uint64_t block) {
    if (!freed_now_.empty() && freed_now_.back().end == block) {
        ++freed_now_.back().end;
        return;
    }
    freed_now_.push_back({block, block + 1});
}

void view_quarantine::committed(std::uint64_t transaction, bool views_live) {
    if (views_live && !freed_now_.empty()) {
        for (const run& freed : freed_now_) {
            kept_blocks_ += freed.end - freed.begin;
            for (std::uint64_t block = freed.begin; block < freed.end; ++block) {
                keep(block);
            }
        }
        generations_.push_back({transaction, std::move(freed_now_)});
    }
    freed_now_.clear();
}

void view_quarantine::keep(std::uint64_t block) {
    std::uint64_t& word = kept_[block / 64];
    const std::uint64_t bit = 1ULL << block % 64;
    if ((word & bit) != 0) {
        ++kept_again_[block];
    }
    word |= bit;
}

void view_quarantine::release(std::uint64_t block) {
    if (!kept_again_.empty()) {
        if (const auto again = kept_again_.find(block); again != kept_again_.end()) {
            if (--again->second == 0) {
                kept_again_.erase(again);
            }
            return;
        }
    }
    const auto word = kept_.find(block / 64);
    word->second &= ~(1ULL << block % 64);
    if (word->second == 0) {
        kept_.erase(word);
    }
}

void view_quarantine::release_before(std::uint64_t oldest_commit) {
    while (!generations_.empty() && generations_.front().transaction <= oldest_commit) {
        for (const run& freed : generations_.front().runs) {
            kept_blocks_ -= freed.end - freed.begin;
            for (std::uint64_t block = freed.begin; block < freed.end; ++block) {
                release(block);
            }
        }
        generations_.pop_front();
    }
}

}  // namespace uthin::persistent_data
