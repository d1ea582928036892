// Read access to metadata blocks, whatever stands behind: the writer's view, a committed state, an
// offline image.
//
// Invariants
//   BS1  The bytes behind a block_ref never change while it is held.
// Threads   As the implementation says; a block_ref may be passed between threads.
#pragma once

#include <cstdint>
#include <vector>

#include "persistent_data/page.h"

namespace uthin::persistent_data {

class block_source {
public:
    block_source() = default;
    block_source(const block_source&) = delete;
    block_source& operator=(const block_source&) = delete;
    virtual ~block_source() = default;

    // out_of_range, io_error, wrong_block, corrupt; would_block from a source that must not wait.
    [[nodiscard]] virtual result<block_ref> read(metadata_block where, block_kind kind) = 0;
    // Blocks of the device; every pointer is tested against it before it is followed.
    [[nodiscard]] virtual std::uint64_t block_count() const = 0;
    // A hint that these blocks are read next, in one batch.
    virtual void prefetch(std::span<const metadata_block> blocks, block_kind kind) = 0;
    // A hint that these blocks (numbers) are going to be read once, in this order. False: the
    // source does not make use of it, and prefetch() is worth calling.
    virtual bool plan(std::vector<std::uint32_t> /*order*/, block_kind /*kind*/) { return false; }
};

}  // namespace uthin::persistent_data
