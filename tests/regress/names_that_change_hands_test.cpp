// A stream asked for its difference page by page and named the base each time: whoever deleted or
// renamed the base meanwhile, and gave its name to a newer snapshot, got a stream without what had
// changed between the two, that verified. The same went for the base of a receiver and for both
// sides of an export of changes. (Found by reading.)
#include <gtest/gtest.h>

#include <functional>

#include "replication/sender.h"
#include "support/forwarding_pool_service.h"
#include "support/pool_rig.h"
#include "support/replication_rig.h"

namespace uthin::replication {
namespace {

using test::HasCode;
using test::pattern;
using test::replication_side;

constexpr std::uint64_t block_bytes = 64 << 10;
constexpr std::uint64_t blocks = 16;

// Gives the difference in small pages; calls `between` before the second one, and `begun` before a
// transfer begins.
class disturbed_service final : public test::forwarding_pool_service {
public:
    explicit disturbed_service(pool_service& below) : forwarding_pool_service(below) {}

    [[nodiscard]] result<diff_reply> diff(const diff_request& request) override {
        diff_request small = request;
        small.ranges_max = 1;
        if (++diff_count_ == 2 && between) {
            between();
        }
        return forwarding_pool_service::diff(small);
    }
    [[nodiscard]] result<transfer_info> begin_transfer(
        const begin_transfer_request& request) override {
        if (before_transfer) {
            before_transfer();
        }
        return forwarding_pool_service::begin_transfer(request);
    }

    std::function<void()> between;
    std::function<void()> before_transfer;

private:
    int diff_count_ = 0;
};

class NamesThatChangeHands : public testing::Test {
protected:
    static void TearDownTestSuite() { replication_side::judge_all(); }

    void write(replication_side& side, const std::string& name, std::uint64_t block,
               unsigned seed) {
        ASSERT_OK_AND_ASSIGN(const auto open, side.pool().open_volume(name, false));
        ASSERT_OK(open->write(block * block_bytes, pattern(seed, block_bytes)));
    }
    // "v" with "old" and "new", which differ in three places.
    void make_snapshots(replication_side& side) {
        side.create("v", blocks * block_bytes);
        write(side, "v", 0, 1);
        side.snapshot("v", "old");
        for (const std::uint64_t block : {2U, 6U, 12U}) {
            write(side, "v", block, 2);
        }
        side.snapshot("v", "new");
    }
    void swap_base(replication_side& side) {
        ASSERT_OK(side.pool().rename("old", "older"));
        side.snapshot("v", "old");
    }
    result<send_reply> send(pool_service& from) {
        send_request request;
        request.name = "new";
        request.from = "old";
        return send_snapshot(from, request, sink_);
    }

    replication_side side_{block_bytes};
    disturbed_service service_{side_.service()};
    test::memory_sink sink_;
};

TEST_F(NamesThatChangeHands, EndTheStreamWhoseBaseTheyWere) {
    make_snapshots(side_);
    service_.between = [&] { swap_base(side_); };
    EXPECT_THAT(send(service_), HasCode(error_code::not_found));
}

TEST_F(NamesThatChangeHands, EndTheStreamOfTheSnapshotTheyNamed) {
    make_snapshots(side_);
    service_.between = [&] {
        // The stream has it open: it cannot be deleted, but lose its name.
        ASSERT_OK(side_.pool().rename("new", "newer"));
        side_.snapshot("v", "new");
    };
    EXPECT_THAT(send(service_), HasCode(error_code::not_found));
}

TEST_F(NamesThatChangeHands, DoNotMatterToAStreamThatNobodyDisturbs) {
    make_snapshots(side_);
    replication_side target(block_bytes);
    ASSERT_OK(target.receive(side_.send("old"), "copy"));
    ASSERT_OK(send(service_));
    ASSERT_OK(target.receive(sink_.bytes, "copy"));
    EXPECT_EQ(target.content("copy"), side_.content("new"));
}

TEST_F(NamesThatChangeHands, EndTheReceiverWhoseBaseTheyWere) {
    make_snapshots(side_);
    replication_side target(block_bytes);
    ASSERT_OK(target.receive(side_.send("old"), "copy"));
    const auto stream = side_.send("new", "old");
    disturbed_service disturbed(target.service());
    disturbed.before_transfer = [&] {
        ASSERT_OK(target.pool().rename("old", "older"));
        write(target, "copy", 3, 9);
        target.snapshot("copy", "old");
    };
    test::memory_source source(stream);
    receive_request request;
    request.name = "another";
    EXPECT_THAT(receive_stream(disturbed, request, source), HasCode(error_code::not_found));
    EXPECT_THAT(target.pool().show("another"), HasCode(error_code::not_found));
    EXPECT_TRUE(target.pool().list_transfers().value().empty());
}

TEST_F(NamesThatChangeHands, AreToldToWhoeverAsksForTheNextPage) {
    make_snapshots(side_);
    diff_request request{.from = "old", .to = "new", .ranges_max = 1};
    ASSERT_OK_AND_ASSIGN(const diff_reply first, side_.pool().diff(request));
    request.from_device = first.from_device;
    request.to_device = first.to_device;
    ASSERT_OK(side_.pool().diff(request));
    swap_base(side_);
    EXPECT_THAT(side_.pool().diff(request), HasCode(error_code::not_found));
    request.from_device.clear();
    EXPECT_OK(side_.pool().diff(request));
}

}  // namespace
}  // namespace uthin::replication
