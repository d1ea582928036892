// One flipped bit is found wherever it is; anything more is left as it is.
#include "thin_metadata/mending_source.h"

#include "base/random.h"
#include "io/fault_device.h"
#include "io/memory_device.h"
#include "persistent_data/btree.h"
#include "support/matchers.h"
#include "support/salvage_rig.h"
#include "support/seed.h"
#include "thin_metadata/mapping_survey.h"
#include "thin_metadata/root_finder.h"

namespace uthin::thin_metadata {
namespace {

using persistent_data::block_kind;
using persistent_data::node_editor;
using persistent_data::node_view;
using test::block_image;
using test::HasCode;
using testing::ElementsAre;

constexpr metadata_block where{5};

block_image make_leaf() {
    block_image bytes{};
    node_editor node(bytes);
    node.init(true, 8);
    node.set_nr_entries(100);
    for (std::uint32_t index = 0; index < 100; ++index) {
        node.set_key(index, 3 * index);
    }
    persistent_data::prepare_block(block_kind::btree_node, where, bytes);
    return bytes;
}

void flip(block_image& bytes, std::uint64_t bit) {
    bytes.at(bit / 8) ^= std::byte{1} << bit % 8;
}

TEST(CorrectSingleBit, FindsEveryBit) {
    const block_image good = make_leaf();
    for (std::uint64_t bit = 0; bit < std::uint64_t{8} * good.size(); bit += 7) {
        block_image bytes = good;
        flip(bytes, bit);
        ASSERT_TRUE(correct_single_bit(block_kind::btree_node, where, bytes)) << bit;
        ASSERT_EQ(bytes, good) << bit;
    }
}

TEST(CorrectSingleBit, LeavesTwoBitsAndOtherBlocksAlone) {
    random_generator random(test::seed());
    const block_image good = make_leaf();
    for (int round = 0; round < 200; ++round) {
        block_image bytes = good;
        const std::uint64_t first = 128 + random.below(16'000);
        flip(bytes, first);
        flip(bytes, first + 1 + random.below(16'000));
        const block_image before = bytes;
        ASSERT_FALSE(correct_single_bit(block_kind::btree_node, where, bytes));
        ASSERT_EQ(bytes, before);
    }
    block_image elsewhere = good;
    EXPECT_FALSE(correct_single_bit(block_kind::btree_node, metadata_block(10), elsewhere));
    EXPECT_FALSE(correct_single_bit(block_kind::bitmap, where, elsewhere));
    block_image zeros{};
    EXPECT_FALSE(correct_single_bit(block_kind::btree_node, where, zeros));
}

TEST(MendingSource, ReadsAndPrefetchesTheSame) {
    io::memory_device device(64 * metadata_block_size_bytes);
    block_image damaged = make_leaf();
    flip(damaged, 3000);
    test::write_block(device, where.value(), damaged);
    mending_source keen(device, 64, 16, true);
    keen.prefetch(std::vector{metadata_block(3), where, metadata_block(99)},
                  block_kind::btree_node);
    const auto page = keen.read(where, block_kind::btree_node);
    ASSERT_THAT(page, test::IsOk());
    EXPECT_EQ(node_view(page->bytes()).nr_entries(), 100U);
    EXPECT_THAT(keen.corrected(), ElementsAre(where.value()));
    EXPECT_THAT(keen.read(metadata_block(3), block_kind::btree_node),
                HasCode(error_code::wrong_block));
    EXPECT_THAT(keen.read(metadata_block(99), block_kind::btree_node),
                HasCode(error_code::corrupt));

    mending_source strict(device, 64, 16, false);
    EXPECT_THAT(strict.read(where, block_kind::btree_node), HasCode(error_code::corrupt));
    EXPECT_TRUE(strict.corrected().empty());
}

TEST(MendingSource, ShowsANodeInThePlaceOfALostOne) {
    io::memory_device device(64 * metadata_block_size_bytes);
    mending_source blocks(device, 64, 16, true);
    blocks.replace(where, make_node(where, true, [](node_editor& node) {
                       node.set_key(0, 42);
                       node.set_nr_entries(1);
                   }));
    const auto page = blocks.read(where, block_kind::btree_node);
    ASSERT_THAT(page, test::IsOk());
    EXPECT_EQ(node_view(page->bytes()).key(0), 42U);
    blocks.take_back(where);
    EXPECT_THAT(blocks.read(where, block_kind::btree_node), HasCode(error_code::wrong_block));
}

TEST(MendingSource, ReadsABlockThatFailedNoMore) {
    io::memory_device device(64 * metadata_block_size_bytes);
    io::fault_plan faults;
    io::fault_device counted(device, faults);
    mending_source blocks(counted, 64, 16, true);
    const std::vector<metadata_block> wanted = {where};
    EXPECT_THAT(blocks.read(where, block_kind::btree_node), HasCode(error_code::wrong_block));
    blocks.prefetch(wanted, block_kind::btree_node);
    EXPECT_THAT(blocks.read(where, block_kind::btree_node), HasCode(error_code::wrong_block));
    EXPECT_EQ(faults.count(io::operation_kind::read), 1U);
    // As another kind it may pass.
    block_image bytes{};
    persistent_data::prepare_block(block_kind::bitmap, where, bytes);
    test::write_block(device, where.value(), bytes);
    EXPECT_THAT(blocks.read(where, block_kind::bitmap), test::IsOk());
}

// A chain of nodes, each of which refers to the next one on the device.
TEST(RootFinder, ReadsNodesNoMoreOftenThanATreeIsHigh) {
    constexpr std::uint64_t block_count = 400;
    io::memory_device device(block_count * metadata_block_size_bytes);
    for (std::uint64_t block = 1; block < block_count; ++block) {
        block_image bytes{};
        node_editor node(bytes);
        node.init(block + 1 == block_count, 8);
        node.set_key(0, 0);
        node.set_child(0, metadata_block(block + 1 == block_count ? 1 : block + 1));
        node.set_nr_entries(1);
        persistent_data::prepare_block(block_kind::btree_node, metadata_block(block), bytes);
        test::write_block(device, block, bytes);
    }
    io::fault_plan faults;
    io::fault_device counted(device, faults);
    mending_source blocks(counted, block_count, 64, false);
    (void)find_roots(blocks, scan_nodes(blocks), {});
    EXPECT_LT(faults.count(io::operation_kind::read),
              (persistent_data::btree_depth_max + 4) * block_count);
}

TEST(AscendingEntries, AreTheLongestSeries) {
    block_image bytes{};
    node_editor node(bytes);
    node.init(true, 8);
    const auto series_of = [&](std::initializer_list<std::uint64_t> keys) {
        std::uint32_t count = 0;
        for (const std::uint64_t key : keys) {
            node.set_key(count++, key);
        }
        node.set_nr_entries(count);
        return ascending_entries(node.view(), [](std::uint32_t) { return true; });
    };
    EXPECT_THAT(series_of({}), ElementsAre());
    EXPECT_THAT(series_of({1, 2, 3}), ElementsAre(0, 1, 2));
    EXPECT_THAT(series_of({1, 900, 3, 4}), ElementsAre(0, 2, 3));
    EXPECT_THAT(series_of({500, 1, 2, 2, 3}), ElementsAre(1, 3, 4));
    EXPECT_THAT(series_of({3, 2}), ElementsAre(1));
}

}  // namespace
}  // namespace uthin::thin_metadata
