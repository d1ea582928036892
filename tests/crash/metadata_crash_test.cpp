// Power cuts under the metadata library: what survives is always the last commit or the one in
// progress, whole.
#include "support/metadata_crash.h"
#include "support/forwarding_device.h"

#include <chrono>
#include <cstdio>
#include <map>

#include "support/matchers.h"
#include "support/seed.h"
#include "support/tier.h"

namespace uthin {
namespace {

using test::bounded_operations;
using test::crash_options;
using test::crash_totals;
using test::metadata_crash;
using test::pool_operation;
using test::tier_scale;

double seconds_since(std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void print(const char* name, const crash_totals& totals, double seconds) {
    std::printf(
        "%s: workloads=%llu cuts=%llu states=%llu repeated=%llu lived_on=%llu second_cuts=%llu "
        "judged=%llu seconds=%.1f violations=%llu\n",
        name, static_cast<unsigned long long>(totals.workloads),
        static_cast<unsigned long long>(totals.cuts),
        static_cast<unsigned long long>(totals.states),
        static_cast<unsigned long long>(totals.repeated_states),
        static_cast<unsigned long long>(totals.lived_on),
        static_cast<unsigned long long>(totals.second_cuts),
        static_cast<unsigned long long>(totals.judged), seconds,
        static_cast<unsigned long long>(totals.violations));
    for (const std::string& text : totals.first_violations) {
        std::printf("  %s\n", text.c_str());
    }
    std::fflush(stdout);
}

crash_options tiny_pool(std::uint64_t seed) {
    crash_options options;
    options.seed = seed;
    options.choices_max = 24 * (tier_scale() > 1 ? 4 : 1);
    options.judge_every = 4000 * tier_scale();
    return options;
}

// All sequences of `length` operations, `run` each.
template <class Run>
void for_each_sequence(std::size_t length, const Run& run) {
    std::uint64_t count = 1;
    for (std::size_t i = 0; i < length; ++i) {
        count *= bounded_operations;
    }
    for (std::uint64_t number = 0; number < count; ++number) {
        std::vector<pool_operation> operations;
        std::uint64_t rest = number;
        for (std::size_t i = 0; i < length; ++i) {
            operations.push_back(static_cast<pool_operation>(rest % bounded_operations));
            rest /= bounded_operations;
        }
        run(number, operations);
    }
}

void print_length(std::size_t length, const crash_totals& before, const crash_totals& after) {
    const auto since = [](std::uint64_t from, std::uint64_t to) {
        return static_cast<unsigned long long>(to - from);
    };
    std::printf("  sequences of %zu: %llu, %llu places of the cut, %llu states\n", length,
                since(before.workloads, after.workloads), since(before.cuts, after.cuts),
                since(before.states, after.states));
    std::fflush(stdout);
}

// Of three in the long tier.
TEST(MetadataCrash, EverySequenceOfTwoOperationsSurvivesEveryCut) {
    const auto begin = std::chrono::steady_clock::now();
    crash_totals totals;
    metadata_crash lab(totals);
    for (std::size_t length = 1; length <= (tier_scale() > 1 ? 3 : 2); ++length) {
        const crash_totals before = totals;
        for_each_sequence(
            length, [&](std::uint64_t number, const std::vector<pool_operation>& operations) {
                crash_options options = tiny_pool(test::seed() + length * 10000 + number);
                options.all_superblock_masks = number % 16 == 0;
                lab.run(operations, options);
            });
        print_length(length, before, totals);
        // Each place of the cut left something to look at.
        EXPECT_EQ(totals.cuts_without_state, 0U);
    }
    lab.judge();
    print("bounded workloads", totals, seconds_since(begin));
    EXPECT_EQ(totals.violations, 0U);
    EXPECT_GE(totals.workloads, 210U);
    EXPECT_GE(totals.states, 20'000U);
}

TEST(MetadataCrash, LongRandomWorkloadsSurviveEveryCut) {
    const auto begin = std::chrono::steady_clock::now();
    crash_totals totals;
    metadata_crash lab(totals);
    for (std::uint64_t i = 0; i < 24 * tier_scale(); ++i) {
        crash_options options = tiny_pool(test::seed() + 1'000'000 + i);
        options.choices_max = 10;
        lab.run_random(60, options);
    }
    lab.judge();
    print("random workloads", totals, seconds_since(begin));
    EXPECT_EQ(totals.violations, 0U);
}

// Trees of two levels, and a cache so small that shadows are written before the commit.
TEST(MetadataCrash, RandomWorkloadsOnTallTreesSurviveEveryCut) {
    const auto begin = std::chrono::steady_clock::now();
    crash_totals totals;
    metadata_crash lab(totals);
    for (std::uint64_t i = 0; i < 3 * tier_scale(); ++i) {
        crash_options options = tiny_pool(test::seed() + 2'000'000 + i);
        options.choices_max = 6;
        options.metadata_blocks = 128;
        options.data_blocks = 1200;
        options.driver.metadata_blocks_max = 256;
        options.driver.data_blocks_max = 1600;
        options.driver.span_blocks = 400;
        options.driver.run_blocks_max = 200;
        options.driver.cache_bytes = 16 * metadata_block_size_bytes;
        lab.run_random(50, options);
    }
    lab.judge();
    print("tall trees", totals, seconds_since(begin));
    EXPECT_EQ(totals.violations, 0U);
}

// ---- the harness can see: devices and pools that are wrong on purpose
// ------------------------------------------------------------------------------------------------

class passing_device : public test::forwarding_device {
public:
    using forwarding_device::forwarding_device;
    [[nodiscard]] result<void> grow(std::uint64_t size) override { return below().grow(size); }
};

class never_flushing_device final : public passing_device {
public:
    using passing_device::passing_device;
    [[nodiscard]] result<void> flush() override { return {}; }
};

// Says that a FUA write is durable and leaves it in the cache.
class forgetful_fua_device final : public passing_device {
public:
    using passing_device::passing_device;
    [[nodiscard]] result<void> write_fua(std::uint64_t offset,
                                         std::span<const std::byte> buffer) override {
        return below().write(offset, buffer);
    }
};

// Keeps everything back until the superblock has reached the medium.
class superblock_first_device final : public passing_device {
public:
    using passing_device::passing_device;
    [[nodiscard]] result<void> read(std::uint64_t offset, std::span<std::byte> buffer) override {
        if (auto done = below().read(offset, buffer); !done) {
            return done;
        }
        for (const auto& [begin, bytes] : held_) {
            for (std::size_t i = 0; i < bytes.size(); ++i) {
                if (begin + i >= offset && begin + i < offset + buffer.size()) {
                    buffer[begin + i - offset] = bytes[i];
                }
            }
        }
        return {};
    }
    [[nodiscard]] result<void> write(std::uint64_t offset,
                                     std::span<const std::byte> buffer) override {
        if (offset != 0) {
            held_[offset].assign(buffer.begin(), buffer.end());
            return {};
        }
        if (auto done = below().write(offset, buffer); !done) {
            return done;
        }
        if (auto done = below().flush(); !done) {
            return done;
        }
        for (const auto& [begin, bytes] : held_) {
            if (auto done = below().write(begin, bytes); !done) {
                return done;
            }
        }
        held_.clear();
        return {};
    }

private:
    std::map<std::uint64_t, std::vector<std::byte>> held_;
};

template <class Device>
std::unique_ptr<block_device> wrapped(block_device& below) {
    return std::make_unique<Device>(below);
}

crash_totals run_some(const crash_options& wanted) {
    crash_totals totals;
    metadata_crash lab(totals);
    for (std::uint64_t i = 0; i < 4; ++i) {
        crash_options options = wanted;
        options.seed = test::seed() + i;
        options.judge_every = 0;
        options.live_on_every = 0;
        options.choices_max = 16;
        lab.run(
            {pool_operation::write_new, pool_operation::commit, pool_operation::overwrite_fua,
             pool_operation::overwrite_shared, pool_operation::commit, pool_operation::overwrite},
            options);
    }
    return totals;
}

std::uint64_t found_after_cuts(const crash_totals& totals) {
    return totals.violations - totals.stream_violations;
}

TEST(MetadataCrashHarness, FindsNothingWrongWithHonestDevices) {
    const crash_totals totals = run_some(tiny_pool(1));
    EXPECT_EQ(totals.violations, 0U) << ::testing::PrintToString(totals.first_violations);
}

TEST(MetadataCrashHarness, SeesMetadataThatIsNotFlushed) {
    crash_options options = tiny_pool(1);
    options.wrap_metadata = wrapped<never_flushing_device>;
    const crash_totals totals = run_some(options);
    EXPECT_GT(found_after_cuts(totals), 0U);
    EXPECT_GT(totals.stream_violations, 0U);
}

TEST(MetadataCrashHarness, SeesDataThatIsNotFlushed) {
    crash_options options = tiny_pool(1);
    options.wrap_data = wrapped<never_flushing_device>;
    const crash_totals totals = run_some(options);
    EXPECT_GT(found_after_cuts(totals), 0U);
    EXPECT_GT(totals.stream_violations, 0U);
}

TEST(MetadataCrashHarness, SeesAPoolThatForgetsToFlushDataBeforeTheCommit) {
    crash_options options = tiny_pool(1);
    options.driver.flush_data_before_commit = false;
    const crash_totals totals = run_some(options);
    EXPECT_GT(found_after_cuts(totals), 0U);
    EXPECT_GT(totals.stream_violations, 0U);
}

TEST(MetadataCrashHarness, SeesFuaWritesThatAreNotDurable) {
    crash_options options = tiny_pool(1);
    options.wrap_data = wrapped<forgetful_fua_device>;
    EXPECT_GT(found_after_cuts(run_some(options)), 0U);
}

TEST(MetadataCrashHarness, SeesASuperblockThatComesFirst) {
    crash_options options = tiny_pool(1);
    options.wrap_metadata = wrapped<superblock_first_device>;
    EXPECT_GT(found_after_cuts(run_some(options)), 0U);
}

}  // namespace
}  // namespace uthin
