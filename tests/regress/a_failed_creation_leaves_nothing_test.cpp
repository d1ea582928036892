// A pool whose creation failed at its last step, the writing of pool.json, left the journal of its
// catalogue and the directory that was made for it; and where that file could be written in part
// only, pool.json.new.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "io/durable_file.h"
#include "pool/pool_directory.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

std::vector<std::string> names_in(const std::filesystem::path& directory) {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
        names.push_back(entry.path().filename());
    }
    return names;
}

create_pool_request request_in(const std::string& path) {
    return {.directory = path, .data_size_bytes = 16U << 20, .metadata_size_bytes = 1U << 20};
}

TEST(AFailedCreation, LeavesNothingOfItsOwn) {
    const test::temporary_directory directory;
    const std::string path = directory.path() / "pool";
    ASSERT_OK(io::make_directory(path));
    // Not followed, so that the new pool.json cannot be made.
    std::filesystem::create_symlink("elsewhere", path + "/pool.json.new");
    EXPECT_FALSE(pool_directory::create(request_in(path), system_clock()));
    EXPECT_THAT(names_in(path), testing::ElementsAre("pool.json.new"));
    std::filesystem::remove(path + "/pool.json.new");
    EXPECT_OK(pool_directory::create(request_in(path), system_clock()));
}

TEST(AFailedCreation, LeavesNoDirectoryThatItMade) {
    const test::temporary_directory directory;
    const std::string path = directory.path() / "pool";
    create_pool_request request = request_in(path);
    request.catalogue_vfs = "there is no such file access";
    EXPECT_FALSE(pool_directory::create(request, system_clock()));
    EXPECT_THAT(names_in(directory.path()), testing::IsEmpty());
    // One that was there stays.
    ASSERT_OK(io::make_directory(path));
    EXPECT_FALSE(pool_directory::create(request, system_clock()));
    EXPECT_THAT(names_in(directory.path()), testing::ElementsAre("pool"));
}

TEST(AFailedCreation, AFileThatCannotBeReplacedLeavesNoNewOne) {
    const test::temporary_directory directory;
    const std::string path = directory.path() / "taken";
    ASSERT_OK(io::make_directory(path));
    EXPECT_FALSE(io::replace_file(path, "content"));
    EXPECT_THAT(names_in(directory.path()), testing::ElementsAre("taken"));
}

}  // namespace
}  // namespace uthin
