// The online check called a metadata snapshot made by the running pool damaged: in the cache a
// block has no checksum yet, it gets one on its way to the device.
#include "support/metadata_fixture.h"
#include "support/pool_state.h"

namespace uthin {
namespace {

class CheckLiveMetadataSnapshot : public test::metadata_fixture {};

TEST_F(CheckLiveMetadataSnapshot, FindsNothingWrongWithOneJustReserved) {
    ASSERT_OK(pool_->create_thin(device_id(1)));
    map(open_device(1), 0, 10);
    ASSERT_OK(pool_->reserve_metadata_snap());
    ASSERT_OK(pool_->commit());
    ASSERT_OK_AND_ASSIGN(const auto view, pool_->create_view());
    EXPECT_EQ(test::check_complaint(*view), "");
}

}  // namespace
}  // namespace uthin
