// What a caller is told when a small file or a directory cannot be read, replaced or made, and that
// nothing half done is left. The order of flushes is tested beside the file devices.
#include "io/durable_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin::test {
namespace {

using io::file_kind;
using testing::HasSubstr;

class DurableFile : public testing::Test {
protected:
    [[nodiscard]] std::string path(const char* name) const { return folder_.path() / name; }
    static std::string content_of(const std::string& path) {
        return io::read_file(path, 1 << 20).value_or("unreadable");
    }
    // The code, and that the path and what was tried are in the message.
    template <class T>
    static void expect_refused(const result<T>& outcome, error_code code, const std::string& path,
                               const char* what) {
        ASSERT_THAT(outcome, HasCode(code));
        EXPECT_THAT(outcome.error().message(), HasSubstr(path));
        EXPECT_THAT(outcome.error().message(), HasSubstr(what));
    }

    temporary_directory folder_;
};

// Files cannot get longer than this, as on a full disk.
class short_files {
public:
    explicit short_files(rlim_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
        EXPECT_EQ(::getrlimit(RLIMIT_FSIZE, &old_), 0);
        const rlimit limit{.rlim_cur = bytes, .rlim_max = old_.rlim_max};
        EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
    }
    ~short_files() {
        ::setrlimit(RLIMIT_FSIZE, &old_);
        std::signal(SIGXFSZ, old_handler_);
    }
    short_files(const short_files&) = delete;
    short_files& operator=(const short_files&) = delete;

private:
    rlimit old_{};
    void (*const old_handler_)(int);
};

TEST_F(DurableFile, ReadingGivesTheWholeFileOrTheReason) {
    const std::string file = path("file");
    std::ofstream(file) << std::string(10000, 'x');
    EXPECT_EQ(io::read_file(file, 10000).value(), std::string(10000, 'x'));
    expect_refused(io::read_file(file, 9999), error_code::invalid_argument, file,
                   "larger than 9999 bytes");
    expect_refused(io::read_file(path("missing"), 1), error_code::not_found, path("missing"),
                   "cannot open");
    expect_refused(io::read_file(folder_.path(), 1), error_code::invalid_argument, folder_.path(),
                   "cannot read");
}

TEST_F(DurableFile, AFileIsReplacedWholeOrNotAtAll) {
    const std::string file = path("file");
    ASSERT_OK(io::replace_file(file, "old"));
    {
        const short_files limit(100);
        expect_refused(io::replace_file(file, std::string(5000, 'y')), error_code::io_error, file,
                       "cannot write");
    }
    EXPECT_EQ(content_of(file), "old");
    EXPECT_FALSE(std::filesystem::exists(file + ".new"));
    ASSERT_OK(io::replace_file(file, std::string(5000, 'y')));
    EXPECT_EQ(content_of(file), std::string(5000, 'y'));
}

TEST_F(DurableFile, ALinkInThePlaceOfTheNewFileIsNotFollowed) {
    const std::string file = path("file");
    std::ofstream(path("victim")) << "untouched";
    std::filesystem::create_symlink(path("victim"), file + ".new");
    expect_refused(io::replace_file(file, "content"), error_code::invalid_argument, file,
                   "cannot create");
    EXPECT_EQ(content_of(path("victim")), "untouched");
    EXPECT_FALSE(std::filesystem::exists(file));
}

TEST_F(DurableFile, WhatCannotBeReplacedRenamedOrRemovedStays) {
    std::filesystem::create_directory(path("directory"));
    expect_refused(io::replace_file(path("directory"), "content"), error_code::invalid_argument,
                   path("directory"), "cannot replace");
    EXPECT_FALSE(std::filesystem::exists(path("directory.new")));
    expect_refused(io::replace_file(path("missing/file"), "content"), error_code::not_found,
                   path("missing/file"), "cannot create");
    expect_refused(io::rename_file(path("missing"), path("to")), error_code::not_found, path("to"),
                   "cannot replace");
    expect_refused(io::remove_file(path("missing")), error_code::not_found, path("missing"),
                   "cannot remove");
    ASSERT_OK(io::replace_file(path("from"), "content"));
    ASSERT_OK(io::rename_file(path("from"), path("to")));
    EXPECT_EQ(content_of(path("to")), "content");
    ASSERT_OK(io::remove_file(path("to")));
    EXPECT_EQ(io::kind_of_file(path("to")), file_kind::absent);
}

TEST_F(DurableFile, ARelativePathIsOneOfTheWorkingDirectory) {
    const auto before = std::filesystem::current_path();
    std::filesystem::current_path(folder_.path());
    const auto replaced = io::replace_file("plain", "content");
    const auto removed = io::remove_file("plain");
    std::filesystem::current_path(before);
    EXPECT_OK(replaced);
    EXPECT_OK(removed);
}

TEST_F(DurableFile, ADirectoryIsMadeOnce) {
    EXPECT_TRUE(io::make_directory(path("directory")).value());
    EXPECT_EQ(std::filesystem::status(path("directory")).permissions(),
              std::filesystem::perms::owner_all);
    EXPECT_FALSE(io::make_directory(path("directory")).value());
    std::ofstream(path("file")).close();
    expect_refused(io::make_directory(path("file")), error_code::invalid_argument, path("file"),
                   "not a directory");
    expect_refused(io::make_directory(path("missing/directory")), error_code::not_found,
                   path("missing/directory"), "cannot make directory");
    expect_refused(io::flush_directory(path("missing")), error_code::not_found, path("missing"),
                   "cannot open");
    expect_refused(io::flush_directory(path("file")), error_code::invalid_argument, path("file"),
                   "cannot open");
}

TEST_F(DurableFile, KindsOfFilesAreToldApart) {
    std::ofstream(path("file")).close();
    ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
    EXPECT_EQ(io::kind_of_file(path("missing")), file_kind::absent);
    EXPECT_EQ(io::kind_of_file(path("file")), file_kind::regular);
    EXPECT_EQ(io::kind_of_file(folder_.path()), file_kind::directory);
    EXPECT_EQ(io::kind_of_file(path("pipe")), file_kind::other);
    EXPECT_EQ(io::kind_of_file("/dev/null"), file_kind::other);
    // It cannot be told what is there.
    EXPECT_EQ(io::kind_of_file(path("file") + "/below"), file_kind::other);
    if (::mknod(path("disk").c_str(), S_IFBLK | 0600, ::makedev(7, 250)) == 0) {
        EXPECT_EQ(io::kind_of_file(path("disk")), file_kind::block_device);
    }
}

TEST_F(DurableFile, OneFileIsTheSameByEveryName) {
    std::ofstream(path("file")).close();
    std::ofstream(path("other")).close();
    std::filesystem::create_hard_link(path("file"), path("hard"));
    std::filesystem::create_symlink("file", path("soft"));
    EXPECT_TRUE(io::is_same_file(path("file"), path("hard")));
    EXPECT_TRUE(io::is_same_file(path("soft"), path("./hard")));
    EXPECT_FALSE(io::is_same_file(path("file"), path("other")));
    EXPECT_FALSE(io::is_same_file(path("file"), path("missing")));
    EXPECT_FALSE(io::is_same_file(path("missing"), path("file")));
    EXPECT_EQ(io::absolute_path(path("soft")), io::absolute_path(path("file")));
    EXPECT_EQ(io::absolute_path(path("./missing/../file")), io::absolute_path(path("file")));
    // Two nodes of one disk, and of two.
    const auto disk = [&](const char* name, unsigned minor) {
        return ::mknod(path(name).c_str(), S_IFBLK | 0600, ::makedev(7, minor)) == 0;
    };
    if (disk("disk", 250) && disk("same disk", 250) && disk("other disk", 251)) {
        EXPECT_TRUE(io::is_same_file(path("disk"), path("same disk")));
        EXPECT_FALSE(io::is_same_file(path("disk"), path("other disk")));
        EXPECT_FALSE(io::is_same_file(path("disk"), path("file")));
    }
}

TEST_F(DurableFile, DataIsFoundBetweenHoles) {
    constexpr std::uint64_t piece = 1 << 20;
    const std::string file = path("file");
    const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_GE(descriptor, 0);
    ASSERT_EQ(::ftruncate(descriptor, 4 * piece), 0);
    const std::string data(piece, 'x');
    ASSERT_EQ(::pwrite(descriptor, data.data(), piece, piece), static_cast<ssize_t>(piece));
    ASSERT_EQ(::close(descriptor), 0);
    ASSERT_OK_AND_ASSIGN(const io::data_map map, io::data_map::open(file));
    const auto first = map.next(0, 4 * piece).value();
    ASSERT_TRUE(first.has_value());
    EXPECT_LE(first->begin_bytes, piece);
    EXPECT_GE(first->end_bytes, 2 * piece);
    // Cut at the size that is asked about, and nothing at and behind it.
    EXPECT_EQ(map.next(piece, piece + 100).value()->end_bytes, piece + 100);
    EXPECT_EQ(map.next(4 * piece, 4 * piece).value(), std::nullopt);
    const bool has_holes = first->begin_bytes == piece;
    if (has_holes) {
        EXPECT_FALSE(map.next(0, piece).value().has_value());
        EXPECT_FALSE(map.next(2 * piece, 4 * piece).value().has_value());
    }
    // What cannot tell has data everywhere.
    ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
    ASSERT_OK_AND_ASSIGN(const io::data_map pipe, io::data_map::open(path("pipe")));
    const auto all = pipe.next(100, 5000).value();
    ASSERT_TRUE(all.has_value());
    EXPECT_EQ(all->begin_bytes, 100U);
    EXPECT_EQ(all->end_bytes, 5000U);
    expect_refused(io::data_map::open(path("missing")), error_code::not_found, path("missing"),
                   "cannot open");
}

}  // namespace
}  // namespace uthin::test
