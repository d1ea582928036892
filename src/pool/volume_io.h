// The life of a request of one volume: ticket, lookup, data I/O, and the executor where needed.
//
// Threads   Any; an object lives for one call.
// Failures  include/uthin/thin.h.
// Source    docs/concurrency.md; the rules of the kernel's thin target for what a request does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "pool/engine.h"

namespace uthin::pool_engine {

// What a write stores: bytes of the caller, or zeros.
class write_source {
public:
    // `bytes` belong at `offset_bytes` of the volume.
    write_source(std::uint64_t offset_bytes, std::span<const std::byte> bytes)
        : offset_bytes_(offset_bytes), bytes_(bytes.data()) {}
    [[nodiscard]] static write_source zeros() { return {0, {}}; }

    [[nodiscard]] bool is_zeros() const noexcept { return bytes_ == nullptr; }
    [[nodiscard]] std::span<const std::byte> at(std::uint64_t offset_bytes,
                                                std::uint64_t length_bytes) const {
        return {bytes_ + (offset_bytes - offset_bytes_), length_bytes};
    }

private:
    const std::uint64_t offset_bytes_;
    const std::byte* const bytes_;
};

class volume_io {
public:
    volume_io(engine& owner, volume_state& state)
        : engine_(owner),
          state_(state),
          block_bytes_(owner.block_bytes()),
          block_shift_(owner.block_shift()) {}

    // volume_read.cpp
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes, std::span<std::byte> buffer);
    [[nodiscard]] result<io_ticket> begin(io_kind kind);
    [[nodiscard]] result<mapped_extent> map(const io_ticket& ticket, std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes);
    [[nodiscard]] result<std::vector<volume_extent>> block_status(std::uint64_t offset_bytes,
                                                                  std::uint64_t length_bytes,
                                                                  std::size_t extents_max);
    // Through the cache. Absent: a hole.
    [[nodiscard]] result<std::optional<lookup_result>> lookup(virtual_block block);

    // volume_write.cpp
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes, std::span<const std::byte> buffer,
                                     bool fua, hold_limit* holds);

    // volume_change.cpp
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                            zero_options options);
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes, std::uint64_t length_bytes);
    [[nodiscard]] result<void> flush();
    [[nodiscard]] result<void> set_size(std::uint64_t size_bytes);
    [[nodiscard]] bool changed_since_durable() const noexcept;
    // Asked after changed_since_durable(): an abort notes that it throws changes away before the
    // volume counts as unchanged, and `lost_changes` is set when all is undone.
    [[nodiscard]] bool has_lost_changes() const noexcept;

    // volume_origin.cpp. The caller holds the blocks in the volume's write gate.

    // What is not mapped is provisioned with what it reads as. `zeros_too`: also where that is
    // zeros. no_data_space: some may have been provisioned.
    [[nodiscard]] result<std::uint64_t> copy_up(range<virtual_block> blocks, bool zeros_too);
    // What is mapped is stored in `origin`, the image that the volume stands on, and unmapped when
    // it is durable there. Returns how many blocks stay mapped because they hold data behind the
    // origin's end.
    [[nodiscard]] result<std::uint64_t> push_down(range<virtual_block> blocks,
                                                  block_device& origin);

private:
    // How far a write got, and what it still owes.
    struct write_progress {
        std::uint64_t position_bytes = 0;
        bool fua = false;
        bool owes_flush = false;
        // Blocks that are not mapped stay so: zeros over a hole.
        bool only_mapped = false;
        hold_limit* holds = nullptr;
        // No space for this volume, whatever the pool has: waiting would not help.
        bool at_limit = false;
        // The data device had no space for it.
        bool met_full_device = false;
        // Here write_hits() stopped at a hole. Somebody may have filled it meanwhile (PV2).
        std::optional<virtual_block> hole = std::nullopt;
    };
    // What failed for want of space can be tried again; `failed` otherwise, or after waiting in
    // vain.
    [[nodiscard]] result<void> wait_for_space(const error& failed, write_progress& progress);

    [[nodiscard]] virtual_block block_of(std::uint64_t offset_bytes) const {
        return virtual_block(block_shift_ != 0 ? offset_bytes >> block_shift_
                                               : offset_bytes / block_bytes_);
    }
    [[nodiscard]] std::uint64_t in_block(std::uint64_t offset_bytes) const {
        return block_shift_ != 0 ? offset_bytes & (block_bytes_ - 1) : offset_bytes % block_bytes_;
    }
    [[nodiscard]] std::uint64_t data_offset(data_block block, std::uint64_t offset_bytes) const {
        return block.value() * block_bytes_ + in_block(offset_bytes);
    }
    // Of what begins at `offset_bytes`, the part in its block.
    [[nodiscard]] std::uint64_t piece_length(std::uint64_t offset_bytes,
                                             std::uint64_t end_bytes) const {
        return std::min(end_bytes - offset_bytes, block_bytes_ - in_block(offset_bytes));
    }
    // The blocks that a request touches.
    [[nodiscard]] range<virtual_block> blocks_of(std::uint64_t offset_bytes,
                                                 std::uint64_t length_bytes) const {
        return {block_of(offset_bytes), length_bytes == 0
                                            ? block_of(offset_bytes)
                                            : block_of(offset_bytes + (length_bytes - 1)) + 1};
    }
    [[nodiscard]] result<void> in_range(std::uint64_t offset_bytes,
                                        std::uint64_t length_bytes) const;
    [[nodiscard]] result<void> may_write() const;
    [[nodiscard]] result<void> ask_first() const;
    // Under a ticket and a pin: the mapping of the block that the request lies in, if it lies in
    // one and the cache knows it. Most requests need no more, and are spared all that is for the
    // others.
    [[nodiscard]] std::optional<lookup_result> cached_whole(std::uint64_t offset_bytes,
                                                            std::uint64_t length_bytes) const {
        mapping_cache::miss unused;
        return in_block(offset_bytes) + length_bytes <= block_bytes_ && length_bytes != 0
                   ? state_.cache.find(block_of(offset_bytes), unused)
                   : std::nullopt;
    }
    [[nodiscard]] bool fits(std::uint64_t offset_bytes, std::uint64_t length_bytes) const noexcept {
        const std::uint64_t size = state_.size_bytes.load();
        return offset_bytes <= size && length_bytes <= size - offset_bytes;
    }
    // Under a ticket and a pin.
    [[nodiscard]] result<void> read_pieces(std::uint64_t offset_bytes, std::span<std::byte> buffer);
    // A write that hits one block; false: nothing was done, it is for write_all().
    [[nodiscard]] result<bool> write_cached(std::uint64_t offset_bytes,
                                            std::span<const std::byte> buffer);
    // Where the external origin ends; 0 without one.
    [[nodiscard]] std::uint64_t origin_end() const noexcept {
        return state_.origin == nullptr ? 0 : state_.origin->size_bytes();
    }
    // What an unmapped part reads as.
    [[nodiscard]] result<void> read_hole(std::uint64_t offset_bytes, std::span<std::byte> buffer);
    // Where the hole at `block` ends, at most `end`.
    [[nodiscard]] result<virtual_block> hole_end(virtual_block block, virtual_block end);

    [[nodiscard]] result<void> write_all(const write_source& source, std::uint64_t offset_bytes,
                                         std::uint64_t length_bytes, write_progress progress);
    // Under a write ticket: from progress.position to end.
    [[nodiscard]] result<void> write_held(const write_source& source, std::uint64_t end_bytes,
                                          write_progress& progress);
    [[nodiscard]] result<void> write_hits(const write_source& source, std::uint64_t end_bytes,
                                          write_progress& progress);
    [[nodiscard]] result<void> write_misses(const write_source& source, std::uint64_t end_bytes,
                                            write_progress& progress);
    [[nodiscard]] result<std::vector<virtual_block>> discard_held(std::uint64_t offset_bytes,
                                                                  std::uint64_t length_bytes);
    [[nodiscard]] result<bool> reads_as_zeros(std::uint64_t begin_bytes, std::uint64_t end_bytes);
    [[nodiscard]] result<void> copy_run_up(std::uint64_t begin_bytes, std::uint64_t end_bytes);
    [[nodiscard]] result<bool> store_in_origin(virtual_block block, data_block stored,
                                               block_device& origin, std::uint64_t origin_bytes);
    [[nodiscard]] result<void> remove_blocks(range<virtual_block> blocks);
    // Of the blocks at the ends of a discard, those of which every part was discarded by now.
    [[nodiscard]] result<std::vector<virtual_block>> remember_ends(std::uint64_t begin_bytes,
                                                                   std::uint64_t end_bytes);
    [[nodiscard]] result<bool> remember_part(virtual_block block, std::uint64_t begin_bytes,
                                             std::uint64_t end_bytes);
    [[nodiscard]] result<void> unmap_and_zero(std::uint64_t begin_bytes, std::uint64_t end_bytes,
                                              bool unmap, write_progress& progress);
    [[nodiscard]] result<void> shrink(std::uint64_t size_bytes);
    // Unmaps and zeroes what a smaller size hides, durably.
    [[nodiscard]] result<void> cut_beyond(std::uint64_t size_bytes);

    engine& engine_;
    volume_state& state_;
    const std::uint64_t block_bytes_;
    const std::uint32_t block_shift_;
};

}  // namespace uthin::pool_engine
