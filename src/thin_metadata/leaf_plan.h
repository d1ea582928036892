// The leaves of mapping trees in the order in which they are going to be read, announced to the
// source so that it can read them ahead.
//
// Invariants
//   LP1  A hint and nothing more: damage is passed over in silence, whoever reads finds it again.
//   LP2  Memory: 4 bytes for each leaf and a bit for each block.
// Threads   One.
// Failures  None.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "persistent_data/block_source.h"

namespace uthin::thin_metadata {

class leaf_plan {
public:
    explicit leaf_plan(persistent_data::block_source& source)
        : source_(source), seen_(source.block_count()) {}

    // The leaves of all trees of a top mapping tree, each once, where the walk meets it first.
    void add_devices(metadata_block top_root);
    // The same of one tree.
    void add_tree(metadata_block root);
    // One leaf, even if it is there already.
    void add_leaf(metadata_block leaf) {
        leaves_.push_back(static_cast<std::uint32_t>(leaf.value()));
    }

    [[nodiscard]] std::size_t size() const noexcept { return leaves_.size(); }
    // Hands it over; false when the source makes no use of it.
    bool announce();

private:
    [[nodiscard]] std::optional<std::uint32_t> depth_of(metadata_block root);
    // False when it was met before, or is no block.
    [[nodiscard]] bool meet(metadata_block where);
    void add_under(metadata_block where, std::uint32_t depth);
    void add_roots_under(metadata_block where, std::uint32_t depth,
                         std::vector<metadata_block>& roots);

    persistent_data::block_source& source_;
    std::vector<bool> seen_;
    std::vector<std::uint32_t> leaves_;
};

}  // namespace uthin::thin_metadata
