// Puts reference counts that are too high right: both space maps are written anew from what the
// trees say.
//
// Invariants
//   LR1  Nothing that block 0 reaches, the old space maps included, is written over: a crash leaves
//        the pool as it was, or mended.
// Threads   One; nobody else has the metadata open.
// Failures  no_metadata_space when the new maps find no room; corrupt (call it only for metadata
//           without fatal findings); those of the device.
// Source    docs/format.md 7 and 13.
#pragma once

#include "thin_metadata/superblock.h"
#include "uthin/block_device.h"

namespace uthin::thin_metadata {

struct leak_repair_options {
    bool rebuild_space_maps = true;
    bool clear_needs_check = false;
};

// `in_doubt`, if given, becomes true when the superblock is written and false again when it is
// durable: an error in between leaves unknown which of the two a restart finds, and what is free in
// one is in use in the other.
[[nodiscard]] result<void> repair_leaks(block_device& device, const leak_repair_options& options,
                                        bool* in_doubt = nullptr);

}  // namespace uthin::thin_metadata
