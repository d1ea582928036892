#include "thin_metadata/pool_leaves.h"

#include <algorithm>

#include <fmt/format.h>

namespace uthin::thin_metadata {

using persistent_data::node_view;

namespace {

// The keys of a leaf that somebody else has read.
result<void> check_bounds(const leaf_usage& leaf, metadata_block where, std::uint64_t first,
                          std::uint64_t last) {
    if (leaf.entries != 0 && (leaf.first_key < first || leaf.last_key > last)) {
        return fail(error_code::corrupt,
                    fmt::format("mapping tree: block {} holds keys {} to {}, outside {} to {}",
                                where.value(), leaf.first_key, leaf.last_key, first, last));
    }
    return {};
}

}  // namespace

result<void> pool_leaves::of_device(std::size_t device, const device_leaf& each) {
    prefetch_trees(source_, devices_, device);
    UTHIN_TRY_CTX(list_leaves(source_, devices_[device].root, nullptr,
                              [&](metadata_block where, std::uint64_t first,
                                  std::uint64_t last) -> result<void> {
                                  leaf_usage& leaf = leaves_[where.value()];
                                  UTHIN_TRY(check_bounds(leaf, where, first, last));
                                  return each(leaf, where, first, last);
                              }),
                  fmt::format("device {}", devices_[device].info.id.value()));
    return {};
}

result<void> pool_leaves::find(metadata_view& view, const std::vector<device_id>& deleted) {
    devices_ = UTHIN_TRY(list_devices(view));
    for (std::size_t device = 0; device < devices_.size(); ++device) {
        const bool is_kept =
            std::find(deleted.begin(), deleted.end(), devices_[device].info.id) == deleted.end();
        UTHIN_TRY(of_device(device,
                            [&](leaf_usage& leaf, metadata_block where, std::uint64_t,
                                std::uint64_t) -> result<void> {
                                if (leaf.trees++ == 0) {
                                    order_.push_back(static_cast<std::uint32_t>(where.value()));
                                }
                                leaf.kept = leaf.kept || is_kept;
                                return {};
                            }));
    }
    return {};
}

result<void> pool_leaves::read_all(bool shared_too, const leaf_entries& each) {
    std::vector<std::uint32_t> wanted;
    for (const std::uint32_t where : order_) {
        if (shared_too || leaves_[where].trees == 1) {
            wanted.push_back(where);
        }
    }
    (void)source_.plan(wanted, persistent_data::block_kind::btree_node);
    for (const std::uint32_t number : wanted) {
        const metadata_block where(number);
        const auto page = UTHIN_TRY(read_mapping_leaf(source_, where, 0, UINT64_MAX));
        const node_view node(page.bytes());
        leaf_usage& leaf = leaves_[number];
        leaf.entries = static_cast<std::uint16_t>(node.nr_entries());
        if (leaf.entries != 0) {
            leaf.first_key = node.key(0);
            leaf.last_key = node.key(node.nr_entries() - 1U);
        }
        UTHIN_TRY(each(leaf, where, node));
    }
    return {};
}

}  // namespace uthin::thin_metadata
