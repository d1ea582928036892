// A first backup that was killed while it wrote the manifest left a directory that every later one
// refused as one of somebody else. (Found by reading.)
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "replication/repository.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin::replication {
namespace {

using test::HasCode;

TEST(FirstBackup, GoesOnWhereOneWasKilled) {
    test::temporary_directory folder;
    const std::string path = folder.path() / "backups";
    std::filesystem::create_directory(path);
    std::ofstream(path + "/manifest.json.new") << "{\"for";
    ASSERT_OK(repository::open_for_writing(path));
    EXPECT_OK(repository::open(path));
}

TEST(FirstBackup, LeavesOtherDirectoriesAlone) {
    test::temporary_directory folder;
    std::ofstream(folder.path() / "letter") << "x";
    EXPECT_THAT(repository::open_for_writing(folder.path()), HasCode(error_code::already_exists));
    EXPECT_TRUE(std::filesystem::exists(folder.path() / "letter"));
    EXPECT_FALSE(std::filesystem::exists(folder.path() / "manifest.json"));
}

}  // namespace
}  // namespace uthin::replication
