// Parts of blocks that were discarded one by one: what a discard names of a block that it does not
// cover is remembered, until the whole block was named and can be unmapped.
//
// Invariants
//   PD1  A part is remembered only while no write to it has begun since it was discarded: a write
//        forgets it under its ticket, before its I/O.
//   PD2  At most blocks_max blocks are remembered, with parts_max separate parts each: 264 KiB for
//   a
//        volume. Beyond it the oldest block is forgotten, or the part not taken; that only costs
//        the unmapping.
//   PD3  A write to a volume without remembered parts costs one atomic load.
// Threads   Any; one mutex, a leaf.
// Failures  None.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "uthin/units.h"

namespace uthin::pool_engine {

class partial_discards {
public:
    static constexpr std::size_t blocks_max = 1024;
    static constexpr std::size_t parts_max = 32;

    // [begin, end) of the block, in bytes from its first one.
    void add(virtual_block block, std::uint64_t begin, std::uint64_t end);
    // A write to these bytes of the volume begins.
    void forget(std::uint64_t block_bytes, std::uint64_t begin, std::uint64_t end) {
        // seq_cst: the door that the write passed and the count are a store-then-load pair of the
        // thread that unmaps (docs/concurrency.md).
        if (count_.load() != 0) {
            forget_parts(block_bytes, begin, end);
        }
    }
    // Every part of the block's first `length` bytes is remembered.
    [[nodiscard]] bool covers(virtual_block block, std::uint64_t length) const;
    void forget_block(virtual_block block);
    void clear();
    [[nodiscard]] std::size_t blocks() const noexcept { return count_.load(); }

private:
    struct part {
        std::uint32_t begin = 0;  // blocks have at most 1 GiB
        std::uint32_t end = 0;
    };
    struct entry {
        std::vector<part> parts;  // ascending, neither touching nor overlapping
        std::list<std::uint64_t>::iterator age;
    };
    void forget_parts(std::uint64_t block_bytes, std::uint64_t begin, std::uint64_t end);
    void cut(std::unordered_map<std::uint64_t, entry>::iterator at, std::uint64_t begin,
             std::uint64_t end) REQUIRES(lock_);
    void erase(std::unordered_map<std::uint64_t, entry>::iterator at) REQUIRES(lock_);

    mutable mutex lock_;
    std::unordered_map<std::uint64_t, entry> entries_ GUARDED_BY(lock_);
    std::list<std::uint64_t> oldest_first_ GUARDED_BY(lock_);
    std::atomic<std::size_t> count_{0};
};

}  // namespace uthin::pool_engine
