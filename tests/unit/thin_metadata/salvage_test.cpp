// Salvage of pools that real kernels made, with one block damaged: what is kept is what was there,
// and what is missing is in the report.
#include "thin_metadata/salvage.h"

#include <algorithm>

#include "io/fault_device.h"
#include "support/big_volume.h"
#include "support/corpus.h"
#include "support/mapping_model.h"
#include "support/matchers.h"
#include "support/metadata_images.h"
#include "support/salvage_rig.h"

namespace uthin::thin_metadata {
namespace {

using persistent_data::node_view;
using test::block_image;
using test::damaged_block;
using test::pool_state;
using test::read_block;
using test::salvage_outcome;
using test::salvaged;
using test::state_of;
using test::tree_blocks;

using how = damaged_block::how;

// Pools of real kernels: all in the long run, every fourth else.
class corpus_salvage : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        device_ = test::load_corpus_metadata(GetParam());
        ASSERT_NE(device_, nullptr);
        before_ = state_of(*device_);
        blocks_ = test::tree_blocks_of(*device_);
    }
    std::unique_ptr<block_device> device_;
    pool_state before_;
    tree_blocks blocks_;
};

std::vector<std::string> chosen_pools() {
    const std::vector<std::string> all = test::corpus_names();
    std::vector<std::string> chosen;
    const std::size_t step = test::is_long_run() ? 1 : 4;
    for (std::size_t index = 0; index < all.size(); index += step) {
        chosen.push_back(all[index]);
    }
    return chosen;
}

INSTANTIATE_TEST_SUITE_P(pools, corpus_salvage, testing::ValuesIn(chosen_pools()),
                         [](const auto& given) {
                             std::string name = given.param;
                             std::replace(name.begin(), name.end(), '-', '_');
                             return name;
                         });

TEST_P(corpus_salvage, KeepsEverythingOfASoundPool) {
    const salvage_outcome found = salvaged(*device_, before_);
    EXPECT_EQ(found.all_missing(), 0U);
    EXPECT_FALSE(found.report.has_loss());
    EXPECT_EQ(found.devices, before_.devices);
    EXPECT_EQ(found.report.header, before_.header);
}

TEST_P(corpus_salvage, PutsOneFlippedBitRightWhereverItIs) {
    std::vector<std::uint64_t> all = {0};
    for (const auto* some :
         {&blocks_.leaves, &blocks_.internal_nodes, &blocks_.top, &blocks_.details}) {
        all.insert(all.end(), some->begin(), some->end());
    }
    for (const std::uint64_t block : all) {
        const damaged_block damage(*device_, block, how::one_bit);
        const salvage_outcome found = salvaged(*device_, before_);
        EXPECT_EQ(found.all_missing(), 0U) << block;
        EXPECT_FALSE(found.report.has_loss()) << block;
        EXPECT_EQ(found.devices, before_.devices);
    }
}

TEST_P(corpus_salvage, LosesNothingButTheLeafThatIsDamaged) {
    for (const std::uint64_t leaf : blocks_.leaves) {
        const block_image bytes = read_block(*device_, leaf);
        const node_view node(bytes);
        for (const how kind : {how::one_bit, how::noise}) {
            const damaged_block damage(*device_, leaf, kind);
            const salvage_outcome found = salvaged(*device_, before_, {.correct_bits = false});
            for (const auto& [id, count] : found.missing) {
                EXPECT_EQ(count, node.nr_entries()) << "device " << id << " leaf " << leaf;
            }
            EXPECT_TRUE(found.report.has_loss() || node.nr_entries() == 0);
        }
    }
}

TEST_P(corpus_salvage, FindsTheChildrenOfADamagedNode) {
    for (const std::uint64_t block : blocks_.internal_nodes) {
        const damaged_block damage(*device_, block, how::noise);
        const salvage_outcome found = salvaged(*device_, before_);
        EXPECT_EQ(found.all_missing(), 0U) << block;
        EXPECT_EQ(found.report.loss_count, 0U) << block;
        EXPECT_EQ(found.report.rebuilt_nodes.size(), 1U);
    }
}

TEST_P(corpus_salvage, MakesUpDetailsThatAreLost) {
    for (const std::uint64_t block : blocks_.details) {
        if (before_.devices.empty()) {
            continue;
        }
        const damaged_block damage(*device_, block, how::zeros);
        const salvage_outcome found = salvaged(*device_, before_);
        EXPECT_EQ(found.all_missing(), 0U) << block;
        EXPECT_EQ(found.devices.size(), before_.devices.size());
    }
}

// Two devices with as many mappings each, and no older top node to tell them apart, stay lost.
TEST_P(corpus_salvage, RecognisesDevicesThatTheTopTreeNoLongerNames) {
    for (const std::uint64_t block : blocks_.top) {
        if (before_.devices.empty()) {
            continue;
        }
        const damaged_block damage(*device_, block, how::noise);
        const salvage_outcome found = salvaged(*device_, before_);
        std::map<std::uint64_t, std::uint64_t> devices_with;
        for (const auto& [id, device] : before_.devices) {
            ++devices_with[device.mappings.size()];
        }
        for (const auto& [id, missing] : found.missing) {
            EXPECT_GT(devices_with[missing], 1U) << "device " << id;
        }
    }
}

TEST_P(corpus_salvage, NeedsNoSpaceMaps) {
    const disk_superblock superblock = load_superblock(read_block(*device_, 0));
    for (const std::uint64_t block : {std::uint64_t{superblock.data_sm_root.bitmap_root},
                                      std::uint64_t{superblock.data_sm_root.ref_count_root},
                                      std::uint64_t{superblock.metadata_sm_root.bitmap_root},
                                      std::uint64_t{superblock.metadata_sm_root.ref_count_root}}) {
        const damaged_block damage(*device_, block, how::noise);
        const salvage_outcome found = salvaged(*device_, before_);
        EXPECT_EQ(found.devices, before_.devices) << block;
        EXPECT_FALSE(found.report.has_loss());
    }
}

TEST_P(corpus_salvage, FindsTheRootsWhenTheSuperblockIsLost) {
    if (before_.devices.empty()) {
        return;
    }
    const disk_superblock superblock = load_superblock(read_block(*device_, 0));
    for (const how kind : {how::noise, how::zeros}) {
        const damaged_block damage(*device_, 0, kind);
        salvage_options options;
        options.overrides.data_block_size_sectors = superblock.data_block_size_sectors;
        options.mapping_root = metadata_block(superblock.data_mapping_root);
        options.details_root = metadata_block(superblock.device_details_root);
        const salvage_outcome by_hand = salvaged(*device_, before_, options);
        EXPECT_EQ(by_hand.devices, before_.devices);
        options.mapping_root.reset();
        options.details_root.reset();
        const auto plan = salvage::plan(*device_, options);
        ASSERT_THAT(plan, test::IsOk());
        const auto& candidates = (*plan)->report().candidates;
        const bool is_among =
            std::any_of(candidates.begin(), candidates.end(), [&](const root_candidate& candidate) {
                return candidate.mapping_root.value() == superblock.data_mapping_root;
            });
        EXPECT_TRUE(is_among);
    }
}

// ---- devices of which nothing is left that could be counted

// Devices without mappings: nothing but the two trees tells of them.
std::unique_ptr<block_device> empty_devices(std::uint64_t count) {
    test::mapping_model model;
    for (std::uint64_t id = 0; id < count; ++id) {
        model.devices[id] = {};
    }
    return test::image_of(model, 512 + count);
}

// Whether a loss is reported; `lost` is in the repaired pool no more.
bool reports_loss_of(block_device& device, std::uint64_t lost,
                     const salvage_options& options = {}) {
    const auto plan = salvage::plan(device, options);
    EXPECT_THAT(plan, test::IsOk());
    if (!plan) {
        return false;
    }
    const salvage_report& report = (*plan)->report();
    EXPECT_TRUE(
        std::none_of(report.devices.begin(), report.devices.end(),
                     [lost](const salvaged_device& kept) { return kept.id.value() == lost; }));
    EXPECT_FALSE(report.devices.empty());
    EXPECT_EQ(report.loss_count, 0U);
    return report.has_loss();
}

void drop_last_entry(persistent_data::node_editor& node) {
    node.set_nr_entries(node.view().nr_entries() - 1);
}

TEST(SalvageOfDevices, ReportsThoseThatNeitherTreeKnowsAnyMore) {
    const auto device = empty_devices(600);
    ASSERT_NE(device, nullptr);
    const tree_blocks blocks = test::tree_blocks_of(*device);
    ASSERT_GT(blocks.top.size(), 2U);
    ASSERT_GT(blocks.details.size(), 2U);
    const damaged_block top(*device, blocks.top.at(1), how::noise);
    const damaged_block details(*device, blocks.details.at(1), how::noise);
    EXPECT_TRUE(reports_loss_of(*device, 0));
}

TEST(SalvageOfDevices, ReportsOneWhoseNumberCannotBe) {
    const auto device = empty_devices(5);
    ASSERT_NE(device, nullptr);
    const tree_blocks blocks = test::tree_blocks_of(*device);
    const damaged_block top(*device, blocks.top.front(), drop_last_entry);
    const damaged_block details(
        *device, blocks.details.front(),
        [](persistent_data::node_editor& node) { node.set_key(4, device_id_max + 4); });
    EXPECT_TRUE(reports_loss_of(*device, 4));
}

TEST(SalvageOfDevices, ReportsThoseOfAnEmptiedTopTreeAndLostDetails) {
    const auto device = empty_devices(600);
    ASSERT_NE(device, nullptr);
    const tree_blocks blocks = test::tree_blocks_of(*device);
    const damaged_block details(*device, blocks.details.at(1), how::noise);
    // A leaf of something else: it verifies, and no entry of it is the root of a device.
    const damaged_block top(*device, blocks.top.front(), [](persistent_data::node_editor& node) {
        node.init(true, sizeof(std::uint64_t));
        const std::uint64_t value = UINT64_MAX;
        node.set_key(0, 0);
        node.set_value(0, reinterpret_cast<const std::byte*>(&value));
        node.set_nr_entries(1);
    });
    EXPECT_TRUE(reports_loss_of(*device, 0));
}

TEST(SalvageOfDevices, ReportsThoseThatOnlyDetailsOfAnotherTimeKnow) {
    const auto device = empty_devices(5);
    ASSERT_NE(device, nullptr);
    const tree_blocks blocks = test::tree_blocks_of(*device);
    const damaged_block top(*device, blocks.top.front(), drop_last_entry);
    const damaged_block superblock(*device, 0, how::zeros);
    salvage_options options;
    options.overrides.data_block_size_sectors = 128;
    options.details_root = metadata_block(blocks.details.front());
    EXPECT_TRUE(reports_loss_of(*device, 4, options));
}

// ---- work that is not needed

TEST(SalvageOfDevices, ReadsOnlyTheTreesWhenEverythingIsGivenByHand) {
    const auto device = empty_devices(5);
    ASSERT_NE(device, nullptr);
    const disk_superblock was = load_superblock(read_block(*device, 0));
    const damaged_block superblock(*device, 0, how::zeros);
    io::fault_plan counts;
    io::fault_device counted(*device, counts);
    salvage_options options;
    options.overrides.data_block_size_sectors = 128;
    options.mapping_root = metadata_block(was.data_mapping_root);
    options.details_root = metadata_block(was.device_details_root);
    const auto plan = salvage::plan(counted, options);
    ASSERT_THAT(plan, test::IsOk());
    EXPECT_EQ((*plan)->report().devices.size(), 5U);
    // The superblock, two trees of a node each, and the five roots in at most as many reads.
    EXPECT_LE(counts.count(io::operation_kind::read), 8U);
}

}  // namespace
}  // namespace uthin::thin_metadata
