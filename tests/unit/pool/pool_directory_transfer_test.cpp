// Transfers: what stays over an opening, what is refused, and when they go; labels and leases.
#include <gmock/gmock.h>

#include "pool/labels.h"
#include "pool/pool_directory.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::HasCode;
using test::IsOk;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr std::uint64_t block_bytes = 64U << 10;

class PoolDirectoryTransfer : public testing::Test {
protected:
    PoolDirectoryTransfer() {
        create_pool_request request;
        request.directory = directory_;
        request.data_size_bytes = 16U << 20;
        request.metadata_size_bytes = 1U << 20;
        EXPECT_OK(pool_directory::create(request, system_clock()));
        open();
        EXPECT_OK(pool_->create_volume({.name = "v", .size_bytes = 8 * block_bytes}));
        fill("v", 'v');
        EXPECT_OK(pool_->create_snapshots({.snapshots = {{"v", "s"}}}));
    }
    ~PoolDirectoryTransfer() override {
        const auto report = pool_->check({});
        EXPECT_OK(report);
        EXPECT_TRUE(report->clean);
    }
    void open() {
        pool_.reset();
        auto opened = pool_directory::open(directory_, {}, time_);
        ASSERT_OK(opened);
        pool_ = std::move(*opened);
    }
    void fill(const std::string& name, char with) {
        ASSERT_OK_AND_ASSIGN(const auto open, pool_->open_volume(name, false));
        write(*open, with);
    }
    static void write(volume& open, char with) {
        const std::string text(block_bytes, with);
        ASSERT_OK(open.write(block_bytes, std::as_bytes(std::span(text))));
        ASSERT_OK(open.flush());
    }
    char first(const std::string& name) {
        auto open = pool_->open_volume(name, true);
        EXPECT_OK(open);
        std::array<std::byte, 512> bytes{};
        EXPECT_OK((*open)->read(block_bytes, bytes));
        return static_cast<char>(bytes[0]);
    }
    transfer_info begin(const std::string& name, const std::string& base = "") {
        auto begun = pool_->begin_transfer(
            {.name = name, .base = base, .size_bytes = 8 * block_bytes, .notes = {{"k", "1"}}});
        EXPECT_OK(begun);
        return *begun;
    }
    std::size_t used_blocks() { return pool_->report().value().data_used_blocks; }

    test::temporary_directory folder_;
    std::string directory_ = folder_.path() / "pool";
    manual_clock time_;
    std::unique_ptr<pool_directory> pool_;
};

TEST_F(PoolDirectoryTransfer, StaysOverAnOpeningAndIsNoVolume) {
    const transfer_info begun = begin("copy", "s");
    {
        ASSERT_OK_AND_ASSIGN(const auto open, pool_->open_transfer(begun.id));
        write(*open, 't');
    }
    ASSERT_OK(pool_->note_transfer(begun.id, {{"k", "2"}}));
    open();
    EXPECT_THAT(pool_->list().value(), SizeIs(2));
    EXPECT_THAT(pool_->show("copy"), HasCode(error_code::not_found));
    ASSERT_OK_AND_ASSIGN(const auto transfers, pool_->list_transfers());
    ASSERT_THAT(transfers, SizeIs(1));
    EXPECT_EQ(transfers[0].id, begun.id);
    EXPECT_EQ(transfers[0].name, "copy");
    EXPECT_EQ(transfers[0].notes, (label_map{{"k", "2"}}));
    EXPECT_EQ(transfers[0].mapped_bytes, block_bytes);
    EXPECT_EQ(pool_->report().value().deletions_running, 0U);
    ASSERT_OK(pool_->publish_transfer(begun.id, {.name = "copy",
                                                 .snapshot = "copy-s",
                                                 .received_from = "there",
                                                 .labels = {{"role", "replica"}},
                                                 .snapshot_labels = {{"hold:r", ""}}}));
    EXPECT_THAT(pool_->list_transfers().value(), IsEmpty());
    open();
    EXPECT_EQ(first("copy"), 't');
    EXPECT_EQ(first("s"), 'v');
    EXPECT_EQ(pool_->show("copy").value().labels, (label_map{{"role", "replica"}}));
    EXPECT_EQ(pool_->show("copy-s").value().labels, (label_map{{"hold:r", ""}}));
}

TEST_F(PoolDirectoryTransfer, HasOneUserAndIsPublishedWithoutOne) {
    const transfer_info begun = begin("copy");
    {
        ASSERT_OK_AND_ASSIGN(const auto open, pool_->open_transfer(begun.id));
        EXPECT_THAT(pool_->open_transfer(begun.id), HasCode(error_code::busy));
        EXPECT_THAT(pool_->publish_transfer(begun.id, {.name = "copy"}), HasCode(error_code::busy));
        EXPECT_THAT(pool_->drop_transfer(begun.id), HasCode(error_code::busy));
        EXPECT_TRUE(pool_->list_transfers().value()[0].in_use);
    }
    EXPECT_THAT(pool_->publish_transfer(begun.id, {.name = "v"}),
                HasCode(error_code::already_exists));
    EXPECT_THAT(pool_->list_transfers().value(), SizeIs(1));
    EXPECT_OK(pool_->publish_transfer(begun.id, {.name = "copy"}));
    EXPECT_THAT(pool_->open_transfer(begun.id), HasCode(error_code::not_found));
}

TEST_F(PoolDirectoryTransfer, GivesItsSpaceBackWhenItIsDroppedOrForgotten) {
    const std::size_t before = used_blocks();
    for (const bool forgotten : {false, true}) {
        const transfer_info begun = begin("copy", "s");
        {
            ASSERT_OK_AND_ASSIGN(const auto open, pool_->open_transfer(begun.id));
            write(*open, 't');
        }
        EXPECT_EQ(used_blocks(), before + 1);
        if (forgotten) {
            time_.advance(std::chrono::seconds(transfer_keep_seconds));
            open();
            EXPECT_THAT(pool_->list_transfers().value(), SizeIs(1));
            time_.advance(std::chrono::seconds(1));
            open();
        } else {
            ASSERT_OK(pool_->drop_transfer(begun.id));
        }
        EXPECT_THAT(pool_->list_transfers().value(), IsEmpty());
        EXPECT_EQ(used_blocks(), before);
    }
}

// Every hour, as a served pool does it.
TEST_F(PoolDirectoryTransfer, StaysForADayAfterItsUserLeft) {
    const transfer_info begun = begin("copy", "s");
    ASSERT_OK_AND_ASSIGN(auto open, pool_->open_transfer(begun.id));
    write(*open, 't');
    for (int hour = 0; hour != 25; ++hour) {
        time_.advance(std::chrono::hours(1));
        ASSERT_OK(pool_->drop_expired());
    }
    open.reset();
    ASSERT_OK(pool_->drop_expired());
    ASSERT_OK_AND_ASSIGN(const auto transfers, pool_->list_transfers());
    ASSERT_THAT(transfers, SizeIs(1));
    EXPECT_EQ(transfers[0].id, begun.id);
    EXPECT_EQ(transfers[0].notes, (label_map{{"k", "1"}}));
    EXPECT_LE(25 * 3600 - transfers[0].noted_unix_seconds, 3601);
    // It is on disk as well.
    this->open();
    ASSERT_THAT(pool_->list_transfers().value(), SizeIs(1));
    time_.advance(std::chrono::hours(22));
    ASSERT_OK(pool_->drop_expired());
    EXPECT_THAT(pool_->list_transfers().value(), SizeIs(1));
    time_.advance(std::chrono::hours(3));
    ASSERT_OK(pool_->drop_expired());
    EXPECT_THAT(pool_->list_transfers().value(), IsEmpty());
}

TEST_F(PoolDirectoryTransfer, StaysForADayAfterItWasOpened) {
    const transfer_info begun = begin("copy", "s");
    time_.advance(std::chrono::hours(25));
    {
        ASSERT_OK_AND_ASSIGN(const auto open, pool_->open_transfer(begun.id));
        write(*open, 't');
    }
    ASSERT_OK(pool_->drop_expired());
    ASSERT_OK_AND_ASSIGN(const auto transfers, pool_->list_transfers());
    ASSERT_THAT(transfers, SizeIs(1));
    EXPECT_EQ(transfers[0].notes, (label_map{{"k", "1"}}));
    EXPECT_EQ(transfers[0].noted_unix_seconds, 25 * 3600);
    time_.advance(std::chrono::seconds(transfer_keep_seconds));
    open();
    ASSERT_OK(pool_->drop_expired());
    EXPECT_THAT(pool_->list_transfers().value(), SizeIs(1));
    time_.advance(std::chrono::seconds(1));
    ASSERT_OK(pool_->drop_expired());
    EXPECT_THAT(pool_->list_transfers().value(), IsEmpty());
}

TEST_F(PoolDirectoryTransfer, GoesADayAfterItsNotesWhenNobodyOpensIt) {
    const transfer_info begun = begin("copy", "s");
    {
        ASSERT_OK_AND_ASSIGN(const auto open, pool_->open_transfer(begun.id));
        write(*open, 't');
    }
    time_.advance(std::chrono::hours(2));
    ASSERT_OK(pool_->note_transfer(begun.id, {{"k", "2"}}));
    for (int hour = 0; hour != 24; ++hour) {
        time_.advance(std::chrono::hours(1));
        ASSERT_OK(pool_->drop_expired());
        ASSERT_THAT(pool_->list_transfers().value(), SizeIs(1)) << hour;
    }
    time_.advance(std::chrono::seconds(1));
    ASSERT_OK(pool_->drop_expired());
    EXPECT_THAT(pool_->list_transfers().value(), IsEmpty());
}

TEST_F(PoolDirectoryTransfer, IsNotHandedToTheKernel) {
    begin("copy", "s");
    ASSERT_OK_AND_ASSIGN(const release_reply reply, pool_->release());
    EXPECT_THAT(reply.volumes, SizeIs(2));
    EXPECT_THAT(pool_->list_transfers().value(), IsEmpty());
    EXPECT_THAT(pool_->engine().list_devices().value(), SizeIs(2));
}

TEST_F(PoolDirectoryTransfer, ASnapshotGoesWhenItsLeaseIsOver) {
    const auto lease = [](std::int64_t until) {
        label_map labels = make_lease(until);
        labels.erase(std::string(lease_owner_label));
        return labels;
    };
    ASSERT_OK(pool_->create_snapshots({.snapshots = {{"v", "brief", lease(100)}}}));
    ASSERT_OK(pool_->create_snapshots({.snapshots = {{"v", "renewed", lease(100)}}}));
    ASSERT_OK(pool_->label({.name = "renewed", .set = lease(200)}));
    time_.advance(std::chrono::seconds(150));
    {
        ASSERT_OK_AND_ASSIGN(const auto reader, pool_->open_volume("brief", true));
        EXPECT_OK(pool_->drop_expired());
        EXPECT_OK(pool_->show("brief"));
    }
    open();
    EXPECT_THAT(pool_->show("brief"), HasCode(error_code::not_found));
    EXPECT_OK(pool_->show("renewed"));
    EXPECT_OK(pool_->show("s"));
}

TEST_F(PoolDirectoryTransfer, AHeldVolumeIsNotDeletedUnlessForced) {
    ASSERT_OK(pool_->label({.name = "s", .set = {{"hold:replica", "base"}, {"note", "x"}}}));
    const auto refused = pool_->remove({.name = "s"});
    ASSERT_THAT(refused, HasCode(error_code::busy));
    EXPECT_THAT(refused.error().message(), HasSubstr("held by replica (base)"));
    ASSERT_OK(pool_->label({.name = "s", .set = {}, .remove = {"hold:replica"}}));
    EXPECT_EQ(pool_->show("s").value().labels, (label_map{{"note", "x"}}));
    ASSERT_OK(pool_->label({.name = "s", .set = {{"hold:replica", "base"}}}));
    EXPECT_OK(pool_->remove({.name = "s", .force = true}));
    EXPECT_THAT(pool_->label({.name = "v", .set = {{"", "x"}}}),
                HasCode(error_code::invalid_argument));
    EXPECT_THAT(pool_->label({.name = "v", .set = {{"x", std::string(5000, 'x')}}}),
                HasCode(error_code::invalid_argument));
    EXPECT_EQ(pool_->show("v").value().labels, label_map());
}

}  // namespace
}  // namespace uthin
