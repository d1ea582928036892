#include "pool/pool_directory.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "io/open.h"
#include "support/image_check.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::HasCode;
using test::IsOk;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint64_t block_bytes = 64U << 10;

std::string content_of(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// No file of this process can be written to any more, as on a full file system.
class no_file_grows {
public:
    no_file_grows() : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
        EXPECT_EQ(::getrlimit(RLIMIT_FSIZE, &old_), 0);
        const rlimit none{.rlim_cur = 0, .rlim_max = old_.rlim_max};
        EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &none), 0);
    }
    ~no_file_grows() {
        EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &old_), 0);
        std::signal(SIGXFSZ, old_handler_);
    }
    no_file_grows(const no_file_grows&) = delete;
    no_file_grows& operator=(const no_file_grows&) = delete;

private:
    rlimit old_{};
    void (*const old_handler_)(int);
};

class PoolDirectory : public testing::Test {
protected:
    PoolDirectory() {
        create_pool_request request;
        request.directory = path_;
        request.data_size_bytes = 16U << 20;
        request.metadata_size_bytes = 1U << 20;
        EXPECT_THAT(pool_directory::create(request, system_clock()), IsOk());
    }
    ~PoolDirectory() override {
        close();
        // Starting the judges costs more than judging: all images of the suite at once.
        const std::filesystem::path image =
            judged_->path() / testing::UnitTest::GetInstance()->current_test_info()->name();
        std::filesystem::copy_file(path_ + "/metadata", image);
        images_.push_back(image);
    }
    static void SetUpTestSuite() { judged_ = std::make_unique<test::temporary_directory>(); }
    static void TearDownTestSuite() {
        test::expect_images_are_clean(images_);
        images_.clear();
        judged_.reset();
    }

    void open(open_purpose purpose = open_purpose::change) {
        close();
        directory_options options;
        options.purpose = purpose;
        auto opened = pool_directory::open(path_, options, system_clock());
        ASSERT_THAT(opened, IsOk());
        pool_ = std::move(*opened);
    }
    void close() {
        if (pool_) {
            EXPECT_THAT(pool_->close(), IsOk());
            pool_.reset();
        }
    }
    void create(const std::string& name, std::uint64_t size_bytes = 1U << 20) {
        create_volume_request request;
        request.name = name;
        request.size_bytes = size_bytes;
        ASSERT_OK(pool_->create_volume(request));
    }
    result<std::vector<volume_info>> snapshot(const std::string& source, const std::string& name) {
        create_snapshots_request request;
        request.snapshots = {{source, name}};
        return pool_->create_snapshots(request);
    }
    result<bool> remove(const std::string& name) {
        return pool_->remove({.name = name, .if_exists = false});
    }
    void fill(const std::string& name, char with, std::uint64_t length_bytes = block_bytes) {
        auto open = pool_->open_volume(name, false);
        ASSERT_THAT(open, IsOk());
        const std::string text(length_bytes, with);
        ASSERT_OK((*open)->write(0, std::as_bytes(std::span(text))));
        ASSERT_OK((*open)->flush());
    }
    char first_byte(const std::string& name) {
        auto open = pool_->open_volume(name, true);
        std::byte byte{0xff};
        EXPECT_THAT(open, IsOk());
        EXPECT_THAT((*open)->read(0, std::span(&byte, 1)), IsOk());
        return static_cast<char>(byte);
    }
    std::vector<std::string> names() {
        std::vector<std::string> found;
        auto volumes = pool_->list();
        EXPECT_THAT(volumes, IsOk());
        for (const volume_info& volume : *volumes) {
            found.push_back(volume.name);
        }
        return found;
    }
    std::size_t pending_intents() {
        close();
        auto catalogue = open_catalogue();
        return catalogue->intents().value().size();
    }
    std::unique_ptr<catalogue> open_catalogue() {
        auto opened =
            catalogue::open(path_ + "/catalog.db", load_pool_file(path_).value().uuid, {});
        EXPECT_THAT(opened, IsOk());
        return std::move(*opened);
    }
    // What a process did that was cut off before it could resolve its intent.
    void record_intent(intent what) {
        close();
        ASSERT_OK(open_catalogue()->begin(std::span(&what, 1)));
    }
    // The metadata part of a command, without its catalogue.
    void change_metadata(const std::function<result<void>(pool&)>& change) {
        close();
        auto metadata = io::open_device(path_ + "/metadata", {});
        auto data = io::open_device(path_ + "/data", {});
        auto engine = pool::open(std::move(*metadata), std::move(*data), {}, system_clock());
        ASSERT_THAT(engine, IsOk());
        ASSERT_OK(change(**engine));
        ASSERT_OK((*engine)->close());
    }
    volume_record pending_volume(std::uint64_t id, std::string name) {
        volume_record record;
        record.uuid = fmt::format("uuid-{}", id);
        record.identity.id = device_id(id);
        record.name = std::move(name);
        record.size_bytes = 1U << 20;
        return record;
    }

    static inline std::unique_ptr<test::temporary_directory> judged_;
    static inline std::vector<std::filesystem::path> images_;
    test::temporary_directory temporary_;
    std::string path_ = temporary_.path() / "pool";
    std::unique_ptr<pool_directory> pool_;
};

TEST_F(PoolDirectory, VolumesKeepNameAndSizeAndContentOverAReopening) {
    open();
    create("b", 3U << 20);
    create("a");
    fill("a", 'x');
    ASSERT_OK(snapshot("a", "s"));
    fill("a", 'y');
    open();
    EXPECT_THAT(names(), ElementsAre("a", "b", "s"));
    EXPECT_EQ(pool_->show("b")->size_bytes, 3U << 20);
    EXPECT_EQ(pool_->show("s")->parent, "a");
    EXPECT_EQ(first_byte("a"), 'y');
    EXPECT_EQ(first_byte("s"), 'x');
    EXPECT_EQ(pending_intents(), 0U);
}

TEST_F(PoolDirectory, ACreationCutBeforeTheMetadataCommitDidNotHappen) {
    intent what;
    what.kind = intent_kind::create;
    what.volume = pending_volume(5, "a");
    record_intent(what);
    open(open_purpose::inspect);
    EXPECT_THAT(names(), IsEmpty());
    open();
    EXPECT_THAT(names(), IsEmpty());
    create("a");
    EXPECT_EQ(pending_intents(), 0U);
}

TEST_F(PoolDirectory, ACreationCutAfterTheMetadataCommitHappened) {
    intent what;
    what.kind = intent_kind::create;
    what.volume = pending_volume(5, "a");
    record_intent(what);
    change_metadata([](pool& engine) { return engine.create_thin(device_id(5)); });
    open(open_purpose::inspect);
    EXPECT_THAT(names(), ElementsAre("a"));
    EXPECT_EQ(pool_->show("a")->size_bytes, 1U << 20);
    open();
    EXPECT_THAT(names(), ElementsAre("a"));
    EXPECT_EQ(pending_intents(), 0U);
}

TEST_F(PoolDirectory, ADeviceWithAnotherIdentityDoesNotCompleteACreation) {
    intent what;
    what.kind = intent_kind::create;
    what.volume = pending_volume(5, "a");
    what.volume.identity.creation_transaction_id = 9;
    record_intent(what);
    change_metadata([](pool& engine) { return engine.create_thin(device_id(5)); });
    open();
    EXPECT_THAT(names(), ElementsAre("thin-5"));
    EXPECT_EQ(pending_intents(), 0U);
}

TEST_F(PoolDirectory, ABatchOfSnapshotsCutAfterTheCommitIsThereWhole) {
    open();
    create("a");
    const auto engine_id = device_id(pool_->show("a")->dev_id);
    close();
    std::vector<intent> batch(2);
    for (std::uint32_t i = 0; i < 2; ++i) {
        batch[i].kind = intent_kind::create;
        batch[i].volume = pending_volume(50 + i, fmt::format("s{}", i));
        batch[i].volume.identity.creation_time = i + 1;
        batch[i].volume.identity.creation_transaction_id = 1;
    }
    ASSERT_OK(open_catalogue()->begin(batch));
    change_metadata([&](pool& engine) {
        const std::vector<snapshot_request> both = {{engine_id, device_id(50)},
                                                    {engine_id, device_id(51)}};
        return engine.create_snapshots(both);
    });
    open();
    EXPECT_THAT(names(), ElementsAre("a", "s0", "s1"));
}

TEST_F(PoolDirectory, ADeletionThatWasBegunIsFinishedAtTheNextOpening) {
    open();
    create("a");
    fill("a", 'x', 10 * block_bytes);
    const volume_info info = *pool_->show("a");
    intent what;
    what.kind = intent_kind::reap;
    what.hidden = {device_id(info.dev_id), static_cast<std::uint32_t>(info.creation_time),
                   info.creation_transaction_id};
    record_intent(what);
    open(open_purpose::inspect);
    EXPECT_THAT(names(), IsEmpty());
    EXPECT_EQ(pool_->report()->data_used_blocks, 10U);
    open();
    EXPECT_THAT(names(), IsEmpty());
    EXPECT_EQ(pool_->report()->data_used_blocks, 0U);
    EXPECT_EQ(pending_intents(), 0U);
}

TEST_F(PoolDirectory, ADeletionThatEndedBeforeItWasResolvedIsForgotten) {
    intent what;
    what.kind = intent_kind::reap;
    what.hidden = {device_id(7), 1, 2};
    record_intent(what);
    open();
    EXPECT_EQ(pending_intents(), 0U);
}

class RollbackCut : public PoolDirectory {
protected:
    // A volume with 'n', a snapshot of it with 'o' and another size, and the intent to go back.
    void SetUp() override {
        open();
        create("a", 2U << 20);
        fill("a", 'o');
        ASSERT_OK(snapshot("a", "s"));
        fill("a", 'n');
        ASSERT_OK(pool_->resize("a", 3U << 20));
        const auto status = pool_->engine().status();
        intent what;
        what.kind = intent_kind::rollback;
        target_ = device_id(pool_->show("a")->dev_id);
        source_ = device_id(pool_->show("s")->dev_id);
        const std::string uuid = pool_->show("a")->uuid;
        close();
        what.volume = open_catalogue()->find_uuid(uuid).value().value();
        what.volume.size_bytes = 2U << 20;
        what.hidden = {graveyard_, status->time + 1, status->transaction_id};
        record_intent(what);
    }
    const device_id graveyard_{9000000};
    device_id target_;
    device_id source_;
};

TEST_F(RollbackCut, BeforeTheMetadataCommitItDidNotHappen) {
    open();
    EXPECT_THAT(names(), ElementsAre("a", "s"));
    EXPECT_EQ(first_byte("a"), 'n');
    EXPECT_EQ(pool_->show("a")->size_bytes, 3U << 20);
    EXPECT_EQ(pending_intents(), 0U);
}

TEST_F(RollbackCut, AfterTheMetadataCommitItHappenedAndTheOldRootGoes) {
    change_metadata([&](pool& engine) { return engine.rollback(target_, source_, graveyard_); });
    open(open_purpose::inspect);
    EXPECT_THAT(names(), ElementsAre("a", "s"));
    EXPECT_EQ(pool_->list()->front().size_bytes, 2U << 20);
    open();
    EXPECT_THAT(names(), ElementsAre("a", "s"));
    EXPECT_EQ(first_byte("a"), 'o');
    EXPECT_EQ(pool_->show("a")->size_bytes, 2U << 20);
    EXPECT_EQ(pool_->report()->data_used_blocks, 1U);
    EXPECT_EQ(pending_intents(), 0U);
}

TEST_F(PoolDirectory, RollbackTakesContentAndSizeOfTheSnapshot) {
    open();
    create("a", 2U << 20);
    fill("a", 'o');
    ASSERT_OK(snapshot("a", "s"));
    fill("a", 'n');
    ASSERT_OK(pool_->resize("a", 1U << 20));
    create("b");
    EXPECT_THAT(pool_->rollback({.name = "a", .to = "b"}), HasCode(error_code::invalid_argument));
    EXPECT_THAT(pool_->rollback({.name = "a", .to = "a", .force = true}),
                HasCode(error_code::invalid_argument));
    ASSERT_OK(pool_->rollback({.name = "a", .to = "s"}));
    EXPECT_EQ(first_byte("a"), 'o');
    EXPECT_EQ(pool_->show("a")->size_bytes, 2U << 20);
    EXPECT_THAT(names(), ElementsAre("a", "b", "s"));
    EXPECT_EQ(pending_intents(), 0U);
}

TEST_F(PoolDirectory, AVolumeInUseIsNotDeletedNorRolledBack) {
    open();
    create("a");
    ASSERT_OK(snapshot("a", "s"));
    {
        const auto held = pool_->open_volume("a", true);
        EXPECT_TRUE(pool_->show("a")->in_use);
        EXPECT_THAT(remove("a"), HasCode(error_code::busy));
        EXPECT_THAT(pool_->rollback({.name = "a", .to = "s"}), HasCode(error_code::busy));
        EXPECT_OK(pool_->rollback({.name = "a", .to = "s", .force = true}));
        EXPECT_THAT(pool_->message("delete 0"), HasCode(error_code::busy));
        EXPECT_THAT(pool_->release(), HasCode(error_code::busy));
    }
    EXPECT_OK(remove("a"));
    EXPECT_THAT(names(), ElementsAre("s"));
}

TEST_F(PoolDirectory, AReusedIdNeverShowsTheOldName) {
    open();
    create("a");
    const std::uint64_t id = pool_->show("a")->dev_id;
    ASSERT_OK(pool_->message(fmt::format("delete {}", id)));
    ASSERT_OK(pool_->message(fmt::format("create_thin {}", id)));
    EXPECT_THAT(names(), ElementsAre(fmt::format("thin-{}", id)));
    create("a");
    EXPECT_NE(pool_->show("a")->dev_id, id);
    const std::uint64_t other = pool_->show("a")->dev_id;
    // The same behind our back: the transaction id of the pool has moved on, the identity differs.
    change_metadata([&](pool& engine) -> result<void> {
        if (auto deleted = engine.delete_thin(device_id(other)); !deleted) {
            return deleted;
        }
        if (auto moved = engine.set_transaction_id(2, 3); !moved) {
            return moved;
        }
        return engine.create_thin(device_id(other));
    });
    open();
    EXPECT_THAT(names(), ElementsAre(fmt::format("thin-{}", id), fmt::format("thin-{}", other)));
}

TEST_F(PoolDirectory, EveryCreationMovesTheTransactionIdButNoMessageDoes) {
    open();
    create("a");
    create("b");
    EXPECT_EQ(pool_->report()->transaction_id, 2U);
    EXPECT_NE(pool_->show("a")->creation_transaction_id, pool_->show("b")->creation_transaction_id);
    ASSERT_OK(pool_->message("create_thin 77"));
    ASSERT_OK(pool_->message("set_transaction_id 2 9"));
    EXPECT_EQ(pool_->report()->transaction_id, 9U);
}

TEST_F(PoolDirectory, ADeviceWithoutARecordIsAsLargeAsItsMappings) {
    open();
    ASSERT_OK(pool_->message("create_thin 3"));
    EXPECT_EQ(pool_->show("thin-3")->size_bytes, 0U);
    ASSERT_OK(pool_->resize("thin-3", 1U << 20));
    fill("thin-3", 'x', 3 * block_bytes);
    EXPECT_EQ(pool_->show("thin-3")->size_bytes, 1U << 20);
    ASSERT_OK(pool_->message("create_snap 4 3"));
    EXPECT_EQ(pool_->show("thin-4")->size_bytes, 3 * block_bytes);
    EXPECT_EQ(pool_->show("thin-4")->uuid, "");
    ASSERT_OK(pool_->rename("thin-4", "four"));
    EXPECT_THAT(names(), ElementsAre("four", "thin-3"));
    EXPECT_THAT(pool_->show("thin-4"), HasCode(error_code::not_found));
    EXPECT_THAT(pool_->rename("four", "thin-5"), HasCode(error_code::invalid_argument));
}

TEST_F(PoolDirectory, APartThatIsGrownAgainReadsAsZeros) {
    open();
    create("a");
    fill("a", 'x', 1U << 20);
    ASSERT_OK(pool_->resize("a", 1000 * 512));
    ASSERT_OK(pool_->resize("a", 1U << 20));
    const auto open = *pool_->open_volume("a", true);
    std::vector<std::byte> tail((1U << 20) - 1000 * 512, std::byte{1});
    ASSERT_OK(open->read(1000 * 512, tail));
    EXPECT_EQ(std::ranges::count(tail, std::byte{0}), std::ssize(tail));
}

TEST_F(PoolDirectory, IdempotentFormsAcceptOnlyTheSame) {
    open();
    create("a");
    create_volume_request again{.name = "a", .size_bytes = 1U << 20, .if_not_exists = true};
    EXPECT_OK(pool_->create_volume(again));
    again.size_bytes = 512;
    EXPECT_THAT(pool_->create_volume(again), HasCode(error_code::already_exists));
    create_snapshots_request snapshots{.snapshots = {{"a", "s"}}, .if_not_exists = true};
    ASSERT_OK_AND_ASSIGN(const auto first, pool_->create_snapshots(snapshots));
    ASSERT_OK_AND_ASSIGN(const auto second, pool_->create_snapshots(snapshots));
    EXPECT_EQ(first, second);
    snapshots.snapshots.push_back({"a", "t"});
    EXPECT_THAT(pool_->create_snapshots(snapshots), HasCode(error_code::already_exists));
    EXPECT_EQ(pool_->remove({.name = "x", .if_exists = true}), false);
    EXPECT_THAT(remove("x"), HasCode(error_code::not_found));
}

TEST_F(PoolDirectory, SnapshotsOfOneCallAreAllOrNone) {
    open();
    create("a");
    create("b");
    create_snapshots_request request{.snapshots = {{"a", "s"}, {"b", "a"}}};
    EXPECT_THAT(pool_->create_snapshots(request), HasCode(error_code::already_exists));
    request.snapshots = {{"a", "s"}, {"x", "t"}};
    EXPECT_THAT(pool_->create_snapshots(request), HasCode(error_code::not_found));
    request.snapshots = {{"a", "s"}, {"b", "s"}};
    EXPECT_THAT(pool_->create_snapshots(request), HasCode(error_code::invalid_argument));
    EXPECT_THAT(names(), ElementsAre("a", "b"));
    request.snapshots = {{"a", "s"}, {"s", "t"}};
    ASSERT_OK(pool_->create_snapshots(request));
    EXPECT_EQ(pool_->show("t")->parent, "s");
    EXPECT_EQ(pending_intents(), 0U);
}

TEST_F(PoolDirectory, AnExternalOriginIsKeptAndInherited) {
    open();
    const std::string image = (temporary_.path() / "origin").string();
    std::ofstream(image) << std::string(5000, 'o');
    create_volume_request request{.name = "a", .external_origin = image + "-not"};
    EXPECT_THAT(pool_->create_volume(request), HasCode(error_code::not_found));
    request.external_origin = image;
    ASSERT_OK(pool_->create_volume(request));
    EXPECT_EQ(pool_->show("a")->size_bytes, 5120U);
    create_snapshots_request snapshots;
    snapshots.snapshots = {{"a", "s"}};
    ASSERT_OK(pool_->create_snapshots(snapshots));
    const std::string kept = pool_->show("a")->external_origin;
    EXPECT_EQ(kept.front(), '/');
    close();
    open();
    EXPECT_EQ(pool_->show("s")->external_origin, kept);
    for (const char* name : {"a", "s"}) {
        ASSERT_OK_AND_ASSIGN(const auto volume, pool_->open_volume(name, true));
        std::vector<std::byte> content(5120);
        ASSERT_OK(volume->read(0, content));
        EXPECT_EQ(std::ranges::count(content, std::byte{'o'}), 5000);
    }
    std::filesystem::remove(image);
    const auto gone = pool_->open_volume("a", true);
    ASSERT_THAT(gone, HasCode(error_code::not_found));
    EXPECT_THAT(gone.error().to_string(), ::testing::HasSubstr("external origin"));
}

TEST_F(PoolDirectory, WithoutItsCatalogueAPoolIsNotOpenedUntilItIsRebuilt) {
    open();
    create("a");
    fill("a", 'x');
    close();
    std::filesystem::rename(path_ + "/catalog.db", path_ + "/gone");
    EXPECT_THAT(pool_directory::open(path_, {}, system_clock()), HasCode(error_code::not_found));
    std::ofstream(path_ + "/catalog.db") << "garbage, long enough to be looked at as a database "
                                            "header of a hundred bytes or so, which it is not.";
    EXPECT_THAT(pool_directory::open(path_, {}, system_clock()), HasCode(error_code::corrupt));
    ASSERT_OK(
        pool_directory::adopt({.directory = path_, .rebuild_catalogue = true}, system_clock()));
    open();
    EXPECT_THAT(names(), ElementsAre("thin-0"));
    EXPECT_EQ(first_byte("thin-0"), 'x');
    EXPECT_TRUE(std::filesystem::exists(path_ + "/catalog.db.old-1"));
}

TEST_F(PoolDirectory, AdoptingAndReadingWritesNothingToTheDevices) {
    open();
    create("a");
    fill("a", 'x');
    close();
    const std::string metadata = content_of(path_ + "/metadata");
    const std::string data = content_of(path_ + "/data");
    const std::string other = temporary_.path() / "other";
    ASSERT_OK(pool_directory::adopt(
        {.directory = other, .metadata_url = path_ + "/metadata", .data_url = path_ + "/data"},
        system_clock()));
    {
        auto opened = pool_directory::open(other, {}, system_clock());
        ASSERT_THAT(opened, IsOk());
        EXPECT_EQ((*opened)->list()->size(), 1U);
        EXPECT_OK((*opened)->report());
        EXPECT_OK((*opened)->check({}));
        const auto volume = (*opened)->open_volume("thin-0", true);
        std::vector<std::byte> buffer(block_bytes);
        EXPECT_OK((*volume)->read(0, buffer));
    }
    EXPECT_TRUE(metadata == content_of(path_ + "/metadata"));
    EXPECT_TRUE(data == content_of(path_ + "/data"));
    {
        auto opened = pool_directory::open(other, {}, system_clock());
        ASSERT_OK((*opened)->create_volume({.name = "b", .size_bytes = 512}));
        EXPECT_EQ((*opened)->report()->transaction_id, 1U);  // LVM's to move, not ours
        EXPECT_OK((*opened)->close());
    }
}

TEST_F(PoolDirectory, ASecondOwnerIsRefusedAtOnce) {
    open();
    EXPECT_THAT(pool_directory::open(path_, {}, system_clock()), HasCode(error_code::busy));
    directory_options inspect;
    inspect.purpose = open_purpose::inspect;
    EXPECT_THAT(pool_directory::open(path_, inspect, system_clock()), HasCode(error_code::busy));
    EXPECT_THAT(pool_directory::adopt({.directory = path_ + "2",
                                       .metadata_url = path_ + "/metadata",
                                       .data_url = path_ + "/data"},
                                      system_clock()),
                HasCode(error_code::busy));
    EXPECT_FALSE(std::filesystem::exists(path_ + "2"));
}

TEST_F(PoolDirectory, SwappedDevicesAreSeenBeforeAnythingIsWritten) {
    const std::string metadata = content_of(path_ + "/metadata");
    const auto swapped = pool_directory::adopt({.directory = path_ + "2",
                                                .metadata_url = path_ + "/data",
                                                .data_url = path_ + "/metadata"},
                                               system_clock());
    ASSERT_THAT(swapped, HasCode(error_code::corrupt));
    EXPECT_THAT(swapped.error().message(), HasSubstr("swapped"));
    create_pool_request request{
        .directory = path_ + "2", .metadata_url = path_ + "/data", .data_url = path_ + "/metadata"};
    EXPECT_THAT(pool_directory::create(request, system_clock()),
                HasCode(error_code::already_exists));
    EXPECT_FALSE(std::filesystem::exists(path_ + "2/pool.json"));
    EXPECT_TRUE(metadata == content_of(path_ + "/metadata"));
}

TEST_F(PoolDirectory, AFailedCreateLeavesNoFiles) {
    const std::filesystem::path fresh = temporary_.path() / "fresh";
    create_pool_request request{.directory = fresh, .data_size_bytes = 1ULL << 40};
    request.metadata_size_bytes = 64U << 10;
    EXPECT_THAT(pool_directory::create(request, system_clock()),
                HasCode(error_code::no_metadata_space));
    EXPECT_FALSE(std::filesystem::exists(fresh));
    for (const std::uint64_t block_size : {0U, 512U, 65537U, 100U << 10, (1U << 30) + 65536U}) {
        request.block_size_bytes = block_size;
        EXPECT_THAT(pool_directory::create(request, system_clock()),
                    HasCode(error_code::invalid_argument));
    }
    EXPECT_FALSE(std::filesystem::exists(fresh));
    create_pool_request nameless{.directory = fresh};
    nameless.data_size_bytes = 64U << 20;
    nameless.catalogue_vfs = "there is none";
    EXPECT_FALSE(pool_directory::create(nameless, system_clock()));
    EXPECT_FALSE(std::filesystem::exists(fresh / "pool.json")) << "a pool without a catalogue";
}

TEST_F(PoolDirectory, SettingsAreKeptAllOrNone) {
    open();
    EXPECT_THAT(pool_->set({{"no-space", "error"}, {"zeroing", "maybe"}}),
                HasCode(error_code::invalid_argument));
    EXPECT_EQ(pool_->report()->no_space, "queue");
    for (const auto& [key, value] : std::map<std::string, std::string>{{"low-water", "101%"},
                                                                       {"no-space-timeout", "-1"},
                                                                       {"discard", ""},
                                                                       {"cache", "yes"},
                                                                       {"x", "1"}}) {
        EXPECT_THAT(pool_->set({{key, value}}), HasCode(error_code::invalid_argument)) << key;
    }
    ASSERT_OK(pool_->set({{"no-space", "error"}, {"zeroing", "off"}, {"low-water", "50%"}}));
    open();
    EXPECT_EQ(pool_->report()->no_space, "error");
    EXPECT_FALSE(pool_->report()->zeroing);
    EXPECT_EQ(pool_->report()->low_water_blocks, 128U);
    EXPECT_EQ(pool_->report()->cache, "none");
    ASSERT_OK(pool_->set({{"read-only", "on"}, {"cache", "writeback"}}));
    open();
    EXPECT_EQ(pool_->report()->cache, "writeback");
    EXPECT_EQ(pool_->engine().data_device().capabilities().alignment_bytes, 1U)
        << "the page cache takes any alignment";
    EXPECT_EQ(pool_->engine().mode(), pool_mode::read_only);
    EXPECT_THAT(pool_->create_volume({.name = "a", .size_bytes = 512}),
                HasCode(error_code::read_only));
    EXPECT_THAT(pool_->message("bogus"), HasCode(error_code::unsupported));
    ASSERT_OK(pool_->set({{"read-only", "off"}}));
    open(open_purpose::serve);
    ASSERT_OK(pool_->start());
    EXPECT_THAT(pool_->set({{"cache", "none"}}), HasCode(error_code::busy)) << "while it is open";
}

// What the catalogue cannot say is not done: the pool would not know what to make of it.
TEST_F(PoolDirectory, NothingIsMadeWhenTheCatalogueCannotBeWritten) {
    open();
    create("a");
    {
        const no_file_grows full;
        EXPECT_FALSE(pool_->create_volume({.name = "b", .size_bytes = 512}));
        EXPECT_FALSE(pool_->create_snapshots({.snapshots = {{"a", "s"}}}));
    }
    EXPECT_EQ(pool_->engine().mode(), pool_mode::write);
    EXPECT_EQ(pool_->list()->size(), 1U);
    open();  // the catalogue asks for it
    create("b");
    EXPECT_EQ(pool_->list()->size(), 2U);
}

TEST_F(PoolDirectory, GrowsItsOwnFilesAndNeverShrinks) {
    open();
    EXPECT_THAT(pool_->grow({.data_size_bytes = 1U << 20}), HasCode(error_code::invalid_argument));
    EXPECT_THAT(pool_->grow({.data_size_bytes = 1ULL << 63}),
                HasCode(error_code::invalid_argument));
    EXPECT_THAT(pool_->grow({.metadata_size_bytes = 1ULL << 40}),
                HasCode(error_code::out_of_range));
    EXPECT_EQ(std::filesystem::file_size(path_ + "/data"), 16U << 20);
    ASSERT_OK(pool_->grow({.data_size_bytes = 32U << 20, .metadata_size_bytes = 2U << 20}));
    EXPECT_EQ(pool_->report()->data_blocks, 512U);
    EXPECT_EQ(pool_->report()->metadata_blocks, 512U);
}

TEST_F(PoolDirectory, ServedDeletionsRunInTheBackgroundAndAreResolved) {
    open(open_purpose::serve);
    ASSERT_OK(pool_->start());
    create("a");
    fill("a", 'x', 1U << 20);
    ASSERT_OK(snapshot("a", "s"));
    EXPECT_OK(remove("a"));
    EXPECT_THAT(names(), ElementsAre("s"));
    create("a");
    EXPECT_OK(remove("s"));
    ASSERT_OK(pool_->wait_for_deletions());
    EXPECT_EQ(pool_->report()->deletions_running, 0U);
    EXPECT_EQ(pool_->report()->data_used_blocks, 0U);
    EXPECT_EQ(pending_intents(), 0U);
}

TEST_F(PoolDirectory, ADeletionThatEndedIsNotReportedAsRunning) {
    open(open_purpose::serve);
    ASSERT_OK(pool_->start());
    create("a");
    fill("a", 'x', 1U << 20);
    ASSERT_OK(remove("a"));
    constexpr int tries_max = 2000;
    for (int i = 0; i < tries_max && pool_->report()->deletions_running != 0; ++i) {
        system_clock().sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_EQ(pool_->report()->deletions_running, 0U);
    EXPECT_EQ(pool_->report()->data_used_blocks, 0U);
}

TEST_F(PoolDirectory, RepairMendsLeaksAndClearsNeedsCheck) {
    open();
    create("a");
    fill("a", 'x');
    change_metadata([](pool& engine) -> result<void> {
        UTHIN_TRY(engine.with_metadata([](metadata& stored) -> result<void> {
            UTHIN_TRY(stored.alloc_data_block());
            return {};
        }));
        UTHIN_TRY(engine.commit());
        return engine.with_metadata([](metadata& stored) { return stored.set_needs_check(); });
    });
    open(open_purpose::inspect);
    const check_reply damaged = pool_->check({}).value();
    EXPECT_FALSE(damaged.clean);
    EXPECT_EQ(damaged.fatal, 0U);
    EXPECT_TRUE(damaged.needs_check);
    open();
    EXPECT_EQ(pool_->report()->mode, "read_only");
    const check_reply mended = pool_->check({.repair = true}).value();
    EXPECT_TRUE(mended.clean && mended.leaks_mended && mended.repaired);
    EXPECT_FALSE(mended.needs_check);
    EXPECT_EQ(pool_->report()->mode, "write");
    EXPECT_EQ(pool_->report()->data_used_blocks, 1U);
    const check_reply clean = pool_->check({.repair = true}).value();
    EXPECT_TRUE(clean.clean && !clean.leaks_mended && !clean.repaired);
    EXPECT_EQ(first_byte("a"), 'x');
    create("b");
}

TEST_F(PoolDirectory, ReleaseTellsTheTableLines) {
    open();
    create("a", 3 * 512);
    ASSERT_OK_AND_ASSIGN(const release_reply reply, pool_->release());
    EXPECT_EQ(reply.pool.table, fmt::format("0 32768 thin-pool {0}/metadata {0}/data 128 0 0",
                                            std::filesystem::canonical(path_).string()));
    ASSERT_EQ(reply.volumes.size(), 1U);
    EXPECT_EQ(reply.volumes[0].table, "0 3 thin /dev/mapper/pool 0");
}

}  // namespace
}  // namespace uthin
