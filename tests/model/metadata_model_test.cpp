// The metadata library against plain maps: hundreds of thousands of random operations on several
// thins and snapshots, with a cache of 64 blocks.
//
// Each pool draws its own weights (some operations never, some often), so that runs differ in kind.
// Each operation has a seed of its own, so that those that a failure does not need can be left out:
// what is printed is the few that are needed.
#include <chrono>
#include <cstdio>
#include <fstream>

#include <fmt/format.h>

#include "io/memory_device.h"
#include "support/forwarding_device.h"
#include "support/image_check.h"
#include "support/matchers.h"
#include "support/metadata_driver.h"
#include "support/seed.h"
#include "support/shrinking.h"
#include "support/temporary_directory.h"
#include "support/tier.h"

namespace uthin {
namespace {

using test::driver_options;
using test::metadata_driver;
using test::pool_operation;
using test::pool_operation_count;
using test::pool_state;

struct totals {
    std::uint64_t operations = 0;
    std::uint64_t commits = 0;
    std::uint64_t full_compares = 0;
    std::uint64_t views_verified = 0;
    std::uint64_t views_revoked = 0;
    std::uint64_t refusals = 0;
    std::uint64_t full_aborts = 0;
    std::uint64_t blocks_written = 0;
};

// Chance of each operation: swarm weights.
class swarm {
public:
    swarm(random_generator& random, bool roomy) {
        for (std::size_t i = 0; i < pool_operation_count; ++i) {
            const auto operation = static_cast<pool_operation>(i);
            std::uint64_t weight = random.one_in(4) ? 0 : std::uint64_t{1} << random.below(5);
            switch (operation) {
                case pool_operation::write_new:
                case pool_operation::write_run:
                case pool_operation::overwrite_shared: weight = 8 + 8 * random.below(8); break;
                case pool_operation::commit: weight = 4 + random.below(8); break;
                // Rare, or nothing would ever grow.
                case pool_operation::remove: weight = roomy ? weight / 4 : weight; break;
                case pool_operation::needs_check:
                case pool_operation::reopen:
                case pool_operation::abort: weight = weight != 0 ? 1 : 0; break;
                default: break;
            }
            total_ += weight;
            limits_.push_back(total_);
        }
    }
    [[nodiscard]] pool_operation pick(random_generator& random) const {
        const std::uint64_t at = random.below(total_);
        std::size_t i = 0;
        while (limits_[i] <= at) {
            ++i;
        }
        return static_cast<pool_operation>(i);
    }

private:
    std::uint64_t total_ = 0;
    std::vector<std::uint64_t> limits_;
};

struct held_view {
    std::shared_ptr<thin_metadata::metadata_view> view;
    pool_state expected;
};

struct pool_shape {
    std::uint64_t operations = 0;
    std::uint64_t metadata_blocks = 0;
    std::uint64_t metadata_blocks_max = 0;
    std::uint64_t data_blocks = 0;
    std::uint64_t data_blocks_max = 0;
    std::uint64_t span_blocks = 0;
    std::uint64_t run_blocks_max = 0;
    std::uint64_t devices_max = 6;
    std::uint64_t compare_every = 500;
    // Where the data device is made to fail; by itself beyond its end.
    std::uint64_t forgotten_offset_bytes = UINT64_MAX;
};

struct model_step {
    pool_operation operation = pool_operation::commit;
    std::uint64_t seed = 0;
};

std::vector<model_step> drawn_steps(std::uint64_t seed, const pool_shape& shape) {
    random_generator random(seed);
    const swarm weights(random, shape.metadata_blocks > 128);
    std::vector<model_step> steps;
    for (std::uint64_t left = shape.operations; left != 0; --left) {
        const pool_operation operation = weights.pick(random);
        steps.push_back({operation, random.next()});
    }
    return steps;
}

// A data device with a fault: writes to one place are lost. For tests of this test.
class forgetful_device final : public test::forwarding_device {
public:
    forgetful_device(block_device& below, std::uint64_t forgotten_offset_bytes)
        : forwarding_device(below), forgotten_(forgotten_offset_bytes) {}
    [[nodiscard]] result<void> write(std::uint64_t offset,
                                     std::span<const std::byte> buffer) override {
        return offset == forgotten_ ? result<void>() : below().write(offset, buffer);
    }

private:
    const std::uint64_t forgotten_;
};

class model_run {
public:
    model_run(std::uint64_t seed, const pool_shape& shape, totals& sums)
        : seed_(seed),
          shape_(shape),
          sums_(sums),
          metadata_(shape.metadata_blocks * metadata_block_size_bytes, "metadata"),
          data_(shape.data_blocks_max * test::stamped_block_bytes, "data"),
          faulty_data_(data_, shape.forgotten_offset_bytes),
          random_(seed),
          driver_(metadata_, faulty_data_, options()) {}

    // Empty, or what went wrong and how to repeat it.
    std::string run(const std::vector<model_step>& steps) {
        const std::string text = run_operations(steps);
        sums_.refusals += driver_.refusals();
        sums_.full_aborts += driver_.full_aborts();
        if (text.empty()) {
            return {};
        }
        return fmt::format("seed {:#x} operation {} ({}): {}", seed_, done_, test::to_string(last_),
                           text);
    }

    void save(const std::filesystem::path& path) {
        std::vector<std::byte> bytes(metadata_.size_bytes().value());
        ASSERT_OK(metadata_.read(0, bytes));
        std::ofstream out(path, std::ios::binary);
        out.write(reinterpret_cast<const char*>(bytes.data()),
                  static_cast<std::streamsize>(bytes.size()));
    }

private:
    [[nodiscard]] driver_options options() const {
        driver_options with;
        with.seed = seed_ + 1;
        with.cache_bytes = 64 * metadata_block_size_bytes;
        with.devices_max = shape_.devices_max;
        with.span_blocks = shape_.span_blocks;
        with.run_blocks_max = shape_.run_blocks_max;
        with.metadata_blocks_max = shape_.metadata_blocks_max;
        with.data_blocks_max = shape_.data_blocks_max;
        with.grow_blocks = 8;
        return with;
    }

    std::string run_operations(const std::vector<model_step>& steps) {
        if (auto formatted = driver_.format(shape_.data_blocks); !formatted) {
            return formatted.error().to_string();
        }
        for (done_ = 0; done_ < steps.size(); ++done_) {
            last_ = steps[done_].operation;
            driver_.reseed(steps[done_].seed);
            random_ = random_generator(~steps[done_].seed);
            ++sums_.operations;
            const std::uint64_t transaction = driver_.pool().durable_transaction();
            // Views do not live through what opens everything anew.
            if (last_ == pool_operation::reopen) {
                views_.clear();
            }
            if (auto stepped = driver_.step(last_); !stepped) {
                return stepped.error().to_string();
            }
            if (std::string text = after_step(transaction); !text.empty()) {
                return text;
            }
        }
        views_.clear();
        if (auto closed = driver_.step(pool_operation::commit); !closed) {
            return closed.error().to_string();
        }
        if (std::string text = compare(); !text.empty()) {
            return text;
        }
        sums_.blocks_written += driver_.pool().statistics().blocks_written;
        auto closed = driver_.close();
        return closed ? std::string() : closed.error().to_string();
    }

    std::string after_step(std::uint64_t transaction) {
        if (!driver_.complaints().empty()) {
            return driver_.complaints().front();
        }
        if (last_ != pool_operation::reopen &&
            driver_.pool().durable_transaction() != transaction) {
            ++sums_.commits;
        }
        if (last_ == pool_operation::commit) {
            if (std::string text = driver_.counter_complaint(); !text.empty()) {
                return text;
            }
            if (random_.one_in(4) && views_.size() < 3) {
                if (std::string text = take_view(); !text.empty()) {
                    return text;
                }
            }
        }
        if (!views_.empty() && random_.one_in(16)) {
            if (std::string text = verify_oldest_view(); !text.empty()) {
                return text;
            }
        }
        if (random_.one_in(1000) && driver_.pool().revoke_oldest_view()) {
            ++sums_.views_revoked;
        }
        if (done_ % shape_.compare_every == shape_.compare_every - 1) {
            if (auto ended = driver_.step(pool_operation::end_batch); !ended) {
                return ended.error().to_string();
            }
            return compare();
        }
        return {};
    }

    std::string take_view() {
        auto view = driver_.create_view();
        if (!view) {
            return view.error().to_string();
        }
        views_.push_back({*view, driver_.committed().back().state});
        return {};
    }

    // Exact as on the day it was taken, or expired; then given back, mostly.
    std::string verify_oldest_view() {
        held_view& oldest = views_.front();
        const auto state = test::read_state(*oldest.view, nullptr);
        if (!state) {
            if (state.error().code() != error_code::view_expired || !oldest.view->expired()) {
                return "view: " + state.error().to_string();
            }
            views_.erase(views_.begin());
            return {};
        }
        if (oldest.view->expired()) {
            return "view: an expired view was read";
        }
        if (std::string text = difference(oldest.expected.devices, state->devices); !text.empty()) {
            return "view: " + text;
        }
        ++sums_.views_verified;
        if (!random_.one_in(3)) {
            views_.erase(views_.begin());
        }
        return {};
    }

    // The open transaction through the API, the last commit through a view, the full check.
    std::string compare() {
        ++sums_.full_compares;
        if (std::string text = driver_.live_complaint(); !text.empty()) {
            return text;
        }
        const auto view = driver_.pool().create_view();
        if (!view) {
            return view.error().to_string();
        }
        const auto state = test::read_state(**view, nullptr);
        if (!state) {
            return state.error().to_string();
        }
        const pool_state& expected = driver_.committed().back().state;
        if (std::string text = difference(expected.devices, state->devices); !text.empty()) {
            return "last commit: " + text;
        }
        return test::check_complaint(**view);
    }

    const std::uint64_t seed_;
    const pool_shape shape_;
    totals& sums_;
    io::memory_device metadata_;
    io::memory_device data_;
    forgetful_device faulty_data_;
    random_generator random_;
    metadata_driver driver_;
    std::vector<held_view> views_;
    std::uint64_t done_ = 0;
    pool_operation last_ = pool_operation::commit;
};

constexpr std::uint64_t shrinking_trials_max = 4000;

std::vector<model_step> shrunk_steps(std::uint64_t seed, const pool_shape& shape,
                                     std::vector<model_step> steps) {
    const auto fails = [&](const std::vector<model_step>& some) {
        totals ignored;
        return !model_run(seed, shape, ignored).run(some).empty();
    };
    return test::shrunk<model_step>(std::move(steps), fails, shrinking_trials_max);
}

// Operations as C++, and what they lead to.
std::string reproducer(std::uint64_t seed, const pool_shape& shape,
                       const std::vector<model_step>& steps) {
    std::string text = fmt::format("\nshrunk to {} operations, seed {:#x}:\n", steps.size(), seed);
    for (const model_step& step : steps) {
        text += fmt::format("    {{pool_operation::{}, {:#x}}},\n", test::to_string(step.operation),
                            step.seed);
    }
    totals ignored;
    return text + model_run(seed, shape, ignored).run(steps);
}

class MetadataModel : public ::testing::Test {
protected:
    void run_pools(const char* name, std::uint64_t first_seed, std::uint64_t count,
                   const pool_shape& shape) {
        const auto begin = std::chrono::steady_clock::now();
        totals sums;
        const test::temporary_directory folder;
        std::vector<std::filesystem::path> images;
        for (std::uint64_t i = 0; i < count * test::tier_scale(); ++i) {
            const std::uint64_t seed = test::seed() + first_seed + i;
            const std::vector<model_step> steps = drawn_steps(seed, shape);
            model_run run(seed, shape, sums);
            if (const std::string failure = run.run(steps); !failure.empty()) {
                FAIL() << failure << reproducer(seed, shape, shrunk_steps(seed, shape, steps));
            }
            if (images.size() < images_max) {
                images.push_back(folder.path() / std::to_string(i));
                run.save(images.back());
            }
        }
        test::expect_images_are_clean(images);
        std::printf(
            "%s: operations=%llu commits=%llu full_compares=%llu views=%llu revoked=%llu "
            "refusals=%llu out_of_metadata=%llu metadata_blocks_written=%llu judged=%zu "
            "seconds=%.1f\n",
            name, ull(sums.operations), ull(sums.commits), ull(sums.full_compares),
            ull(sums.views_verified), ull(sums.views_revoked), ull(sums.refusals),
            ull(sums.full_aborts), ull(sums.blocks_written), images.size(),
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
        EXPECT_GT(sums.commits, 0U);
        EXPECT_GT(sums.views_verified, 0U);
        sums_ = sums;
    }

    static constexpr std::size_t images_max = 20;
    static unsigned long long ull(std::uint64_t value) { return value; }
    totals sums_;
};

TEST_F(MetadataModel, SmallPoolsAgreeWithPlainMaps) {
    run_pools("small pools", 100, 60,
              {.operations = 2500,
               .metadata_blocks = 96,
               .metadata_blocks_max = 256,
               .data_blocks = 64,
               .data_blocks_max = 200,
               .span_blocks = 40,
               .run_blocks_max = 10});
    EXPECT_GE(sums_.operations, 150'000U);
}

// Nearly always full, of metadata and of data.
TEST_F(MetadataModel, FullPoolsAgreeWithPlainMaps) {
    run_pools("full pools", 200, 16,
              {.operations = 2500,
               .metadata_blocks = 22,
               .metadata_blocks_max = 30,
               .data_blocks = 24,
               .data_blocks_max = 40,
               .span_blocks = 60,
               .run_blocks_max = 30,
               .devices_max = 12});
    EXPECT_GT(sums_.refusals, 0U);
    EXPECT_GT(sums_.full_aborts, 0U);
}

// Trees of two and three levels that do not fit into the cache.
TEST_F(MetadataModel, TallTreesAgreeWithPlainMaps) {
    run_pools("tall trees", 300, 6,
              {.operations = 2000,
               .metadata_blocks = 2048,
               .metadata_blocks_max = 3000,
               .data_blocks = 20'000,
               .data_blocks_max = 24'000,
               .span_blocks = 3000,
               .run_blocks_max = 900,
               .compare_every = 500});
    EXPECT_GE(sums_.operations, 10'000U);
}

TEST_F(MetadataModel, AFailureIsShrunkToTheOperationsThatItNeeds) {
    constexpr pool_shape shape{.operations = 400,
                               .metadata_blocks = 96,
                               .metadata_blocks_max = 256,
                               .data_blocks = 64,
                               .data_blocks_max = 200,
                               .span_blocks = 40,
                               .run_blocks_max = 10,
                               .compare_every = 20,
                               .forgotten_offset_bytes = 0};
    const std::uint64_t seed = test::seed();
    totals sums;
    const std::vector<model_step> steps = drawn_steps(seed, shape);
    ASSERT_NE(model_run(seed, shape, sums).run(steps), "");
    const std::vector<model_step> few = shrunk_steps(seed, shape, steps);
    const std::string text = reproducer(seed, shape, few);
    std::printf("%s\n", text.c_str());
    EXPECT_LE(few.size(), 3U);
    EXPECT_NE(text.find("pool_operation::"), std::string::npos);
}

}  // namespace
}  // namespace uthin
