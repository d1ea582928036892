// Where the trees of a pool could begin when the superblock does not tell: all nodes of the device
// are looked at, and those that nobody refers to are paired and ranked.
//
// Invariants
//   RF1  Memory is bounded by the number of blocks that are nodes, however many devices the
//        candidates have.
//   RF2  The order of candidates depends on nothing but the image and what is fixed.
// Threads   One at a time.
// Failures  None: what cannot be read is no candidate.
// Source    The ranking follows thin_repair 1.1 (newest times first), with the damage that only an
//           outdated tree can have put before it.
#pragma once

#include <optional>
#include <vector>

#include "thin_metadata/device_trees.h"
#include "thin_metadata/mending_source.h"

namespace uthin::thin_metadata {

struct node_scan {
    std::vector<metadata_block> top_leaves;  // each value could be the root of a device
    std::vector<metadata_block> details_leaves;
    std::vector<metadata_block> mapping_leaves;  // the top leaves too
    std::vector<metadata_block> internal_nodes;  // of any tree
    std::vector<metadata_block> superblocks;     // copies: block 0 is not among them
};
// Reads the whole device, in order.
[[nodiscard]] node_scan scan_nodes(mending_source& blocks);

// How well details and mapping trees agree.
enum class details_match : std::uint8_t {
    none,
    same_devices,
    exact,  // the numbers of mappings too, where the trees are not damaged
};

struct root_candidate {
    metadata_block mapping_root;
    std::optional<metadata_block> details_root;
    details_match match = details_match::none;
    std::uint64_t devices = 0;
    std::uint64_t lost_devices = 0;         // their trees cannot be read at all
    std::uint64_t overwritten_devices = 0;  // some of their blocks belong to others by now
    subtree_summary mappings;
    std::uint64_t transaction_id = 0;  // highest that a device was made in
};

// What is known already.
struct known_roots {
    std::optional<metadata_block> mapping_root;
    std::optional<metadata_block> details_root;
    // Preferred if they are among the candidates: those of a superblock that does not verify.
    std::optional<metadata_block> hinted_mapping_root;
    std::optional<metadata_block> hinted_details_root;
};
// The best first.
[[nodiscard]] std::vector<root_candidate> find_roots(mending_source& blocks, const node_scan& scan,
                                                     const known_roots& known);

}  // namespace uthin::thin_metadata
