// How much each device of a pool maps, alone and together with others.
//
// Invariants
//   PU1  A data block is shared when more than one mapping of the pool's devices leads to it.
//   PU2  Memory: one byte for each used data block, in pages, and a few words for each leaf.
//   PU3  A leaf is read once (twice for the counts of a pool with shared blocks), however many
//        devices share it.
// Threads   One.
// Failures  corrupt, wrong_block, io_error; not_found for a device that is to be deleted.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "thin_metadata/metadata_view.h"
#include "uthin/metadata.h"

namespace uthin::thin_metadata {

struct device_usage {
    thin_device_info info;
    std::uint64_t mapped_blocks = 0;
    std::uint64_t shared_blocks = 0;
    std::optional<std::uint64_t> highest_block = std::nullopt;
};

struct pool_usage {
    std::vector<device_usage> devices;
    // Data blocks that only the devices to be deleted map.
    std::uint64_t freed_blocks = 0;
};

struct usage_options {
    bool walk_mappings = true;
    std::vector<device_id> deleted = {};
};

[[nodiscard]] result<pool_usage> measure_usage(metadata_view& view, const usage_options& options);

}  // namespace uthin::thin_metadata
