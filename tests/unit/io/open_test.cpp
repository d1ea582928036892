#include "io/open.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin::test {
namespace {

using io::open_device;
using io::open_options;

class OpenDevice : public ::testing::Test {
protected:
    std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
    std::string make_file(const std::string& name, std::uint64_t size_bytes) const {
        std::ofstream(path(name)).close();
        std::filesystem::resize_file(path(name), size_bytes);
        return path(name);
    }
    // The code, and that one line names the object.
    static void expect_refused(const std::string& url, const open_options& options,
                               error_code code) {
        const auto opened = open_device(url, options);
        ASSERT_THAT(opened, HasCode(code)) << url;
        EXPECT_NE(opened.error().message().find(url), std::string::npos)
            << opened.error().to_string();
        EXPECT_EQ(opened.error().to_string().find('\n'), std::string::npos);
    }

    temporary_directory folder_;
};

TEST_F(OpenDevice, APlainPathAndAFileUrlAreTheSame) {
    const std::string file = make_file("disk", 1 << 20);
    for (const std::string& url : {file, "file:" + file}) {
        ASSERT_OK_AND_ASSIGN(const auto device, open_device(url, {}));
        ASSERT_OK_AND_ASSIGN(const std::uint64_t size_bytes, device->size_bytes());
        EXPECT_EQ(size_bytes, 1 << 20);
        EXPECT_EQ(device->name(), file);
    }
}

TEST_F(OpenDevice, MemoryTakesASizeWithASuffix) {
    const std::pair<const char*, std::uint64_t> good[] = {{"memory:4096", 4096},
                                                          {"memory:64K", 64 << 10},
                                                          {"memory:3M", 3 << 20},
                                                          {"memory:20G", 20ULL << 30},
                                                          {"memory:1T", 1ULL << 40}};
    for (const auto& [url, wanted_bytes] : good) {
        ASSERT_OK_AND_ASSIGN(const auto device, open_device(url, {}));
        ASSERT_OK_AND_ASSIGN(const std::uint64_t size_bytes, device->size_bytes());
        EXPECT_EQ(size_bytes, wanted_bytes) << url;
    }
    for (const char* const bad :
         {"memory:", "memory:0", "memory:x", "memory:1X", "memory:1KK", "memory:-1",
          "memory:99999999999999999999", "memory:9999999999T", "memory:1 K"}) {
        expect_refused(bad, {}, error_code::invalid_argument);
    }
}

TEST_F(OpenDevice, WhatIsNoFileOrDiskIsRefused) {
    ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
    expect_refused(folder_.path().string(), {}, error_code::invalid_argument);
    expect_refused(path("pipe"), {}, error_code::invalid_argument);
    expect_refused(path("pipe"), {.read_only = true}, error_code::invalid_argument);
    expect_refused("/dev/null", {}, error_code::invalid_argument);
    expect_refused(path("missing"), {}, error_code::not_found);
    expect_refused(path("missing/below"), {}, error_code::not_found);
    expect_refused(make_file("file", 10) + "/below", {}, error_code::invalid_argument);
    EXPECT_THAT(open_device("", {}), HasCode(error_code::invalid_argument));
    EXPECT_THAT(open_device(std::string_view("a\0b", 3), {}),
                HasCode(error_code::invalid_argument));
    expect_refused("/" + std::string(5000, 'x'), {}, error_code::invalid_argument);
}

TEST_F(OpenDevice, TooSmallIsRefusedWithBothSizes) {
    const std::string file = make_file("small", 4096);
    expect_refused(file, {.size_bytes_min = 4097}, error_code::invalid_argument);
    EXPECT_OK(open_device(file, {.size_bytes_min = 4096}));
    expect_refused("memory:4K", {.size_bytes_min = 4097}, error_code::invalid_argument);
}

TEST_F(OpenDevice, ForeignSchemesAreNamed) {
    expect_refused("rbd:pool/image", {}, error_code::unsupported);
    expect_refused("http://host/image", {}, error_code::unsupported);
    const auto opened = open_device("rbd:pool/image", {});
    for (const char* const known : {"file:", "memory:", "nbd://", "nbd+unix://"}) {
        EXPECT_NE(opened.error().message().find(known), std::string::npos) << known;
    }
}

TEST_F(OpenDevice, AFileNameMayHoldAColon) {
    const std::string file = make_file("a:b", 4096);
    EXPECT_OK(open_device(file, {}));
    EXPECT_OK(open_device("file:" + file, {}));
}

TEST_F(OpenDevice, AnNbdServerThatIsNotThereIsAnIoError) {
    expect_refused("nbd+unix:///?socket=" + path("no-socket"), {}, error_code::io_error);
}

TEST_F(OpenDevice, NoPermissionIsSaid) {
    const std::string file = make_file("private", 4096);
    ASSERT_EQ(::chmod(file.c_str(), 0400), 0);
    const bool is_root = ::geteuid() == 0;
    if (is_root) {
        ASSERT_EQ(::chmod(folder_.path().c_str(), 0755), 0);
        ASSERT_EQ(::chown(file.c_str(), 65534, 65534), 0);
        ASSERT_EQ(::seteuid(65534), 0);
    }
    expect_refused(file, {}, error_code::not_permitted);
    EXPECT_OK(open_device(file, {.read_only = true, .lock = io::lock_mode::shared}));
    if (is_root) {
        ASSERT_EQ(::seteuid(0), 0);
    }
}

TEST_F(OpenDevice, ReadOnlyRefusesEveryChange) {
    const std::string file = make_file("disk", 1 << 20);
    ASSERT_OK_AND_ASSIGN(const auto device,
                         open_device(file, {.read_only = true, .lock = io::lock_mode::shared}));
    EXPECT_TRUE(device->capabilities().read_only);
    std::vector<std::byte> bytes(4096);
    EXPECT_OK(device->read(0, bytes));
    EXPECT_OK(device->flush());
    EXPECT_THAT(device->write(0, bytes), HasCode(error_code::read_only));
    EXPECT_THAT(device->write_fua(0, bytes), HasCode(error_code::read_only));
    EXPECT_THAT(device->write_zeroes(0, 4096), HasCode(error_code::read_only));
    EXPECT_THAT(device->discard(0, 4096), HasCode(error_code::read_only));
    EXPECT_THAT(device->grow(2 << 20), HasCode(error_code::read_only));
    const io_op op{io_kind::write, 0, bytes};
    EXPECT_THAT(device->run({&op, 1}), HasCode(error_code::read_only));
}

TEST_F(OpenDevice, OwnsWhatItOpensAndLetsGo) {
    const std::string file = make_file("disk", 1 << 20);
    {
        ASSERT_OK_AND_ASSIGN(const auto device, open_device(file, {}));
        expect_refused(file, {}, error_code::busy);
        expect_refused(file, {.read_only = true, .lock = io::lock_mode::shared}, error_code::busy);
        EXPECT_OK(open_device(file, {.read_only = true, .lock = io::lock_mode::none}));
    }
    EXPECT_OK(open_device(file, {}));
}

TEST_F(OpenDevice, CreatesASparseFileOnce) {
    const open_options create{.create_size_bytes = 1ULL << 30};
    {
        ASSERT_OK_AND_ASSIGN(const auto device, open_device(path("new"), create));
        ASSERT_OK_AND_ASSIGN(const std::uint64_t size_bytes, device->size_bytes());
        EXPECT_EQ(size_bytes, 1ULL << 30);
    }
    struct stat status {};
    ASSERT_EQ(::stat(path("new").c_str(), &status), 0);
    EXPECT_LT(status.st_blocks, 1000);
    EXPECT_EQ(status.st_mode & 0777, 0600);
    expect_refused(path("new"), create, error_code::already_exists);
}

TEST_F(OpenDevice, AFailedCreationLeavesNothingBehind) {
    const auto opened = open_device(path("new"), {.create_size_bytes = UINT64_MAX});
    EXPECT_FALSE(opened.has_value());
    EXPECT_FALSE(std::filesystem::exists(path("new")));
}

}  // namespace
}  // namespace uthin::test
