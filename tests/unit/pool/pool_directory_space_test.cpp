// Usage, promises, limits and overcommitment of volumes with names.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pool/pool_directory.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::HasCode;
using test::IsOk;
using testing::HasSubstr;

constexpr std::uint64_t block = 64U << 10;
constexpr std::uint64_t pool_blocks = 256;

class PoolDirectorySpace : public testing::Test {
protected:
    PoolDirectorySpace() {
        create_pool_request request;
        request.directory = path_;
        request.data_size_bytes = pool_blocks * block;
        request.metadata_size_bytes = 1U << 20;
        EXPECT_OK(pool_directory::create(request, system_clock()));
        open();
    }
    ~PoolDirectorySpace() override { close(); }
    void open() {
        close();
        auto opened = pool_directory::open(path_, {}, system_clock());
        ASSERT_THAT(opened, IsOk());
        pool_ = std::move(*opened);
    }
    void close() {
        if (pool_) {
            EXPECT_OK(pool_->close());
            pool_.reset();
        }
    }
    result<volume_info> create(const std::string& name, std::uint64_t blocks,
                               std::uint64_t reserved = 0, std::uint64_t limit = 0) {
        create_volume_request request;
        request.name = name;
        request.size_bytes = blocks * block;
        request.reserved_bytes = reserved * block;
        request.limit_bytes = limit * block;
        return pool_->create_volume(request);
    }
    result<void> write(const std::string& name, std::uint64_t first, std::uint64_t count) {
        const auto open = pool_->open_volume(name, false);
        EXPECT_OK(open);
        return (*open)->write(first * block, test::pattern(first, count * block));
    }
    result<std::vector<volume_info>> snapshot(const std::string& source, const std::string& name) {
        create_snapshots_request request;
        request.snapshots = {{source, name}};
        return pool_->create_snapshots(request);
    }
    [[nodiscard]] std::uint64_t promised() { return pool_->report()->data_promised_blocks; }

    test::temporary_directory directory_;
    const std::string path_ = directory_.path() / "pool";
    std::unique_ptr<pool_directory> pool_;
};

TEST_F(PoolDirectorySpace, ListAndShowSayWhatIsExclusiveAndWhatIsShared) {
    ASSERT_OK(create("a", 64));
    ASSERT_OK(write("a", 0, 40));
    ASSERT_OK(snapshot("a", "b"));
    ASSERT_OK(write("a", 0, 3));
    ASSERT_OK(pool_->engine().commit());
    ASSERT_OK_AND_ASSIGN(const auto listed, pool_->list_with_usage());
    ASSERT_EQ(listed.size(), 2U);
    EXPECT_EQ(listed[0].exclusive_bytes, 3 * block);
    EXPECT_EQ(listed[0].shared_bytes, 37 * block);
    EXPECT_EQ(listed[1].exclusive_bytes, 3 * block);
    ASSERT_OK_AND_ASSIGN(const volume_info shown, pool_->show_with_usage("b"));
    EXPECT_EQ(shown.shared_bytes, 37 * block);
    EXPECT_EQ(shown.mapped_bytes, 40 * block);
    ASSERT_OK_AND_ASSIGN(const usage_reply both, pool_->usage({"a", "b"}));
    EXPECT_EQ(both, (usage_reply{80 * block, 43 * block}));
    EXPECT_EQ(pool_->usage({"b"})->freed_bytes, 3 * block);
    EXPECT_THAT(pool_->usage({"b", "b"}), HasCode(error_code::invalid_argument));
    EXPECT_THAT(pool_->usage({"c"}), HasCode(error_code::not_found));
    // It is what happens.
    const std::uint64_t used = pool_->report()->data_used_blocks;
    ASSERT_OK(pool_->remove({.name = "b"}));
    EXPECT_EQ(pool_->report()->data_used_blocks, used - 3);
}

TEST_F(PoolDirectorySpace, LookingOnMakesNoCommits) {
    ASSERT_OK(create("a", 64));
    const auto volume = pool_->open_volume("a", false);
    ASSERT_OK(volume);
    const auto commits = [&] { return pool_->engine().counters().commits; };
    const std::uint64_t before = commits();
    for (std::uint64_t i = 0; i < 20; ++i) {
        ASSERT_OK((*volume)->write(i * block, test::pattern(i, block)));
        ASSERT_OK(pool_->list_with_usage());
        ASSERT_OK(pool_->show_with_usage("a"));
    }
    EXPECT_LE(commits(), before + 1) << "the interval may have passed once";
}

TEST_F(PoolDirectorySpace, PromisesAndLimitsAreKeptOverReopeningAndFreedByDeletion) {
    ASSERT_OK(create("kept", 100, 50, 60));
    ASSERT_OK(create("free", 1000));
    EXPECT_EQ(promised(), 50U);
    open();
    EXPECT_EQ(promised(), 50U);
    EXPECT_EQ(pool_->show("kept")->reserved_bytes, 50 * block);
    EXPECT_EQ(pool_->show("kept")->limit_bytes, 60 * block);
    EXPECT_THAT(write("free", 0, 207), HasCode(error_code::no_data_space));
    ASSERT_OK(write("kept", 0, 50));
    EXPECT_THAT(write("kept", 50, 11), HasCode(error_code::no_data_space));
    EXPECT_EQ(promised(), 0U);
    ASSERT_OK(pool_->set_volume({.name = "kept", .reserved_bytes = 0, .limit_bytes = 0}));
    ASSERT_OK(pool_->set_volume({.name = "free", .limit_bytes = 300 * block}));
    ASSERT_OK(pool_->remove({.name = "kept"}));
    ASSERT_OK(create("kept", 100, 50));
    EXPECT_EQ(promised(), 50U);
    ASSERT_OK(pool_->remove({.name = "kept"}));
    EXPECT_EQ(promised(), 0U);
    open();
    EXPECT_EQ(promised(), 0U);
    EXPECT_EQ(pool_->show("free")->limit_bytes, 300 * block);
}

TEST_F(PoolDirectorySpace, PromisesThatCannotBeKeptAreRefused) {
    ASSERT_OK(create("a", 500, 200));
    const auto refused = create("b", 500, 57);
    ASSERT_THAT(refused, HasCode(error_code::no_data_space));
    EXPECT_THAT(refused.error().message(), HasSubstr("uthin pool grow"));
    EXPECT_THAT(pool_->show("b"), HasCode(error_code::not_found));
    EXPECT_EQ(promised(), 200U);
    EXPECT_THAT(create("b", 10, 11), HasCode(error_code::invalid_argument));
    EXPECT_THAT(create("b", 100, 50, 40), HasCode(error_code::invalid_argument));
    ASSERT_OK(create("b", 100, 56));
    EXPECT_THAT(pool_->set_volume({.name = "b", .reserved_bytes = 57 * block}),
                HasCode(error_code::no_data_space));
    EXPECT_EQ(pool_->show("b")->reserved_bytes, 56 * block);
    EXPECT_THAT(pool_->resize("b", 50 * block), HasCode(error_code::invalid_argument));
    ASSERT_OK(pool_->set_volume({.name = "a", .reserved_bytes = 0}));
    ASSERT_OK(pool_->set_volume({.name = "b", .reserved_bytes = 57 * block}));
}

TEST_F(PoolDirectorySpace, ASnapshotInheritsNeitherPromiseNorLimit) {
    ASSERT_OK(create("a", 100, 50, 60));
    ASSERT_OK(snapshot("a", "b"));
    EXPECT_EQ(pool_->show("b")->reserved_bytes, 0U);
    EXPECT_EQ(pool_->show("b")->limit_bytes, 0U);
    EXPECT_EQ(promised(), 50U);
}

TEST_F(PoolDirectorySpace, WhatTheVolumesMayAskForTogetherIsBounded) {
    ASSERT_OK(pool_->set({{"overcommit", "150%"}}));
    ASSERT_OK(create("a", 300));
    const auto refused = create("b", 85);
    ASSERT_THAT(refused, HasCode(error_code::no_data_space));
    EXPECT_THAT(refused.error().message(), HasSubstr("150%"));
    ASSERT_OK(create("b", 84));
    EXPECT_THAT(snapshot("b", "c"), HasCode(error_code::no_data_space));
    EXPECT_THAT(pool_->resize("b", 85 * block), HasCode(error_code::no_data_space));
    open();
    EXPECT_THAT(pool_->resize("b", 85 * block), HasCode(error_code::no_data_space));
    ASSERT_OK(pool_->resize("b", 10 * block));
    ASSERT_OK(snapshot("b", "c"));
    ASSERT_OK(pool_->set({{"overcommit", "off"}}));
    ASSERT_OK(create("d", 100000));
    EXPECT_EQ(pool_->report()->overcommit_percent, 0U);
    for (const char* wrong : {"0%", "150", "x%", "-1%", "1000001%", ""}) {
        EXPECT_THAT(pool_->set({{"overcommit", wrong}}), HasCode(error_code::invalid_argument))
            << wrong;
    }
}

TEST_F(PoolDirectorySpace, ADeviceThatIsDeletedByMessageIsPromisedNothing) {
    ASSERT_OK(create("a", 100, 50));
    ASSERT_OK(pool_->message("delete 0"));
    EXPECT_EQ(promised(), 0U);
    ASSERT_OK(pool_->message("create_thin 0"));
    EXPECT_EQ(promised(), 0U);
    EXPECT_EQ(pool_->show("thin-0")->reserved_bytes, 0U);
}

}  // namespace
}  // namespace uthin
