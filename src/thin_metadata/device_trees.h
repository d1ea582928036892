// The small trees of a damaged pool, top mapping tree and device details: their entries as far as
// they verify.
//
// Invariants
//   DT1  Entries ascend by key, which is a device id; each block is read once at most.
// Threads   One at a time.
// Failures  None: what cannot be read is listed as lost.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "thin_metadata/mapping_survey.h"
#include "thin_metadata/superblock.h"

namespace uthin::thin_metadata {

struct named_root {
    std::uint64_t id = 0;
    metadata_block root;
};
struct named_details {
    std::uint64_t id = 0;
    disk_device_details details;
};

template <class Entry>
struct salvaged_entries {
    std::vector<Entry> entries;
    std::vector<mapping_survey::loss> losses;  // keys are device ids here
    std::vector<metadata_block> nodes;         // that were read
    // Some that can be read are out of order, or no device can have their number.
    bool entries_dropped = false;
    // Nothing could be read at all.
    bool root_lost = false;
};

[[nodiscard]] salvaged_entries<named_root> read_top_tree(persistent_data::block_source& source,
                                                         metadata_block root);
[[nodiscard]] salvaged_entries<named_details> read_details_tree(
    persistent_data::block_source& source, metadata_block root);

}  // namespace uthin::thin_metadata
