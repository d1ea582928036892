// A damaged overflow tree said 0 for a block whose bitmap says "3 or more": losing a reference made
// 4294967295 of it. With 1 the block was free afterwards, and counted as used for good. (Found by
// the fuzz target `space_map`.)
#include <array>
#include <cstring>
#include <vector>

#include "base/endian.h"
#include "io/memory_device.h"
#include "persistent_data/space_map_disk.h"
#include "persistent_data/space_map_metadata.h"
#include "persistent_data/transaction_manager.h"
#include "persistent_data/validator.h"
#include "support/matchers.h"

namespace uthin::persistent_data {
namespace {

using test::HasCode;

constexpr std::uint64_t blocks = 256;
constexpr std::uint64_t block = 5;
constexpr std::size_t first_value_offset = 32 + std::size_t{8} * 336;  // of a leaf of counts

class CountsBelowThreeInTheOverflowTree : public ::testing::Test {
protected:
    // Three owners of the block, and then the tree says `count`.
    void SetUp() override {
        transaction_manager tm(pages_);
        ASSERT_OK(tm.format_space_map(blocks));
        space_map_disk map(tm);
        ASSERT_OK(map.format());
        ASSERT_OK(map.extend(100));
        for (int owner = 0; owner < 3; ++owner) {
            ASSERT_OK(map.inc(block, block + 1));
        }
        ASSERT_OK(map.commit());
        ASSERT_OK(tm.metadata_map().commit());
        data_root_ = map.root();
        metadata_root_ = tm.metadata_map().root();
        pages_.publish();
        ASSERT_OK(pages_.write_dirty());
    }
    void damage(std::uint32_t count) {
        const std::uint64_t at = data_root_.ref_count_root * metadata_block_size_bytes;
        std::array<std::byte, metadata_block_size_bytes> leaf{};
        ASSERT_OK(device_.read(at, leaf));
        ASSERT_EQ(load_le<std::uint32_t>(leaf.data() + first_value_offset), 3U);
        store_le(leaf.data() + first_value_offset, count);
        prepare_block(block_kind::btree_node, metadata_block(data_root_.ref_count_root),
                      block_bytes(leaf));
        ASSERT_OK(device_.write(at, leaf));
    }

    io::memory_device device_{blocks * metadata_block_size_bytes};
    block_manager pages_{device_, blocks, 64};
    disk_space_map_root data_root_;
    disk_space_map_root metadata_root_;
};

TEST_F(CountsBelowThreeInTheOverflowTree, AFreeBlockLosesNoReference) {
    damage(0);
    block_manager pages(device_, blocks, 64);
    transaction_manager tm(pages);
    ASSERT_OK(tm.open_space_map(metadata_root_));
    space_map_disk map(tm);
    map.open(data_root_);
    EXPECT_THAT(map.dec(block, block + 1), HasCode(error_code::corrupt));
}

TEST_F(CountsBelowThreeInTheOverflowTree, TheLastReferenceFreesTheBlock) {
    damage(1);
    block_manager pages(device_, blocks, 64);
    transaction_manager tm(pages);
    ASSERT_OK(tm.open_space_map(metadata_root_));
    space_map_disk map(tm);
    map.open(data_root_);
    std::vector<std::uint64_t> freed;
    map.set_freed_hook([&freed](std::uint64_t one) { freed.push_back(one); });
    ASSERT_OK(map.dec(block, block + 1));
    EXPECT_EQ(map.root().nr_allocated, 0U);
    EXPECT_EQ(freed, std::vector<std::uint64_t>{block});
}

}  // namespace
}  // namespace uthin::persistent_data
