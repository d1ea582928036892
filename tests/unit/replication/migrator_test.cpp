// A volume with its snapshots on its way to another pool.
#include "replication/migrator.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "base/random.h"
#include "support/forwarding_pool_service.h"
#include "support/pool_rig.h"
#include "support/replication_rig.h"
#include "support/seed.h"

namespace uthin::replication {
namespace {

using test::HasCode;
using test::pattern;
using test::replication_side;

constexpr std::uint64_t block_bytes = 64 << 10;
constexpr std::uint64_t volume_bytes = 40 * block_bytes;

class Migrate : public ::testing::Test {
protected:
    ~Migrate() override {
        source_.reset();
        target_.reset();
        replication_side::judge_all();
    }
    void make_target(std::uint64_t bytes) { target_ = std::make_unique<replication_side>(bytes); }
    void write(replication_side& side, const std::string& name, std::uint64_t offset,
               std::span<const std::byte> bytes) {
        auto open = side.pool().open_volume(name, false);
        ASSERT_OK(open);
        ASSERT_OK((*open)->write(offset, bytes));
    }
    // "v" with the snapshots "monday", "tuesday" and, of monday, "branch".
    void make_family() {
        source_->create("v", volume_bytes);
        write(*source_, "v", 100, pattern(1, 20 * block_bytes));
        source_->snapshot("v", "monday");
        write(*source_, "v", 3 * block_bytes, pattern(2, 5000));
        source_->snapshot("v", "tuesday");
        source_->snapshot("monday", "branch");
        write(*source_, "branch", 30 * block_bytes - 7, pattern(3, 3000));
        auto open = source_->pool().open_volume("v", false);
        ASSERT_OK(open);
        ASSERT_OK((*open)->discard(10 * block_bytes, 2 * block_bytes));
        ASSERT_OK((*open)->write(volume_bytes - 512, pattern(4, 512)));
    }
    [[nodiscard]] std::map<std::string, std::vector<std::byte>> contents(replication_side& side) {
        std::map<std::string, std::vector<std::byte>> all;
        const std::vector<volume_info> volumes = side.pool().list().value();
        for (const volume_info& one : volumes) {
            all[one.name] = side.content(one.name);
        }
        return all;
    }
    result<migrate_reply> migrate(const std::string& name = "v") {
        migrate_request request;
        request.name = name;
        return migrate_volume(source_->service(), target_->pool(), request);
    }

    std::unique_ptr<replication_side> source_ = std::make_unique<replication_side>(block_bytes);
    std::unique_ptr<replication_side> target_ = std::make_unique<replication_side>(block_bytes);
};

TEST_F(Migrate, BringsNamesContentAndSharing) {
    make_family();
    const auto wanted = contents(*source_);
    ASSERT_OK_AND_ASSIGN(const migrate_reply reply, migrate());
    EXPECT_EQ(reply.names, (std::vector<std::string>{"monday", "tuesday", "branch", "v"}));
    EXPECT_EQ(contents(*target_) == wanted, true);
    const std::vector<volume_info> volumes = target_->pool().list().value();
    for (const volume_info& there : volumes) {
        const std::string name = there.name == "v" ? "v.migrated" : there.name;
        EXPECT_EQ(there.mapped_bytes, source_->pool().show(name)->mapped_bytes) << there.name;
        EXPECT_EQ(there.parent, there.name == "v" ? "" : "v");
    }
    EXPECT_LE(target_->look().data_used_blocks, source_->look().data_used_blocks);
}

// What lies behind the old end in its block is written there only if it is not there already.
TEST_F(Migrate, AVolumeThatGrewWithinItsLastBlockStillSharesIt) {
    constexpr std::uint64_t small_bytes = 3 * block_bytes - 4096;
    source_->create("v", small_bytes);
    write(*source_, "v", 0, pattern(1, small_bytes));
    source_->snapshot("v", "monday");
    ASSERT_OK(source_->pool().resize("v", 5 * block_bytes));
    const auto wanted = contents(*source_);
    ASSERT_EQ(source_->look().data_used_blocks, 3U);
    ASSERT_OK(migrate());
    EXPECT_EQ(contents(*target_) == wanted, true);
    EXPECT_EQ(target_->look().data_used_blocks, 3U);
}

TEST_F(Migrate, TheSourceIsLeftUnderAnotherName) {
    make_family();
    const auto wanted = source_->content("v");
    ASSERT_OK_AND_ASSIGN(const migrate_reply reply, migrate());
    EXPECT_EQ(reply.left_as, "v.migrated");
    EXPECT_THAT(source_->pool().open_volume("v", true), HasCode(error_code::not_found));
    EXPECT_EQ(source_->content("v.migrated"), wanted);
    EXPECT_EQ(source_->pool().list()->size(), 4U);  // no temporary snapshot is left
    write(*target_, "v", 0, pattern(9, 512));
    // Again: nothing to do.
    ASSERT_OK_AND_ASSIGN(const migrate_reply again, migrate());
    EXPECT_EQ(again.copied_bytes, 0U);
    EXPECT_EQ(target_->content("v") == wanted, false);
}

TEST_F(Migrate, MayGiveTheVolumeAnotherName) {
    make_family();
    const auto wanted = source_->content("v");
    migrate_request request;
    request.name = "v";
    request.target_name = "w";
    ASSERT_OK(migrate_volume(source_->service(), target_->pool(), request));
    EXPECT_EQ(target_->content("w"), wanted);
    EXPECT_EQ(target_->pool().show("monday")->parent, "w");
}

TEST_F(Migrate, TheSnapshotsOfTheTargetAreBasesForStreams) {
    make_family();
    ASSERT_OK(migrate());
    ASSERT_OK(source_->pool().rename("v.migrated", "v"));
    write(*source_, "v", 77, pattern(8, 100000));
    source_->snapshot("v", "wednesday");
    ASSERT_OK(target_->receive(source_->send("wednesday", "tuesday"), "copy"));
    EXPECT_EQ(target_->content("copy"), source_->content("wednesday"));
}

TEST_F(Migrate, OtherBlockSizesHoldTheSameBytes) {
    make_family();
    const auto wanted = contents(*source_);
    make_target(3 * block_bytes);
    ASSERT_OK(migrate());
    EXPECT_EQ(contents(*target_) == wanted, true);
}

TEST_F(Migrate, APoolThatIsTooSmallGetsNothing) {
    source_->create("v", 3000 * block_bytes);
    write(*source_, "v", 0, pattern(1, 700 * block_bytes));
    make_target(16 * block_bytes);
    target_->create("other", 60 * 16 * block_bytes);
    write(*target_, "other", 0, pattern(1, 60 * 16 * block_bytes));
    const auto before = target_->look();
    EXPECT_THAT(migrate(), HasCode(error_code::no_data_space));
    EXPECT_EQ(target_->look() == before, true);
    write(*source_, "v", 0, pattern(2, 512));
}

TEST_F(Migrate, ANameInTheWayIsRefused) {
    make_family();
    target_->create("tuesday", block_bytes);
    const auto before = target_->look();
    const auto refused = migrate();
    ASSERT_THAT(refused, HasCode(error_code::already_exists));
    EXPECT_NE(refused.error().message().find("tuesday"), std::string::npos);
    EXPECT_EQ(target_->look() == before, true);
    EXPECT_THAT(migrate("nobody"), HasCode(error_code::not_found));
    EXPECT_THAT(migrate_volume(source_->service(), source_->pool(), {.name = "v"}),
                HasCode(error_code::invalid_argument));
}

// The client writes whenever something was copied, and leaves when it has written enough.
TEST_F(Migrate, AClientThatWritesMeanwhileLosesNothing) {
    make_family();
    auto client = source_->pool().open_volume("v", false);
    ASSERT_OK(client);
    auto model = source_->content("v");
    random_generator random(test::seed());
    int left = 12;
    const auto use = [&](std::uint64_t, std::uint64_t) {
        if (*client == nullptr) {
            return;
        }
        const std::uint64_t at = random.below(volume_bytes / 512 - 64) * 512;
        const auto bytes = pattern(random.next(), 512 * (1 + random.below(60)));
        ASSERT_OK((*client)->write(at, bytes));
        std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(at));
        if (--left == 0) {
            client->reset();
        }
    };
    migrate_request request;
    request.name = "v";
    request.progress = use;
    // As long as it stays, the volume stays; what was copied is kept.
    std::uint64_t rounds = 0;
    auto done = migrate_volume(source_->service(), target_->pool(), request);
    while (!done && ++rounds < 50) {
        ASSERT_THAT(done, HasCode(error_code::busy));
        EXPECT_OK(source_->pool().show("v"));
        EXPECT_THAT(target_->pool().show("v"), HasCode(error_code::not_found));
        done = migrate_volume(source_->service(), target_->pool(), request);
    }
    ASSERT_OK(done);
    EXPECT_GE(rounds, 1U);
    EXPECT_EQ(target_->content("v") == model, true);
    EXPECT_EQ(source_->content("v.migrated") == model, true);
    EXPECT_EQ(target_->pool().list()->size(), 4U);
}

// Somebody opens the volume after the migration saw that nobody has it, and before it has its new
// name; writes while it is called otherwise, and goes when it has its own name again.
class visitor final : public test::forwarding_pool_service {
public:
    explicit visitor(replication_side& side)
        : forwarding_pool_service(side.service()), side_(side) {}

    [[nodiscard]] result<volume_info> rename_volume(std::string_view name,
                                                    std::string_view new_name) override {
        if (visits_++ == 0) {
            open_ = side_.pool().open_volume(name, false).value();
        }
        if (new_name == "v" && open_ != nullptr) {
            EXPECT_OK(open_->write(5 * block_bytes, pattern(77, 4096)));
            open_.reset();
        }
        return forwarding_pool_service::rename_volume(name, new_name);
    }
    [[nodiscard]] int renamings() const noexcept { return visits_; }
    [[nodiscard]] bool is_there() const noexcept { return open_ != nullptr; }
    void leave() { open_.reset(); }

private:
    replication_side& side_;
    std::shared_ptr<volume> open_;
    int visits_ = 0;
};

TEST_F(Migrate, AVolumeThatIsOpenedWhileItLosesItsNameGetsItBackUntilItsClientIsGone) {
    make_family();
    visitor pool(*source_);
    migrate_request request;
    request.name = "v";
    request.wait = std::chrono::seconds(10);
    ASSERT_OK(migrate_volume(pool, target_->pool(), request));
    EXPECT_FALSE(pool.is_there()) << "the volume was moved while a client had it";
    EXPECT_EQ(pool.renamings(), 3);  // away, back, and away again
    pool.leave();
    const auto moved = target_->content("v");
    EXPECT_EQ(
        std::ranges::equal(std::span(moved).subspan(5 * block_bytes, 4096), pattern(77, 4096)),
        true);
}

// A pool that somebody else made: only read, and nothing of it has a name.
TEST_F(Migrate, ImportsFromAnAdoptedPool) {
    make_family();
    const auto wanted = source_->content("branch");
    const std::string path = source_->path();
    source_->drop();
    const test::temporary_directory folder;
    adopt_pool_request adoption;
    adoption.directory = folder.path() / "adopted";
    adoption.metadata_url = path + "/metadata";
    adoption.data_url = path + "/data";
    adoption.read_only = true;
    ASSERT_OK(pool_directory::adopt(adoption, system_clock()));
    {
        ASSERT_OK_AND_ASSIGN(auto opened,
                             pool_directory::open(adoption.directory, {}, system_clock()));
        const auto adopted = make_pool_service(std::move(opened));
        migrate_request request;
        request.name = "thin-3";
        request.target_name = "imported";
        ASSERT_OK_AND_ASSIGN(const migrate_reply reply,
                             migrate_volume(*adopted, target_->pool(), request));
        EXPECT_EQ(reply.left_as, "");
        ASSERT_OK_AND_ASSIGN(const migrate_reply again,
                             migrate_volume(*adopted, target_->pool(), request));
        EXPECT_EQ(again.copied_bytes, 0U);
    }
    const auto imported = target_->content("imported");
    EXPECT_EQ(std::equal(imported.begin(), imported.end(), wanted.begin()), true);
    EXPECT_EQ(target_->pool().list()->size(), 1U);
}

// A process of its own that dies when it has made `steps` pieces of progress.
bool killed_after(replication_side& source, replication_side& target, int steps) {
    source.drop();
    target.drop();
    const pid_t child = ::fork();
    if (child == 0) {
        source.open();
        target.open();
        migrate_request request;
        request.name = "v";
        request.progress = [&](std::uint64_t, std::uint64_t) {
            if (steps-- == 0) {
                ::_exit(9);
            }
        };
        const auto done = migrate_volume(source.service(), target.pool(), request);
        ::_exit(done ? 0 : 1);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    source.open();
    target.open();
    EXPECT_NE(WEXITSTATUS(status), 1);
    return WEXITSTATUS(status) == 9;
}

TEST_F(Migrate, GoesOnAfterAKillAtAnyPiece) {
    make_family();
    for (std::uint64_t block = 1; block < 40; block += 4) {
        write(*source_, "v", block * block_bytes, pattern(block, 4096));
    }
    ASSERT_OK(source_->pool().engine().commit());
    const auto wanted = contents(*source_);
    int kills = 0;
    // Each call comes one piece further than the one before.
    for (int steps = 0; killed_after(*source_, *target_, steps); ++steps) {
        ++kills;
        const std::vector<volume_info> volumes = target_->pool().list().value();
        for (const volume_info& there : volumes) {
            if (wanted.contains(there.name)) {
                EXPECT_EQ(target_->content(there.name) == wanted.at(there.name), true)
                    << there.name;
            }
        }
        ASSERT_LT(kills, 200);
    }
    EXPECT_GT(kills, 5);
    EXPECT_EQ(contents(*target_) == wanted, true);
    ASSERT_OK(source_->pool().rename("v.migrated", "v"));
    EXPECT_EQ(contents(*source_) == wanted, true);
}

}  // namespace
}  // namespace uthin::replication
