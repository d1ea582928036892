// Files that are written once: there when they are published, gone when they are not.
#include "io/stream_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin::io {
namespace {

using test::HasCode;

TEST(StreamFile, IsReadAsItWasWritten) {
    const test::temporary_directory folder;
    const std::string path = folder.path() / "file";
    std::ofstream(path + ".new") << "left by an earlier attempt, and longer than what follows";
    {
        ASSERT_OK_AND_ASSIGN(auto file, new_file::create(path));
        ASSERT_OK(file.write(std::vector<std::byte>(3000, std::byte{'a'})));
        ASSERT_OK(file.write(std::vector<std::byte>(7, std::byte{'b'})));
        EXPECT_FALSE(std::filesystem::exists(path));
        ASSERT_OK(file.publish());
    }
    EXPECT_FALSE(std::filesystem::exists(path + ".new"));
    ASSERT_OK_AND_ASSIGN(auto reader, file_reader::open(path));
    std::vector<std::byte> bytes(4000);
    EXPECT_EQ(reader.read(std::span(bytes).first(2999)).value(), 2999U);
    EXPECT_EQ(reader.read(bytes).value(), 8U);
    EXPECT_EQ(bytes[0], std::byte{'a'});
    EXPECT_EQ(bytes[7], std::byte{'b'});
    EXPECT_EQ(reader.read(bytes).value(), 0U);
}

TEST(StreamFile, LeavesNothingWhenItIsNotPublished) {
    const test::temporary_directory folder;
    const std::string path = folder.path() / "file";
    {
        ASSERT_OK_AND_ASSIGN(auto file, new_file::create(path));
        ASSERT_OK(file.write(std::vector<std::byte>(10)));
    }
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
    EXPECT_THAT(file_reader::open(path), HasCode(error_code::not_found));
    EXPECT_THAT(new_file::create(folder.path() / "no" / "file"), HasCode(error_code::not_found));
}

TEST(StreamFile, SaysWhatCouldNotBeDone) {
    const test::temporary_directory folder;
    const std::string path = folder.path() / "file";
    {
        const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
        rlimit old{};
        ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
        const rlimit limit{.rlim_cur = 100, .rlim_max = old.rlim_max};
        ASSERT_OK_AND_ASSIGN(auto file, new_file::create(path));
        ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
        const auto written = file.write(std::vector<std::byte>(200));  // half, then nothing
        ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
        std::signal(SIGXFSZ, old_handler);
        ASSERT_THAT(written, HasCode(error_code::io_error));
        EXPECT_THAT(written.error().message(), testing::HasSubstr(path + ": cannot write"));
    }
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
    std::filesystem::create_directory(path);
    {
        ASSERT_OK_AND_ASSIGN(auto file, new_file::create(path));
        EXPECT_THAT(file.publish(), HasCode(error_code::invalid_argument)) << "a directory";
    }
    EXPECT_FALSE(std::filesystem::exists(path + ".new"));
    ASSERT_OK_AND_ASSIGN(auto reader, file_reader::open(path));
    std::vector<std::byte> bytes(10);
    const auto read = reader.read(bytes);
    ASSERT_THAT(read, HasCode(error_code::invalid_argument));
    EXPECT_THAT(read.error().message(), testing::HasSubstr("cannot read"));
}

// A pipe whose writing end is closed when it is let go.
struct test_pipe {
    test_pipe() {
        int both[2] = {-1, -1};
        EXPECT_EQ(::pipe(both), 0);
        read_end = both[0];
        write_end = both[1];
    }
    test_pipe(const test_pipe&) = delete;
    test_pipe& operator=(const test_pipe&) = delete;
    ~test_pipe() {
        ::close(read_end);
        close_write_end();
    }
    void close_write_end() {
        if (write_end >= 0) {
            ::close(std::exchange(write_end, -1));
        }
    }
    int read_end = -1;
    int write_end = -1;
};

TEST(PipeReader, GivesAllThatComesAndThenTheEnd) {
    test_pipe pipe;
    ASSERT_EQ(::write(pipe.write_end, "abcde", 5), 5);
    pipe.close_write_end();
    const pipe_reader reader(pipe.read_end, "pipe", std::chrono::milliseconds(5000));
    std::vector<std::byte> bytes(3);
    EXPECT_EQ(reader.read(bytes).value(), 3U);
    EXPECT_EQ(bytes[2], std::byte{'c'});
    EXPECT_EQ(reader.read(bytes).value(), 2U);
    EXPECT_EQ(reader.read(bytes).value(), 0U);
}

TEST(PipeReader, GivesUpAWriterThatFellSilent) {
    const test_pipe pipe;
    ASSERT_EQ(::write(pipe.write_end, "ab", 2), 2);
    const pipe_reader reader(pipe.read_end, "the other side", std::chrono::milliseconds(20));
    std::vector<std::byte> bytes(3);
    const auto outcome = reader.read(bytes);
    EXPECT_THAT(outcome, HasCode(error_code::cancelled));
    EXPECT_EQ(outcome.error().message(), "the other side: nothing came for 20 ms");
}

}  // namespace
}  // namespace uthin::io
