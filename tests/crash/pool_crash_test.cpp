// Power cuts under a whole pool: metadata, data and catalogue lose what they had not flushed, each
// on its own, at every operation of any of them. What opens afterwards, without a tool, holds every
// command that had returned, every sector that had been flushed, and nothing foreign.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/result.h"
#include "support/crash_signatures.h"
#include "support/crash_vfs.h"
#include "support/directory_driver.h"
#include "support/image_check.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/pool_state.h"
#include "support/seed.h"
#include "support/temporary_directory.h"
#include "support/tier.h"

namespace uthin {
namespace {

using test::borrowed_device;
using test::crash_vfs;
using test::directory_driver;
using test::directory_operation;
using test::directory_operation_count;

constexpr const char* pool_uuid = "6f1d2c3b-0000-4000-8000-000000000001";
constexpr const char* catalogue_path = "/pool/catalog.db";
constexpr std::uint64_t data_block_bytes = test::cells_per_block * test::cell_bytes;
constexpr std::uint64_t metadata_blocks = 128;
constexpr std::uint64_t data_blocks = 64;
constexpr std::uint64_t data_blocks_max = 80;

struct totals {
    std::uint64_t workloads = 0;
    std::uint64_t cuts = 0;
    std::uint64_t states = 0;
    std::uint64_t repeated_states = 0;
    std::uint64_t lived_on = 0;
    std::uint64_t second_cuts = 0;
    std::uint64_t violations = 0;
    double slowest_open_seconds = 0;
    std::vector<std::string> first_violations;
    std::vector<io::sparse_image> to_judge;
};

// Which device lies about its flushes, for tests of the harness itself.
struct lies {
    bool metadata = false;
    bool data = false;
    bool catalogue = false;
};

struct options {
    std::uint64_t seed = 1;
    std::size_t choices_max = 4;
    std::uint64_t live_on_every = 50;
    std::uint64_t cut_again_every = 12;  // of those that live on
    std::uint64_t judge_every = 0;
    lies lying;
};

std::unique_ptr<block_device> borrow(io::crash_device& device, bool lying) {
    return std::make_unique<borrowed_device>(device, lying);
}

// A pool with its disks, and its model.
struct machine {
    machine(std::uint64_t seed, const lies& with, const io::crash_state* state)
        : lying(with),
          domain(state != nullptr ? std::make_unique<io::crash_domain>(*state)
                                  : std::make_unique<io::crash_domain>()),
          vfs(*domain, with.catalogue),
          driver(seed, [this] { return domain->sequence(); }) {}

    [[nodiscard]] result<std::unique_ptr<pool_directory>> open_pool() {
        directory_parts parts;
        parts.directory = "/pool";
        parts.file.uuid = pool_uuid;
        parts.file.error_if_no_space = true;
        parts.devices.metadata = borrow(*domain->find("metadata"), lying.metadata);
        parts.devices.data = borrow(*domain->find("data"), lying.data);
        parts.names = UTHIN_TRY(catalogue::open(catalogue_path, pool_uuid,
                                                {.read_only = false, .vfs_name = vfs.name()}));
        return pool_directory::assemble(
            std::move(parts),
            {.purpose = open_purpose::change,
             .catalogue_vfs = vfs.name(),
             .pool = {.metadata_cache_bytes = 1 << 20, .mapping_cache_entries = 256}},
            driver.time());
    }

    // Two volumes with some data, and a snapshot that shares some of it.
    [[nodiscard]] result<void> make() {
        auto& metadata =
            domain->add_device("metadata", metadata_blocks * metadata_block_size_bytes);
        auto& data = domain->add_device("data", data_blocks_max * data_block_bytes);
        domain->add_device("catalog.db", std::uint64_t{0});
        domain->add_device("catalog.db-journal", std::uint64_t{0});
        auto formatted = UTHIN_TRY(
            pool::open(borrow(metadata, false), borrow(data, false),
                       {.format = true, .data_block_size_sectors = 128, .data_blocks = data_blocks},
                       driver.time()));
        UTHIN_TRY(formatted->close());
        UTHIN_TRY(catalogue::create(catalogue_path, pool_uuid,
                                    {.read_only = false, .vfs_name = vfs.name()}));
        UTHIN_TRY(driver.adopt(UTHIN_TRY(open_pool())));
        UTHIN_TRY(driver.create("volume-0", 4 * test::cells_per_block));
        UTHIN_TRY(driver.create("volume-1", 2 * test::cells_per_block + 5));
        UTHIN_TRY(driver.write("volume-0", 3, 20, false));
        UTHIN_TRY(driver.write("volume-1", 0, test::cells_per_block, false));
        UTHIN_TRY(driver.snapshot("volume-0", "volume-2"));
        UTHIN_TRY(driver.write("volume-0", 4, 2, false));
        UTHIN_TRY(driver.commit());
        domain->forget_history();
        driver.restart_recording();
        return {};
    }

    const lies lying;
    std::unique_ptr<io::crash_domain> domain;
    crash_vfs vfs;
    directory_driver driver;
};

class pool_crash {
public:
    explicit pool_crash(totals& sums) : totals_(sums) {}

    void run(const std::vector<directory_operation>& operations, const options& with) {
        options_ = with;
        operations_ = operations;
        machine running(with.seed, with.lying, nullptr);
        if (auto made = running.make(); !made) {
            violation("setup: " + made.error().to_string());
            return;
        }
        ++totals_.workloads;
        if (std::string text = run_on(running); !text.empty()) {
            violation(text);
            return;
        }
        cut_everywhere(running, false);
    }

    void run_random(std::size_t count, const options& with) {
        random_generator random(with.seed);
        std::vector<directory_operation> operations;
        for (std::size_t i = 0; i < count; ++i) {
            operations.push_back(
                static_cast<directory_operation>(random.below(directory_operation_count)));
        }
        run(operations, with);
    }

private:
    std::string run_on(machine& running) {
        for (const directory_operation operation : operations_) {
            if (auto done = running.driver.step(operation); !done) {
                return fmt::format("{}: {}", test::to_string(operation), done.error().to_string());
            }
        }
        std::string text = running.driver.live_complaint();
        return text.empty() ? text : "at the end: " + text;
    }

    void violation(const std::string& what) {
        constexpr std::size_t told = 10;
        constexpr std::size_t operations_told = 8;
        ++totals_.violations;
        if (totals_.first_violations.size() < told) {
            std::vector<const char*> names;
            for (std::size_t i = 0; i < std::min(operations_.size(), operations_told); ++i) {
                names.push_back(test::to_string(operations_[i]));
            }
            totals_.first_violations.push_back(
                fmt::format("seed {} [{}] {}", options_.seed, fmt::join(names, " "), what));
            // At once: the rest may take longer than anybody waits.
            if (!options_.lying.metadata && !options_.lying.data && !options_.lying.catalogue) {
                ADD_FAILURE() << totals_.first_violations.back();
            }
        }
    }

    void cut_everywhere(machine& running, bool again) {
        const io::crash_history history = running.domain->history();
        io::power_cut cut(history);
        test::crash_signatures signatures;
        for (std::size_t k = 0; k <= cut.operation_count(); ++k) {
            if (k > 0) {
                signatures.completed(history.operations[k - 1]);
            }
            const io::recorded_operation* in_flight =
                k < cut.operation_count() && history.operations[k].kind != io::operation_kind::flush
                    ? &history.operations[k]
                    : nullptr;
            cut.move_to(k);
            ++(again ? totals_.second_cuts : totals_.cuts);
            for (const io::crash_choice& choice : cut.choices({.random_subsets = 16,
                                                  .random_masks = 4,
                                                  .choices_max = again ? 3 : options_.choices_max,
                                                  .seed = options_.seed + k})) {
                if (!signatures.is_new(cut, choice, in_flight, running.driver.duties_after(k))) {
                    ++totals_.repeated_states;
                    continue;
                }
                ++totals_.states;
                if (std::string text = check(running, cut.materialize(choice), k, again);
                    !text.empty()) {
                    violation(fmt::format("{}cut at {}, {}: {}", again ? "second " : "", k,
                                          to_string(choice), text));
                }
            }
        }
    }

    std::string check(const machine& running, const io::crash_state& state, std::size_t operation,
                      bool again) {
        machine after(options_.seed + totals_.states, {}, &state);
        const auto begin = std::chrono::steady_clock::now();
        auto opened = after.open_pool();
        totals_.slowest_open_seconds = std::max(
            totals_.slowest_open_seconds,
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
        if (!opened) {
            return "does not open: " + opened.error().to_string();
        }
        if (std::string text = running.driver.complaint_after(**opened, operation); !text.empty()) {
            return text;
        }
        const std::size_t devices = (*opened)->list()->size() + (*opened)->list_transfers()->size();
        if (std::string text = metadata_complaint(after, devices); !text.empty()) {
            return text;
        }
        if (options_.judge_every != 0 && totals_.states % options_.judge_every == 0) {
            totals_.to_judge.push_back(state.image(after.domain->find("metadata")->index()));
        }
        if (again || options_.live_on_every == 0 || totals_.states % options_.live_on_every != 0) {
            auto closed = (*opened)->close();
            return closed ? std::string() : closed.error().to_string();
        }
        return live_on(after, std::move(*opened));
    }

    // Clean, and nothing but volumes and transfers is in it: what was being deleted is gone.
    static std::string metadata_complaint(machine& after, std::size_t volumes) {
        const auto view = thin_metadata::open_offline(*after.domain->find("metadata"), {});
        if (!view) {
            return view.error().to_string();
        }
        const auto state = test::read_state(**view, after.domain->find("metadata"));
        if (!state) {
            return state.error().to_string();
        }
        if (state->devices.size() != volumes) {
            return fmt::format("{} devices for {} volumes", state->devices.size(), volumes);
        }
        return test::check_complaint(**view);
    }

    std::string live_on(machine& after, std::unique_ptr<pool_directory> opened) {
        constexpr std::size_t operations_after = 10;
        const bool cut_again = ++totals_.lived_on % options_.cut_again_every == 0;
        if (auto adopted = after.driver.adopt(std::move(opened)); !adopted) {
            return adopted.error().to_string();
        }
        for (std::size_t i = 0; i < operations_after; ++i) {
            const directory_operation operation = after.driver.any_operation();
            if (auto done = after.driver.step(operation); !done) {
                return fmt::format("living on, {}: {}", test::to_string(operation),
                                   done.error().to_string());
            }
        }
        if (std::string text = after.driver.live_complaint(); !text.empty()) {
            return "living on: " + text;
        }
        const std::size_t volumes = after.driver.now().volumes.size() + after.driver.hidden_count();
        if (auto closed = after.driver.close(); !closed) {
            return "living on: " + closed.error().to_string();
        }
        if (std::string text = metadata_complaint(after, volumes); !text.empty()) {
            return "living on: " + text;
        }
        if (cut_again) {
            cut_everywhere(after, true);
        }
        return {};
    }

    totals& totals_;
    options options_;
    std::vector<directory_operation> operations_;
};

void report(const char* name, const totals& sums, std::chrono::steady_clock::time_point begin) {
    const auto ull = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
    std::printf(
        "%s: workloads=%llu cuts=%llu states=%llu repeated=%llu lived_on=%llu "
        "second_cuts=%llu judged=%zu slowest_open=%.3fs seconds=%.1f violations=%llu\n",
        name, ull(sums.workloads), ull(sums.cuts), ull(sums.states), ull(sums.repeated_states),
        ull(sums.lived_on), ull(sums.second_cuts), sums.to_judge.size(), sums.slowest_open_seconds,
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
        ull(sums.violations));
    for (const std::string& text : sums.first_violations) {
        std::printf("  %s\n", text.c_str());
    }
    std::fflush(stdout);
}

void judge(const totals& sums) {
    const test::temporary_directory folder;
    std::vector<std::filesystem::path> paths;
    for (const io::sparse_image& image : sums.to_judge) {
        std::vector<std::byte> bytes(image.size_bytes());
        image.read(0, bytes);
        paths.push_back(folder.path() / std::to_string(paths.size()));
        std::ofstream out(paths.back(), std::ios::binary);
        out.write(reinterpret_cast<const char*>(bytes.data()),
                  static_cast<std::streamsize>(bytes.size()));
    }
    test::expect_images_are_clean(paths);
}

// Every single operation, and a sample of the pairs.
TEST(PoolCrash, ShortWorkloadsSurviveEveryCut) {
    const auto begin = std::chrono::steady_clock::now();
    totals sums;
    pool_crash lab(sums);
    random_generator random(test::seed());
    constexpr std::uint64_t pairs = directory_operation_count * directory_operation_count;
    std::uint64_t wanted = test::tier() == 0 ? 190 : pairs;
    for (std::uint64_t i = 0; i < directory_operation_count; ++i) {
        lab.run({static_cast<directory_operation>(i), directory_operation::flush},
                {.seed = test::seed() + i, .judge_every = 2000 * test::tier_scale(), .lying = {}});
    }
    for (std::uint64_t i = 0; i < pairs; ++i) {
        if (random.below(pairs - i) < wanted) {
            --wanted;
            lab.run({static_cast<directory_operation>(i % directory_operation_count),
                     static_cast<directory_operation>(i / directory_operation_count),
                     directory_operation::write_fua},
                    {.seed = test::seed() + 1000 + i,
                     .judge_every = 2000 * test::tier_scale(),
                     .lying = {}});
        }
    }
    judge(sums);
    report("short pool workloads", sums, begin);
    EXPECT_EQ(sums.violations, 0U);
    EXPECT_GE(sums.workloads, 200U);
}

TEST(PoolCrash, LongRandomWorkloadsSurviveEveryCut) {
    const auto begin = std::chrono::steady_clock::now();
    totals sums;
    pool_crash lab(sums);
    for (std::uint64_t i = 0; i < 8 * test::tier_scale(); ++i) {
        lab.run_random(25, {.seed = test::seed() + 100'000 + i, .choices_max = 3, .lying = {}});
    }
    report("random pool workloads", sums, begin);
    EXPECT_EQ(sums.violations, 0U);
}

// A volume that is filled unseen appears whole, in place of what had its name, or not at all.
TEST(PoolCrash, TransfersArePublishedWholeOrNotAtAll) {
    using op = directory_operation;
    const auto begin = std::chrono::steady_clock::now();
    totals sums;
    pool_crash lab(sums);
    for (std::uint64_t i = 0; i < 4 * test::tier_scale(); ++i) {
        lab.run({op::write, op::transfer, op::transfer, op::write_fua, op::transfer},
                {.seed = test::seed() + 200'000 + i,
                 .live_on_every = 20,
                 .judge_every = 2000 * test::tier_scale(),
                 .lying = {}});
    }
    judge(sums);
    report("transfers", sums, begin);
    EXPECT_EQ(sums.violations, 0U) << ::testing::PrintToString(sums.first_violations);
}

// ---- the harness can see
// ------------------------------------------------------------------------------------------------

totals run_lying(const lies& lying) {
    totals sums;
    pool_crash lab(sums);
    for (std::uint64_t i = 0; i < 3; ++i) {
        lab.run({directory_operation::write, directory_operation::flush,
                 directory_operation::create, directory_operation::snapshot,
                 directory_operation::write_fua, directory_operation::rename},
                {.seed = test::seed() + i, .live_on_every = 0, .lying = lying});
    }
    return sums;
}

TEST(PoolCrashHarness, FindsNothingWrongWithHonestDevices) {
    const totals sums = run_lying({});
    EXPECT_EQ(sums.violations, 0U) << ::testing::PrintToString(sums.first_violations);
}

TEST(PoolCrashHarness, SeesMetadataThatIsNotFlushed) {
    EXPECT_GT(run_lying({.metadata = true}).violations, 0U);
}

TEST(PoolCrashHarness, SeesDataThatIsNotFlushed) {
    EXPECT_GT(run_lying({.data = true}).violations, 0U);
}

TEST(PoolCrashHarness, SeesACatalogueThatIsNotFlushed) {
    EXPECT_GT(run_lying({.catalogue = true}).violations, 0U);
}

}  // namespace
}  // namespace uthin
