// Salvage of a pool with trees of three levels that share subtrees, with several things damaged at
// once, with entries that are wrong though their checksums are right, and of hostile bytes.
#include <algorithm>
#include <fstream>

#include "base/random.h"
#include "persistent_data/btree.h"
#include "support/big_volume.h"
#include "support/image_check.h"
#include "support/matchers.h"
#include "support/metadata_images.h"
#include "support/salvage_rig.h"
#include "support/seed.h"
#include "support/temporary_directory.h"
#include "thin_metadata/checker.h"
#include "uthin/metadata.h"

namespace uthin::thin_metadata {
namespace {

using persistent_data::block_kind;
using persistent_data::node_editor;
using persistent_data::node_view;
using test::block_image;
using test::damaged_block;
using test::HasCode;
using test::pool_state;
using test::read_block;
using test::salvage_outcome;
using test::salvaged;
using test::tree_blocks;
using testing::HasSubstr;
using how = damaged_block::how;

constexpr std::uint64_t mapped_blocks = 66'000;  // more than two levels hold
constexpr std::uint64_t data_blocks = 200'000;

// A volume, a snapshot of it that was written to, and a small one.
std::unique_ptr<io::memory_device> make_pool() {
    auto device = std::make_unique<io::memory_device>(1024ULL * metadata_block_size_bytes, "deep");
    auto opened = metadata::open(*device, {.data_block_size_sectors = 128, .format = true});
    EXPECT_THAT(opened, test::IsOk());
    metadata& pool = **opened;
    EXPECT_OK(pool.resize_data(data_blocks));
    EXPECT_OK(test::build_volume(pool, device_id(1), mapped_blocks, test::layout::scattered));
    EXPECT_OK(pool.commit());
    EXPECT_OK(pool.create_snap(device_id(2), device_id(1)));
    EXPECT_OK(pool.create_thin(device_id(9)));
    for (const auto& [id, step, count] : {std::tuple(2, 811, 60), std::tuple(9, 3, 500)}) {
        const auto thin = pool.open_device(device_id(static_cast<std::uint64_t>(id)));
        EXPECT_THAT(thin, test::IsOk());
        for (int index = 0; index < count; ++index) {
            const auto block = pool.alloc_data_block();
            EXPECT_THAT(block, test::IsOk());
            EXPECT_OK(pool.insert_block(
                **thin, virtual_block(static_cast<std::uint64_t>(index * step)), *block));
        }
        pool.close_device(*thin);
    }
    EXPECT_OK(pool.commit());
    EXPECT_OK(pool.close());
    return device;
}

class DeepSalvage : public testing::Test {
protected:
    static void SetUpTestSuite() {
        device_ = make_pool();
        before_ = test::state_of(*device_);
        blocks_ = test::tree_blocks_of(*device_);
        ASSERT_GT(blocks_.internal_nodes.size(), 5U);
    }
    static void TearDownTestSuite() {
        test::expect_images_are_clean(images_);
        images_.clear();
        folder_ = {};
        device_.reset();
    }
    // Shown to the independent judges at the end, all together.
    static void check_later(block_device& device) {
        if (folder_.path().empty()) {
            folder_ = test::temporary_directory();
        }
        std::vector<std::byte> bytes(device.size_bytes().value());
        ASSERT_OK(device.read(0, bytes));
        images_.push_back(folder_.path() / std::to_string(images_.size()));
        std::ofstream out(images_.back(), std::ios::binary);
        out.write(reinterpret_cast<const char*>(bytes.data()),
                  static_cast<std::streamsize>(bytes.size()));
        ASSERT_TRUE(out.flush().good());
    }
    static std::size_t step() { return test::is_long_run() ? 1 : 70; }

    static inline std::unique_ptr<io::memory_device> device_;
    static inline pool_state before_;
    static inline tree_blocks blocks_;
    static inline test::temporary_directory folder_;
    static inline std::vector<std::filesystem::path> images_;
};

TEST_F(DeepSalvage, KeepsWhatIsShared) {
    const salvage_outcome found = salvaged(*device_, before_);
    EXPECT_EQ(found.devices, before_.devices);
    const auto was = test::tree_blocks_of(*device_);
    const auto is = test::tree_blocks_of(*found.restored);
    // Restored leaves are at least as full.
    EXPECT_LE(is.leaves.size(), was.leaves.size());
    check_later(*found.restored);
}

TEST_F(DeepSalvage, LosesTheMappingsOfOneLeafInEachDeviceThatHasIt) {
    for (std::size_t index = 0; index < blocks_.leaves.size(); index += step()) {
        const damaged_block damage(*device_, blocks_.leaves[index], how::noise);
        const auto entries = node_view(read_block(*device_, blocks_.leaves[index])).nr_entries();
        const salvage_outcome found = salvaged(*device_, before_);
        ASSERT_FALSE(found.missing.empty());
        for (const auto& [id, count] : found.missing) {
            EXPECT_EQ(count, entries);
        }
        EXPECT_EQ(found.report.loss_count, found.missing.size());
        if (index == 0) {
            check_later(*found.restored);
        }
    }
}

TEST_F(DeepSalvage, WorksOutEveryNodeAboveTheLeaves) {
    for (const std::uint64_t block : blocks_.internal_nodes) {
        const damaged_block damage(*device_, block, how::zeros);
        const salvage_outcome found = salvaged(*device_, before_);
        EXPECT_EQ(found.devices, before_.devices) << block;
        EXPECT_EQ(found.report.loss_count, 0U);
    }
}

TEST_F(DeepSalvage, LosesALeafUnderALostNodeAndNothingElse) {
    const std::uint64_t parent = blocks_.internal_nodes.back();
    const block_image bytes = read_block(*device_, parent);
    const node_view node(bytes);
    for (const std::uint32_t index : {std::uint32_t{0}, node.nr_entries() / 2}) {
        const std::uint64_t leaf = node.value_u64(index);
        const auto entries = node_view(read_block(*device_, leaf)).nr_entries();
        const damaged_block first(*device_, parent, how::noise);
        const damaged_block second(*device_, leaf, how::noise);
        const salvage_outcome found = salvaged(*device_, before_);
        for (const auto& [id, count] : found.missing) {
            EXPECT_EQ(count, entries);
        }
        EXPECT_FALSE(found.missing.empty());
        check_later(*found.restored);
    }
}

TEST_F(DeepSalvage, TellsTheTruthWhateverIsDamaged) {
    random_generator random(test::seed());
    std::vector<std::uint64_t> all = blocks_.leaves;
    for (const auto* some : {&blocks_.internal_nodes, &blocks_.internal_nodes, &blocks_.details}) {
        all.insert(all.end(), some->begin(), some->end());
    }
    const int rounds = test::is_long_run() ? 300 : 6;
    for (int round = 0; round < rounds; ++round) {
        std::vector<std::unique_ptr<damaged_block>> damage;
        for (std::uint64_t count = 1 + random.below(8); count != 0; --count) {
            damage.push_back(
                std::make_unique<damaged_block>(*device_, all[random.below(all.size())],
                                                random.one_in(2) ? how::noise : how::zeros));
        }
        const salvage_outcome found = salvaged(*device_, before_);
        EXPECT_EQ(found.devices.size(), before_.devices.size());
        // The damage is undone in the reverse order.
        while (!damage.empty()) {
            damage.pop_back();
        }
    }
}

TEST_F(DeepSalvage, WithoutTheSpaceMapALostNodeCostsItsRange) {
    const disk_superblock superblock = load_superblock(read_block(*device_, 0));
    const damaged_block map(*device_, superblock.metadata_sm_root.bitmap_root, how::noise);
    const std::uint64_t node = blocks_.internal_nodes.back();
    const damaged_block damage(*device_, node, how::noise);
    const salvage_outcome found = salvaged(*device_, before_);
    EXPECT_GT(found.all_missing(), 0U);
    EXPECT_TRUE(found.report.rebuilt_nodes.empty());
}

// ---- entries that are wrong in a node whose checksum is right

TEST_F(DeepSalvage, LosesOnlyTheEntryWhoseDataBlockCannotBe) {
    const damaged_block damage(*device_, blocks_.leaves.front(), [](node_editor& node) {
        const std::uint64_t value = pack_mapping(data_block(data_blocks), 0);
        node.set_value(7, reinterpret_cast<const std::byte*>(&value));
    });
    const salvage_outcome found = salvaged(*device_, before_);
    for (const auto& [id, count] : found.missing) {
        EXPECT_EQ(count, 1U);
    }
    ASSERT_FALSE(found.report.losses.empty());
    EXPECT_THAT(found.report.losses.front().text, HasSubstr("beyond the pool's"));
    check_later(*found.restored);
}

TEST_F(DeepSalvage, LosesOnlyTheEntryThatIsOutOfOrder) {
    for (const std::uint32_t index : {0U, 5U, 60U}) {
        const damaged_block damage(*device_, blocks_.leaves.at(3), [&](node_editor& node) {
            node.set_key(index, node.view().key(index) ^ 1ULL << 40);
        });
        const salvage_outcome found = salvaged(*device_, before_);
        for (const auto& [id, count] : found.missing) {
            EXPECT_EQ(count, 1U) << index;
        }
        EXPECT_FALSE(found.missing.empty());
    }
}

TEST_F(DeepSalvage, LosesOnlyWhatAWrongPointerShouldLeadTo) {
    const std::uint64_t parent = blocks_.internal_nodes.back();
    const node_view node(read_block(*device_, parent));
    for (const std::uint64_t wrong :
         {std::uint64_t{0}, std::uint64_t{1} << 50, parent, blocks_.leaves.front(),
          blocks_.internal_nodes.front(), blocks_.details.front()}) {
        const damaged_block damage(*device_, parent, [&](node_editor& editor) {
            editor.set_child(2, metadata_block(wrong));
        });
        const salvage_outcome found = salvaged(*device_, before_);
        for (const auto& [id, count] : found.missing) {
            EXPECT_LE(count, 252U) << wrong;
        }
    }
}

// Nodes without mappings fit everywhere.
TEST_F(DeepSalvage, EndsInALoopOfNodesWithoutMappings) {
    const std::uint64_t first = blocks_.internal_nodes.back();
    const std::uint64_t second = blocks_.internal_nodes.front();
    const auto point_at = [](std::uint64_t child) {
        return [child](node_editor& node) {
            node.set_nr_entries(1);
            node.set_key(0, 0);
            node.set_child(0, metadata_block(child));
        };
    };
    const damaged_block there(*device_, first, point_at(second));
    const damaged_block back(*device_, second, point_at(first));
    EXPECT_GT(salvaged(*device_, before_).all_missing(), 0U);
}

// Each tree hangs a short chain of nodes without mappings over that of the one before.
TEST(SurveyOfChainedNodes, ListsLossesWithoutGoingDownWithoutEnd) {
    constexpr std::uint64_t trees = 100;
    constexpr std::uint64_t chain = persistent_data::btree_depth_max;
    constexpr std::uint64_t block_count = trees * chain;
    io::memory_device device(block_count * metadata_block_size_bytes);
    mending_source blocks(device, block_count, block_count, false);
    for (std::uint64_t index = 0; index < block_count; ++index) {
        block_image bytes{};
        node_editor node(bytes);
        node.init(false, sizeof(std::uint64_t));
        node.set_key(0, 0);
        // The last of the first chain leads nowhere.
        node.set_child(0, metadata_block(index == 0 ? 1ULL << 50 : index - 1));
        node.set_nr_entries(1);
        persistent_data::prepare_block(block_kind::btree_node, metadata_block(index), bytes);
        test::write_block(device, index, bytes);
    }
    mapping_survey survey(blocks, data_blocks);
    metadata_block root;
    for (std::uint64_t tree = 1; tree <= trees; ++tree) {
        root = metadata_block(tree * chain - 1);
        ASSERT_NE(survey.visit(root), nullptr);
        ASSERT_TRUE(survey.has_damage(root));
    }
    std::vector<mapping_survey::loss> losses;
    survey.list_losses(root, [&](const mapping_survey::loss& lost) { losses.push_back(lost); });
    ASSERT_EQ(losses.size(), 1U);
    EXPECT_EQ(losses.front().keys.first, 0U);
    EXPECT_EQ(losses.front().keys.last, UINT64_MAX);
    // What is lost is told of a node that a tree can have at all.
    EXPECT_LE(losses.front().block, root);
    EXPECT_GE(losses.front().block.value() + chain, root.value());
}

// ---- the superblock

TEST_F(DeepSalvage, AsksForTheBlockSizeThatNobodyKnows) {
    const damaged_block damage(*device_, 0, how::zeros);
    const auto plan = salvage::plan(*device_, {});
    ASSERT_THAT(plan, test::IsOk());
    test::mapping_recorder recorder;
    const auto sent = (*plan)->send(recorder, {});
    EXPECT_THAT(sent, HasCode(error_code::invalid_argument));
    EXPECT_THAT(sent.error().message(), HasSubstr("data block size needs to be provided"));
    EXPECT_TRUE(recorder.events.empty());
}

TEST_F(DeepSalvage, TakesWhatTheUserKnowsBetter) {
    salvage_options options;
    options.overrides = {.transaction_id = 77, .data_blocks = data_blocks + 5};
    const salvage_outcome raised = salvaged(*device_, before_, options);
    EXPECT_EQ(raised.report.header.transaction_id, 77U);
    EXPECT_EQ(raised.report.header.data_blocks, data_blocks + 5);
    options.transaction_id = 3;
    options.data_blocks = data_blocks / 4;
    const salvage_outcome cut = salvaged(*device_, before_, options);
    EXPECT_EQ(cut.report.header.transaction_id, 3U);
    EXPECT_EQ(cut.report.header.data_blocks, data_blocks / 4);
    EXPECT_GT(cut.all_missing(), 0U);
}

TEST_F(DeepSalvage, TakesTheTreeOfADeviceByHand) {
    const disk_superblock superblock = load_superblock(read_block(*device_, 0));
    const block_image top = read_block(*device_, superblock.data_mapping_root);
    const damaged_block damage(*device_, superblock.data_mapping_root, how::noise);
    // An origin and its snapshot with as many mappings cannot be told apart.
    const salvage_outcome alone = salvaged(*device_, before_);
    ASSERT_EQ(alone.report.undecided.size(), 1U);
    EXPECT_EQ(alone.report.undecided.front().devices, (std::vector<std::uint64_t>{1, 2}));
    EXPECT_EQ(alone.missing.count(9), 0U);
    salvage_options options;
    const node_view node(top);
    for (std::uint32_t index = 0; index < 2; ++index) {
        options.device_roots[node.key(index)] = metadata_block(node.value_u64(index));
    }
    EXPECT_EQ(salvaged(*device_, before_, options).devices, before_.devices);
}

// ---- anything

void change_block(random_generator& random, block_image& block, std::uint64_t where) {
    block_kind kind = block_kind::superblock;
    for (const block_kind candidate :
         {block_kind::btree_node, block_kind::bitmap, block_kind::index}) {
        kind = persistent_data::check_block(candidate, metadata_block(where), block) ? candidate
                                                                                     : kind;
    }
    const std::uint64_t field = random.below(4);
    const std::uint64_t at = field == 0 ? 4 * random.below(8) : 4 * random.below(1023);
    const std::uint64_t value = field == 1 ? random.below(64) : random.next();
    std::memcpy(block.data() + at, &value, sizeof value);
    if (!random.one_in(10)) {
        persistent_data::prepare_block(kind, metadata_block(where), block);
    }
}

TEST(SalvageOfHostileBytes, EndsInASoundPoolOrAnError) {
    random_generator random(test::seed());
    const int rounds = test::is_long_run() ? 7000 : 60;
    std::uint64_t repaired = 0;
    for (const char* scenario : {"random-2-128k", "snap-break-64k", "metasnap-held"}) {
        const auto original = test::load_corpus_metadata(scenario);
        ASSERT_NE(original, nullptr);
        std::vector<std::byte> bytes(original->size_bytes().value());
        ASSERT_OK(original->read(0, bytes));
        const auto blocks = test::tree_blocks_of(*original);
        std::vector<std::uint64_t> targets = {0};
        for (const auto* some :
             {&blocks.leaves, &blocks.internal_nodes, &blocks.top, &blocks.details}) {
            targets.insert(targets.end(), some->begin(), some->end());
        }
        for (int round = 0; round < rounds; ++round) {
            io::memory_device image(bytes.size());
            ASSERT_OK(image.write(0, bytes));
            for (std::uint64_t change = 1 + random.below(6); change != 0; --change) {
                const std::uint64_t where = targets[random.below(targets.size())];
                block_image block = read_block(image, where);
                change_block(random, block, where);
                test::write_block(image, where, block);
            }
            const auto plan = salvage::plan(image, {});
            if (!plan) {
                continue;
            }
            test::mapping_recorder ignored;
            if ((*plan)->report().header.data_blocks > 1U << 24 ||
                !(*plan)->send(ignored, {.skip_mappings = true})) {
                continue;
            }
            ++repaired;
            (void)test::restored_from(**plan, bytes.size() + (16ULL << 20));
        }
    }
    EXPECT_GT(repaired, static_cast<std::uint64_t>(rounds));
}

}  // namespace
}  // namespace uthin::thin_metadata
