#include "support/salvage_rig.h"

#include <algorithm>
#include <set>

#include "support/matchers.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/restorer.h"

namespace uthin::test {

using persistent_data::node_view;
using thin_metadata::check_finding;
using thin_metadata::check_metadata;
using thin_metadata::disk_superblock;
using thin_metadata::dump_metadata;
using thin_metadata::load_superblock;
using thin_metadata::lost_mappings;
using thin_metadata::mending_source;
using thin_metadata::named_root;
using thin_metadata::open_offline;
using thin_metadata::restorer;
using thin_metadata::salvage;
using thin_metadata::salvage_options;
using thin_metadata::salvaged_device;

block_image read_block(block_device& device, std::uint64_t where) {
    block_image bytes{};
    EXPECT_TRUE(device.read(where * metadata_block_size_bytes, bytes));
    return bytes;
}

void write_block(block_device& device, std::uint64_t where, const block_image& bytes) {
    ASSERT_OK(device.write(where * metadata_block_size_bytes, bytes));
}

damaged_block::damaged_block(block_device& device, std::uint64_t where, how kind)
    : device_(device), where_(where), before_(read_block(device, where)) {
    block_image bytes = before_;
    constexpr std::size_t in_the_keys = 41;
    if (kind == how::one_bit) {
        bytes[in_the_keys] ^= std::byte{0x10};
    } else if (kind == how::noise) {
        for (std::size_t at = in_the_keys; at < bytes.size(); at += 97) {
            bytes[at] ^= std::byte{0xA5};
        }
    } else {
        bytes = {};
    }
    write_block(device, where, bytes);
}

damaged_block::damaged_block(block_device& device, std::uint64_t where,
                             const std::function<void(persistent_data::node_editor&)>& change)
    : device_(device), where_(where), before_(read_block(device, where)) {
    block_image bytes = before_;
    persistent_data::node_editor node(bytes);
    change(node);
    persistent_data::prepare_block(persistent_data::block_kind::btree_node, metadata_block(where),
                                   bytes);
    write_block(device, where, bytes);
}

pool_state state_of(block_device& device) {
    mapping_recorder recorder;
    const auto view = open_offline(device, {});
    EXPECT_THAT(view, test::IsOk());
    if (view) {
        EXPECT_OK(dump_metadata(**view, recorder, {}));
    }
    return {.header = recorder.pool, .devices = std::move(recorder.devices)};
}

std::uint64_t salvage_outcome::all_missing() const {
    std::uint64_t sum = 0;
    for (const auto& [id, count] : missing) {
        sum += count;
    }
    return sum;
}

std::unique_ptr<block_device> restored_from(salvage& plan, std::uint64_t size_bytes) {
    auto target = std::make_unique<io::memory_device>(size_bytes, "repaired");
    restorer writer(*target, {});
    EXPECT_OK(plan.send(writer, {.shared_pieces = true}));
    const auto view = open_offline(*target, {});
    EXPECT_THAT(view, test::IsOk());
    if (view) {
        const auto report = check_metadata(**view, {});
        EXPECT_THAT(report, test::IsOk());
        for (const check_finding& finding : report->findings) {
            ADD_FAILURE() << finding.text;
        }
    }
    return target;
}

namespace {

void expect_missing_is_listed(const pool_state& before, salvage_outcome& found) {
    for (const auto& [id, device] : before.devices) {
        const auto kept = found.devices.find(id);
        ASSERT_NE(kept, found.devices.end()) << "device " << id << " is gone";
        for (const auto& [block, mapping] : device.mappings) {
            const auto now = kept->second.mappings.find(block);
            if (now != kept->second.mappings.end()) {
                ASSERT_EQ(now->second, mapping) << "device " << id << " block " << block;
                continue;
            }
            ++found.missing[id];
            const bool listed = std::any_of(found.report.losses.begin(), found.report.losses.end(),
                                            [id, block](const lost_mappings& loss) {
                                                return loss.device.value() == id &&
                                                       loss.blocks.first <= block &&
                                                       block <= loss.blocks.last;
                                            });
            ASSERT_TRUE(listed) << "device " << id << " block " << block;
        }
    }
}

void expect_losses_are_missing(const salvage_outcome& found) {
    for (const lost_mappings& loss : found.report.losses) {
        const auto& kept = found.devices.at(loss.device.value()).mappings;
        const auto next = kept.lower_bound(loss.blocks.first);
        EXPECT_TRUE(next == kept.end() || next->first > loss.blocks.last)
            << "device " << loss.device.value() << " has block " << next->first;
    }
    for (const salvaged_device& device : found.report.devices) {
        const auto missing = found.missing.find(device.id.value());
        const std::uint64_t count = missing != found.missing.end() ? missing->second : 0;
        if (device.stated_mappings) {
            EXPECT_EQ(device.lost_mappings(), count) << "device " << device.id.value();
        }
        EXPECT_TRUE(device.has_loss || count == 0) << "device " << device.id.value();
    }
}

}  // namespace

salvage_outcome salvaged(block_device& device, const pool_state& before,
                         const salvage_options& options) {
    salvage_outcome found;
    auto plan = salvage::plan(device, options);
    EXPECT_THAT(plan, test::IsOk());
    if (!plan) {
        return found;
    }
    found.report = (*plan)->report();
    constexpr std::uint64_t room_bytes = 4ULL << 20;
    found.restored = restored_from(**plan, device.size_bytes().value() + room_bytes);
    found.devices = state_of(*found.restored).devices;
    expect_missing_is_listed(before, found);
    expect_losses_are_missing(found);
    return found;
}

namespace {

void collect(block_device& device, std::uint64_t where, std::set<std::uint64_t>& seen,
             tree_blocks& found) {
    if (!seen.insert(where).second) {
        return;
    }
    const block_image bytes = read_block(device, where);
    const node_view node(bytes);
    if (node.is_leaf()) {
        found.leaves.push_back(where);
        return;
    }
    found.internal_nodes.push_back(where);
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        collect(device, node.value_u64(index), seen, found);
    }
}

}  // namespace

tree_blocks tree_blocks_of(block_device& device) {
    tree_blocks found;
    const disk_superblock superblock = load_superblock(read_block(device, 0));
    mending_source blocks(device, device.size_bytes().value() / metadata_block_size_bytes, 64,
                          false);
    const auto top = read_top_tree(blocks, metadata_block(superblock.data_mapping_root));
    const auto details = read_details_tree(blocks, metadata_block(superblock.device_details_root));
    std::set<std::uint64_t> seen;
    for (const named_root& entry : top.entries) {
        collect(device, entry.root.value(), seen, found);
    }
    for (const metadata_block node : top.nodes) {
        found.top.push_back(node.value());
    }
    for (const metadata_block node : details.nodes) {
        found.details.push_back(node.value());
    }
    return found;
}

}  // namespace uthin::test
