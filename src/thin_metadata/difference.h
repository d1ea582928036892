// What differs between the mappings of two trees, block by block of the virtual space.
//
// Invariants
//   DI1  Runs ascend and do not overlap; each is contiguous in every space that it names.
// Threads   One.
// Failures  corrupt, wrong_block, io_error; those of `each`.
// Source    thin_delta 1.1: data blocks are compared, not times.
#pragma once

#include <functional>

#include "thin_metadata/metadata_view.h"

namespace uthin::thin_metadata {

enum class difference_kind : std::uint8_t { same, different, left_only, right_only };

struct difference_run {
    difference_kind kind = difference_kind::same;
    virtual_block begin;
    std::uint64_t count = 0;
    data_block left;   // not of right_only
    data_block right;  // not of left_only
};

using difference_function = std::function<result<void>(const difference_run& run)>;

// The tree of a device. not_found.
[[nodiscard]] result<metadata_block> mapping_root_of(metadata_view& view, device_id device);

[[nodiscard]] result<void> find_differences(metadata_view& view, metadata_block left_root,
                                            metadata_block right_root,
                                            const difference_function& each);

}  // namespace uthin::thin_metadata
