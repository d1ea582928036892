// Damaged metadata counted a block as free that the open transaction was changing: it was given
// out, its page's memory became another page's, and a pointer into the first one wrote over the
// other. (Found by the fuzz target `space_map`.)
#include <algorithm>
#include <cstdint>

#include <gtest/gtest.h>

#include "io/memory_device.h"
#include "support/matchers.h"
#include "support/tree_lab.h"

namespace uthin::persistent_data {
namespace {

using test::HasCode;

TEST(ABlockInUse, IsNotGivenOutAlthoughItCountsAsFree) {
    constexpr std::uint64_t nr_blocks = 200;
    test::tree_lab lab(8, nr_blocks);
    ASSERT_OK_AND_ASSIGN(const shadow ours, lab.tm.new_block(block_kind::btree_node));
    ASSERT_OK(lab.tm.metadata_map().dec(ours.where.value(), ours.where.value() + 1));
    result<shadow> another = ours;
    for (std::uint64_t i = 0; i < nr_blocks && another; ++i) {
        another = lab.tm.new_block(block_kind::btree_node);
        ASSERT_TRUE(!another || another->where != ours.where);
    }
    EXPECT_THAT(another, HasCode(error_code::corrupt));
}

// Also where it does not belong to the transaction alone any more, and is free after all.
TEST(ABlockInUse, KeepsThePageThatIsBeingChanged) {
    constexpr std::uint64_t blocks = 64;
    constexpr std::byte ink{0xAA};
    io::memory_device device(blocks * metadata_block_size_bytes);
    block_manager pages(device, blocks, 64);
    const metadata_block where(5);
    ASSERT_OK_AND_ASSIGN(const block_bytes before, pages.edit_new(where, block_kind::bitmap));
    ASSERT_OK(pages.edit_new(where, block_kind::btree_node));
    for (std::uint64_t other = 6; other < blocks; ++other) {
        ASSERT_OK(pages.edit_new(metadata_block(other), block_kind::btree_node));
    }
    std::ranges::fill(before, ink);
    for (std::uint64_t other = 5; other < blocks; ++other) {
        ASSERT_OK_AND_ASSIGN(const block_ref page,
                             pages.writer_read(metadata_block(other), block_kind::btree_node));
        EXPECT_EQ(std::ranges::count(page.bytes(), ink), 0) << other;
    }
    pages.publish();
}

}  // namespace
}  // namespace uthin::persistent_data
