// Migrating copied snapshots that clients wrote to, and lost what they wrote after its copy; took a
// volume that had got its name back for one that was there already; and deleted snapshots of the
// user whose names began as its own. (Found by reading.)
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "replication/migrator.h"
#include "support/pool_rig.h"
#include "support/replication_rig.h"

namespace uthin::replication {
namespace {

using test::HasCode;
using test::pattern;
using test::replication_side;

constexpr std::uint64_t block_bytes = 64 << 10;

class MigratingWhatChanges : public testing::Test {
protected:
    static void TearDownTestSuite() { replication_side::judge_all(); }

    void SetUp() override {
        source_.create("v", 8 * block_bytes);
        write("v", 1);
        source_.snapshot("v", "monday");
    }
    void write(const std::string& name, unsigned seed) {
        ASSERT_OK_AND_ASSIGN(const auto open, source_.pool().open_volume(name, false));
        ASSERT_OK(open->write(block_bytes, pattern(seed, 2 * block_bytes)));
    }
    result<migrate_reply> migrate(
        const std::function<void(std::uint64_t, std::uint64_t)>& progress = {}) {
        migrate_request request;
        request.name = "v";
        request.progress = progress;
        return migrate_volume(source_.service(), target_.pool(), request);
    }

    replication_side source_{block_bytes};
    replication_side target_{block_bytes};
};

TEST_F(MigratingWhatChanges, RefusesASnapshotInUse) {
    ASSERT_OK_AND_ASSIGN(auto open, source_.pool().open_volume("monday", false));
    EXPECT_THAT(migrate(), HasCode(error_code::busy));
    EXPECT_TRUE(target_.pool().list().value().empty());
    open.reset();
    ASSERT_OK(migrate());
    EXPECT_EQ(target_.content("monday"), source_.content("monday"));
}

// Its copy was there by then.
TEST_F(MigratingWhatChanges, DropsTheCopyOfASnapshotThatSomebodyOpened) {
    std::shared_ptr<volume> open;
    const auto wait_for_copy = [&](std::uint64_t, std::uint64_t) {
        if (!open && target_.pool().show("monday")) {
            open = source_.pool().open_volume("monday", false).value();
        }
    };
    write("v", 2);
    EXPECT_THAT(migrate(wait_for_copy), HasCode(error_code::busy));
    ASSERT_TRUE(open);
    ASSERT_OK(open->write(0, pattern(3, 512)));
    open.reset();
    EXPECT_OK(source_.pool().show("v"));
    ASSERT_OK(migrate());
    EXPECT_EQ(target_.content("monday"), source_.content("monday"));
    EXPECT_EQ(target_.content("v"), source_.content("v.migrated"));
}

// He has gone again before the volume moves: the copy is made anew.
TEST_F(MigratingWhatChanges, CopiesASnapshotAgainThatSomebodyOpenedForAWhile) {
    std::shared_ptr<volume> open;
    std::thread client;
    const auto wait_for_copy = [&](std::uint64_t, std::uint64_t) {
        if (!client.joinable() && target_.pool().show("monday")) {
            open = source_.pool().open_volume("monday", false).value();
            client = std::thread([&] {
                std::this_thread::sleep_for(std::chrono::seconds(1));
                EXPECT_OK(open->write(0, pattern(3, 512)));
                open.reset();
            });
        }
    };
    write("v", 2);
    ASSERT_OK_AND_ASSIGN(const migrate_reply reply, migrate(wait_for_copy));
    ASSERT_TRUE(client.joinable());
    client.join();
    EXPECT_EQ(reply.names, (std::vector<std::string>{"monday", "v"}));
    EXPECT_EQ(target_.content("monday"), source_.content("monday"));
    EXPECT_EQ(target_.content("v"), source_.content("v.migrated"));
}

TEST_F(MigratingWhatChanges, DoesNotTakeAVolumeThatCameBackForACopy) {
    ASSERT_OK(migrate());
    ASSERT_OK(source_.pool().rename("v.migrated", "v"));
    write("v", 5);
    EXPECT_THAT(migrate(), HasCode(error_code::already_exists));
    EXPECT_OK(source_.pool().show("v"));
    ASSERT_OK(target_.pool().rename("v", "earlier"));
    ASSERT_OK(migrate());
    EXPECT_EQ(target_.content("v"), source_.content("v.migrated"));
}

TEST_F(MigratingWhatChanges, KeepsSnapshotsThatAreCalledLikeItsOwn) {
    source_.snapshot("v", "migrating-before");
    ASSERT_OK(migrate());
    EXPECT_OK(source_.pool().show("migrating-before"));
    EXPECT_EQ(target_.content("migrating-before"), source_.content("migrating-before"));
}

}  // namespace
}  // namespace uthin::replication
