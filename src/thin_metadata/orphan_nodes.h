// Children of lost nodes. A node above the leaves that cannot be read takes only pointers with it:
// the blocks below are still there, and the space map knows of more pointers to them than there are
// left. Where it is certain whose they are, a node is worked out anew from them.
//
// Invariants
//   OR1  A block is taken for a child only if the metadata space map counts more pointers to it
//        than there are left, its keys lie where the lost node's do, it is as high as it must be,
//        and at least as many pointers are missing as there are lost nodes that fit.
// Threads   One at a time.
// Failures  None: what is not certain stays lost.
#pragma once

#include <span>

#include "thin_metadata/mapping_survey.h"
#include "thin_metadata/root_finder.h"
#include "thin_metadata/superblock.h"

namespace uthin::thin_metadata {

struct orphan_node {
    metadata_block where;
    subtree_summary tree;
    std::size_t missing = 0;  // pointers to it
};
// `survey` has visited all trees that anybody refers to (the metadata snapshot's too), but those
// whose nodes are in `other_nodes`; it is of no use afterwards.
[[nodiscard]] std::vector<orphan_node> list_orphans(mending_source& blocks, mapping_survey& survey,
                                                    const node_scan& scan,
                                                    const disk_superblock& superblock,
                                                    std::span<const metadata_block> other_nodes);

// Puts nodes in the place of lost ones, in `blocks`; the arguments as above. Returns the nodes that
// were replaced.
[[nodiscard]] std::vector<metadata_block> adopt_orphans(
    mending_source& blocks, mapping_survey& survey, const node_scan& scan,
    const disk_superblock& superblock, std::span<const metadata_block> other_nodes);

}  // namespace uthin::thin_metadata
