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
            const std::uint64_t mark_interval_bytes = resuming_ ? 4 * kib : 1024 * kib;
            const auto stream =
                source_.send(name(generation), generation == 0 ? "" : name(generation - 1),
                             compress, mark_interval_bytes);
            if (resuming_) {
                ASSERT_NO_FATAL_FAILURE(receive_in_parts(stream, name(generation)));
            }
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
    // Each stream is cut at every record boundary, into a volume of its own, and gone on with.
    void resume_everywhere() { resuming_ = true; }
    [[nodiscard]] std::uint64_t resumed() const { return resumed_; }
    [[nodiscard]] std::uint64_t saved_bytes() const { return saved_bytes_; }
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

    void receive_in_parts(const std::vector<std::byte>& stream, const std::string& sent) {
        const auto before = target_.look();
        for (const std::size_t boundary : record_boundaries(stream)) {
            if (boundary == stream.size()) {
                continue;
            }
            std::vector<std::byte> part(stream.begin(),
                                        stream.begin() + static_cast<std::ptrdiff_t>(boundary));
            std::size_t header_bytes = record_boundaries(stream).at(1);
            for (int cut = 0;; ++cut) {
                if (random_.one_in(3)) {
                    part.resize(part.size() -
                                random_.below(std::min<std::size_t>(part.size(), 40)));
                }
                if (part.size() < header_bytes) {
                    break;  // not even the header: there is nothing to go on with
                }
                const std::string token = target_.receive_resumable(part, "part", "part-s");
                if (token.empty()) {
                    break;
                }
                ASSERT_TRUE(target_.look().volumes == before.volumes);
                if (random_.one_in(3)) {
                    target_.drop();
                    target_.open();
                }
                part = source_.resume(token, 4 * kib);
                header_bytes = record_boundaries(part).at(1);  // another one than the first's
                saved_bytes_ += stream.size() > part.size() ? stream.size() - part.size() : 0;
                ++resumed_;
                if (cut == 0 && random_.one_in(2)) {
                    const auto again = record_boundaries(part);
                    part.resize(again[random_.below(again.size())]);
                }
            }
            if (target_.pool().show("part")) {
                ASSERT_TRUE(target_.content("part") == source_.content(sent));
                ASSERT_TRUE(target_.content("part-s") == target_.content("part"));
                target_.remove("part");
                target_.remove("part-s");
            }
            ASSERT_OK_AND_ASSIGN(const auto transfers, target_.pool().list_transfers());
            for (const transfer_info& left : transfers) {
                ASSERT_OK(target_.pool().drop_transfer(left.id));
            }
            ASSERT_TRUE(target_.look() == before);
        }
    }

    random_generator& random_;
    replication_side& source_;
    replication_side& target_;
    std::uint64_t damage_ = 0;
    bool resuming_ = false;
    std::uint64_t resumed_ = 0;
    std::uint64_t saved_bytes_ = 0;
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

TEST_F(Replication, AStreamThatWasCutAnywhereGoesOnToTheSameResult) {
    random_generator random(seed() + 2);
    const int histories = tier() == 0 ? 6 : 100;
    std::uint64_t resumed = 0;
    std::uint64_t saved_bytes = 0;
    for (int round = 0; round < histories; ++round) {
        SCOPED_TRACE(testing::Message() << "history " << round);
        replication_side source(random_block_size(random));
        replication_side target(random_block_size(random));
        history one(random, source, target);
        one.resume_everywhere();
        ASSERT_NO_FATAL_FAILURE(one.run(3));
        resumed += one.resumed();
        saved_bytes += one.saved_bytes();
    }
    std::printf("resumed %llu times, %llu bytes were not sent again\n",
                static_cast<unsigned long long>(resumed),
                static_cast<unsigned long long>(saved_bytes));
    EXPECT_GT(resumed, 50U);
    EXPECT_GT(saved_bytes, 100 * kib);
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
