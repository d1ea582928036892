// A stream asked for its difference page by page and named the base each time: whoever deleted or
// renamed the base meanwhile, and gave its name to a newer snapshot, got a stream without what had
// changed between the two, that verified. The same went for the base of a receiver, for both sides
// of an export of changes, and for the relatives from which a migration copies. (Found by reading.)
#include <gmock/gmock.h>

#include <functional>
#include <utility>

#include "replication/migrator.h"
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

// Gives the difference in small pages; calls `between` before the second one, `at_the_end`
// after the last one, and `before_transfer` before a transfer begins.
class disturbed_service final : public test::forwarding_pool_service {
public:
    explicit disturbed_service(pool_service& below) : forwarding_pool_service(below) {}

    [[nodiscard]] result<diff_reply> diff(const diff_request& request) override {
        diff_request small = request;
        small.ranges_max = 1;
        if (++diff_count_ == 2 && between) {
            between();
        }
        auto reply = forwarding_pool_service::diff(small);
        if (reply && !reply->next_offset_bytes && at_the_end) {
            at_the_end();
        }
        return reply;
    }
    [[nodiscard]] result<transfer_info> begin_transfer(
        const begin_transfer_request& request) override {
        if (before_transfer) {
            before_transfer();
        }
        return forwarding_pool_service::begin_transfer(request);
    }

    std::function<void()> between;
    std::function<void()> at_the_end;  // of the difference
    std::function<void()> before_transfer;

private:
    int diff_count_ = 0;
};

// Calls `disturb` before the call of a migration that has the number `at`, and `before_snapshots`
// before the first snapshot.
class counting_service final : public test::forwarding_pool_service {
public:
    explicit counting_service(pool_service& below) : forwarding_pool_service(below) {}

    [[nodiscard]] result<diff_reply> diff(const diff_request& request) override {
        if (counts_diffs) {
            count();
        }
        return forwarding_pool_service::diff(request);
    }
    [[nodiscard]] result<std::vector<volume_info>> list_volumes() override {
        count();
        return forwarding_pool_service::list_volumes();
    }
    [[nodiscard]] result<volume_info> show_volume(std::string_view name) override {
        count();
        return forwarding_pool_service::show_volume(name);
    }
    [[nodiscard]] result<volume_info> rename_volume(std::string_view name,
                                                    std::string_view new_name) override {
        count();
        return forwarding_pool_service::rename_volume(name, new_name);
    }
    [[nodiscard]] result<std::vector<volume_info>> create_snapshots(
        const create_snapshots_request& request) override {
        if (before_snapshots) {
            std::exchange(before_snapshots, {})();
        }
        count();
        return forwarding_pool_service::create_snapshots(request);
    }
    [[nodiscard]] result<std::unique_ptr<volume_data>> open_data(std::string_view name,
                                                                 bool read_only) override {
        count();
        return forwarding_pool_service::open_data(name, read_only);
    }

    int at = 0;
    bool counts_diffs = true;
    std::function<void()> disturb;
    std::function<void()> before_snapshots;
    [[nodiscard]] bool came_so_far() const { return count_ >= at; }

private:
    void count() {
        if (++count_ == at) {
            disturb();
        }
    }
    int count_ = 0;
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

    // "v" with "s", whose copy the target has, and what was changed since.
    void copy_snapshot_to(replication_side& target) {
        side_.create("v", blocks * block_bytes);
        for (std::uint64_t block = 0; block != blocks / 2; ++block) {
            write(side_, "v", block, 1);
        }
        side_.snapshot("v", "s");
        ASSERT_OK(target.receive(side_.send("s"), "v", "s"));
        ASSERT_OK(target.pool().rename("v", "v.migrating"));
        write(side_, "v", 2, 2);
    }
    // What "s" names then differs less from the volume than anything else.
    void swap_snapshot() {
        side_.remove("s");
        const bool is_moving = !side_.pool().show("v");
        if (!is_moving) {
            write(side_, "v", 3, 3);
        }
        side_.snapshot(is_moving ? "v.migrated" : "v", "s");
    }
    void swap_volume() {
        if (side_.pool().rename("v", "elsewhere")) {
            side_.create("v", blocks * block_bytes);
            write(side_, "v", 5, 4);
        }
    }
    static void remove_all(replication_side& side) {
        const std::vector<volume_info> volumes = side.pool().list().value();
        for (const volume_info& one : volumes) {
            side.remove(one.name);
        }
    }
    result<migrate_reply> migrate(pool_service& source, replication_side& target) {
        migrate_request request;
        request.name = "v";
        return migrate_volume(source, target.pool(), request);
    }
    // At each call in turn. A migration is refused, or ends with what the source holds.
    void disturb_everywhere(const std::function<void()>& disturb, bool also_diffs) {
        replication_side target(block_bytes);
        int refused = 0;
        for (int at = 1;; ++at) {
            SCOPED_TRACE(at);
            copy_snapshot_to(target);
            counting_service service(side_.service());
            service.at = at;
            service.counts_diffs = also_diffs;
            service.disturb = disturb;
            const auto done = migrate(service, target);
            if (done) {
                EXPECT_EQ(target.content("v") == side_.content("v.migrated"), true);
            } else {
                ++refused;
                EXPECT_THAT(done.error().code(),
                            testing::AnyOf(error_code::not_found, error_code::already_exists))
                    << done.error().to_string();
                EXPECT_THAT(target.pool().show("v"), HasCode(error_code::not_found));
                EXPECT_OK(side_.pool().show("v"));
            }
            remove_all(target);
            remove_all(side_);
            if (HasFailure() || !service.came_so_far()) {
                break;
            }
        }
        EXPECT_GT(refused, 0);
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

// The device stays, its content does not.
TEST_F(NamesThatChangeHands, EndTheStreamWhoseBaseIsRolledBackOrResized) {
    make_snapshots(side_);
    service_.between = [&] { ASSERT_OK(side_.pool().resize("old", block_bytes)); };
    EXPECT_THAT(send(service_), HasCode(error_code::not_found));
    disturbed_service again(side_.service());
    again.between = [&] {
        ASSERT_OK(side_.pool().rollback({.name = "old", .to = "new", .force = true}));
    };
    EXPECT_THAT(send(again), HasCode(error_code::not_found));
}

// Who has it open may write to what was read, or is not read yet.
TEST_F(NamesThatChangeHands, EndTheStreamOfASnapshotThatIsWrittenTo) {
    make_snapshots(side_);
    service_.at_the_end = [&] { write(side_, "new", 15, 7); };
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

// Who opened it, wrote and left between two looks: the migration, or the next one, takes what it
// holds.
TEST_F(NamesThatChangeHands, ASnapshotThatIsWrittenToArrivesAsItIs) {
    replication_side target(block_bytes);
    for (int at = 1;; ++at) {
        SCOPED_TRACE(at);
        copy_snapshot_to(target);
        counting_service service(side_.service());
        service.at = at;
        service.disturb = [&] { write(side_, "s", 5, 9); };
        const auto before = side_.content("s");
        auto done = migrate(service, target);
        const bool was_refused = !done;
        if (was_refused) {
            EXPECT_THAT(done.error().code(),
                        testing::AnyOf(error_code::not_found, error_code::already_exists))
                << done.error().to_string();
            done = migrate(side_.service(), target);
        }
        if (!done && done.error().code() == error_code::already_exists) {
            target.remove("s");  // the copy of what it was
            done = migrate(side_.service(), target);
        }
        ASSERT_OK(done);
        EXPECT_EQ(target.content("v") == side_.content("v.migrated"), true);
        const auto arrived = target.content("s");
        EXPECT_TRUE(arrived == side_.content("s") || (!was_refused && arrived == before));
        remove_all(target);
        remove_all(side_);
        if (HasFailure() || !service.came_so_far()) {
            EXPECT_GE(at, 10);
            break;
        }
    }
}

TEST_F(NamesThatChangeHands, EndTheMigrationWhoseRelativeTheyWere) {
    replication_side target(block_bytes);
    copy_snapshot_to(target);
    const auto copied = side_.content("s");
    counting_service service(side_.service());
    service.before_snapshots = [&] { swap_snapshot(); };
    EXPECT_THAT(migrate(service, target), HasCode(error_code::not_found));
    EXPECT_THAT(target.pool().show("v"), HasCode(error_code::not_found));
    EXPECT_EQ(target.content("s"), copied);
    // Its copy is of another snapshot now.
    EXPECT_THAT(migrate(service, target), HasCode(error_code::already_exists));
    ASSERT_OK(target.pool().rename("s", "earlier"));
    ASSERT_OK(migrate(service, target));
    EXPECT_EQ(target.content("v") == side_.content("v.migrated"), true);
    EXPECT_EQ(target.content("s") == side_.content("s"), true);
    EXPECT_EQ(target.content("earlier"), copied);
    EXPECT_EQ(side_.pool().list()->size(), 2U);
    EXPECT_EQ(target.pool().list()->size(), 3U);
}

TEST_F(NamesThatChangeHands, EndTheMigrationOfTheVolumeTheyNamed) {
    replication_side target(block_bytes);
    copy_snapshot_to(target);
    counting_service service(side_.service());
    service.before_snapshots = [&] { swap_volume(); };
    EXPECT_THAT(migrate(service, target), HasCode(error_code::not_found));
    EXPECT_THAT(target.pool().show("v"), HasCode(error_code::not_found));
}

TEST_F(NamesThatChangeHands, DoNotLetAMigrationMissWhatChanged) {
    disturb_everywhere([&] { swap_snapshot(); }, true);
}

TEST_F(NamesThatChangeHands, DoNotLetAMigrationTakeTwoVolumesForOne) {
    disturb_everywhere([&] { swap_volume(); }, false);
}

}  // namespace
}  // namespace uthin::replication
