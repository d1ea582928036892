// What a backup, a pruning and a restore leave when they fail half-way: everything that there was.
#include "replication/backup.h"

#include <filesystem>

#include <gmock/gmock.h>

#include "pool/labels.h"
#include "support/replication_rig.h"

namespace uthin::replication {
namespace {

constexpr std::uint64_t block_bytes = 64U << 10;

class Backup : public testing::Test {
protected:
    static void TearDownTestSuite() { test::replication_side::judge_all(); }
    Backup() { side_.create("v", 8 * block_bytes); }

    void write(char with) {
        ASSERT_OK_AND_ASSIGN(const auto open, side_.pool().open_volume("v", false));
        const std::string text(block_bytes, with);
        ASSERT_OK(open->write(static_cast<std::uint64_t>(with - 'a') * block_bytes,
                              std::as_bytes(std::span(text))));
        ASSERT_OK(open->flush());
    }
    result<backup_point> backup(repository& to) {
        return make_backup(side_.service(), to, {.name = "v"});
    }
    // Three points that build on each other.
    void three_backups(repository& to) {
        for (const char with : {'a', 'b', 'c'}) {
            write(with);
            ASSERT_OK(backup(to));
        }
    }
    static std::vector<std::string> complaints(const std::string& path) {
        const auto stored = repository::open(path);
        EXPECT_OK(stored);
        const auto found = verify_backups(*stored, {});
        EXPECT_OK(found);
        return *found;
    }
    // While it is there no manifest can be written.
    [[nodiscard]] std::string in_the_way() const { return path_ + "/manifest.json.new"; }

    test::replication_side side_{block_bytes};
    test::temporary_directory folder_;
    const std::string path_ = folder_.path() / "repository";
};

TEST_F(Backup, IsRestoredAsItWas) {
    ASSERT_OK_AND_ASSIGN(auto to, repository::open_for_writing(path_));
    three_backups(to);
    ASSERT_OK(prune_backups(to, 2));
    const auto points = to.manifest().points;
    ASSERT_EQ(points.size(), 2U);
    const auto now = side_.content("v");
    ASSERT_OK(restore_backup(side_.service(), to, {.name = "w", .point = points[1]}));
    EXPECT_EQ(side_.content("w"), now);
    EXPECT_TRUE(side_.service().show_volume("w")->labels.empty());
    ASSERT_OK_AND_ASSIGN(const auto all, side_.pool().list());
    for (const volume_info& kept : all) {
        EXPECT_EQ(is_marked_read_only(kept.labels), kept.name.starts_with("v-backup-"))
            << kept.name << ": a client's write would cost the next backup its base";
    }
}

TEST_F(Backup, PruningKeepsTheOldStreamsUntilTheManifestDoesWithoutThem) {
    {
        ASSERT_OK_AND_ASSIGN(auto to, repository::open_for_writing(path_));
        three_backups(to);
        std::filesystem::create_directory(in_the_way());
        EXPECT_FALSE(prune_backups(to, 1));
    }
    EXPECT_THAT(complaints(path_), testing::IsEmpty());
    EXPECT_EQ(repository::open(path_)->manifest().points.size(), 3U);
}

TEST_F(Backup, TheBaseStaysUntilTheManifestHasTheNewOne) {
    ASSERT_OK_AND_ASSIGN(auto to, repository::open_for_writing(path_));
    ASSERT_OK_AND_ASSIGN(const auto first, backup(to));
    std::filesystem::create_directory(in_the_way());
    EXPECT_FALSE(backup(to));
    std::filesystem::remove(in_the_way());
    ASSERT_OK_AND_ASSIGN(const auto second, backup(to));
    EXPECT_EQ(second.base, first.id);
}

TEST_F(Backup, TheManifestNamesNoStreamThatIsNotThere) {
    ASSERT_OK_AND_ASSIGN(auto to, repository::open_for_writing(path_));
    std::filesystem::create_directories(path_ + "/streams/000001-full.uthin/x");
    EXPECT_FALSE(backup(to));
    EXPECT_THAT(complaints(path_), testing::IsEmpty());
}

TEST_F(Backup, ARestoredVolumeHasALeaseUntilItHasItsName) {
    ASSERT_OK_AND_ASSIGN(auto to, repository::open_for_writing(path_));
    write('a');
    ASSERT_OK_AND_ASSIGN(const auto point, backup(to));
    restore_request request{.name = "w", .point = point};
    request.progress = [&, done = false](std::uint64_t) mutable {
        if (!std::exchange(done, true)) {
            side_.create("w", block_bytes);
        }
    };
    EXPECT_THAT(restore_backup(side_.service(), to, request),
                test::HasCode(error_code::already_exists));
    ASSERT_OK_AND_ASSIGN(const auto volumes, side_.pool().list());
    for (const volume_info& volume : volumes) {
        EXPECT_TRUE(!volume.name.starts_with("restoring-") ||
                    volume.labels.contains(std::string(lease_until_label)))
            << volume.name << " would stay for ever";
    }
}

}  // namespace
}  // namespace uthin::replication
