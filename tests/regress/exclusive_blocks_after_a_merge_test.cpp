// A leaf that a snapshot shared was merged into its neighbour: its blocks had a second owner from
// then on, but it was remembered as one that owns them alone, and deleting the snapshot was said to
// free them. (Found by reading.)
#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/metadata_fixture.h"
#include "thin_metadata/exclusive_blocks.h"
#include "thin_metadata/pool_usage.h"

namespace uthin {
namespace {

class ExclusiveBlocksAfterAMerge : public test::metadata_fixture {
protected:
    void compare() {
        ASSERT_OK(pool_->commit());
        ASSERT_OK_AND_ASSIGN(const auto view, pool_->create_view());
        ASSERT_OK_AND_ASSIGN(const auto measured, thin_metadata::measure_exclusive(*view));
        for (const auto& one : measured) {
            ASSERT_OK_AND_ASSIGN(const auto counted,
                                 thin_metadata::measure_usage(*view, {.deleted = {one.id}}));
            EXPECT_EQ(one.exclusive_blocks, counted.freed_blocks) << one.id.value();
        }
    }
};

TEST_F(ExclusiveBlocksAfterAMerge, AreStillCountedRight) {
    constexpr std::uint64_t two_leaves = 253;  // 126 and 127
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* const device = open_device(0);
    map(device, 0, two_leaves);
    compare();
    ASSERT_OK(pool_->create_snap(device_id(1), device_id(0)));
    compare();
    map(device, 5, 1);  // a leaf of its own, which is too small soon
    compare();
    ASSERT_OK(pool_->remove_range(*device, {virtual_block(0), virtual_block(60)}));
    compare();
    ASSERT_OK(pool_->remove_range(*device, {virtual_block(60), virtual_block(200)}));
    compare();
}

}  // namespace
}  // namespace uthin
