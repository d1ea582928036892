#include "pool/catalogue.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <fstream>

#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::HasCode;
using test::IsOk;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr const char* pool_uuid = "pool-1";

volume_record record_of(std::uint64_t id, std::string name) {
    volume_record record;
    record.uuid = fmt::format("uuid-{}", id);
    record.identity = {device_id(id), 3, UINT64_MAX - id};
    record.name = std::move(name);
    record.size_bytes = 512 * (id + 1);
    record.parent_uuid = "parent";
    record.created_unix_seconds = 1700000000;
    record.external_origin = "nbd://h/x";
    record.received_from = "elsewhere";
    record.labels = {{"a", "1"}, {"b", ""}};
    return record;
}

intent create_of(const volume_record& record) {
    intent what;
    what.kind = intent_kind::create;
    what.volume = record;
    return what;
}

intent reap_of(const device_identity& hidden) {
    intent what;
    what.kind = intent_kind::reap;
    what.hidden = hidden;
    return what;
}

class Catalogue : public testing::Test {
protected:
    Catalogue() {
        auto made = catalogue::create(path_, pool_uuid, {});
        EXPECT_THAT(made, IsOk());
        names_ = std::move(*made);
    }
    void reopen() {
        names_.reset();
        auto opened = catalogue::open(path_, pool_uuid, {});
        ASSERT_THAT(opened, IsOk());
        names_ = std::move(*opened);
    }
    void add(const volume_record& record) {
        intent what = create_of(record);
        ASSERT_OK(names_->begin(std::span(&what, 1)));
        const intent_outcome outcome{what, true};
        ASSERT_OK(names_->resolve(std::span(&outcome, 1)));
    }
    std::vector<volume_record> volumes() { return names_->volumes().value(); }
    std::vector<intent> intents() { return names_->intents().value(); }
    // Another writer than uthin.
    void execute(const std::string& sql) {
        names_.reset();
        sqlite3* database = nullptr;
        ASSERT_EQ(sqlite3_open(path_.c_str(), &database), SQLITE_OK);
        EXPECT_EQ(sqlite3_exec(database, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
            << sqlite3_errmsg(database);
        sqlite3_close(database);
    }

    test::temporary_directory directory_;
    std::string path_ = directory_.path() / "catalog.db";
    std::unique_ptr<catalogue> names_;
};

TEST_F(Catalogue, AVolumeIsReadBackAsItWasWritten) {
    const volume_record record = record_of(5, "ü");
    add(record);
    reopen();
    EXPECT_THAT(volumes(), testing::ElementsAre(record));
    EXPECT_EQ(names_->find_name("ü").value(), record);
    EXPECT_EQ(names_->find_device(device_id(5)).value(), record);
    EXPECT_EQ(names_->find_uuid("uuid-5").value(), record);
    EXPECT_EQ(names_->find_name("u").value(), std::nullopt);
}

TEST_F(Catalogue, LimitsAreKeptAndGoWithTheirVolume) {
    volume_record record = record_of(5, "a");
    record.reserved_bytes = 1ULL << 40;
    record.limit_bytes = 1ULL << 41;
    add(record);
    add(record_of(6, "b"));
    ASSERT_OK(names_->set_limits("uuid-6", 0, 7));
    reopen();
    EXPECT_EQ(names_->find_name("a").value(), record);
    EXPECT_EQ(names_->find_name("b").value()->limit_bytes, 7U);
    EXPECT_EQ(names_->limited_volumes()->size(), 2U);
    ASSERT_OK(names_->set_limits("uuid-6", 0, 0));
    intent reap = reap_of(record.identity);
    ASSERT_OK(names_->begin(std::span(&reap, 1)));
    reopen();
    EXPECT_THAT(names_->limited_volumes().value(), IsEmpty());
}

// A program that does not know limits must not run a pool that has some; any other pool it may.
TEST_F(Catalogue, TheVersionIsTheOldOneUntilSomethingIsLimited) {
    const auto version = [&] {
        std::string found;
        names_.reset();
        sqlite3* database = nullptr;
        EXPECT_EQ(sqlite3_open(path_.c_str(), &database), SQLITE_OK);
        EXPECT_EQ(sqlite3_exec(
                      database, "PRAGMA user_version",
                      [](void* to, int, char** texts, char**) {
                          *static_cast<std::string*>(to) = texts[0];
                          return 0;
                      },
                      &found, nullptr),
                  SQLITE_OK);
        sqlite3_close(database);
        reopen();
        return found;
    };
    add(record_of(5, "a"));
    EXPECT_EQ(version(), "1");
    // Refused, the table goes away again, and the next one makes it anew.
    volume_record rival = record_of(6, "a");
    rival.limit_bytes = 512;
    intent what = create_of(rival);
    EXPECT_THAT(names_->begin(std::span(&what, 1)), HasCode(error_code::already_exists));
    ASSERT_OK(names_->set_limits("uuid-5", 1024, 0));
    EXPECT_EQ(version(), "2");
    EXPECT_EQ(names_->find_name("a").value()->reserved_bytes, 1024U);
}

TEST_F(Catalogue, ALeaseIsKeptUntilItIsTakenBack) {
    EXPECT_EQ(names_->lease(), std::nullopt);
    const metadata_snapshot_lease lease{"a reader", 1'900'000'000};
    ASSERT_OK(names_->set_lease(lease));
    reopen();
    EXPECT_EQ(names_->lease(), lease);
    ASSERT_OK(names_->set_lease(std::nullopt));
    EXPECT_EQ(names_->lease(), std::nullopt);
    execute("INSERT INTO pool (key, value) VALUES ('metadata-snapshot-lease', 'soon')");
    reopen();
    EXPECT_THAT(names_->lease(), HasCode(error_code::corrupt));
}

TEST_F(Catalogue, APendingCreationIsNoVolumeButHoldsItsNameAndId) {
    intent what = create_of(record_of(1, "a"));
    ASSERT_OK(names_->begin(std::span(&what, 1)));
    reopen();
    EXPECT_THAT(volumes(), IsEmpty());
    ASSERT_EQ(intents().size(), 1U);
    EXPECT_EQ(intents()[0].volume, what.volume);
    EXPECT_EQ(intents()[0].hidden, what.volume.identity);
    for (const volume_record& rival : {record_of(2, "a"), record_of(1, "b")}) {
        intent other = create_of(rival);
        other.volume.uuid = "other";
        EXPECT_THAT(names_->begin(std::span(&other, 1)), HasCode(error_code::already_exists));
    }
    EXPECT_EQ(intents().size(), 1U);
}

TEST_F(Catalogue, ACreationThatDidNotHappenLeavesNothing) {
    intent what = create_of(record_of(1, "a"));
    ASSERT_OK(names_->begin(std::span(&what, 1)));
    const intent_outcome outcome{intents()[0], false};
    ASSERT_OK(names_->resolve(std::span(&outcome, 1)));
    EXPECT_THAT(intents(), IsEmpty());
    add(record_of(1, "a"));
}

TEST_F(Catalogue, ABatchIsOneTransaction) {
    std::vector<intent> batch = {create_of(record_of(1, "a")), create_of(record_of(2, "a"))};
    EXPECT_THAT(names_->begin(batch), HasCode(error_code::already_exists));
    EXPECT_THAT(intents(), IsEmpty());
}

TEST_F(Catalogue, AReapFreesTheNameAtOnceAndStaysUntilItHappened) {
    const volume_record record = record_of(1, "a");
    add(record);
    intent what = reap_of(record.identity);
    ASSERT_OK(names_->begin(std::span(&what, 1)));
    EXPECT_THAT(volumes(), IsEmpty());
    const intent_outcome running{what, false};
    ASSERT_OK(names_->resolve(std::span(&running, 1)));
    EXPECT_EQ(intents().size(), 1U);
    const intent_outcome done{what, true};
    ASSERT_OK(names_->resolve(std::span(&done, 1)));
    EXPECT_THAT(intents(), IsEmpty());
}

TEST_F(Catalogue, AReapOfAnotherDeviceUnderTheSameIdTakesNoRecordAway) {
    const volume_record record = record_of(1, "a");
    add(record);
    device_identity other = record.identity;
    ++other.creation_time;
    intent what = reap_of(other);
    ASSERT_OK(names_->begin(std::span(&what, 1)));
    EXPECT_EQ(volumes().size(), 1U);
}

TEST_F(Catalogue, ARollbackThatHappenedChangesTheSizeAndReapsTheOldRoot) {
    volume_record record = record_of(1, "a");
    add(record);
    intent what;
    what.kind = intent_kind::rollback;
    what.volume = record;
    what.volume.size_bytes = 4096;
    what.volume.external_origin = "";
    what.hidden = {device_id(99), 8, 9};
    ASSERT_OK(names_->begin(std::span(&what, 1)));
    reopen();
    EXPECT_EQ(volumes()[0].size_bytes, record.size_bytes);
    ASSERT_EQ(intents()[0].volume.size_bytes, 4096U);
    const intent_outcome outcome{intents()[0], true};
    ASSERT_OK(names_->resolve(std::span(&outcome, 1)));
    EXPECT_EQ(volumes()[0].size_bytes, 4096U);
    EXPECT_EQ(volumes()[0].external_origin, "");
    ASSERT_EQ(intents().size(), 1U);
    EXPECT_EQ(intents()[0].kind, intent_kind::reap);
    EXPECT_EQ(intents()[0].hidden, what.hidden);
}

TEST_F(Catalogue, RenameAndResizeAndStaleRecords) {
    add(record_of(1, "a"));
    add(record_of(2, "b"));
    EXPECT_THAT(names_->rename("uuid-1", "b"), HasCode(error_code::already_exists));
    EXPECT_THAT(names_->rename("nobody", "c"), HasCode(error_code::not_found));
    ASSERT_OK(names_->rename("uuid-1", "c"));
    ASSERT_OK(names_->resize("uuid-1", 1 << 20));
    EXPECT_EQ(names_->find_name("c").value()->size_bytes, 1U << 20);
    const std::vector<std::string> stale = {"uuid-2"};
    volume_record fresh = record_of(2, "b");
    fresh.uuid = "fresh";
    ASSERT_OK(names_->adopt(fresh, stale));
    EXPECT_EQ(names_->find_name("b").value()->uuid, "fresh");
}

TEST_F(Catalogue, AnotherProcessIsKeptOut) {
    EXPECT_THAT(catalogue::open(path_, pool_uuid, {}), HasCode(error_code::busy));
    EXPECT_THAT(catalogue::create(path_, pool_uuid, {}), HasCode(error_code::busy));
    names_.reset();
    EXPECT_THAT(catalogue::create(path_, pool_uuid, {}), HasCode(error_code::already_exists));
    EXPECT_THAT(catalogue::open(path_, pool_uuid, {}), IsOk());
}

// Also if the first one has written nothing yet.
TEST_F(Catalogue, TwoThatOpenedItTogetherDoNotShareIt) {
    reopen();
    EXPECT_THAT(catalogue::open(path_, pool_uuid, {}), HasCode(error_code::busy));
}

TEST_F(Catalogue, AMissingOrForeignFileSaysWhatToDo) {
    names_.reset();
    EXPECT_THAT(catalogue::open(path_, "pool-2", {}), HasCode(error_code::corrupt));
    const auto missing = catalogue::open(path_ + "x", pool_uuid, {});
    ASSERT_THAT(missing, HasCode(error_code::not_found));
    EXPECT_THAT(missing.error().message(), HasSubstr("--rebuild-catalog"));
    EXPECT_FALSE(std::filesystem::exists(path_ + "x"));
    std::ofstream(path_) << std::string(8192, 'x');
    EXPECT_THAT(catalogue::open(path_, pool_uuid, {}), HasCode(error_code::corrupt));
    std::ofstream(path_, std::ios::trunc).flush();
    EXPECT_THAT(catalogue::open(path_, pool_uuid, {}), HasCode(error_code::corrupt));
}

TEST_F(Catalogue, AFlippedByteAnywhereIsAnErrorOrHarmless) {
    for (std::uint64_t id = 1; id <= 40; ++id) {
        add(record_of(id, fmt::format("volume-{}", id)));
    }
    const std::vector<volume_record> before = volumes();
    names_.reset();
    std::string good;
    {
        std::ifstream file(path_, std::ios::binary);
        good.assign(std::istreambuf_iterator<char>(file), {});
    }
    std::size_t refused = 0;
    for (std::size_t at = 0; at < good.size(); at += 397) {
        std::string bad = good;
        bad[at] = static_cast<char>(bad[at] ^ 0x55);
        std::ofstream(path_, std::ios::binary | std::ios::trunc) << bad;
        auto opened = catalogue::open(path_, pool_uuid, {});
        refused += !opened || !(*opened)->volumes() ? 1U : 0U;
    }
    EXPECT_GT(refused, 0U);
}

TEST_F(Catalogue, ANewerSchemaIsUnsupported) {
    execute("PRAGMA user_version = 3");
    EXPECT_THAT(catalogue::open(path_, pool_uuid, {}), HasCode(error_code::unsupported));
}

TEST_F(Catalogue, RecordsThatMakeNoSenseAreCorruptNotBelieved) {
    add(record_of(1, "a"));
    for (const char* sql :
         {"UPDATE volumes SET device_id = 16777216", "UPDATE volumes SET name = 'a/b'",
          "UPDATE volumes SET device_id = 1, name = 'a', size_bytes = 513",
          "UPDATE volumes SET size_bytes = -512",
          "UPDATE volumes SET size_bytes = 512, creation_time = 4294967296"}) {
        execute(sql);
        auto opened = catalogue::open(path_, pool_uuid, {});
        ASSERT_THAT(opened, IsOk());
        EXPECT_THAT((*opened)->volumes(), HasCode(error_code::corrupt)) << sql;
    }
    execute(
        "UPDATE volumes SET creation_time = 0; INSERT INTO intents VALUES "
        "(1, 9, '', '', 0, '', 0, 0, 0)");
    auto opened = catalogue::open(path_, pool_uuid, {});
    ASSERT_THAT(opened, IsOk());
    EXPECT_THAT((*opened)->intents(), HasCode(error_code::corrupt));
}

TEST_F(Catalogue, LabelsAndTheOriginChangeWithoutTheMetadata) {
    add(record_of(1, "a"));
    volume_record wanted = record_of(1, "a");
    wanted.labels = {{"b", "2"}, {"c", "3"}};
    ASSERT_OK(names_->set_labels("uuid-1", wanted.labels));
    reopen();
    EXPECT_EQ(volumes(), std::vector{wanted});
    wanted.labels = {{"d", "4"}};
    wanted.external_origin.clear();
    ASSERT_OK(names_->drop_origin("uuid-1", wanted.labels));
    reopen();
    EXPECT_EQ(volumes(), std::vector{wanted});
    EXPECT_THAT(names_->drop_origin("uuid-2", {}), HasCode(error_code::not_found));
}

}  // namespace
}  // namespace uthin
