// Devices that are not what their role needs are refused before anything is written to them.
#include "pool/pool_devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "io/open.h"
#include "pool/pool_directory.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::HasCode;
using test::IsOk;
using testing::HasSubstr;

class PoolDevices : public testing::Test {
protected:
    PoolDevices() {
        EXPECT_THAT(
            pool_directory::create(
                {.directory = pool_, .data_size_bytes = 16U << 20, .metadata_size_bytes = 1U << 20},
                time_),
            IsOk());
    }
    [[nodiscard]] std::string make(const char* name, std::uint64_t size_bytes, char with = 0) {
        const std::string path = directory_.path() / name;
        std::ofstream(path) << std::string(with == 0 ? 0 : size_bytes, with);
        std::filesystem::resize_file(path, size_bytes);
        return path;
    }
    [[nodiscard]] result<pool_devices> open(const std::string& metadata, const std::string& data,
                                            std::chrono::nanoseconds wait = {}) {
        return open_pool_devices({.metadata_url = metadata, .data_url = data, .wait = wait}, time_);
    }
    void expect_refused(const result<void>& outcome, error_code code, const std::string& path,
                        const char* why) {
        ASSERT_THAT(outcome, HasCode(code));
        EXPECT_THAT(outcome.error().message(), HasSubstr(path));
        EXPECT_THAT(outcome.error().message(), HasSubstr(why));
    }
    void expect_no_pool(const std::string& metadata, const std::string& data, error_code code,
                        const std::string& of, const char* why) {
        auto devices = open(metadata, data);
        ASSERT_THAT(devices, IsOk());
        expect_refused(check_pool_devices(*devices), code, of, why);
    }
    void expect_not_blank(const std::string& metadata, const std::string& data, error_code code,
                          const std::string& of, const char* why) {
        auto devices = open(metadata, data);
        ASSERT_THAT(devices, IsOk());
        expect_refused(check_devices_are_blank(*devices), code, of, why);
    }

    manual_clock time_;
    test::temporary_directory directory_;
    const std::string pool_ = directory_.path() / "pool";
    const std::string metadata_ = pool_ + "/metadata";
    const std::string data_ = pool_ + "/data";
};

TEST_F(PoolDevices, OneFileIsNotTwoDevices) {
    std::filesystem::create_hard_link(metadata_, directory_.path() / "link");
    for (const std::string& other : {metadata_, (directory_.path() / "link").string()}) {
        const auto opened = open(metadata_, other);
        ASSERT_THAT(opened, HasCode(error_code::invalid_argument));
        EXPECT_THAT(opened.error().message(), HasSubstr("named for metadata and for data"));
    }
    EXPECT_THAT(open("memory:1M", "memory:1M"), HasCode(error_code::invalid_argument));
    EXPECT_THAT(open(metadata_ + "x", data_), HasCode(error_code::not_found));
    EXPECT_THAT(open(metadata_, data_ + "x"), HasCode(error_code::not_found));
}

TEST_F(PoolDevices, AnOwnerIsWaitedForAsLongAsItIsSaid) {
    ASSERT_OK_AND_ASSIGN(const auto owner, open(metadata_, data_));
    const auto begun = time_.monotonic();
    EXPECT_THAT(open(metadata_, data_, std::chrono::seconds(2)), HasCode(error_code::busy));
    EXPECT_GE(time_.monotonic() - begun, std::chrono::seconds(2));
}

TEST_F(PoolDevices, WhatIsNoPoolIsSaidPrecisely) {
    const std::string blank = make("blank", 1U << 20);
    const std::string text = make("text", 1U << 20, 'x');
    const std::string tiny = make("tiny", 512);
    expect_no_pool(tiny, data_, error_code::corrupt, tiny, "truncated (512 bytes)");
    expect_no_pool(blank, data_, error_code::not_permitted, blank, "blank, no pool metadata");
    expect_no_pool(text, data_, error_code::corrupt, text, "not pool metadata (");
    expect_no_pool(data_, metadata_, error_code::corrupt, data_, "are swapped");
    std::filesystem::resize_file(metadata_, 10 * 4096);
    expect_no_pool(metadata_, data_, error_code::corrupt, metadata_,
                   "truncated (10 blocks of 4096 bytes, its superblock says 256)");
}

TEST_F(PoolDevices, OnlyBlankDevicesAreFormatted) {
    const std::string blank = make("blank", 1U << 20);
    const std::string text = make("text", 1U << 20, 'x');
    const std::string tiny = make("tiny", 512);
    expect_not_blank(tiny, text, error_code::corrupt, tiny, "truncated");
    expect_not_blank(metadata_, text, error_code::already_exists, metadata_,
                     "it holds pool metadata");
    expect_not_blank(text, blank, error_code::already_exists, text, "it holds something else");
    expect_not_blank(blank, metadata_, error_code::already_exists, metadata_,
                     "name another data device");
    ASSERT_OK_AND_ASSIGN(const auto devices, open(blank, text));
    EXPECT_OK(check_devices_are_blank(devices)) << "data may hold anything else";
}

// ---- making and adopting pools of such devices

class MakingPools : public PoolDevices {
protected:
    [[nodiscard]] std::string fresh() const { return directory_.path() / "fresh"; }
    result<void> create(create_pool_request request) {
        request.directory = fresh();
        return pool_directory::create(request, time_);
    }
    result<void> adopt(adopt_pool_request request) {
        request.directory = fresh();
        return pool_directory::adopt(request, time_);
    }
};

TEST_F(MakingPools, SizesThatDoNotFitAreRefused) {
    const std::string blank = make("blank", 1U << 20);
    expect_refused(create({}), error_code::invalid_argument, fresh(), "less than one block");
    expect_refused(create({.data_size_bytes = 4096}), error_code::invalid_argument, fresh(),
                   "give a larger --data-size");
    expect_refused(create({.data_size_bytes = UINT64_MAX}), error_code::out_of_range, fresh(),
                   "use a smaller --data-size");
    expect_refused(
        create(
            {.data_size_bytes = 1U << 20, .metadata_size_bytes = 1U << 20, .metadata_url = blank}),
        error_code::invalid_argument, fresh(), "given for a device that is there");
    expect_refused(create({.data_size_bytes = 1U << 20, .metadata_size_bytes = UINT64_MAX}),
                   error_code::out_of_range, fresh(), "15.875 GiB");
    expect_refused(create({.data_size_bytes = 1U << 20, .metadata_url = make("small", 8192)}),
                   error_code::no_metadata_space, fresh(), "give at least");
    EXPECT_THAT(create({.data_size_bytes = 1U << 20, .low_water = "101%"}),
                HasCode(error_code::invalid_argument));
    EXPECT_FALSE(std::filesystem::exists(fresh()));
}

TEST_F(MakingPools, WhatIsThereIsNotOverwritten) {
    expect_refused(create({.data_size_bytes = 1U << 20, .metadata_url = metadata_}),
                   error_code::already_exists, metadata_, "it holds pool metadata");
    for (const char* name : {"pool.json", "catalog.db", "metadata", "data"}) {
        std::filesystem::create_directory(fresh());
        std::ofstream(fresh() + "/" + name) << "mine";
        expect_refused(create({.data_size_bytes = 1U << 20}), error_code::already_exists,
                       fresh() + "/" + name, "exists already");
        EXPECT_EQ(std::filesystem::file_size(fresh() + "/" + name), 4U);
        EXPECT_EQ(std::filesystem::remove_all(fresh()), 2U) << "and nothing was left beside it";
    }
}

TEST_F(MakingPools, DevicesThatAreThereAreUsedWhole) {
    const std::string metadata = make("their metadata", 1U << 20);
    const std::string data = make("their data", 40 * 65536);
    ASSERT_OK(create({.metadata_url = metadata, .data_url = "file:" + data, .low_water = "50%"}));
    auto opened = pool_directory::open(fresh(), {.purpose = open_purpose::inspect}, time_);
    ASSERT_THAT(opened, IsOk());
    EXPECT_EQ((*opened)->report()->data_blocks, 40U);
    EXPECT_EQ((*opened)->report()->low_water_blocks, 20U);
    EXPECT_EQ((*opened)->report()->metadata_url, metadata);
    EXPECT_OK((*opened)->close());
}

TEST_F(MakingPools, FilesOfTheDirectoryMoveWithIt) {
    std::filesystem::create_directory(fresh());
    std::filesystem::rename(make("blank", 1U << 20), fresh() + "/m");
    ASSERT_OK(create({.data_size_bytes = 1U << 20, .metadata_url = fresh() + "/m"}));
    EXPECT_EQ(load_pool_file(fresh())->metadata, "m");
}

TEST_F(MakingPools, AnAdoptionNeedsBothDevicesAndAFreePlace) {
    expect_refused(adopt({.metadata_url = metadata_}), error_code::invalid_argument, fresh(),
                   "give --metadata and --data");
    expect_refused(adopt({.data_url = data_}), error_code::invalid_argument, fresh(),
                   "give --metadata and --data");
    EXPECT_THAT(adopt({.metadata_url = data_, .data_url = metadata_}),
                HasCode(error_code::corrupt));
    EXPECT_FALSE(std::filesystem::exists(fresh()));
    std::filesystem::create_directory(fresh());
    std::ofstream(fresh() + "/catalog.db") << "mine";
    expect_refused(adopt({.metadata_url = metadata_, .data_url = data_}),
                   error_code::already_exists, fresh() + "/catalog.db", "exists already");
    std::filesystem::remove(fresh() + "/catalog.db");
    ASSERT_OK(adopt({.metadata_url = metadata_, .data_url = data_, .read_only = true}));
    EXPECT_TRUE(load_pool_file(fresh())->read_only);
    expect_refused(adopt({.metadata_url = metadata_, .data_url = data_}),
                   error_code::already_exists, fresh(), "is a pool already");
}

TEST_F(MakingPools, EveryRebuildingKeepsTheOldCatalogue) {
    ASSERT_OK(adopt({.metadata_url = metadata_, .data_url = data_}));
    for (const char* kept : {"/catalog.db.old-1", "/catalog.db.old-2"}) {
        std::ofstream(fresh() + "/catalog.db") << "damaged";
        ASSERT_OK(adopt({.rebuild_catalogue = true}));
        EXPECT_EQ(std::filesystem::file_size(fresh() + kept), 7U);
        EXPECT_TRUE(std::filesystem::exists(fresh() + kept + "-journal"));
    }
    std::filesystem::remove(fresh() + "/catalog.db");
    EXPECT_OK(adopt({.rebuild_catalogue = true})) << "there was none to keep";
}

}  // namespace
}  // namespace uthin
