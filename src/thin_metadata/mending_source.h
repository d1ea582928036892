// Blocks of damaged metadata, as far as they can be believed: a block with one flipped bit is put
// right, and blocks that were worked out anew stand in for lost ones.
//
// Invariants
//   ME1  Every block that read() returns passes check_block(), or was given to replace().
//   ME2  A block is corrected only if flipping exactly one bit makes it pass; a block of noise
//        does so with a probability below 1 in 100,000.
//   ME3  Nothing is written. A block that could not be read is not read again.
//   ME4  Prefetched blocks are read in long pieces: a metadata device is mostly written in the
//        order in which its trees are walked.
// Threads   One at a time.
// Failures  As a block_source. An unreadable block is an error of this block only.
#pragma once

#include <cstring>
#include <deque>
#include <set>
#include <unordered_map>

#include "persistent_data/block_source.h"
#include "persistent_data/btree_node.h"
#include "uthin/block_device.h"

namespace uthin::thin_metadata {

// Flips the one bit that makes the block pass as `kind`. False, and nothing changed, when there is
// none.
[[nodiscard]] bool correct_single_bit(persistent_data::block_kind kind, metadata_block where,
                                      persistent_data::block_bytes bytes);

class mending_source final : public persistent_data::block_source {
public:
    // `device` outlives it.
    mending_source(block_device& device, std::uint64_t block_count, std::uint64_t cache_blocks,
                   bool correct_bits);

    [[nodiscard]] result<persistent_data::block_ref> read(
        metadata_block where, persistent_data::block_kind kind) override;
    [[nodiscard]] std::uint64_t block_count() const override { return block_count_; }
    void prefetch(std::span<const metadata_block> blocks,
                  persistent_data::block_kind kind) override;

    // A node to be read in place of what the device has there.
    void replace(metadata_block where, persistent_data::block_ref node);
    void take_back(metadata_block where) { replaced_.erase(where.value()); }
    [[nodiscard]] bool is_replaced(metadata_block where) const {
        return replaced_.contains(where.value());
    }
    [[nodiscard]] const std::set<std::uint64_t>& corrected() const noexcept { return corrected_; }
    [[nodiscard]] block_device& device() noexcept { return device_; }
    [[nodiscard]] bool corrects_bits() const noexcept { return correct_bits_; }

private:
    struct run {
        std::uint64_t begin = 0;
        std::uint64_t end = 0;
    };
    [[nodiscard]] std::vector<run> runs_of(std::span<const metadata_block> blocks) const;
    void make_buffer(std::span<const run> runs);
    void take_run(const run& read, std::span<const std::byte> bytes,
                  std::span<const std::uint64_t> wanted, persistent_data::block_kind kind);
    [[nodiscard]] result<persistent_data::block_ref> read_device(metadata_block where,
                                                                 persistent_data::block_kind kind);
    void keep(const persistent_data::block_ref& page);

    block_device& device_;
    std::uint64_t block_count_;
    std::uint64_t cache_blocks_;
    bool correct_bits_;
    std::set<std::uint64_t> corrected_;
    std::unordered_map<std::uint64_t, persistent_data::block_ref> replaced_;
    std::unordered_map<std::uint64_t, persistent_data::block_ref> cached_;
    struct failure {
        persistent_data::block_kind kind;
        error what;
    };
    std::unordered_map<std::uint64_t, failure> failed_;
    std::deque<std::uint64_t> cached_order_;
    aligned_buffer buffer_;
};

// A node in memory, to be filled by `fill(node_editor&)`.
template <class Fill>
[[nodiscard]] persistent_data::block_ref make_node(metadata_block where, bool leaf, Fill fill) {
    constexpr std::uint32_t value_size_bytes = 8;
    auto* made = persistent_data::page::make(where, persistent_data::block_kind::btree_node);
    persistent_data::block_ref held(made);
    std::memset(made->mutable_bytes().data(), 0, metadata_block_size_bytes);
    persistent_data::node_editor node(made->mutable_bytes());
    node.init(leaf, value_size_bytes);
    fill(node);
    return held;
}

}  // namespace uthin::thin_metadata
