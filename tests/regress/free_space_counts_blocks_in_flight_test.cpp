// Blocks that a pool had given out were counted as free after each commit until they were mapped:
// the engine gives them back for the commit and raises their counts again, which the number of free
// blocks did not notice. So a volume could get a block that was promised to another one.
#include "support/metadata_fixture.h"

namespace uthin {
namespace {

class FreeSpace : public test::metadata_fixture {};

TEST_F(FreeSpace, CountsBlocksInFlightAcrossACommit) {
    ASSERT_OK_AND_ASSIGN(const space_counts before, pool_->data_space());
    ASSERT_OK_AND_ASSIGN(const range<data_block> given, pool_->alloc_data_range(5));
    ASSERT_EQ(given.end - given.begin, 5U);
    EXPECT_EQ(pool_->data_space()->free_blocks, before.free_blocks - 5);
    ASSERT_OK(pool_->dec_data_range(given));
    ASSERT_OK(pool_->commit());
    ASSERT_OK(pool_->inc_data_range(given));
    EXPECT_EQ(pool_->data_space()->free_blocks, before.free_blocks - 5);
    ASSERT_OK(pool_->inc_data_range(given));
    EXPECT_EQ(pool_->data_space()->free_blocks, before.free_blocks - 5) << "they were given out";
    ASSERT_OK(pool_->dec_data_range(given));
    ASSERT_OK(pool_->dec_data_range(given));
    ASSERT_OK(pool_->commit());
    EXPECT_EQ(pool_->data_space()->free_blocks, before.free_blocks);
}

}  // namespace
}  // namespace uthin
