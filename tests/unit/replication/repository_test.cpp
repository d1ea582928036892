// The manifest of a repository, and what it refuses.
#include "replication/repository.h"

#include <filesystem>
#include <fstream>

#include "io/durable_file.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin::replication {
namespace {

using test::HasCode;
using test::IsOk;

backup_point point_of(std::uint64_t number, const std::string& base) {
    backup_point point;
    point.number = number;
    point.volume = "v \"x\"";
    point.volume_uuid = "uuid";
    point.id = "id-" + std::to_string(number);
    point.base = base;
    point.file = "streams/" + std::to_string(number);
    point.sha256 = "ab";
    point.file_bytes = 7;
    point.size_bytes = 512;
    point.created_unix_seconds = 1'700'000'000;
    return point;
}

repository_manifest sample() {
    return {"repo", 4, {point_of(1, ""), point_of(2, "id-1"), point_of(3, "id-2")}};
}

TEST(Repository, ItsManifestIsReadAsItWasWritten) {
    ASSERT_OK_AND_ASSIGN(const auto read, parse_manifest(format_manifest(sample()), "m"));
    EXPECT_EQ(read, sample());
}

TEST(Repository, RefusesAManifestThatMakesNoSense) {
    const auto refused = [](const std::function<void(repository_manifest&)>& change) {
        repository_manifest manifest = sample();
        change(manifest);
        EXPECT_THAT(parse_manifest(format_manifest(manifest), "m"), HasCode(error_code::corrupt));
    };
    refused([](auto& m) { m.points[1].base = "id-3"; });
    refused([](auto& m) { m.points[1].number = 1; });
    refused([](auto& m) { m.next_number = 3; });
    refused([](auto& m) { m.points[1].id = "id-1"; });
    for (const char* file : {"/etc/passwd", "streams/../x", "streams/", "streams/..", "other/x"}) {
        refused([&](auto& m) { m.points[0].file = file; });
    }
    for (const char* text : {"", "[]", "{}", R"({"format":"uthin-backup"})",
                             R"({"format":"uthin-backup","version":1,"id":3})"}) {
        EXPECT_FALSE(parse_manifest(text, "m")) << text;
    }
}

TEST(Repository, IsMadeOnceAndHasOneWriter) {
    const test::temporary_directory folder;
    const std::string path = folder.path() / "repo";
    EXPECT_THAT(repository::open(path), HasCode(error_code::not_found));
    {
        ASSERT_OK_AND_ASSIGN(auto writer, repository::open_for_writing(path));
        EXPECT_THAT(repository::open_for_writing(path), HasCode(error_code::busy));
        EXPECT_THAT(repository::open(path), IsOk());
        repository_manifest manifest = writer.manifest();
        manifest.points = {point_of(1, "")};
        manifest.next_number = 2;
        ASSERT_OK(writer.store(manifest));
        std::ofstream(path + "/streams/1") << "named";
        std::ofstream(path + "/streams/2.uthin.new") << "left by a crash";
        ASSERT_OK(writer.remove_strays());
    }
    EXPECT_TRUE(std::filesystem::exists(path + "/streams/1"));
    EXPECT_FALSE(std::filesystem::exists(path + "/streams/2.uthin.new"));
    ASSERT_OK_AND_ASSIGN(const auto again, repository::open(path));
    EXPECT_EQ(again.manifest().points.size(), 1U);
    EXPECT_THAT(again.chain_of(again.manifest().points[0]), IsOk());
    const std::string other = folder.path();
    std::ofstream(other + "/file") << "somebody's";
    EXPECT_THAT(repository::open_for_writing(other), HasCode(error_code::already_exists));
}

}  // namespace
}  // namespace uthin::replication
