// A snapshot that was rolled back, or made smaller and larger again, went on as the base of what
// had been sent of it: the next difference was taken of one content and laid over another, in a
// backup or a replica, and nobody was told. (Found by reading.)
#include <gmock/gmock.h>

#include <string>

#include "support/pool_rig.h"
#include "support/replication_rig.h"

namespace uthin {
namespace {

using test::HasCode;
using test::pattern;
using test::replication_side;

constexpr std::uint64_t block_bytes = 64 << 10;
constexpr std::uint64_t size_bytes = 8 * block_bytes;

class AChangedSnapshot : public testing::Test {
protected:
    // "v" with "first", "s" and "next", each with another block written, and the copy of "s".
    void SetUp() override {
        side_.create("v", size_bytes);
        unsigned block = 0;
        for (const char* snapshot : {"first", "s", "next"}) {
            ASSERT_OK_AND_ASSIGN(const auto open, side_.pool().open_volume("v", false));
            ASSERT_OK(open->write(block * block_bytes, pattern(block + 1, block_bytes)));
            side_.snapshot("v", snapshot);
            ++block;
        }
        ASSERT_OK(target_.receive(side_.send("s"), "copy", "s"));
    }
    static void TearDownTestSuite() { replication_side::judge_all(); }

    static void roll_back(replication_side& side, const std::string& to) {
        ASSERT_OK(side.pool().rollback({.name = "s", .to = to, .force = true}));
    }
    static void cut_and_grow(replication_side& side) {
        ASSERT_OK(side.pool().resize("s", block_bytes));
        ASSERT_OK(side.pool().resize("s", size_bytes));
    }
    void expect_no_base(const std::string& name) {
        const auto done = target_.receive(side_.send("next", "s"), name, "next");
        ASSERT_THAT(done, HasCode(error_code::invalid_argument));
        EXPECT_THAT(done.error().message(), testing::HasSubstr("'s'"));
        EXPECT_THAT(done.error().message(), testing::HasSubstr("is not here"));
    }
    void expect_taken() {
        ASSERT_OK(target_.receive(side_.send("next", "s"), "copy", "next"));
        EXPECT_EQ(target_.content("copy") == side_.content("next"), true);
    }

    replication_side side_{block_bytes};
    replication_side target_{block_bytes};
};

TEST_F(AChangedSnapshot, ThatWasRolledBackIsNoBaseOfWhatWasSentOfIt) {
    roll_back(side_, "first");
    expect_no_base("copy");
    ASSERT_OK(target_.receive(side_.send("s"), "again", "s2"));
    ASSERT_OK(target_.pool().rename("again", "copy2"));
    ASSERT_OK(target_.receive(side_.send("next", "s"), "copy2", "next"));
    EXPECT_EQ(target_.content("copy2") == side_.content("next"), true);
}

TEST_F(AChangedSnapshot, OfAReceiverThatWasRolledBackIsNoBase) {
    target_.create("empty", size_bytes);
    roll_back(target_, "empty");
    expect_no_base("copy");
}

TEST_F(AChangedSnapshot, ThatWasResizedIsNoBaseAtEitherEnd) {
    expect_taken();
    target_.remove("next");
    cut_and_grow(target_);
    expect_no_base("copy");
    ASSERT_OK(target_.receive(side_.send("s"), "whole", "whole-s"));
    cut_and_grow(side_);
    expect_no_base("whole");
}

// A volume is no base, and stays what it is: snapshots that know it as theirs, labels, promises.
TEST_F(AChangedSnapshot, AVolumeIsRolledBackAndResizedAsEver) {
    ASSERT_OK(side_.pool().label({.name = "s", .set = {{"owner", "me"}}, .remove = {}}));
    ASSERT_OK_AND_ASSIGN(const volume_info volume, side_.pool().show("v"));
    ASSERT_OK_AND_ASSIGN(const volume_info before, side_.pool().show("s"));
    ASSERT_OK(side_.pool().rollback({.name = "v", .to = "first"}));
    ASSERT_OK(side_.pool().resize("v", 2 * size_bytes));
    ASSERT_OK_AND_ASSIGN(const volume_info now, side_.pool().show("v"));
    EXPECT_EQ(now.uuid, volume.uuid);
    EXPECT_EQ(now.received_from, volume.received_from);
    expect_taken();
    roll_back(side_, "first");
    ASSERT_OK_AND_ASSIGN(volume_info after, side_.pool().show("s"));
    EXPECT_NE(after.received_from, before.received_from);
    EXPECT_EQ(after.labels, before.labels);
    EXPECT_EQ(after.uuid, before.uuid);
    EXPECT_EQ(after.parent, "v");
}

}  // namespace
}  // namespace uthin
