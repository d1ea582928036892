// What deleting devices would free: the data blocks that nothing else leads to.
//
// Invariants
//   EB1  A data block is counted when every reference to it, and to each node above it up to the
//        superblock, is the devices' own. So what a metadata snapshot holds is not counted.
//   EB2  Nodes read: those of the top tree; those that the devices own alone, but for subtrees that
//        a memo knows; the bitmaps of what these name. A subtree that is shared is not entered.
//        With the memo of a live pool a second measurement reads what was written since the first
//        one, and the owned nodes that have something shared below them.
// Threads   One for a measurement; several may measure one view.
// Failures  not_found (no such device), corrupt, wrong_block, io_error, view_expired.
// Source    docs/format.md 6: a count is the number of blocks that point somewhere; what a shared
//           node points to is counted once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "thin_metadata/metadata_view.h"
#include "uthin/units.h"

namespace uthin::thin_metadata {

struct device_exclusive {
    device_id id;
    std::uint64_t mapped_blocks = 0;
    std::uint64_t exclusive_blocks = 0;  // what deleting this one would free
};

// All devices, ascending.
[[nodiscard]] result<std::vector<device_exclusive>> measure_exclusive(metadata_view& view);
// What deleting all of these would free: more than the sum when they share with one another.
[[nodiscard]] result<std::uint64_t> blocks_freed_by_deleting(metadata_view& view,
                                                             std::span<const device_id> devices);

}  // namespace uthin::thin_metadata
