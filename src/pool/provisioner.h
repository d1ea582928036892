// Gives new data blocks to blocks of a volume that are holes or shared, and writes to them.
//
//   executor: allocate -> caller's thread: zero or copy, write -> executor: insert the mapping
//
// For a single block, the first step is mostly spared: it is ready (ready_blocks). Zeros are then
// written to the ready blocks that follow it as well.
//
// Invariants
//   PV1  The mapping is inserted after every byte of the new block was written (PO1).
//   PV2  It is inserted only if the block is still mapped as it was when the new block was asked
//        for; so a discard in between wins, and no old content comes back after it.
//   PV3  Blocks that get no mapping are given back.
// Threads   The caller holds a write ticket and the cells of the blocks.
// Failures  no_data_space, no_metadata_space, read_only: nothing was done to the blocks left.
//           io_error: the mapping of the blocks left is as it was.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "pool/engine.h"
#include "pool/volume_io.h"

namespace uthin::pool_engine {

struct block_plan {
    virtual_block block;
    std::optional<data_block> old;  // shared with others; absent: a hole
    data_block fresh;
    bool inserted = false;
};

class provisioner {
public:
    static constexpr std::size_t blocks_max = 64;

    provisioner(engine& owner, volume_state& state) : engine_(owner), state_(state) {}

    // Writes [begin, end) of the volume, which lies in the blocks of `plan`, in order. Returns how
    // many blocks are done: fewer than asked for when space ran out or PV2 stopped it; 0 means look
    // up again.
    [[nodiscard]] result<std::size_t> write(std::span<block_plan> plan, const write_source& source,
                                            std::uint64_t begin_bytes, std::uint64_t end_bytes);

    // After no_data_space: the volume is at its limit, or what is free is promised to others.
    [[nodiscard]] bool at_limit() const noexcept { return at_limit_; }

private:
    struct allocated_blocks {
        std::size_t count = 0;
        std::uint64_t era = 0;
    };
    [[nodiscard]] result<allocated_blocks> allocate(std::span<block_plan> plan);
    [[nodiscard]] result<void> fill(std::span<const block_plan> plan, const write_source& source,
                                    std::uint64_t begin_bytes, std::uint64_t end_bytes);
    [[nodiscard]] result<void> fill_part(const block_plan& one, const write_source& source,
                                         std::uint64_t begin_bytes, std::uint64_t end_bytes);
    [[nodiscard]] result<void> fill_small(const block_plan& one, const write_source& source,
                                          std::uint64_t begin_bytes, std::uint64_t end_bytes);
    [[nodiscard]] result<void> fill_rest(const block_plan& one, std::uint64_t begin_in_block,
                                         std::uint64_t end_in_block);
    [[nodiscard]] result<void> zero_whole(data_block fresh);
    // For the only block of the plan, which was ready, and those behind it.
    void take_space();
    // Bytes of the block come from the external origin while it is not mapped.
    [[nodiscard]] bool covers_origin(virtual_block block) const noexcept;
    [[nodiscard]] result<void> copy_from_origin(std::uint64_t from, std::uint64_t to,
                                                std::uint64_t length);
    [[nodiscard]] result<void> put(const write_source& source, std::uint64_t on_device,
                                   std::uint64_t begin_bytes, std::uint64_t length_bytes);

    engine& engine_;
    volume_state& state_;
    bool at_limit_ = false;
    std::optional<ready_blocks::taken> ready_;  // the only block of the plan
    range<data_block> neighbours_{};            // RB2
    bool neighbours_are_zeroed_ = false;
};

}  // namespace uthin::pool_engine
