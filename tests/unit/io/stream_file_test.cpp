// Files that are written once: there when they are published, gone when they are not.
#include "io/stream_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
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

}  // namespace
}  // namespace uthin::io
