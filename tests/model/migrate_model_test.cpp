// Random families of volumes and snapshots, migrated: every one holds the same bytes at the target.
// With blocks of the same size they take no more of them than at the source, if snapshots were not
// written to: what a written one shares with two relatives it can share with only one there.
#include <fmt/format.h>

#include <algorithm>

#include "base/random.h"
#include "replication/migrator.h"
#include "support/pool_rig.h"
#include "support/replication_rig.h"
#include "support/seed.h"
#include "support/tier.h"

namespace uthin::test {
namespace {

constexpr std::uint64_t kib = 1024;
constexpr std::uint64_t size_bytes_max = 1536 * kib;

class family {
public:
    family(random_generator& random, replication_side& source) : random_(random), source_(source) {}

    void make(std::uint64_t number, bool written_snapshots) {
        root_ = fmt::format("v{}", number);
        names_ = {root_};
        source_.create(root_, random_size());
        for (std::uint64_t step = 6 + random_.below(12); step > 0; --step) {
            const bool snapshots = random_.one_in(3);
            const std::string name =
                snapshots || written_snapshots ? names_[random_.below(names_.size())] : root_;
            if (names_.size() < 6 && snapshots) {
                const std::string snapshot = fmt::format("{}-s{}", root_, names_.size());
                ASSERT_NO_FATAL_FAILURE(source_.snapshot(name, snapshot));
                names_.push_back(snapshot);
            } else {
                ASSERT_NO_FATAL_FAILURE(change(written_snapshots ? name : root_));
            }
        }
    }
    [[nodiscard]] const std::vector<std::string>& names() const { return names_; }
    [[nodiscard]] const std::string& root() const { return root_; }

private:
    [[nodiscard]] std::uint64_t random_size() {
        return (1 + random_.below(size_bytes_max / sector_size_bytes)) * sector_size_bytes;
    }
    void change(const std::string& name) {
        if (random_.one_in(10)) {
            ASSERT_OK(source_.pool().resize(name, random_size()));
        }
        ASSERT_OK_AND_ASSIGN(const auto open, source_.pool().open_volume(name, false));
        const std::uint64_t sectors = open->size_bytes() / sector_size_bytes;
        const std::uint64_t first = random_.below(sectors);
        const std::uint64_t count = 1 + random_.below(std::min<std::uint64_t>(
                                            sectors - first, random_.one_in(3) ? 900 : 16));
        const std::uint64_t begin = first * sector_size_bytes;
        const std::uint64_t length = count * sector_size_bytes;
        switch (random_.below(5)) {
            case 0: ASSERT_OK(open->discard(begin, length)); break;
            case 1: ASSERT_OK(open->write_zeroes(begin, length)); break;
            default: ASSERT_OK(open->write(begin, pattern(random_.next(), length)));
        }
    }

    random_generator& random_;
    replication_side& source_;
    std::string root_;
    std::vector<std::string> names_;
};

TEST(MigrateModel, FamiliesArriveWithTheirBytesAndTheirSharing) {
    random_generator random(seed());
    const std::uint64_t rounds = tier() == 0 ? 24 : 400;
    std::uint64_t volumes = 0;
    std::uint64_t blocks_here = 0;
    std::uint64_t blocks_there = 0;
    for (const std::uint64_t target_bytes : {64 * kib, 192 * kib}) {
        replication_side source(64 * kib);
        replication_side target(target_bytes);
        for (std::uint64_t round = 0; round < rounds; ++round) {
            family one(random, source);
            const bool written_snapshots = round % 2 == 1;
            ASSERT_NO_FATAL_FAILURE(one.make(round, written_snapshots));
            std::vector<std::vector<std::byte>> wanted;
            for (const std::string& name : one.names()) {
                wanted.push_back(source.content(name));
            }
            const std::uint64_t used_here = source.look().data_used_blocks;
            replication::migrate_request request;
            request.name = one.root();
            ASSERT_OK(replication::migrate_volume(source.service(), target.pool(), request));
            for (std::size_t i = 0; i < wanted.size(); ++i) {
                ASSERT_TRUE(target.content(one.names()[i]) == wanted[i])
                    << "round " << round << ", " << one.names()[i];
            }
            const std::uint64_t used_there = target.look().data_used_blocks;
            if (target_bytes == 64 * kib && !written_snapshots) {
                ASSERT_LE(used_there, used_here) << "round " << round;
                blocks_here += used_here;
                blocks_there += used_there;
            }
            volumes += wanted.size();
            for (const std::string& name : one.names()) {
                source.remove(name == one.root() ? name + ".migrated" : name);
                target.remove(name);
            }
        }
    }
    std::printf("%llu volumes migrated; blocks of one size: %llu here, %llu there\n",
                static_cast<unsigned long long>(volumes),
                static_cast<unsigned long long>(blocks_here),
                static_cast<unsigned long long>(blocks_there));
    replication_side::judge_all();
}

}  // namespace
}  // namespace uthin::test
