// Random histories of a volume, sent snapshot by snapshot into a pool with other blocks: the copy
// equals the snapshot sector by sector, and a stream that is not whole changes nothing.
#include <fmt/format.h>

#include "base/random.h"
#include "support/replication_rig.h"
#include "support/seed.h"
#include "support/tier.h"

namespace uthin::test {
namespace {

constexpr std::uint64_t kib = 1024;
constexpr std::uint64_t size_bytes_max = 1536 * kib;

std::uint64_t random_size(random_generator& random) {
    return (1 + random.below(size_bytes_max / sector_size_bytes)) * sector_size_bytes;
}

// One volume "v" of the source with snapshots "s0", "s1"..., and its copies at the target.
class history {
public:
    history(random_generator& random, replication_side& source, replication_side& target)
        : random_(random), source_(source), target_(target) {}

    void run(int generations) {
        source_.create("v", random_size(random_));
        for (int generation = 0; generation < generations; ++generation) {
            ASSERT_NO_FATAL_FAILURE(change());
            ASSERT_NO_FATAL_FAILURE(source_.snapshot("v", name(generation)));
            const bool compress = random_.one_in(2);
            const auto stream = source_.send(name(generation),
                                             generation == 0 ? "" : name(generation - 1), compress);
            if (damage_ != 0) {
                ASSERT_NO_FATAL_FAILURE(receive_damaged(stream));
            }
            ASSERT_OK(target_.receive(stream, "v"));
            ASSERT_TRUE(target_.content("v") == source_.content(name(generation)));
            ASSERT_TRUE(target_.content(name(generation)) == target_.content("v"));
        }
        // Over several generations at once, into a volume of its own.
        const auto stream = source_.send(name(generations - 1), name(0));
        ASSERT_OK(target_.receive(stream, "w", "w-last"));
        ASSERT_TRUE(target_.content("w") == source_.content(name(generations - 1)));
    }
    void damage_with(std::uint64_t flips) { damage_ = flips; }
    void clean_up(int generations) {
        for (int generation = 0; generation < generations; ++generation) {
            source_.remove(name(generation));
            target_.remove(name(generation));
        }
        for (const char* volume : {"v", "w", "w-last"}) {
            source_.remove(volume);
            target_.remove(volume);
        }
    }

private:
    static std::string name(int generation) { return fmt::format("s{}", generation); }

    void change() {
        for (std::uint64_t step = 1 + random_.below(8); step > 0; --step) {
            if (random_.one_in(10)) {
                ASSERT_OK(source_.pool().resize("v", random_size(random_)));
            }
            ASSERT_OK_AND_ASSIGN(const auto open, source_.pool().open_volume("v", false));
            const std::uint64_t sectors = open->size_bytes() / sector_size_bytes;
            const std::uint64_t first = random_.below(sectors);
            const std::uint64_t count = 1 + random_.below(std::min<std::uint64_t>(
                                                sectors - first, random_.one_in(3) ? 600 : 16));
            const std::uint64_t begin = first * sector_size_bytes;
            const std::uint64_t length = count * sector_size_bytes;
            switch (random_.below(5)) {
                case 0: ASSERT_OK(open->discard(begin, length)); break;
                case 1: ASSERT_OK(open->write_zeroes(begin, length)); break;
                default: {
                    std::vector<std::byte> bytes(length);
                    const std::uint64_t stamp = random_.next();
                    for (std::size_t at = 0; at + 8 <= bytes.size(); at += 8) {
                        store_le(bytes.data() + at, stamp + at);
                    }
                    ASSERT_OK(open->write(begin, bytes));
                }
            }
        }
    }

    void expect_refused(std::span<const std::byte> stream,
                        const replication_side::appearance& before,
                        const std::vector<std::byte>& content) {
        ASSERT_FALSE(target_.receive(stream, "v"));
        ASSERT_TRUE(target_.look() == before);
        if (!before.volumes.empty() && !content.empty()) {
            ASSERT_TRUE(target_.content("v") == content);
        }
    }
    void receive_damaged(std::vector<std::byte> stream) {
        const auto before = target_.look();
        std::vector<std::byte> content;
        if (std::ranges::any_of(before.volumes, [](const auto& v) { return v.name == "v"; })) {
            content = target_.content("v");
        }
        for (const std::size_t boundary : record_boundaries(stream)) {
            if (boundary != stream.size()) {
                ASSERT_NO_FATAL_FAILURE(
                    expect_refused(std::span(stream).first(boundary), before, content));
            }
        }
        for (std::uint64_t flip = 0; flip < damage_; ++flip) {
            const std::size_t at = random_.below(stream.size());
            const auto bits = static_cast<std::byte>(1 + random_.below(255));
            stream[at] ^= bits;
            ASSERT_NO_FATAL_FAILURE(expect_refused(stream, before, content)) << "byte " << at;
            stream[at] ^= bits;
        }
    }

    random_generator& random_;
    replication_side& source_;
    replication_side& target_;
    std::uint64_t damage_ = 0;
};

constexpr std::uint64_t block_sizes[] = {64 * kib, 128 * kib, 192 * kib, 1024 * kib};

std::uint64_t random_block_size(random_generator& random) {
    return block_sizes[random.below(std::size(block_sizes))];
}

class Replication : public testing::Test {
protected:
    static void TearDownTestSuite() { replication_side::judge_all(); }
};

TEST_F(Replication, CopiesEqualTheirSnapshotsThroughRandomHistories) {
    random_generator random(seed());
    const int pools = tier() == 0 ? 4 : 40;
    constexpr int histories_per_pool = 50;
    for (int pair = 0; pair < pools; ++pair) {
        replication_side source(random_block_size(random));
        replication_side target(random_block_size(random));
        for (int round = 0; round < histories_per_pool; ++round) {
            constexpr int generations = 3;
            SCOPED_TRACE(testing::Message() << "pools " << pair << ", history " << round);
            history one(random, source, target);
            ASSERT_NO_FATAL_FAILURE(one.run(generations));
            one.clean_up(generations);
        }
    }
}

TEST_F(Replication, AStreamThatIsNotWholeChangesNothing) {
    random_generator random(seed() + 1);
    const int histories = tier() == 0 ? 2 : 20;
    for (int round = 0; round < histories; ++round) {
        SCOPED_TRACE(testing::Message() << "history " << round);
        replication_side source(random_block_size(random));
        replication_side target(random_block_size(random));
        history one(random, source, target);
        one.damage_with(9);  // in each of three streams
        ASSERT_NO_FATAL_FAILURE(one.run(3));
    }
}

}  // namespace
}  // namespace uthin::test
