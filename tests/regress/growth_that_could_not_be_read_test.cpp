// A pool whose metadata could not be read for a moment, while its data grew by more than the last
// bitmap holds, kept the new size without the bitmaps: the next commit made that durable.
// (Found by reading.)
#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/metadata_fixture.h"
#include "thin_metadata/checker.h"

namespace uthin {
namespace {

using test::HasCode;

class GrowthThatCouldNotBeRead : public test::metadata_fixture {};

TEST_F(GrowthThatCouldNotBeRead, ChangesNothing) {
    constexpr std::uint64_t grown = 5 * 16320;
    reopen();  // so that nothing is cached
    plan_.arm({.kinds = {io::operation_kind::read}, .persistent = true});
    EXPECT_THAT(pool_->resize_data(grown), HasCode(error_code::io_error));
    plan_.disarm();
    ASSERT_OK(pool_->create_thin(device_id(0)));
    ASSERT_OK(pool_->commit());
    EXPECT_EQ(pool_->data_space().value().total_blocks, data_blocks);
    ASSERT_OK(pool_->resize_data(grown));
    ASSERT_OK(pool_->commit());
    EXPECT_EQ(pool_->data_space().value().total_blocks, grown);
    reopen();
    EXPECT_EQ(pool_->data_space().value().total_blocks, grown);
    ASSERT_OK(pool_->create_thin(device_id(1)));
    map(open_device(1), 0, 5000);
}

}  // namespace
}  // namespace uthin
