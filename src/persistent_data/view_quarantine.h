// Blocks that are free on disk but still read by somebody through a read view.
//
// Invariants
//   VQ1  A block freed by transaction T is kept while a view of a commit older than T lives.
// Threads   The writer's.
// Failures  None; forgetting everything (a crash) leaks nothing, as the blocks are free on disk.
#pragma once

#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#include "uthin/units.h"

namespace uthin::persistent_data {

class view_quarantine {
public:
    // The open transaction freed `block`, which the last commit used.
    void freed(std::uint64_t block);
    // fn(begin, end) for what the open transaction freed so far.
    template <class Fn>
    void for_each_freed(Fn fn) const {
        for (const run& one : freed_now_) {
            fn(one.begin, one.end);
        }
    }
    // Transaction `transaction` became durable; `views_live` says whether anybody still reads an
    // older state.
    void committed(std::uint64_t transaction, bool views_live);
    // The oldest live view reads the state of commit `oldest_commit`; UINT64_MAX when there is
    // none.
    void release_before(std::uint64_t oldest_commit);

    [[nodiscard]] bool contains(std::uint64_t block) const noexcept {
        if (kept_.empty()) {
            return false;
        }
        const auto found = kept_.find(block / 64);
        return found != kept_.end() && (found->second >> block % 64 & 1) != 0;
    }
    [[nodiscard]] std::uint64_t kept_blocks() const noexcept { return kept_blocks_; }

private:
    struct run {
        std::uint64_t begin;
        std::uint64_t end;
    };
    struct generation {
        std::uint64_t transaction;
        std::vector<run> runs;
    };

    void keep(std::uint64_t block);
    void release(std::uint64_t block);

    std::vector<run> freed_now_;
    std::deque<generation> generations_;
    std::unordered_map<std::uint64_t, std::uint64_t> kept_;
    // Blocks that were freed again while they were kept, and how often: not of sound metadata.
    std::unordered_map<std::uint64_t, std::uint64_t> kept_again_;
    std::uint64_t kept_blocks_ = 0;
};

}  // namespace uthin::persistent_data
