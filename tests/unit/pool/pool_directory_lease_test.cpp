// The lease of the metadata snapshot: who holds it, and until when.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "pool/pool_directory.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::HasCode;
using test::IsOk;

constexpr std::uint64_t block = 64U << 10;

class PoolDirectoryLease : public testing::Test {
protected:
    PoolDirectoryLease() {
        create_pool_request request;
        request.directory = path_;
        request.data_size_bytes = 16U << 20;
        request.metadata_size_bytes = 1U << 20;
        time_.advance(std::chrono::seconds(1'700'000'000));
        EXPECT_OK(pool_directory::create(request, time_));
        open();
    }
    ~PoolDirectoryLease() override { close(); }
    void open() {
        close();
        auto opened = pool_directory::open(path_, {}, time_);
        ASSERT_THAT(opened, IsOk());
        pool_ = std::move(*opened);
    }
    void close() {
        if (pool_) {
            EXPECT_OK(pool_->close());
            pool_.reset();
        }
    }
    result<metadata_snapshot_reply> call(metadata_snapshot_action action, std::string owner = "",
                                         std::optional<std::uint64_t> lease_s = std::nullopt) {
        return pool_->metadata_snapshot(
            {.action = action, .lease_s = lease_s, .owner = std::move(owner)});
    }
    [[nodiscard]] bool held() { return call(metadata_snapshot_action::show)->block.has_value(); }
    // A change of something else.
    void change() {
        create_volume_request request;
        request.name = fmt::format("v{}", next_++);
        request.size_bytes = block;
        ASSERT_OK(pool_->create_volume(request));
    }

    test::temporary_directory directory_;
    const std::string path_ = directory_.path() / "pool";
    manual_clock time_;
    std::unique_ptr<pool_directory> pool_;
    int next_ = 0;
};

TEST_F(PoolDirectoryLease, EndsTheSnapshotUnlessItIsRenewed) {
    ASSERT_OK_AND_ASSIGN(const auto reply, call(metadata_snapshot_action::reserve, "reader", 60));
    EXPECT_EQ(reply.owner, "reader");
    EXPECT_EQ(reply.expires_unix_seconds, 1'700'000'060);
    EXPECT_EQ(pool_->report()->metadata_snapshot_owner, "reader");
    time_.advance(std::chrono::seconds(50));
    ASSERT_OK(call(metadata_snapshot_action::renew, "reader", 60));
    time_.advance(std::chrono::seconds(50));
    change();
    EXPECT_TRUE(held());
    time_.advance(std::chrono::seconds(10));
    change();
    EXPECT_FALSE(held());
    EXPECT_EQ(pool_->report()->metadata_snapshot_owner, "");
    // Somebody else's turn at once, although nothing else changed in between.
    ASSERT_OK(call(metadata_snapshot_action::reserve, "other", 5));
    time_.advance(std::chrono::seconds(5));
    ASSERT_OK(call(metadata_snapshot_action::reserve, "third", 5));
}

TEST_F(PoolDirectoryLease, SurvivesItsServerAndEndsAtTheNextOpening) {
    ASSERT_OK(call(metadata_snapshot_action::reserve, "reader", 60));
    pool_.reset();  // killed
    open();
    EXPECT_EQ(call(metadata_snapshot_action::show)->owner, "reader");
    time_.advance(std::chrono::seconds(61));
    open();
    change();
    EXPECT_FALSE(held());
}

TEST_F(PoolDirectoryLease, IsItsOwnersAndTheAdministrators) {
    ASSERT_OK(call(metadata_snapshot_action::reserve, "reader", 60));
    EXPECT_THAT(call(metadata_snapshot_action::reserve, "reader", 60), HasCode(error_code::busy));
    EXPECT_THAT(call(metadata_snapshot_action::renew, "other", 60), HasCode(error_code::busy));
    EXPECT_THAT(call(metadata_snapshot_action::release, "other"), HasCode(error_code::busy));
    ASSERT_OK(call(metadata_snapshot_action::release, "reader"));
    EXPECT_THAT(call(metadata_snapshot_action::release), HasCode(error_code::invalid_argument));
    ASSERT_OK(call(metadata_snapshot_action::reserve, "reader", 60));
    ASSERT_OK(call(metadata_snapshot_action::release));
    EXPECT_THAT(call(metadata_snapshot_action::reserve, "reader"),
                HasCode(error_code::invalid_argument));
    EXPECT_THAT(call(metadata_snapshot_action::reserve, "", 60),
                HasCode(error_code::invalid_argument));
    EXPECT_THAT(call(metadata_snapshot_action::reserve, "a\nb", 60),
                HasCode(error_code::invalid_argument));
}

TEST_F(PoolDirectoryLease, APlainReservationHasNone) {
    ASSERT_OK(call(metadata_snapshot_action::reserve, "reader", 60));
    ASSERT_OK(pool_->message("release_metadata_snap"));
    ASSERT_OK(pool_->message("reserve_metadata_snap"));
    time_.advance(std::chrono::hours(1000));
    change();
    EXPECT_TRUE(held());
    EXPECT_EQ(call(metadata_snapshot_action::show)->owner, "");
    EXPECT_THAT(call(metadata_snapshot_action::release, "reader"), HasCode(error_code::busy));
    EXPECT_THAT(call(metadata_snapshot_action::renew, "reader", 5), HasCode(error_code::busy));
}

TEST(PoolDirectoryLeaseOfAServer, IsEndedByItsThread) {
    test::temporary_directory directory;
    create_pool_request request;
    request.directory = directory.path() / "pool";
    request.data_size_bytes = 16U << 20;
    ASSERT_OK(pool_directory::create(request, system_clock()));
    directory_options options;
    options.purpose = open_purpose::serve;
    auto pool = pool_directory::open(request.directory, options, system_clock());
    ASSERT_THAT(pool, IsOk());
    ASSERT_OK((*pool)->start());
    ASSERT_OK((*pool)->metadata_snapshot(
        {.action = metadata_snapshot_action::reserve, .lease_s = 1, .owner = "killed"}));
    for (int i = 0; i < 200 && (*pool)->metadata_snapshot({})->block; ++i) {
        system_clock().sleep_for(std::chrono::milliseconds(50));
    }
    EXPECT_EQ((*pool)->metadata_snapshot({})->block, std::nullopt);
    ASSERT_OK((*pool)->close());
}

}  // namespace
}  // namespace uthin
