// A snapshot that was rolled back, or made smaller and larger again, went on as the base of what
// had been sent of it: the next difference was taken of one content and laid over another, in a
// backup or a replica, and nobody was told. So did one that somebody wrote to: mounting a replica's
// snapshot, to look for a file, replays its journal. (Found by reading.)
#include <gmock/gmock.h>

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "replication/migrator.h"
#include "replication/sender.h"
#include "support/forwarding_pool_service.h"
#include "support/pool_rig.h"
#include "support/replication_rig.h"

namespace uthin {
namespace {

using test::HasCode;
using test::pattern;
using test::replication_side;

constexpr std::uint64_t block_bytes = 64 << 10;
constexpr std::uint64_t size_bytes = 8 * block_bytes;

// Notes what is asked of the contents that it opens: r(ead), f(lush).
class watching_service final : public test::forwarding_pool_service {
public:
    using forwarding_pool_service::forwarding_pool_service;
    [[nodiscard]] result<std::unique_ptr<volume_data>> open_data(std::string_view name,
                                                                 bool read_only) override {
        return std::make_unique<watched_data>(
            UTHIN_TRY(forwarding_pool_service::open_data(name, read_only)), *this);
    }
    [[nodiscard]] const std::string& calls() const { return calls_; }
    void fail_flushes() { flushes_fail_ = true; }

private:
    class watched_data final : public volume_data {
    public:
        watched_data(std::unique_ptr<volume_data> below, watching_service& by)
            : below_(std::move(below)), by_(by) {}
        [[nodiscard]] std::uint64_t size_bytes() const override { return below_->size_bytes(); }
        [[nodiscard]] std::uint64_t preferred_bytes() const override {
            return below_->preferred_bytes();
        }
        [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                        std::span<std::byte> buffer) override {
            by_.calls_ += 'r';
            return below_->read(offset_bytes, buffer);
        }
        [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                         std::span<const std::byte> buffer) override {
            return below_->write(offset_bytes, buffer);
        }
        [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                                std::uint64_t length_bytes) override {
            return below_->write_zeroes(offset_bytes, length_bytes);
        }
        [[nodiscard]] result<void> flush() override {
            by_.calls_ += 'f';
            return by_.flushes_fail_ ? fail(error_code::io_error, "lost") : below_->flush();
        }
        [[nodiscard]] result<std::vector<volume_extent>> extents(
            std::uint64_t offset_bytes, std::uint64_t length_bytes) override {
            return below_->extents(offset_bytes, length_bytes);
        }

    private:
        const std::unique_ptr<volume_data> below_;
        watching_service& by_;
    };
    std::string calls_;
    bool flushes_fail_ = false;
};

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

TEST_F(AChangedSnapshot, ThatWasReceivedAndWrittenToIsNoBase) {
    const std::string id = target_.pool().show("s").value().received_from;
    EXPECT_NE(id, "");
    const auto changes = std::to_array<std::function<result<void>(volume&)>>({
        [](volume& to) { return to.write(0, pattern(9, block_bytes)); },
        [](volume& to) { return to.write(512, pattern(9, 512), true); },
        [](volume& to) { return to.write_zeroes(0, 512); },
        [](volume& to) { return to.discard(0, block_bytes); },
        [](volume& to) {
            return to.begin(io_kind::write) ? result<void>() : fail(error_code::busy, "");
        },
    });
    for (const auto& change : changes) {
        replication_side target(block_bytes);
        ASSERT_OK(target.receive(side_.send("s"), "copy", "s"));
        {
            ASSERT_OK_AND_ASSIGN(const auto open, target.pool().open_volume("s", false));
            std::vector<std::byte> bytes(block_bytes);
            ASSERT_OK(open->read(0, bytes));
            EXPECT_FALSE(open->read_only());
            EXPECT_EQ(target.pool().show("s").value().received_from, id) << "it was only read";
            ASSERT_OK(change(*open));
            const std::string changed = target.pool().show("s").value().received_from;
            EXPECT_NE(changed, id);
            ASSERT_OK(change(*open));
            EXPECT_EQ(target.pool().show("s").value().received_from, changed) << "once is enough";
        }
        target.drop();
        target.open();
        const auto done = target.receive(side_.send("next", "s"), "copy", "next");
        EXPECT_THAT(done, HasCode(error_code::invalid_argument));
    }
}

TEST_F(AChangedSnapshot, ThatWasReceivedAndOnlyReadIsABase) {
    ASSERT_OK_AND_ASSIGN(const auto open, target_.pool().open_volume("s", false));
    std::vector<std::byte> bytes(block_bytes);
    ASSERT_OK(open->read(0, bytes));
    ASSERT_OK(open->flush());
    expect_taken();
}

TEST_F(AChangedSnapshot, ThatWasMadeHereAndWrittenToIsNoBase) {
    ASSERT_OK_AND_ASSIGN(const auto open, side_.pool().open_volume("s", false));
    ASSERT_OK(open->write(0, pattern(77, 512)));
    expect_no_base("copy");
}

// A client wrote to it and left without a flush; then it was sent, and a power cut took at the
// source what the copy had. Both went by one id. (New mappings are committed before they are
// compared; blocks that were written again were left to the page cache.)
TEST_F(AChangedSnapshot, IsDurableBeforeItsCopyIs) {
    watching_service source(side_.service());
    test::memory_sink sink;
    replication::send_request request;
    request.name = "s";
    ASSERT_OK(replication::send_snapshot(source, request, sink));
    EXPECT_THAT(source.calls(), testing::MatchesRegex("fr+"));
    ASSERT_OK(replication::migrate_volume(source, target_.pool(), {.name = "v"}));
    EXPECT_THAT(source.calls(), testing::MatchesRegex("fr+(fr*)+"));
}

TEST_F(AChangedSnapshot, ThatCannotBeMadeDurableIsNotCopied) {
    watching_service source(side_.service());
    source.fail_flushes();
    test::memory_sink sink;
    replication::send_request request;
    request.name = "s";
    const auto sent = replication::send_snapshot(source, request, sink);
    ASSERT_THAT(sent, HasCode(error_code::io_error));
    EXPECT_THAT(sent.error().message(), testing::HasSubstr("s: what clients wrote"));
    EXPECT_THAT(sent.error().message(), testing::HasSubstr("open the pool read-only"));
    EXPECT_TRUE(sink.bytes.empty());
    const auto moved = replication::migrate_volume(source, target_.pool(), {.name = "v"});
    EXPECT_THAT(moved, HasCode(error_code::io_error));
    EXPECT_THAT(source.calls(), testing::MatchesRegex("f+")) << "nothing was read";
    EXPECT_OK(side_.pool().show("v"));
}

// A rollback while a client has it open, who writes for the first time then.
TEST_F(AChangedSnapshot, DoesNotGetItsOldIdBack) {
    const std::string id = side_.pool().show("s").value().uuid;
    ASSERT_OK_AND_ASSIGN(const auto open, side_.pool().open_volume("s", false));
    roll_back(side_, "first");
    const std::string rolled_back = side_.pool().show("s").value().received_from;
    ASSERT_OK(open->write(0, pattern(77, 512)));
    const std::string written = side_.pool().show("s").value().received_from;
    EXPECT_NE(rolled_back, written);
    for (const std::string& now : {rolled_back, written}) {
        EXPECT_NE(now, "");
        EXPECT_NE(now, id);
    }
}

TEST_F(AChangedSnapshot, ThatWasWrittenToIsNoBaseOfWhatIsMadeOfIt) {
    {
        ASSERT_OK_AND_ASSIGN(const auto open, side_.pool().open_volume("s", false));
        ASSERT_OK(open->write(0, pattern(77, block_bytes)));
    }
    side_.remove("next");
    side_.snapshot("s", "next");
    expect_no_base("copy");
}

TEST_F(AChangedSnapshot, ThatIsOnlyOpenIsABaseOfWhatIsMadeOfIt) {
    side_.remove("next");
    ASSERT_OK_AND_ASSIGN(const auto open, side_.pool().open_volume("s", false));
    side_.snapshot("s", "next");
    expect_taken();
}

TEST_F(AChangedSnapshot, ThatWasWrittenToIsNoBaseOfWhatIsRolledBackToIt) {
    {
        ASSERT_OK_AND_ASSIGN(const auto open, side_.pool().open_volume("s", false));
        ASSERT_OK(open->write(0, pattern(77, block_bytes)));
    }
    side_.remove("next");
    ASSERT_OK(side_.pool().rollback({.name = "v", .to = "s"}));
    side_.snapshot("v", "next");
    expect_no_base("copy");
}

// Written to between the look at it and the copy that the stream fills.
TEST_F(AChangedSnapshot, ThatIsWrittenToAsAStreamBeginsIsNoBase) {
    class writing_service final : public test::forwarding_pool_service {
    public:
        explicit writing_service(replication_side& side)
            : forwarding_pool_service(side.service()), side_(side) {}
        [[nodiscard]] result<transfer_info> begin_transfer(
            const begin_transfer_request& request) override {
            const auto open = UTHIN_TRY(side_.pool().open_volume("s", false));
            UTHIN_TRY(open->write(0, pattern(77, block_bytes)));
            return forwarding_pool_service::begin_transfer(request);
        }

    private:
        replication_side& side_;
    };
    for (replication_side* const side : {&target_, &side_}) {
        const auto stream = side_.send("next", "s");
        writing_service service(*side);
        test::memory_source source(stream);
        replication::receive_request request;
        request.name = "another";
        EXPECT_FALSE(replication::receive_stream(service, request, source));
        EXPECT_THAT(side->pool().show("another"), HasCode(error_code::not_found));
        EXPECT_TRUE(side->pool().list_transfers().value().empty());
    }
}

TEST_F(AChangedSnapshot, ThatWasWrittenToIsNoBaseOfWhatComesBack) {
    ASSERT_OK_AND_ASSIGN(const auto copy, target_.pool().open_volume("copy", false));
    ASSERT_OK(copy->write(3 * block_bytes, pattern(5, block_bytes)));
    target_.snapshot("copy", "back");
    const auto stream = target_.send("back", "s");
    ASSERT_OK(side_.receive(stream, "unwritten", "back1"));
    {
        ASSERT_OK_AND_ASSIGN(const auto open, side_.pool().open_volume("s", false));
        ASSERT_OK(open->write(0, pattern(77, block_bytes)));
    }
    EXPECT_THAT(side_.receive(stream, "written", "back2"), HasCode(error_code::invalid_argument));
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
