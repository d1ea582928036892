// What is sent, from what, and what is left behind.
#include "replication/sender.h"

#include <gmock/gmock.h>

#include <fstream>

#include "pool/labels.h"
#include "support/replication_rig.h"

namespace uthin::replication {
namespace {

using test::HasCode;
using test::IsOk;

constexpr std::uint64_t block_bytes = 64U << 10;

class Sender : public testing::Test {
protected:
    static void TearDownTestSuite() { test::replication_side::judge_all(); }

    void write(const std::string& name, char with, std::uint64_t block) {
        ASSERT_OK_AND_ASSIGN(const auto open, side_.pool().open_volume(name, false));
        const std::string text(block_bytes, with);
        ASSERT_OK(open->write(block * block_bytes, std::as_bytes(std::span(text))));
    }
    result<send_reply> send(const std::string& name, const std::string& from = "") {
        sink_.bytes.clear();
        send_request request;
        request.name = name;
        request.from = from;
        return send_snapshot(side_.service(), request, sink_);
    }

    test::replication_side side_{block_bytes};
    test::memory_sink sink_;
};

TEST_F(Sender, SendsOnlyWhatChanged) {
    side_.create("v", 64 * block_bytes);
    for (std::uint64_t block = 0; block < 32; ++block) {
        write("v", 'a', block);
    }
    side_.snapshot("v", "s1");
    write("v", 'b', 7);
    ASSERT_OK(side_.pool().open_volume("v", false).value()->discard(9 * block_bytes, block_bytes));
    side_.snapshot("v", "s2");
    ASSERT_OK_AND_ASSIGN(const send_reply whole, send("s1"));
    EXPECT_EQ(whole.data_bytes, 32 * block_bytes);
    ASSERT_OK_AND_ASSIGN(const send_reply part, send("s2", "s1"));
    EXPECT_EQ(part.data_bytes, block_bytes);
    EXPECT_EQ(part.zero_bytes, block_bytes);
    EXPECT_LT(sink_.bytes.size(), block_bytes + 2048);
    EXPECT_EQ(part.header.relatives.size(), 1U);
}

TEST_F(Sender, MakesASnapshotOfAVolumeAndTakesItAway) {
    side_.create("v", 8 * block_bytes);
    write("v", 'a', 1);
    ASSERT_OK_AND_ASSIGN(const send_reply sent, send("v"));
    EXPECT_TRUE(sent.header.temporary);
    EXPECT_EQ(side_.pool().list().value().size(), 1U);
}

TEST_F(Sender, KeepsTheSnapshotOfAStreamThatBrokeOffForAWhile) {
    side_.create("v", 8 * block_bytes);
    write("v", 'a', 1);
    sink_.fail_above_bytes = 1000;
    EXPECT_THAT(send("v"), HasCode(error_code::io_error));
    const auto volumes = side_.pool().list().value();
    ASSERT_EQ(volumes.size(), 2U);
    EXPECT_TRUE(volumes[0].name.starts_with("sending-"));
    const std::int64_t now = system_clock().unix_seconds();
    EXPECT_FALSE(lease_is_over(volumes[0].labels, now + temporary_keep_seconds - 60));
    EXPECT_TRUE(lease_is_over(volumes[0].labels, now + temporary_keep_seconds + 60));
    // Whoever resumes it need not be this process.
    EXPECT_FALSE(volumes[0].labels.contains(std::string(lease_owner_label)));
}

TEST_F(Sender, RefusesABaseThatIsNoSnapshotOrNotThere) {
    side_.create("v", 8 * block_bytes);
    side_.snapshot("v", "s1");
    EXPECT_THAT(send("s1", "v"), HasCode(error_code::invalid_argument));
    EXPECT_THAT(send("s1", "nobody"), HasCode(error_code::not_found));
    EXPECT_THAT(send("nobody"), HasCode(error_code::not_found));
    EXPECT_TRUE(sink_.bytes.empty());
}

TEST_F(Sender, SendsTheContentOfAnExternalOriginToo) {
    test::temporary_directory folder;
    const std::string image = folder.path() / "image";
    std::ofstream(image) << std::string(3 * block_bytes + 512, 'o');
    create_volume_request request;
    request.name = "v";
    request.size_bytes = 8 * block_bytes;
    request.external_origin = image;
    ASSERT_OK(side_.pool().create_volume(request));
    write("v", 'a', 1);
    side_.snapshot("v", "s1");
    write("v", 'b', 2);
    ASSERT_OK(side_.pool().open_volume("v", false).value()->discard(block_bytes, block_bytes));
    side_.snapshot("v", "s2");
    test::replication_side target(2 * block_bytes);
    ASSERT_OK(target.receive(side_.send("s1"), "copy"));
    EXPECT_EQ(target.content("copy"), side_.content("s1"));
    ASSERT_OK(target.receive(side_.send("s2", "s1"), "copy"));
    EXPECT_EQ(target.content("copy"), side_.content("s2"));
}

TEST_F(Sender, SendsOnlyWhatChangedOnAnExternalOriginToo) {
    test::temporary_directory folder;
    const std::string image = folder.path() / "image";
    std::ofstream(image) << std::string(60 * block_bytes, 'o');
    create_volume_request request;
    request.name = "v";
    request.size_bytes = 32 * block_bytes + 512;
    request.external_origin = image;
    ASSERT_OK(side_.pool().create_volume(request));
    write("v", 'a', 1);
    write("v", 'a', 2);
    side_.snapshot("v", "s1");
    write("v", 'b', 2);
    write("v", 'b', 9);
    ASSERT_OK(side_.pool().open_volume("v", false).value()->discard(block_bytes, block_bytes));
    side_.snapshot("v", "s2");
    // What is grown stands on the origin as well.
    ASSERT_OK(side_.pool().resize("v", 36 * block_bytes));
    write("v", 'c', 34);
    side_.snapshot("v", "s3");
    ASSERT_OK(side_.pool().resize("v", 20 * block_bytes + 1024));
    side_.snapshot("v", "s4");
    test::replication_side target(2 * block_bytes);
    ASSERT_OK(target.receive(side_.send("s1"), "copy"));
    const std::pair<std::string, std::uint64_t> steps[] = {{"s2", 3}, {"s3", 4}, {"s4", 1}};
    std::string base = "s1";
    for (const auto& [name, blocks_max] : steps) {
        SCOPED_TRACE(name);
        const auto stream = side_.send(name, base);
        EXPECT_LT(stream.size(), blocks_max * block_bytes + 2048);
        ASSERT_OK(target.receive(stream, "copy"));
        EXPECT_EQ(target.content("copy"), side_.content(name));
        base = name;
    }
}

TEST_F(Sender, SendsASnapshotOfASnapshotThatIsInUse) {
    side_.create("v", 8 * block_bytes);
    write("v", 'a', 1);
    side_.snapshot("v", "s1");
    ASSERT_OK_AND_ASSIGN(const auto held, side_.pool().open_volume("s1", false));
    ASSERT_OK_AND_ASSIGN(const send_reply sent, send("s1"));
    EXPECT_TRUE(sent.header.temporary);
    EXPECT_NE(sent.header.to.id, side_.pool().show("s1").value().uuid);
    EXPECT_EQ(side_.pool().list().value().size(), 2U);
}

}  // namespace
}  // namespace uthin::replication
