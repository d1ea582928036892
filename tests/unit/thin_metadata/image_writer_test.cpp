// Counting, packing and space maps against plain tables.
#include "thin_metadata/image_writer.h"

#include <map>

#include "base/random.h"
#include "io/memory_device.h"
#include "persistent_data/block_manager.h"
#include "persistent_data/btree.h"
#include "persistent_data/space_map_common.h"
#include "support/matchers.h"
#include "support/seed.h"

namespace uthin::thin_metadata {
namespace {

using persistent_data::block_bytes;
using persistent_data::block_kind;
using persistent_data::block_manager;
using persistent_data::btree_cursor;
using persistent_data::disk_index_entry;
using persistent_data::entries_per_bitmap;
using test::HasCode;

constexpr std::uint64_t device_blocks = 400;

struct fixture {
    io::memory_device device{device_blocks * metadata_block_size_bytes};
    image_writer writer{device, device_blocks, [](std::uint64_t) { return true; }};
    block_manager blocks{device, device_blocks, 64};

    fixture() { writer.counts().add(0); }
};

TEST(CountArray, CountsLikeAPlainTable) {
    random_generator random(test::seed());
    constexpr std::uint64_t blocks = 200'000;
    count_array counts(blocks);
    std::map<std::uint64_t, std::uint32_t> expected;
    for (int step = 0; step < 60'000; ++step) {
        // A few blocks with large counts, on both sides of what fits in one byte.
        const std::uint64_t block =
            random.one_in(3) ? random.below(blocks) : random.below(20) * 7000;
        if (random.below(5) < 2 && expected[block] != 0) {
            ASSERT_EQ(counts.subtract(block), --expected[block]);
        } else {
            counts.add(block);
            ++expected[block];
        }
        ASSERT_EQ(counts.get(block), expected[block]);
    }
    std::vector<std::pair<std::uint64_t, std::uint32_t>> large;
    for (const auto& [block, count] : expected) {
        EXPECT_EQ(counts.get(block), count);
        if (count >= 3) {
            large.emplace_back(block, count);
        }
    }
    EXPECT_EQ(counts.counts_from(3), large);
    EXPECT_GT(large.back().second + large.front().second, 255U);
}

TEST(ImageWriter, TakesOnlyFreeBlocksUntilThereAreNone) {
    io::memory_device device(20 * metadata_block_size_bytes);
    image_writer writer(device, 20, [](std::uint64_t block) { return block % 3 == 1; });
    for (const std::uint64_t expected : {1U, 4U, 7U, 10U, 13U, 16U, 19U}) {
        ASSERT_OK_AND_ASSIGN(const metadata_block got, writer.allocate());
        EXPECT_EQ(got, metadata_block(expected));
        EXPECT_EQ(writer.counts().get(expected), 1U);
    }
    EXPECT_THAT(writer.allocate(), HasCode(error_code::no_metadata_space));
}

TEST(ImageWriter, GivesBackWhatItWroteBeforeAndAfterTheFlush) {
    fixture f;
    aligned_buffer page(metadata_block_size_bytes);
    const block_bytes bytes(page.data(), metadata_block_size_bytes);
    // Not in one run, and more than are collected at a time.
    std::vector<std::uint64_t> places;
    for (std::uint64_t place = 1; place < device_blocks; place += place % 50 == 0 ? 7U : 1U) {
        places.push_back(place);
        store_le(page.data() + 512, place);
        ASSERT_OK(f.writer.write(metadata_block(place), block_kind::bitmap, bytes));
    }
    for (int pass = 0; pass < 2; ++pass) {
        for (const std::uint64_t place : places) {
            ASSERT_OK(f.writer.read_back(metadata_block(place), bytes));
            EXPECT_EQ(load_le<std::uint64_t>(page.data() + 512), place);
        }
        ASSERT_OK(f.writer.flush());
    }
    for (const std::uint64_t place : places) {
        EXPECT_OK(f.blocks.read(metadata_block(place), block_kind::bitmap));
    }
}

// Nodes of the tree, and the smallest number of entries of one that is not the root.
struct tree_shape {
    std::uint32_t leaves = 0;
    std::uint32_t smallest_leaf = UINT32_MAX;
};

void expect_tree_of(std::uint64_t entries, tree_shape& shape) {
    fixture f;
    std::vector<packed_node> leaves;
    const auto keep = [&leaves](const packed_node& leaf) -> result<void> {
        leaves.push_back(leaf);
        return {};
    };
    leaf_packer packer(f.writer, 8);
    for (std::uint64_t entry = 0; entry < entries; ++entry) {
        std::array<std::byte, 8> value{};
        store_le(value.data(), entry * entry);
        ASSERT_OK(packer.push(entry * 10, value.data(), keep));
    }
    ASSERT_OK(packer.flush(keep));
    for (const packed_node& leaf : leaves) {
        shape.smallest_leaf = std::min(shape.smallest_leaf, leaf.entries);
    }
    shape.leaves = static_cast<std::uint32_t>(leaves.size());
    ASSERT_OK_AND_ASSIGN(const metadata_block root, write_tree_above(f.writer, 8, leaves));
    ASSERT_OK(f.writer.flush());
    btree_cursor at(f.blocks, root, 8);
    ASSERT_OK(at.seek(0));
    for (std::uint64_t entry = 0; entry < entries; ++entry) {
        ASSERT_FALSE(at.at_end());
        EXPECT_EQ(at.key(), entry * 10);
        EXPECT_EQ(at.value_u64(), entry * entry);
        ASSERT_OK(at.next());
    }
    EXPECT_TRUE(at.at_end());
}

TEST(LeafPacker, PacksAnyNumberOfEntriesIntoAsFewLeavesAsPossible) {
    constexpr std::uint64_t full = persistent_data::max_entries_for(8);
    for (const std::uint64_t entries :
         {std::uint64_t{0}, std::uint64_t{1}, full - 1, full, full + 1, 2 * full - 1, 2 * full,
          2 * full + 1, 5 * full + 3, 300 * full + 1}) {
        SCOPED_TRACE(entries);
        tree_shape shape;
        expect_tree_of(entries, shape);
        EXPECT_EQ(shape.leaves, (entries + full - 1) / full);
        if (shape.leaves > 1) {
            EXPECT_GE(shape.smallest_leaf, full / 3);
        }
    }
}

void advance(btree_cursor& at) {
    EXPECT_OK(at.next());
}

// The counts that a written space map holds.
std::map<std::uint64_t, std::uint32_t> counts_in(block_manager& blocks,
                                                 const persistent_data::disk_space_map_root& root) {
    std::map<std::uint64_t, std::uint32_t> counts;
    btree_cursor index(blocks, metadata_block(root.bitmap_root), sizeof(disk_index_entry));
    EXPECT_OK(index.seek(0));
    for (; !index.at_end(); advance(index)) {
        disk_index_entry entry{};
        std::memcpy(&entry, index.value(), sizeof entry);
        const auto page = blocks.read(metadata_block(entry.blocknr), block_kind::bitmap);
        EXPECT_OK(page);
        if (!page) {
            return counts;
        }
        std::uint32_t used = 0;
        std::optional<std::uint32_t> first_free;
        for (std::uint32_t at = 0; at < entries_per_bitmap; ++at) {
            const std::uint64_t block = index.key() * entries_per_bitmap + at;
            const std::uint32_t count = persistent_data::bitmap_count(page->bytes().data(), at);
            if (count == 0 && !first_free) {
                first_free = at;
            }
            if (count != 0) {
                counts[block] = count;
                ++used;
            }
        }
        EXPECT_EQ(entry.nr_free, entries_per_bitmap - used);
        EXPECT_LE(entry.none_free_before, first_free.value_or(entries_per_bitmap));
    }
    btree_cursor overflow(blocks, metadata_block(root.ref_count_root), 4);
    EXPECT_OK(overflow.seek(0));
    for (; !overflow.at_end(); advance(overflow)) {
        EXPECT_EQ(counts[overflow.key()], 3U);
        counts[overflow.key()] = load_le<std::uint32_t>(overflow.value());
    }
    return counts;
}

TEST(ImageWriter, WritesADataSpaceMapThatHoldsEveryCount) {
    random_generator random(test::seed());
    for (const std::uint64_t data_blocks : {std::uint64_t{1}, std::uint64_t{entries_per_bitmap},
                                            std::uint64_t{3} * entries_per_bitmap + 77}) {
        fixture f;
        count_array counts(data_blocks);
        std::map<std::uint64_t, std::uint32_t> expected;
        for (int step = 0; step < 3000; ++step) {
            const std::uint64_t block = random.below(
                std::min<std::uint64_t>(data_blocks, random.one_in(2) ? 300 : data_blocks));
            counts.add(block);
            ++expected[block];
        }
        ASSERT_OK_AND_ASSIGN(const auto root, f.writer.write_data_space_map(counts));
        ASSERT_OK(f.writer.flush());
        EXPECT_EQ(root.nr_blocks, data_blocks);
        EXPECT_EQ(root.nr_allocated, expected.size());
        EXPECT_EQ(counts_in(f.blocks, root), expected);
    }
}

TEST(ImageWriter, TheMetadataSpaceMapCountsItself) {
    fixture f;
    for (int block = 0; block < 10; ++block) {
        ASSERT_OK(f.writer.allocate());
    }
    ASSERT_OK_AND_ASSIGN(const auto root, f.writer.write_metadata_space_map());
    // The superblock, the ten, an overflow leaf, a bitmap and the index.
    EXPECT_EQ(root.nr_allocated, 14U);
    EXPECT_EQ(root.nr_blocks, device_blocks);
    EXPECT_EQ(f.writer.counts().get(root.bitmap_root), 1U);
    EXPECT_EQ(f.writer.counts().get(root.ref_count_root), 1U);
}

}  // namespace
}  // namespace uthin::thin_metadata
