// A pool's metadata as a stream of mappings.
//
// Invariants
//   DU1  Devices ascend by id, mappings by virtual block.
//   DU2  Memory: one path of nodes, and 4 bytes for each leaf of the device that is sent; with
//        `shared_pieces` a few words for each leaf of all devices.
//   DU3  Every leaf under a shared piece is read and sent once.
// Threads   One at a time; several dumps of one view may run beside each other.
// Failures  corrupt, wrong_block, io_error: the part before the damage has been sent already.
//           view_expired. Whatever the sink fails with.
// Source    docs/format.md 4 and 5; thin_dump 0.9 and 1.1 for the order and the shared pieces.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "thin_metadata/mapping_stream.h"
#include "thin_metadata/metadata_view.h"

namespace uthin::thin_metadata {

struct dump_options {
    // Only these; those that do not exist are passed over.
    std::optional<std::vector<device_id>> devices = std::nullopt;
    bool skip_mappings = false;
    // Runs of leaves that several of the devices share become shared pieces, named by the block of
    // their first leaf and in ascending order of it; without it every device has all of its
    // mappings.
    bool shared_pieces = false;
};

[[nodiscard]] result<void> dump_metadata(metadata_view& view, mapping_sink& sink,
                                         const dump_options& options);

// The same of devices that somebody else has listed, in ascending order of id.
struct dump_device {
    thin_device_info info;
    metadata_block root;
};
[[nodiscard]] result<void> dump_devices(persistent_data::block_source& source,
                                        const pool_header& header,
                                        std::span<const dump_device> devices, mapping_sink& sink,
                                        const dump_options& options);

// All devices of a pool with their trees, ascending. corrupt when the two trees name different
// ones.
[[nodiscard]] result<std::vector<dump_device>> list_devices(metadata_view& view);
// Before the leaves of `devices[at]` are listed, for each `at` in turn: reads what is above them in
// batches.
void prefetch_trees(persistent_data::block_source& source, std::span<const dump_device> devices,
                    std::size_t at);

// The header that dump_metadata sends.
[[nodiscard]] pool_header pool_header_of(const disk_superblock& superblock);

}  // namespace uthin::thin_metadata
