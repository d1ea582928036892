// A chain of differences as one whole stream.
#include "replication/stream_merge.h"

#include "base/random.h"
#include "support/replication_rig.h"
#include "support/seed.h"

namespace uthin::replication {
namespace {

using test::HasCode;
using test::memory_sink;
using test::memory_source;

constexpr std::uint64_t block_bytes = 64U << 10;

result<std::vector<std::byte>> merged(const std::vector<std::vector<std::byte>>& streams) {
    std::vector<std::unique_ptr<memory_source>> sources;
    std::vector<byte_source*> chain;
    for (const auto& stream : streams) {
        sources.push_back(std::make_unique<memory_source>(stream));
        chain.push_back(sources.back().get());
    }
    memory_sink sink;
    auto done = merge_streams(chain, sink, true);
    if (!done) {
        return std::unexpected(std::move(done).error());
    }
    return std::move(sink.bytes);
}

class StreamMerge : public testing::Test {
protected:
    static void TearDownTestSuite() { test::replication_side::judge_all(); }
};

TEST_F(StreamMerge, GivesWhatTheChainGives) {
    random_generator random(test::seed());
    test::replication_side source(block_bytes);
    test::replication_side target(3 * block_bytes);
    source.create("v", 20 * block_bytes);
    std::vector<std::vector<std::byte>> streams;
    std::string base;
    for (int generation = 0; generation < 7; ++generation) {
        if (generation % 3 == 2) {
            ASSERT_OK(source.pool().resize("v", (1 + random.below(24 * 128)) * 512));
        }
        for (int step = 0; step < 6; ++step) {
            ASSERT_OK_AND_ASSIGN(const auto open, source.pool().open_volume("v", false));
            const std::uint64_t sectors = open->size_bytes() / 512;
            const std::uint64_t first = random.below(sectors);
            const std::uint64_t count =
                1 + random.below(std::min<std::uint64_t>(sectors - first, 400));
            if (random.one_in(3)) {
                ASSERT_OK(open->write_zeroes(first * 512, count * 512));
            } else {
                const std::vector<std::byte> bytes(count * 512,
                                                   static_cast<std::byte>(1 + random.below(250)));
                ASSERT_OK(open->write(first * 512, bytes));
            }
        }
        const std::string name = "s" + std::to_string(generation);
        source.snapshot("v", name);
        streams.push_back(source.send(name, base, random.one_in(2), 4096));
        base = name;
        ASSERT_OK_AND_ASSIGN(const auto whole, merged(streams));
        ASSERT_OK(target.receive(whole, "copy", "copy-s"));
        ASSERT_TRUE(target.content("copy") == source.content(name)) << generation;
        EXPECT_EQ(target.pool().show("copy-s").value().received_from,
                  source.pool().show(name).value().uuid);
        target.remove("copy");
        target.remove("copy-s");
    }
}

TEST_F(StreamMerge, RefusesWhatIsNoChainOrDamaged) {
    test::replication_side source(block_bytes);
    source.create("v", 8 * block_bytes);
    std::vector<std::vector<std::byte>> streams;
    for (const char* name : {"s0", "s1", "s2"}) {
        {
            ASSERT_OK_AND_ASSIGN(const auto open, source.pool().open_volume("v", false));
            const std::vector<std::byte> bytes(4096, static_cast<std::byte>(name[1]));
            ASSERT_OK(open->write(static_cast<std::uint64_t>(name[1] - '0') * block_bytes, bytes));
        }
        source.snapshot("v", name);
    }
    streams = {source.send("s0"), source.send("s1", "s0"), source.send("s2", "s1")};
    EXPECT_OK(merged(streams));
    EXPECT_THAT(merged({}), HasCode(error_code::invalid_argument));
    EXPECT_THAT(merged({streams[1], streams[2]}), HasCode(error_code::invalid_argument));
    EXPECT_THAT(merged({streams[0], streams[2]}), HasCode(error_code::invalid_argument));
    // The last byte of the middle one.
    streams[1].pop_back();
    EXPECT_THAT(merged(streams), HasCode(error_code::corrupt));
}

}  // namespace
}  // namespace uthin::replication
