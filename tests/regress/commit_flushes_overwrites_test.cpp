// pool::commit() and pool::close() left data in the device's cache when only mapped blocks had been
// overwritten: there was no metadata to commit, and nobody flushed the data. A power cut after a
// clean stop lost writes.
#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"

namespace uthin {
namespace {

using io::operation_kind;
using test::IsOk;

class CommitFlushesOverwrites : public ::testing::Test {
protected:
    void SetUp() override {
        volume_ = rig_.make(0, 1 << 20);
        ASSERT_OK(volume_->write(0, test::pattern(1, 4096)));
        ASSERT_OK(volume_->flush());
        ASSERT_OK(volume_->write(0, test::pattern(2, 4096)));
        rig_.data_faults.reset_counts();
    }
    test::pool_rig rig_{{.threads = false, .pool = {.commit_interval = std::chrono::hours(1)}}};
    std::shared_ptr<volume> volume_;
};

TEST_F(CommitFlushesOverwrites, OnCommit) {
    const std::uint64_t superblocks = rig_->counters().metadata.superblock_writes;
    ASSERT_OK(rig_->commit());
    EXPECT_EQ(rig_.data_faults.count(operation_kind::flush), 1U);
    EXPECT_EQ(rig_->counters().metadata.superblock_writes, superblocks);
}

TEST_F(CommitFlushesOverwrites, OnCommitAfterTheMetadataWasOnlyLookedAt) {
    ASSERT_OK(rig_->with_metadata([](metadata&) -> result<void> { return {}; }));
    ASSERT_OK(rig_->commit());
    EXPECT_EQ(rig_.data_faults.count(operation_kind::flush), 1U);
}

TEST_F(CommitFlushesOverwrites, OnClose) {
    volume_.reset();
    ASSERT_OK(rig_->close());
    EXPECT_EQ(rig_.data_faults.count(operation_kind::flush), 1U);
}

TEST_F(CommitFlushesOverwrites, OnceWhenTheMetadataChangesToo) {
    ASSERT_OK(volume_->write(512 << 10, test::pattern(3, 4096)));
    rig_.data_faults.reset_counts();
    ASSERT_OK(rig_->commit());
    EXPECT_EQ(rig_.data_faults.count(operation_kind::flush), 1U);
}

}  // namespace
}  // namespace uthin
