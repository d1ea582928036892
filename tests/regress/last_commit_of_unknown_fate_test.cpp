// When the flush of a superblock fails, an abort reads the new state back, which may not be
// durable: what was changed next could use blocks anew that the state before it still has. Pools
// record needs_check first; users of the library alone were not stopped. (Found by reading.)
#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/metadata_fixture.h"

namespace uthin {
namespace {

using test::HasCode;

class LastCommitOfUnknownFate : public test::metadata_fixture {
protected:
    // The second flush of a commit is that of the superblock.
    void fail_the_superblock() {
        ASSERT_OK(pool_->create_thin(device_id(0)));
        plan_.arm({.kinds = {io::operation_kind::flush}, .nth = 2});
        ASSERT_THAT(pool_->commit(), HasCode(error_code::io_error));
        plan_.disarm();
        ASSERT_OK(pool_->abort());
        ASSERT_EQ(pool_->list_devices().value().size(), 1U) << "the new state is read back";
    }
};

TEST_F(LastCommitOfUnknownFate, IsMadeDurableBeforeAnythingChanges) {
    fail_the_superblock();
    EXPECT_THAT(pool_->create_thin(device_id(1)), HasCode(error_code::not_permitted));
    EXPECT_THAT(pool_->commit(), HasCode(error_code::not_permitted));
    ASSERT_OK(pool_->abort());
    EXPECT_THAT(pool_->create_thin(device_id(1)), HasCode(error_code::not_permitted)) << "still";
    ASSERT_OK(pool_->set_needs_check());
    ASSERT_OK(pool_->create_thin(device_id(1)));
    ASSERT_OK(pool_->commit());
    ASSERT_OK(pool_->clear_needs_check());
}

TEST_F(LastCommitOfUnknownFate, IsKnownAfterOpeningAgain) {
    fail_the_superblock();
    ASSERT_OK(pool_->close());
    reopen();
    ASSERT_OK(pool_->create_thin(device_id(1)));
}

}  // namespace
}  // namespace uthin
