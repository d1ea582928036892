// What receiving refuses, what it leaves behind (nothing), and what it publishes.
#include "replication/receiver.h"

#include <gmock/gmock.h>

#include <functional>
#include <utility>

#include "support/replication_rig.h"

namespace uthin::replication {
namespace {

using test::HasCode;
using test::IsOk;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::uint64_t block_bytes = 64U << 10;

class Receiver : public testing::Test {
protected:
    static void TearDownTestSuite() { test::replication_side::judge_all(); }

    void write(test::replication_side& side, const std::string& name, char with,
               std::uint64_t block = 0) {
        ASSERT_OK_AND_ASSIGN(const auto open, side.pool().open_volume(name, false));
        const std::string text(block_bytes, with);
        ASSERT_OK(open->write(block * block_bytes, std::as_bytes(std::span(text))));
        ASSERT_OK(open->flush());
    }
    // "v" with snapshots s1, s2 and s3, a block changed before each.
    void three_snapshots() {
        source_.create("v", 8 * block_bytes);
        for (const char* name : {"s1", "s2", "s3"}) {
            write(source_, "v", name[1], static_cast<std::uint64_t>(name[1] - '0'));
            source_.snapshot("v", name);
        }
    }
    // All its blocks hold something of a volume that is gone, and nobody zeroes them.
    static void make_dirty(test::replication_side& side) {
        ASSERT_OK(side.pool().set({{"zeroing", "off"}, {"discard", "no-passdown"}}));
        side.create("dirt", 64U << 20);
        {
            ASSERT_OK_AND_ASSIGN(const auto open, side.pool().open_volume("dirt", false));
            const std::string text(64U << 20, 'd');
            ASSERT_OK(open->write(0, std::as_bytes(std::span(text))));
        }
        side.remove("dirt");
    }
    // Receives, and does something else to the pool when the first record has arrived.
    static result<receive_reply> receive_while(test::replication_side& side,
                                               const std::vector<std::byte>& stream,
                                               const std::string& name,
                                               const std::function<void()>& action) {
        test::memory_source source(stream);
        receive_request request;
        request.name = name;
        request.progress = [&, done = false](std::uint64_t) mutable {
            if (!std::exchange(done, true)) {
                action();
            }
        };
        return receive_stream(side.service(), request, source);
    }
    static std::vector<std::string> names(test::replication_side& side) {
        std::vector<std::string> found;
        const auto volumes = side.pool().list();
        EXPECT_OK(volumes);
        for (const volume_info& volume : *volumes) {
            found.push_back(volume.name);
        }
        return found;
    }

    test::replication_side source_{block_bytes};
    test::replication_side target_{2 * block_bytes};
};

TEST_F(Receiver, PublishesTheVolumeAndItsSnapshotWithWhereTheyCameFrom) {
    three_snapshots();
    ASSERT_OK_AND_ASSIGN(const receive_reply reply, target_.receive(source_.send("s1"), "copy"));
    EXPECT_EQ(reply.snapshot, "s1");
    EXPECT_THAT(names(target_), ElementsAre("copy", "s1"));
    const std::string sent_uuid = source_.pool().show("s1").value().uuid;
    const volume_info snapshot = target_.pool().show("s1").value();
    EXPECT_EQ(snapshot.received_from, sent_uuid);
    EXPECT_EQ(snapshot.parent, "copy");
    EXPECT_EQ(reply.volume.received_from, sent_uuid);
    EXPECT_EQ(target_.content("copy"), source_.content("s1"));
    // And it survives an opening.
    target_.drop();
    target_.open();
    EXPECT_THAT(names(target_), ElementsAre("copy", "s1"));
    EXPECT_EQ(target_.content("s1"), source_.content("s1"));
}

TEST_F(Receiver, MovesTheVolumeOnAndKeepsItsUuid) {
    three_snapshots();
    ASSERT_OK(target_.receive(source_.send("s1"), "copy"));
    const std::string uuid = target_.pool().show("copy").value().uuid;
    ASSERT_OK(target_.receive(source_.send("s2", "s1"), "copy"));
    EXPECT_EQ(target_.pool().show("copy").value().uuid, uuid);
    EXPECT_EQ(target_.content("copy"), source_.content("s2"));
    EXPECT_EQ(target_.content("s1"), source_.content("s1"));
    EXPECT_THAT(names(target_), ElementsAre("copy", "s1", "s2"));
}

TEST_F(Receiver, RefusesAWrongBaseAndNamesTheNewestCommonSnapshot) {
    three_snapshots();
    ASSERT_OK(target_.receive(source_.send("s1"), "copy", "mine"));
    const auto before = target_.look();
    const auto refused = target_.receive(source_.send("s3", "s2"), "copy");
    ASSERT_THAT(refused, HasCode(error_code::invalid_argument));
    EXPECT_THAT(refused.error().message(), HasSubstr("'s2'"));
    EXPECT_THAT(refused.error().message(),
                HasSubstr("the newest common snapshot is 's1', here 'mine'"));
    EXPECT_EQ(target_.look(), before);
    target_.remove("mine");
    const auto without = target_.receive(source_.send("s3", "s2"), "copy");
    ASSERT_THAT(without, HasCode(error_code::invalid_argument));
    EXPECT_THAT(without.error().message(), HasSubstr("there is no common snapshot"));
}

TEST_F(Receiver, RefusesAVolumeThatWasWrittenToSinceItsBase) {
    three_snapshots();
    ASSERT_OK(target_.receive(source_.send("s1"), "copy"));
    write(target_, "copy", 'z', 5);
    const auto refused = target_.receive(source_.send("s2", "s1"), "copy");
    ASSERT_THAT(refused, HasCode(error_code::invalid_argument));
    EXPECT_THAT(refused.error().message(), HasSubstr("rollback --to s1"));
    rollback_request rollback;
    rollback.name = "copy";
    rollback.to = "s1";
    ASSERT_OK(target_.pool().rollback(rollback));
    EXPECT_OK(target_.receive(source_.send("s2", "s1"), "copy"));
}

TEST_F(Receiver, RefusesWhatIsThereOrInUse) {
    three_snapshots();
    ASSERT_OK(target_.receive(source_.send("s1"), "copy"));
    EXPECT_THAT(target_.receive(source_.send("s2"), "copy"), HasCode(error_code::already_exists));
    EXPECT_THAT(target_.receive(source_.send("s1"), "other"), HasCode(error_code::already_exists));
    EXPECT_OK(target_.receive(source_.send("s1"), "other", "s1 again"));
    ASSERT_OK_AND_ASSIGN(const auto held, target_.pool().open_volume("copy", true));
    EXPECT_THAT(target_.receive(source_.send("s2", "s1"), "copy"), HasCode(error_code::busy));
}

TEST_F(Receiver, GoesBackToTheSourceAndOnToAThirdPool) {
    three_snapshots();
    ASSERT_OK(target_.receive(source_.send("s1"), "copy"));
    write(target_, "copy", 'r', 7);
    target_.snapshot("copy", "r1");
    // Back: the source's own s1 is the base.
    ASSERT_OK(source_.receive(target_.send("r1", "s1"), "returned"));
    EXPECT_EQ(source_.content("returned"), target_.content("r1"));
    // On: what came from the second pool has the base of the first.
    test::replication_side third(block_bytes);
    ASSERT_OK(third.receive(target_.send("s1"), "copy"));
    ASSERT_OK(third.receive(source_.send("s2", "s1"), "copy"));
    EXPECT_EQ(third.content("copy"), source_.content("s2"));
}

TEST_F(Receiver, LeavesNothingWhenTheProcessDiesInTheMiddle) {
    three_snapshots();
    ASSERT_OK(target_.receive(source_.send("s1"), "copy"));
    const auto before = target_.look();
    {
        ASSERT_OK_AND_ASSIGN(hidden_volume hidden,
                             target_.pool().make_hidden("s1", 16 * block_bytes));
        const std::string text(block_bytes, 'h');
        ASSERT_OK(hidden.data->write(0, std::as_bytes(std::span(text))));
        ASSERT_OK(hidden.data->flush());
        EXPECT_EQ(target_.look().volumes, before.volumes);
        const std::string hidden_name = "thin-" + std::to_string(hidden.what.hidden.id.value());
        EXPECT_THAT(target_.pool().show(hidden_name), HasCode(error_code::not_found));
        hidden.data.reset();
        target_.drop();
    }
    target_.open();
    EXPECT_EQ(target_.look(), before);
}

TEST_F(Receiver, ZeroesAroundPartsOfBlocksThoughThePoolDoesNot) {
    test::replication_side coarse(1U << 20);
    make_dirty(coarse);
    three_snapshots();
    ASSERT_OK(coarse.receive(source_.send("s3"), "copy"));
    EXPECT_EQ(coarse.content("copy"), source_.content("s3"));
    EXPECT_FALSE(coarse.pool().report().value().zeroing);
    // And only then.
    coarse.create("other", 1U << 20);
    write(coarse, "other", 'z');
    EXPECT_EQ(coarse.content("other").back(), std::byte{'d'});
}

TEST_F(Receiver, LeavesAVolumeAloneThatGotItsNameMeanwhile) {
    three_snapshots();
    target_.create("important", 8 * block_bytes);
    write(target_, "important", 'i', 3);
    const volume_info before = target_.pool().show("important").value();
    const auto content = target_.content("important");
    const auto refused = receive_while(target_, source_.send("s1"), "copy", [&] {
        ASSERT_OK(target_.pool().rename("important", "copy"));
    });
    EXPECT_THAT(refused, HasCode(error_code::already_exists));
    EXPECT_THAT(names(target_), ElementsAre("copy"));
    EXPECT_EQ(target_.pool().show("copy").value().uuid, before.uuid);
    EXPECT_EQ(target_.content("copy"), content);
}

TEST_F(Receiver, LeavesAVolumeAloneThatWasWrittenToMeanwhile) {
    three_snapshots();
    ASSERT_OK(target_.receive(source_.send("s1"), "copy"));
    const auto refused = receive_while(target_, source_.send("s2", "s1"), "copy",
                                       [this] { write(target_, "copy", 'z', 5); });
    EXPECT_THAT(refused, HasCode(error_code::invalid_argument));
    EXPECT_EQ(target_.content("copy")[5 * block_bytes], std::byte{'z'});
    EXPECT_THAT(names(target_), ElementsAre("copy", "s1"));
}

TEST_F(Receiver, LeavesAVolumeAloneThatTookThePlaceOfItsTarget) {
    three_snapshots();
    ASSERT_OK(target_.receive(source_.send("s1"), "copy"));
    target_.snapshot("copy", "twin");
    const std::string twin_uuid = target_.pool().show("twin").value().uuid;
    const auto stream = source_.send("s2", "s1");
    const auto refused = receive_while(target_, stream, "copy", [&] {
        ASSERT_OK(target_.pool().rename("copy", "old"));
        ASSERT_OK(target_.pool().rename("twin", "copy"));
    });
    EXPECT_THAT(refused, HasCode(error_code::busy));
    EXPECT_THAT(names(target_), ElementsAre("copy", "old", "s1"));
    EXPECT_EQ(target_.pool().show("copy").value().uuid, twin_uuid);
    // Nor is a volume made again that was deleted meanwhile.
    const auto gone = receive_while(target_, stream, "old", [&] { target_.remove("old"); });
    EXPECT_THAT(gone, HasCode(error_code::not_found));
    EXPECT_THAT(names(target_), ElementsAre("copy", "s1"));
}

// A volume that began as a snapshot is none any more once it was received into: it may be written.
TEST_F(Receiver, TakesNoVolumeForTheBaseThoughItBeganAsASnapshot) {
    three_snapshots();
    ASSERT_OK(target_.receive(source_.send("s1"), "copy"));
    target_.snapshot("s1", "third");
    ASSERT_OK(target_.receive(source_.send("s2", "s1"), "third"));
    EXPECT_EQ(target_.pool().show("third").value().parent_uuid, "");
    ASSERT_OK(target_.pool().rename("s2", "z2"));  // "third" is looked at first
    write(target_, "third", 'w', 6);
    ASSERT_OK(target_.receive(source_.send("s3", "s2"), "other"));
    EXPECT_EQ(target_.content("other"), source_.content("s3"));
    target_.remove("z2");
    EXPECT_THAT(target_.receive(source_.send("s3", "s2"), "more", "m3"),
                HasCode(error_code::invalid_argument));
}

TEST_F(Receiver, KeepsZeroingThoughSettingsChangeMeanwhile) {
    test::replication_side coarse(1U << 20);
    make_dirty(coarse);
    source_.create("v", 48 * block_bytes);
    write(source_, "v", 'a', 0);
    write(source_, "v", 'b', 20);
    write(source_, "v", 'c', 40);
    source_.snapshot("v", "s1");
    ASSERT_OK(receive_while(coarse, source_.send("s1"), "copy", [&] {
        ASSERT_OK(coarse.pool().set({{"low-water", "3"}}));
    }));
    EXPECT_EQ(coarse.content("copy"), source_.content("s1"));
    EXPECT_FALSE(coarse.pool().report().value().zeroing);
}

// A device that the catalogue does not know is a volume too, but no other device can get its name.
TEST_F(Receiver, RefusesAReservedNameBeforeTheStreamArrives) {
    three_snapshots();
    write(source_, "v", 'e', 7);  // the end of what is mapped is its size
    source_.snapshot("v", "s4");
    ASSERT_OK(target_.receive(source_.send("s4"), "copy"));
    const auto base = target_.pool().show("s4").value().dev_id;
    ASSERT_OK(target_.pool().message("create_snap 7 " + std::to_string(base)));
    write(source_, "v", 'f', 7);
    source_.snapshot("v", "s5");
    const auto stream = source_.send("s5", "s4");
    test::memory_source source(stream);
    receive_request request;
    request.name = "thin-7";
    request.begun = [](std::uint64_t) { FAIL() << "the work began"; };
    EXPECT_THAT(receive_stream(target_.service(), request, source),
                HasCode(error_code::invalid_argument));
}

}  // namespace
}  // namespace uthin::replication
