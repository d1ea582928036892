// What changed between two mapping trees of one state of the metadata, in time proportional to the
// change.
//
// Trees that descend from one another share nodes. A node that both trees reach is passed over by
// its block number, unread, with all that hangs below it.
//
// Invariants
//   CR1  Runs ascend and do not overlap; no mapping that is the same on both sides is in one.
//   CR2  A node is read at most once for each tree; one that both reach at the same place not at
//        all.
//   CR3  Memory: one path of each tree.
// Threads   One.
// Failures  corrupt, wrong_block, io_error, view_expired; those of `each`.
// Source    docs/format.md 4: nodes are copied on write, so equal block numbers in one state mean
//           equal content.
#pragma once

#include <optional>

#include "thin_metadata/difference.h"

namespace uthin::thin_metadata {

// Calls `each` for what lies at or behind `from`, without runs of kind `same`. No left root: an
// empty tree.
[[nodiscard]] result<void> find_changes(metadata_view& view,
                                        std::optional<metadata_block> left_root,
                                        metadata_block right_root, virtual_block from,
                                        const difference_function& each);

}  // namespace uthin::thin_metadata
