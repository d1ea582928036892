// The mapping trees of devices that the top tree no longer names: the roots to which pointers are
// missing, told apart by the number of mappings that the details state.
//
// Invariants
//   DF1  A root is given to a device only if a pointer to it is missing, it has exactly as many
//        mappings as the details say, it is the only such root, and as many pointers to it are
//        missing as devices state this number. What an older top node says is no evidence: an
//        origin and its snapshot may have changed places since.
// Threads   One at a time.
// Failures  None: a device whose root is not certain is not among the results.
#pragma once

#include <span>

#include "thin_metadata/device_trees.h"
#include "thin_metadata/orphan_nodes.h"

namespace uthin::thin_metadata {

// Roots and devices that have one number of mappings, and cannot be told apart by it.
struct undecided_roots {
    std::uint64_t mappings = 0;
    std::vector<metadata_block> roots;
    std::vector<std::uint64_t> devices;
};

struct found_roots {
    std::vector<named_root> certain;  // ascending by id
    std::vector<undecided_roots> undecided;
};

// `wanted`: devices without a root.
[[nodiscard]] found_roots find_device_roots(std::span<const orphan_node> orphans,
                                            std::span<const named_details> wanted);

}  // namespace uthin::thin_metadata
