// A pool in this process answers every call of pool_service as the one that serves it would; and
// what it refuses, it refuses with the object, the cause and a remedy.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "pool/pool_directory.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::HasCode;
using test::IsOk;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint64_t block = 64U << 10;

class LocalPoolService : public testing::Test {
protected:
    LocalPoolService() {
        EXPECT_THAT(pool_directory::create({.directory = path_,
                                            .data_size_bytes = 64 * block,
                                            .metadata_size_bytes = 1U << 20},
                                           time_),
                    IsOk());
        open();
    }
    ~LocalPoolService() override { close(); }

    void close() {
        if (service_) {
            EXPECT_OK(service_->close());
            service_.reset();
        }
    }
    void open(open_purpose purpose = open_purpose::change) {
        close();
        directory_options options;
        options.purpose = purpose;
        auto opened = pool_directory::open(path_, options, time_);
        ASSERT_THAT(opened, IsOk());
        pool_ = opened->get();
        service_ = make_pool_service(std::move(*opened));
    }
    [[nodiscard]] std::string show(const char* name) const { return path_ + "/" + name; }
    // The code, and that one line says of what, and why.
    template <class T>
    static void expect_refused(const result<T>& outcome, error_code code, const std::string& of,
                               const char* why) {
        ASSERT_THAT(outcome, HasCode(code));
        EXPECT_THAT(outcome.error().message(), HasSubstr(of));
        EXPECT_THAT(outcome.error().message(), HasSubstr(why));
    }
    result<volume_info> create(const char* name, std::uint64_t blocks = 4) {
        return service_->create_volume({.name = name, .size_bytes = blocks * block});
    }
    result<std::vector<volume_info>> snapshot(const char* source, const char* name) {
        create_snapshots_request request;
        request.snapshots = {{source, name, {}}};
        return service_->create_snapshots(request);
    }
    void fill(const char* name, std::uint64_t blocks) {
        ASSERT_OK_AND_ASSIGN(const auto data, service_->open_data(name, false));
        ASSERT_OK(data->write(0, std::vector<std::byte>(blocks * block, std::byte{0x5A})));
        ASSERT_OK(data->flush());
    }
    std::vector<std::string> names() {
        std::vector<std::string> found;
        const auto volumes = service_->list_volumes();
        EXPECT_THAT(volumes, IsOk());
        for (const volume_info& one : *volumes) {
            found.push_back(one.name);
        }
        return found;
    }

    manual_clock time_;
    test::temporary_directory directory_;
    const std::string path_ = directory_.path() / "pool";
    pool_directory* pool_ = nullptr;
    std::unique_ptr<pool_service> service_;
};

TEST_F(LocalPoolService, VolumesAreMadeChangedAndDeleted) {
    ASSERT_OK(create("a"));
    fill("a", 2);
    ASSERT_OK(snapshot("a", "s"));
    EXPECT_THAT(names(), ElementsAre("a", "s"));
    EXPECT_EQ(service_->show_volume("s")->parent, "a");
    EXPECT_EQ(service_->rename_volume("s", "t")->name, "t");
    EXPECT_EQ(service_->resize_volume("a", 8 * block)->size_bytes, 8 * block);
    EXPECT_EQ(service_->set_volume({.name = "a", .limit_bytes = 6 * block})->limit_bytes,
              6 * block);
    EXPECT_EQ(service_->label_volume({.name = "a", .set = {{"k", "v"}}})->labels,
              (std::map<std::string, std::string>{{"k", "v"}}));
    EXPECT_EQ(service_->usage({"a", "t"})->freed_bytes, 2 * block);
    EXPECT_EQ(service_->rollback_volume({.name = "a", .to = "t"})->size_bytes, 4 * block);
    ASSERT_OK_AND_ASSIGN(const diff_reply diff, service_->diff({.from = "t", .to = "a"}));
    EXPECT_THAT(diff.ranges, IsEmpty());
    EXPECT_TRUE(service_->delete_volume({.name = "t"}).value());
    EXPECT_FALSE(service_->delete_volume({.name = "t", .if_exists = true}).value());
    EXPECT_THAT(names(), ElementsAre("a"));
}

TEST_F(LocalPoolService, TheDataOfAVolume) {
    ASSERT_OK(create("a"));
    ASSERT_OK_AND_ASSIGN(const auto data, service_->open_data("a", false));
    EXPECT_EQ(data->size_bytes(), 4 * block);
    EXPECT_EQ(data->preferred_bytes(), block);
    const std::vector<std::byte> out(2 * block, std::byte{0x5A});
    ASSERT_OK(data->write(block, out));
    ASSERT_OK(data->write_zeroes(2 * block, block));
    ASSERT_OK(data->flush());
    std::vector<std::byte> in(block);
    ASSERT_OK(data->read(block, in));
    EXPECT_EQ(in.front(), std::byte{0x5A});
    ASSERT_OK(data->read(2 * block, in));
    EXPECT_EQ(in.front(), std::byte{0});
    ASSERT_OK_AND_ASSIGN(const auto extents, data->extents(0, 4 * block));
    EXPECT_EQ(extents.size(), 3U);
    EXPECT_TRUE(service_->show_volume("a")->in_use);
    EXPECT_THAT(service_->open_data("b", true), HasCode(error_code::not_found));
}

TEST_F(LocalPoolService, ThePoolAsAWhole) {
    ASSERT_OK(create("a"));
    EXPECT_EQ(service_->status()->volume_count, 1U);
    EXPECT_THAT(service_->kernel_lines()->table, HasSubstr(" thin-pool "));
    EXPECT_THAT(service_->kernel_lines_of("a")->status, HasSubstr("0 -"));
    EXPECT_THAT(service_->kernel_lines_of("b"), HasCode(error_code::not_found));
    ASSERT_OK(service_->message("create_thin 7"));
    EXPECT_THAT(names(), ElementsAre("a", "thin-7"));
    EXPECT_EQ(service_->grow({.data_size_bytes = 80 * block})->data_blocks, 80U);
    EXPECT_THAT(service_->grow({.data_size_bytes = block}), HasCode(error_code::invalid_argument));
    EXPECT_EQ(service_->trim().value(), 80 * block);
    EXPECT_EQ(service_->set({{"low-water", "5"}})->low_water_blocks, 5U);
    EXPECT_THAT(service_->set({{"low-water", "x"}}), HasCode(error_code::invalid_argument));
    EXPECT_TRUE(service_->check({})->clean);
    EXPECT_THAT(service_->events({})->events, IsEmpty());
    EXPECT_FALSE(service_->metadata_snapshot({})->block.has_value());
    EXPECT_EQ(service_->release()->volumes.size(), 2U);
}

TEST_F(LocalPoolService, Transfers) {
    ASSERT_OK_AND_ASSIGN(const transfer_info sent,
                         service_->begin_transfer({.name = "sent", .size_bytes = 2 * block}));
    {
        ASSERT_OK_AND_ASSIGN(const auto data, service_->open_transfer(sent.id));
        ASSERT_OK(data->write(0, std::vector<std::byte>(block, std::byte{0x5A})));
        EXPECT_THAT(service_->open_transfer(sent.id), HasCode(error_code::busy));
        EXPECT_THAT(service_->publish_transfer(sent.id, {.name = "a"}), HasCode(error_code::busy));
        EXPECT_THAT(service_->drop_transfer(sent.id), HasCode(error_code::busy));
    }
    ASSERT_OK(service_->note_transfer(sent.id, {{"at", "1"}}));
    EXPECT_EQ(service_->list_transfers()->front().notes.at("at"), "1");
    ASSERT_OK(service_->publish_transfer(sent.id, {.name = "a"}));
    EXPECT_EQ(service_->show_volume("a")->mapped_bytes, block);
    for (const auto& refused :
         {service_->note_transfer(sent.id, {}), service_->drop_transfer(sent.id),
          service_->publish_transfer(sent.id, {.name = "b"})}) {
        expect_refused(refused, error_code::not_found, path_, "no transfer");
    }
    EXPECT_THAT(service_->open_transfer("nobody"), HasCode(error_code::not_found));
    ASSERT_OK_AND_ASSIGN(const transfer_info dropped,
                         service_->begin_transfer({.name = "b", .size_bytes = block}));
    ASSERT_OK(service_->drop_transfer(dropped.id));
    EXPECT_THAT(service_->list_transfers().value(), IsEmpty());
}

TEST_F(LocalPoolService, OriginJobs) {
    const std::string origin = directory_.path() / "origin";
    std::ofstream(origin) << std::string(2 * block, 'o');
    ASSERT_OK(service_->create_volume({.name = "a", .external_origin = origin}));
    ASSERT_OK(service_->create_volume({.name = "b", .external_origin = origin}));
    expect_refused(service_->show_origin_job("a"), error_code::not_found, show("a"),
                   "not being merged");
    EXPECT_THAT(service_->stop_origin_job("a", true), HasCode(error_code::not_found));
    expect_refused(service_->start_origin_job({.name = "a"}), error_code::busy, show("a"),
                   "stands on");
    EXPECT_EQ(service_->start_origin_job({.name = "a", .kind = origin_job_kind::flatten})->state,
              "done");
    EXPECT_EQ(service_->show_volume("a")->external_origin, "");
    EXPECT_EQ(service_->start_origin_job({.name = "b"})->state, "done");
    expect_refused(service_->start_origin_job({.name = "a"}), error_code::invalid_argument,
                   show("a"), "stands on no external origin");
}

// ---- refusals

TEST_F(LocalPoolService, NamesThatAreTakenAndVolumesThatAreNotThere) {
    ASSERT_OK(create("a"));
    ASSERT_OK(create("b"));
    expect_refused(create("a"), error_code::already_exists, show("a"), "exists already");
    EXPECT_THAT(service_->create_volume({.name = "a", .size_bytes = block, .if_not_exists = true}),
                HasCode(error_code::already_exists))
        << "of another size";
    expect_refused(service_->rename_volume("a", "b"), error_code::already_exists, show("b"),
                   "use another name");
    EXPECT_EQ(service_->rename_volume("a", "a")->name, "a");
    expect_refused(service_->delete_volume({.name = "c"}), error_code::not_found, show("c"),
                   "no such volume");
    EXPECT_THAT(service_->rename_volume("c", "d"), HasCode(error_code::not_found));
    EXPECT_THAT(service_->resize_volume("c", block), HasCode(error_code::not_found));
    EXPECT_THAT(service_->label_volume({.name = "c"}), HasCode(error_code::not_found));
    EXPECT_THAT(service_->set_volume({.name = "c"}), HasCode(error_code::not_found));
    EXPECT_THAT(service_->rollback_volume({.name = "c", .to = "a"}),
                HasCode(error_code::not_found));
    EXPECT_THAT(service_->rollback_volume({.name = "a", .to = "c"}),
                HasCode(error_code::not_found));
    EXPECT_THAT(service_->usage({"c"}), HasCode(error_code::not_found));
    expect_refused(service_->usage({"a", "a"}), error_code::invalid_argument, show("a"),
                   "named twice");
    EXPECT_THAT(service_->diff({.from = "a", .to = "c"}), HasCode(error_code::not_found));
    EXPECT_THAT(service_->start_origin_job({.name = "c"}), HasCode(error_code::not_found));
    EXPECT_THAT(service_->begin_transfer({.name = "t", .base = "c", .size_bytes = block}),
                HasCode(error_code::not_found));
}

TEST_F(LocalPoolService, RequestsThatMakeNoSense) {
    ASSERT_OK(create("a"));
    for (const char* name : {"", ".", "a/b", "thin-5"}) {
        EXPECT_THAT(create(name), HasCode(error_code::invalid_argument)) << name;
        EXPECT_THAT(snapshot("a", name), HasCode(error_code::invalid_argument)) << name;
        EXPECT_THAT(service_->rename_volume("a", name), HasCode(error_code::invalid_argument));
        EXPECT_THAT(service_->begin_transfer({.name = name, .size_bytes = block}),
                    HasCode(error_code::invalid_argument));
    }
    for (const std::uint64_t size : {0ULL, 513ULL, ~511ULL}) {
        EXPECT_FALSE(service_->create_volume({.name = "b", .size_bytes = size})) << size;
        EXPECT_FALSE(service_->resize_volume("a", size)) << size;
        EXPECT_FALSE(service_->begin_transfer({.name = "b", .size_bytes = size})) << size;
    }
    expect_refused(service_->create_volume({.name = "b", .size_bytes = block, .dev_id = 1U << 24}),
                   error_code::invalid_argument, show("b"), "more than 24 bits");
    const std::uint64_t id = service_->show_volume("a")->dev_id;
    expect_refused(service_->create_volume({.name = "b", .size_bytes = block, .dev_id = id}),
                   error_code::already_exists, show("b"), "is taken");
    expect_refused(service_->create_snapshots({}), error_code::invalid_argument, path_,
                   "0 snapshots in one call");
    create_snapshots_request twice;
    twice.snapshots = {{"a", "s", {}}, {"a", "s", {}}};
    expect_refused(service_->create_snapshots(twice), error_code::invalid_argument, show("s"),
                   "named twice");
    EXPECT_THAT(snapshot("nobody", "s"), HasCode(error_code::not_found));
    EXPECT_THAT(names(), ElementsAre("a"));
    EXPECT_THAT(
        service_->create_volume({.name = "b", .external_origin = directory_.path() / "missing"}),
        HasCode(error_code::not_found));
}

TEST_F(LocalPoolService, SnapshotsOfAListAreMadeTogetherOrFoundTogether) {
    ASSERT_OK(create("a"));
    ASSERT_OK(create("b"));
    create_snapshots_request request;
    request.if_not_exists = true;
    request.snapshots = {{"a", "sa", {}}, {"b", "sb", {}}};
    ASSERT_OK(service_->create_snapshots(request));
    EXPECT_EQ(service_->create_snapshots(request)->size(), 2U);
    request.snapshots = {{"b", "sa", {}}};
    expect_refused(service_->create_snapshots(request), error_code::already_exists, show("sa"),
                   "no snapshot of it");
    request.snapshots = {{"nobody", "sa", {}}};
    expect_refused(service_->create_snapshots(request), error_code::already_exists, show("sa"),
                   "no snapshot of it");
    request.snapshots = {{"a", "sa", {}}, {"a", "new", {}}};
    expect_refused(service_->create_snapshots(request), error_code::already_exists, show("sa"),
                   "others of the list do not");
    EXPECT_THAT(names(), ElementsAre("a", "b", "sa", "sb"));
}

TEST_F(LocalPoolService, RollbacksThatWouldSurpriseSomebody) {
    ASSERT_OK(create("a"));
    ASSERT_OK(create("b"));
    ASSERT_OK(snapshot("a", "s"));
    expect_refused(service_->rollback_volume({.name = "a", .to = "a"}),
                   error_code::invalid_argument, show("a"), "to itself");
    expect_refused(service_->rollback_volume({.name = "a", .to = "b"}),
                   error_code::invalid_argument, show("a"), "no snapshot of it");
    const std::string origin = directory_.path() / "origin";
    std::ofstream(origin) << std::string(block, 'o');
    ASSERT_OK(service_->create_volume({.name = "o", .external_origin = origin}));
    ASSERT_OK_AND_ASSIGN(const auto data, service_->open_data("a", false));
    expect_refused(service_->rollback_volume({.name = "a", .to = "s"}), error_code::busy, show("a"),
                   "its clients would see other data");
    expect_refused(service_->rollback_volume({.name = "a", .to = "o", .force = true}),
                   error_code::busy, show("a"), "external origin would change");
    // An open one gets the other size at once.
    ASSERT_OK(service_->resize_volume("b", 2 * block));
    ASSERT_OK(service_->rollback_volume({.name = "a", .to = "b", .force = true}));
    EXPECT_EQ(data->size_bytes(), 2 * block);
}

TEST_F(LocalPoolService, PromisesAndLimitsThatContradictEachOther) {
    ASSERT_OK(create("a"));
    expect_refused(service_->set_volume({.name = "a", .reserved_bytes = 8 * block}),
                   error_code::invalid_argument, show("a"), "no more than its size");
    expect_refused(
        service_->set_volume({.name = "a", .reserved_bytes = 2 * block, .limit_bytes = block}),
        error_code::invalid_argument, show("a"), "no more than its limit");
    ASSERT_OK(service_->set_volume({.name = "a", .reserved_bytes = 2 * block}));
    expect_refused(service_->resize_volume("a", block), error_code::invalid_argument, show("a"),
                   "bytes are reserved for it");
    EXPECT_THAT(service_->create_volume(
                    {.name = "b", .size_bytes = 100 * block, .reserved_bytes = 80 * block}),
                HasCode(error_code::no_data_space));
    EXPECT_THAT(service_->set_volume({.name = "a", .reserved_bytes = 4 * block}), IsOk());
    ASSERT_OK(service_->resize_volume("a", 100 * block));
    expect_refused(service_->set_volume({.name = "a", .reserved_bytes = 90 * block}),
                   error_code::no_data_space, show("a"), "reserve less");
    ASSERT_OK(service_->set({{"overcommit", "200%"}}));
    EXPECT_THAT(create("c", 60), HasCode(error_code::no_data_space));
    EXPECT_THAT(service_->resize_volume("a", 200 * block), HasCode(error_code::no_data_space));
    EXPECT_THAT(snapshot("a", "s"), HasCode(error_code::no_data_space));
}

TEST_F(LocalPoolService, WhoLooksOnlyChangesNothing) {
    ASSERT_OK(create("a"));
    open(open_purpose::inspect);
    const char* const why = "opened for reading only";
    expect_refused(create("b"), error_code::not_permitted, path_, why);
    expect_refused(snapshot("a", "s"), error_code::not_permitted, path_, why);
    expect_refused(service_->rename_volume("a", "b"), error_code::not_permitted, path_, why);
    expect_refused(service_->resize_volume("a", block), error_code::not_permitted, path_, why);
    expect_refused(service_->delete_volume({.name = "a"}), error_code::not_permitted, path_, why);
    expect_refused(service_->label_volume({.name = "a"}), error_code::not_permitted, path_, why);
    expect_refused(service_->set_volume({.name = "a"}), error_code::not_permitted, path_, why);
    expect_refused(service_->open_data("a", false), error_code::not_permitted, path_, why);
    expect_refused(service_->grow({}), error_code::not_permitted, path_, why);
    expect_refused(service_->release(), error_code::not_permitted, path_, why);
    for (const auto action : {metadata_snapshot_action::reserve, metadata_snapshot_action::renew,
                              metadata_snapshot_action::release}) {
        expect_refused(service_->metadata_snapshot({.action = action}), error_code::not_permitted,
                       path_, why);
    }
    expect_refused(service_->begin_transfer({.name = "t", .size_bytes = block}),
                   error_code::not_permitted, path_, why);
    EXPECT_THAT(service_->message("create_thin 5"), HasCode(error_code::unsupported));
    EXPECT_OK(service_->open_data("a", true));
    EXPECT_TRUE(service_->check({})->clean);
    EXPECT_THAT(names(), ElementsAre("a"));
}

TEST_F(LocalPoolService, SettingsAreReadOrRefused) {
    ASSERT_OK(service_->set({{"discard-rate", "1M"}}));
    EXPECT_EQ(service_->status()->discard_rate_bytes_per_s, 1U << 20);
    EXPECT_EQ(service_->set({{"discard-rate", "off"}})->discard_rate_bytes_per_s, 0U);
    EXPECT_EQ(service_->set({{"discard", "no-passdown"}})->discard, "no-passdown");
    expect_refused(service_->trim(), error_code::unsupported, path_, "discard=passdown");
    for (const auto& [key, value] : {std::pair{"discard-rate", "fast"},
                                     {"no-space", "never"},
                                     {"no-space-timeout", "31536001"},
                                     {"discard", "maybe"},
                                     {"read-only", "yes"},
                                     {"overcommit", "5"}}) {
        const auto refused = service_->set({{key, value}});
        ASSERT_THAT(refused, HasCode(error_code::invalid_argument)) << key;
        EXPECT_THAT(refused.error().message(), HasSubstr(value));
    }
    ASSERT_OK(service_->set({{"discard", "ignore"}})) << "takes effect at the next opening";
    EXPECT_EQ(service_->status()->discard, "no-passdown");
    open();
    EXPECT_EQ(service_->status()->discard, "ignore");
}

TEST_F(LocalPoolService, AFileGrowsAndAnotherDeviceHasToBeGrownFirst) {
    const std::string fresh = directory_.path() / "other";
    ASSERT_OK(pool_directory::create(
        {.directory = fresh, .data_size_bytes = 64 * block, .metadata_size_bytes = 1U << 20},
        time_));
    pool_file file = load_pool_file(fresh).value();
    file.data = "memory:4M";
    ASSERT_OK(store_pool_file(fresh, file));
    ASSERT_OK_AND_ASSIGN(auto pool, pool_directory::open(fresh, {}, time_));
    expect_refused(pool->grow({.data_size_bytes = 65 * block}), error_code::out_of_range,
                   "memory:4M", "grow the device first");
    ASSERT_OK(pool->grow({.data_size_bytes = 64 * block}));
    EXPECT_OK(pool->close());
}

TEST_F(LocalPoolService, AResizeToTheSameSizeIsNone) {
    ASSERT_OK(create("a"));
    const std::uint64_t before = service_->status()->transaction_id;
    EXPECT_EQ(service_->resize_volume("a", 4 * block)->size_bytes, 4 * block);
    EXPECT_EQ(service_->label_volume({.name = "a"})->labels.size(), 0U);
    EXPECT_EQ(service_->status()->transaction_id, before);
    // One that is open grows at once.
    ASSERT_OK_AND_ASSIGN(const auto data, service_->open_data("a", true));
    ASSERT_OK(service_->resize_volume("a", 6 * block));
    EXPECT_EQ(data->size_bytes(), 6 * block);
}

TEST_F(LocalPoolService, APoolThatNeedsACheckSaysSoToWhoWantsToChangeIt) {
    ASSERT_OK(create("a"));
    ASSERT_OK(
        pool_->engine().with_metadata([](metadata& stored) { return stored.set_needs_check(); }));
    open();
    for (const auto& refused : {create("b"), service_->rename_volume("a", "b"),
                                service_->resize_volume("a", 8 * block)}) {
        expect_refused(refused, error_code::read_only, path_, "uthin pool check --repair");
    }
    EXPECT_THAT(service_->delete_volume({.name = "a"}), HasCode(error_code::read_only));
    EXPECT_THAT(service_->open_data("a", false), HasCode(error_code::read_only));
    EXPECT_THAT(service_->message("delete 0"), HasCode(error_code::unsupported));
    EXPECT_TRUE(service_->check({.repair = true})->repaired);
    EXPECT_OK(create("b"));
}

TEST_F(LocalPoolService, ALeaseHasAnEndAndAnOwner) {
    const auto reserve = [&](std::optional<std::uint64_t> lease_s, std::string owner,
                             metadata_snapshot_action action) {
        return service_->metadata_snapshot(
            {.action = action, .lease_s = lease_s, .owner = std::move(owner)});
    };
    constexpr auto take = metadata_snapshot_action::reserve;
    constexpr auto renew = metadata_snapshot_action::renew;
    for (const auto lease_s : {std::optional<std::uint64_t>(), {0}, {31536001}}) {
        expect_refused(reserve(lease_s, "me", take), error_code::invalid_argument, path_,
                       "from a second to a year");
    }
    for (const std::string& owner :
         {std::string(), std::string(256, 'x'), std::string("\xff"), std::string("a\nb")}) {
        expect_refused(reserve(60, owner, take), error_code::invalid_argument, path_,
                       "an owner of 1 to 255 printable bytes");
    }
    expect_refused(reserve(60, "me", renew), error_code::invalid_argument, path_,
                   "no metadata snapshot is held");
    ASSERT_OK(reserve(std::nullopt, "", take));
    expect_refused(reserve(60, "me", renew), error_code::busy, path_, "held without a lease");
    expect_refused(reserve(60, "me", take), error_code::busy, path_, "is held already;");
    ASSERT_OK(service_->metadata_snapshot({.action = metadata_snapshot_action::release}));
    ASSERT_OK(reserve(60, "me", take));
    expect_refused(reserve(60, "you", renew), error_code::busy, path_, "held by me");
    expect_refused(reserve(60, "you", take), error_code::busy, path_, "is held already by me");
    EXPECT_EQ(reserve(90, "me", renew)->expires_unix_seconds, time_.unix_seconds() + 90);
    // Gone behind the back of its lease.
    ASSERT_OK(pool_->engine().release_metadata_snap());
    time_.advance(std::chrono::seconds(100));
    EXPECT_OK(create("a"));
    EXPECT_EQ(reserve(60, "you", take)->owner, "you");
}

TEST_F(LocalPoolService, AServerOfAPoolThatIsOnlyLookedAtDeletesNothing) {
    ASSERT_OK(create("a"));
    open(open_purpose::inspect);
    ASSERT_OK(pool_->start());
    EXPECT_THAT(names(), ElementsAre("a"));
    EXPECT_TRUE(service_->status()->served);
}

// ---- messages

TEST_F(LocalPoolService, MessagesKeepTheCatalogueInStep) {
    ASSERT_OK(create("a"));
    fill("a", 1);
    ASSERT_OK(service_->message("create_thin 7"));
    ASSERT_OK(service_->message("create_snap 8 0"));
    EXPECT_THAT(names(), ElementsAre("a", "thin-7", "thin-8"));
    EXPECT_EQ(service_->show_volume("thin-8")->size_bytes, block) << "as far as it is mapped";
    ASSERT_OK(service_->message("delete 0"));
    EXPECT_THAT(names(), ElementsAre("thin-7", "thin-8")) << "its record went with it";
    ASSERT_OK(create("a"));
    const std::uint64_t now = service_->status()->transaction_id;
    ASSERT_OK(service_->message(fmt::format("set_transaction_id {} 9", now)));
    EXPECT_EQ(service_->status()->transaction_id, 9U);
    ASSERT_OK(service_->message("reserve_metadata_snap"));
    EXPECT_TRUE(service_->metadata_snapshot({})->block.has_value());
    ASSERT_OK(service_->message("release_metadata_snap"));
    EXPECT_FALSE(service_->metadata_snapshot({})->block.has_value());
}

TEST_F(LocalPoolService, MessagesAreRefusedWithTheKernelsErrno) {
    ASSERT_OK(create("a"));
    ASSERT_OK_AND_ASSIGN(const auto sent,
                         service_->begin_transfer({.name = "t", .size_bytes = block}));
    std::uint64_t hidden = 0;
    ASSERT_OK_AND_ASSIGN(const auto devices, pool_->engine().list_devices());
    for (const thin_device_info& one : devices) {
        hidden = std::max(hidden, one.id.value());
    }
    const std::string taken = fmt::format("create_thin {}", hidden);
    for (const auto& [text, code] :
         {std::pair{std::string("create_thin 0"), EEXIST}, std::pair{taken, EEXIST},
          std::pair{std::string("create_snap 5 99"), ENODATA},
          std::pair{std::string("delete 99"), ENODATA},
          std::pair{std::string("set_transaction_id 99 100"), EINVAL},
          std::pair{std::string("release_metadata_snap"), EINVAL},
          std::pair{std::string("create_thin x"), EINVAL}, std::pair{std::string("what"), EINVAL},
          std::pair{std::string("delete 1 2"), EINVAL}}) {
        const auto outcome = service_->message(text);
        ASSERT_FALSE(outcome) << text;
        EXPECT_EQ(outcome.error().to_errno(), code) << outcome.error().to_string();
        EXPECT_THAT(outcome.error().message(), HasSubstr("message '" + text + "'"));
    }
    ASSERT_OK_AND_ASSIGN(const auto data, service_->open_data("a", false));
    const auto in_use = service_->message("delete 0");
    ASSERT_FALSE(in_use);
    EXPECT_EQ(in_use.error().to_errno(), EBUSY);
    expect_refused(service_->release(), error_code::busy, path_, "volumes are in use");
}

TEST_F(LocalPoolService, AServiceOfAnotherOwnersPoolDoesNotCloseIt) {
    const auto borrowed = make_pool_service(*pool_);
    ASSERT_OK(borrowed->create_volume({.name = "a", .size_bytes = block}));
    EXPECT_OK(borrowed->close());
    EXPECT_THAT(names(), ElementsAre("a"));
}

}  // namespace
}  // namespace uthin
