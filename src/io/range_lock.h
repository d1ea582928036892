// Locks on byte ranges: read-modify-write of a sector (exclusive) against plain writes (shared).
//
// Invariants
//   RL1  An exclusive holder overlaps no other holder.
//
// Threads   Any. A thread may hold several shared ranges; one that waits for an exclusive range
//           must hold none, or two of them could wait for each other.
#pragma once

#include <cstdint>
#include <vector>

#include "base/mutex.h"

namespace uthin::io {

class range_lock {
public:
    class guard {
    public:
        guard(range_lock& lock, std::uint64_t begin_bytes, std::uint64_t end_bytes, bool exclusive)
            : lock_(lock), held_{begin_bytes, end_bytes, exclusive} {
            lock_.acquire(held_);
        }
        ~guard() { lock_.release(held_); }
        guard(const guard&) = delete;
        guard& operator=(const guard&) = delete;

    private:
        friend class range_lock;
        struct entry {
            std::uint64_t begin_bytes;
            std::uint64_t end_bytes;
            bool exclusive;
            bool operator==(const entry&) const = default;
        };
        range_lock& lock_;
        const entry held_;
    };

private:
    void acquire(const guard::entry& wanted);
    void release(const guard::entry& entry);

    mutex lock_;
    condition released_;
    std::vector<guard::entry> held_ GUARDED_BY(lock_);
};

}  // namespace uthin::io
