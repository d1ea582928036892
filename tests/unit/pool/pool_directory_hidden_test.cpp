// Volumes in the making: what publishing refuses, and what it leaves behind.
#include <gtest/gtest.h>

#include "pool/pool_directory.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::HasCode;
using test::IsOk;

constexpr std::uint64_t block_bytes = 64U << 10;

class PoolDirectoryHidden : public testing::Test {
protected:
    PoolDirectoryHidden() {
        create_pool_request request;
        request.directory = folder_.path() / "pool";
        request.data_size_bytes = 16U << 20;
        request.metadata_size_bytes = 1U << 20;
        EXPECT_OK(pool_directory::create(request, system_clock()));
        auto opened = pool_directory::open(request.directory, {}, system_clock());
        EXPECT_OK(opened);
        pool_ = std::move(*opened);
    }

    test::temporary_directory folder_;
    std::unique_ptr<pool_directory> pool_;
};

// While it waits for its transaction it must not get an id that a volume manager gives out.
TEST_F(PoolDirectoryHidden, ItsSnapshotHasAnIdOfTheUpperHalfToo) {
    ASSERT_OK_AND_ASSIGN(hidden_volume hidden, pool_->make_hidden("", 8 * block_bytes));
    ASSERT_OK(pool_->publish_hidden(hidden, {.name = "v", .snapshot = "s", .received_from = {}}));
    EXPECT_GE(pool_->show("v")->dev_id, 1U << 23);
    EXPECT_GE(pool_->show("s")->dev_id, 1U << 23);
}

}  // namespace
}  // namespace uthin
