// Which devices map a data block: the mappings of a pool read backwards.
//
// Invariants
//   RM1  Every device of a shared leaf is named, though the leaf is read and kept once.
//   RM2  Memory: 48 bytes for each run of a leaf that lies in a region, 4 for each device that has
//        such a leaf, and the runs that reach from one leaf into the next.
// Threads   One.
// Failures  corrupt, wrong_block, io_error, before the first run; those of the output.
#pragma once

#include <functional>
#include <vector>

#include "thin_metadata/metadata_view.h"
#include "uthin/metadata.h"

namespace uthin::thin_metadata {

// A run of one device, contiguous on both sides.
struct reverse_run {
    data_block data_begin;
    std::uint64_t count = 0;
    device_id device;
    virtual_block begin;
    auto operator<=>(const reverse_run&) const = default;
};
using reverse_output = std::function<result<void>(const reverse_run& run)>;

// Every mapping into one of `regions`, sorted by data block, length, device. Runs that differ in
// their times only are one.
[[nodiscard]] result<void> reverse_mappings(metadata_view& view,
                                            const std::vector<range<data_block>>& regions,
                                            const reverse_output& each);

}  // namespace uthin::thin_metadata
