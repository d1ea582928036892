// The leaves of the mapping trees of all devices of a pool, each of them read once however many
// trees have it.
//
// Invariants
//   PL1  Leaves come in the order in which the devices, ascending by id, meet them first.
//   PL2  Memory: a few words for each leaf.
// Threads   One.
// Failures  corrupt, wrong_block, io_error.
#pragma once

#include <functional>
#include <vector>

#include "base/paged_array.h"
#include "base/result.h"
#include "persistent_data/btree_node.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/leaf_runs.h"

namespace uthin::thin_metadata {

// What is known of a leaf of any mapping tree.
struct leaf_usage {
    std::uint64_t first_key = 0;
    std::uint64_t last_key = 0;
    std::uint32_t trees = 0;
    std::uint16_t entries = 0;
    std::uint16_t shared = 0;
    bool kept = false;  // in the tree of a device that stays
};

class pool_leaves {
public:
    explicit pool_leaves(metadata_view& view)
        : source_(view.source()), leaves_(source_.block_count()) {}

    using device_leaf = std::function<result<void>(leaf_usage& leaf, metadata_block where,
                                                   std::uint64_t first, std::uint64_t last)>;
    using leaf_entries = std::function<result<void>(leaf_usage& leaf, metadata_block where,
                                                    const persistent_data::node_view& node)>;

    // Finds them. Those of devices that are not `deleted` are kept.
    [[nodiscard]] result<void> find(metadata_view& view, const std::vector<device_id>& deleted);
    // Reads them in the order in which they were found.
    [[nodiscard]] result<void> read_all(bool shared_too, const leaf_entries& each);
    // Those of one device, in order. After they were read a leaf with keys that do not belong
    // there is damage.
    [[nodiscard]] result<void> of_device(std::size_t device, const device_leaf& each);
    [[nodiscard]] const std::vector<dump_device>& devices() const noexcept { return devices_; }

private:
    persistent_data::block_source& source_;
    std::vector<dump_device> devices_;
    std::vector<std::uint32_t> order_;
    paged_array<leaf_usage> leaves_;
};

// The runs of a leaf, one after the other.
template <class Each>
result<void> for_each_run(const persistent_data::node_view& node, Each&& each) {
    for (std::uint32_t index = 0; index < node.nr_entries();) {
        const mapping_run run = run_at(node, index);
        UTHIN_TRY(each(run));
        index += static_cast<std::uint32_t>(run.count);
    }
    return {};
}

}  // namespace uthin::thin_metadata
