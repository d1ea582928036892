// uthin-bench-counts: pieces of work whose instructions valgrind counts.
//
//   uthin-bench-counts [WORKLOAD...]      all of them without arguments; --list names them
//
// Under `valgrind --tool=callgrind --instr-atstart=no` each workload is prepared without being
// looked at and then counted: one dump each, named after it. By itself the program prints the CPU
// time of each. tests/tools/instruction_counts_test.py compares the counts with a baseline.
#include <fmt/format.h>
#include <valgrind/callgrind.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "base/result.h"
#include "io/memory_device.h"
#include "uthin/metadata.h"
#include "uthin/pool.h"

namespace uthin::bench {
namespace {

constexpr std::uint32_t block_size_sectors = 128;
constexpr std::uint64_t block_bytes = std::uint64_t{block_size_sectors} * sector_size_bytes;
constexpr std::uint64_t page_bytes = 4096;
constexpr std::uint64_t seed = 1;

double cpu_seconds() {
    std::timespec now{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// What is counted begins with the object and ends with it, but for what lies between pause() and
// resume().
class counted {
public:
    counted(std::string_view name, std::uint64_t operations)
        : name_(name), operations_(operations), begin_(cpu_seconds()) {
        CALLGRIND_START_INSTRUMENTATION;
        CALLGRIND_ZERO_STATS;
    }
    ~counted() {
        pause();
        CALLGRIND_DUMP_STATS_AT(name_.c_str());
        CALLGRIND_TOGGLE_COLLECT;
        CALLGRIND_STOP_INSTRUMENTATION;
        fmt::print("{} {} operations, {:.3f} us of CPU each\n", name_, operations_,
                   used_ * 1e6 / static_cast<double>(operations_));
    }
    counted(const counted&) = delete;
    counted& operator=(const counted&) = delete;

    void pause() {
        CALLGRIND_TOGGLE_COLLECT;
        used_ += cpu_seconds() - begin_;
    }
    void resume() {
        begin_ = cpu_seconds();
        CALLGRIND_TOGGLE_COLLECT;
    }

private:
    const std::string name_;
    const std::uint64_t operations_;
    double used_ = 0;
    double begin_;
};

// Metadata in memory with device 0 mapped from its begin on.
class metadata_lab {
public:
    [[nodiscard]] result<void> make(std::uint64_t mappings, bool contiguous) {
        const std::uint64_t data_blocks = mappings + (1 << 16);
        const std::uint64_t blocks = 2 * (mappings / 252 + data_blocks / 16320) + (1 << 14);
        device_ = std::make_unique<io::memory_device>(blocks * metadata_block_size_bytes);
        pool_ = UTHIN_TRY(metadata::open(*device_, {.data_block_size_sectors = block_size_sectors,
                                                    .format = true,
                                                    .cache_bytes = 512ULL << 20}));
        UTHIN_TRY(pool_->resize_data(data_blocks));
        UTHIN_TRY(pool_->commit());
        const std::uint64_t run = contiguous ? mappings : 1;
        std::uint64_t next = 0;
        std::uint64_t stride = mappings * 618 / 1000 + 1;
        while (std::gcd(stride, mappings) != 1) {
            ++stride;
        }
        const auto source = [&]() -> result<std::optional<mapping_run>> {
            if (next == mappings) {
                return std::optional<mapping_run>();
            }
            const std::uint64_t data = contiguous ? 0 : next * stride % mappings;
            const mapping_run one{virtual_block(next), data_block(data), run, 0};
            next += run;
            return std::optional(one);
        };
        UTHIN_TRY(pool_->build_device(device_id(0), {}, source));
        UTHIN_TRY(pool_->commit());
        volume_ = UTHIN_TRY(pool_->open_device(device_id(0)));
        mappings_ = mappings;
        return {};
    }
    // A fresh data block for `block`, whatever was there.
    [[nodiscard]] result<void> insert(std::uint64_t block) {
        return pool_->insert_block(*volume_, virtual_block(block),
                                   UTHIN_TRY(pool_->alloc_data_block()));
    }
    [[nodiscard]] metadata& pool() noexcept { return *pool_; }
    [[nodiscard]] thin_device& volume() noexcept { return *volume_; }
    [[nodiscard]] std::uint64_t mappings() const noexcept { return mappings_; }

private:
    std::unique_ptr<io::memory_device> device_;
    std::unique_ptr<metadata> pool_;
    thin_device* volume_ = nullptr;
    std::uint64_t mappings_ = 0;
};

constexpr std::uint64_t guarded_mappings = 50000;

result<void> lookup() {
    metadata_lab lab;
    UTHIN_TRY(lab.make(guarded_mappings, false));
    random_generator random(seed);
    constexpr std::uint64_t operations = 5000;
    const counted work("lookup", operations);
    for (std::uint64_t i = 0; i < operations; ++i) {
        const auto found =
            UTHIN_TRY(lab.pool().find_block(lab.volume(), virtual_block(random.below(50000))));
        if (!found) {
            return fail(error_code::not_found, "lookup: a mapping is missing");
        }
    }
    return {};
}

// In batches, as the executor of a pool does it.
constexpr std::uint64_t batch = 16;

result<void> insert() {
    metadata_lab lab;
    UTHIN_TRY(lab.make(guarded_mappings, false));
    random_generator random(seed);
    constexpr std::uint64_t operations = 2000;
    const counted work("insert", operations);
    for (std::uint64_t done = 0; done < operations; done += batch) {
        lab.pool().begin_batch();
        for (std::uint64_t i = 0; i < batch; ++i) {
            UTHIN_TRY(lab.insert(guarded_mappings + random.below(guarded_mappings)));
        }
        lab.pool().publish_batch();
    }
    return {};
}

result<void> remove() {
    metadata_lab lab;
    UTHIN_TRY(lab.make(guarded_mappings, false));
    random_generator random(seed);
    constexpr std::uint64_t operations = 2000;
    const counted work("remove", operations);
    for (std::uint64_t i = 0; i < operations; ++i) {
        const virtual_block block(random.below(guarded_mappings));
        UTHIN_TRY(lab.pool().remove_range(lab.volume(), {block, block + 1}));
    }
    return {};
}

result<void> break_sharing() {
    metadata_lab lab;
    UTHIN_TRY(lab.make(guarded_mappings, false));
    UTHIN_TRY(lab.pool().create_snap(device_id(1), device_id(0)));
    UTHIN_TRY(lab.pool().commit());
    random_generator random(seed);
    constexpr std::uint64_t operations = 1000;
    const counted work("break-sharing", operations);
    for (std::uint64_t done = 0; done < operations; done += batch) {
        lab.pool().begin_batch();
        for (std::uint64_t i = 0; i < batch; ++i) {
            UTHIN_TRY(lab.insert(random.below(guarded_mappings)));
        }
        lab.pool().publish_batch();
    }
    return {};
}

result<void> commit() {
    metadata_lab lab;
    UTHIN_TRY(lab.make(guarded_mappings, false));
    random_generator random(seed);
    constexpr std::uint64_t operations = 100;
    const counted work("commit", operations);
    for (std::uint64_t i = 0; i < operations; ++i) {
        UTHIN_TRY(lab.insert(random.below(guarded_mappings)));
        UTHIN_TRY(lab.pool().commit());
    }
    return {};
}

// One block is written before each snapshot, which is deleted before the next.
result<void> snapshots(std::string_view name, std::uint64_t mappings) {
    metadata_lab lab;
    UTHIN_TRY(lab.make(mappings, true));
    random_generator random(seed);
    constexpr std::uint64_t operations = 50;
    const auto prepare = [&]() -> result<void> {
        UTHIN_TRY(lab.insert(random.below(mappings)));
        return lab.pool().commit();
    };
    const auto take = [&]() -> result<void> {
        UTHIN_TRY(lab.pool().create_snap(device_id(1), device_id(0)));
        return lab.pool().commit();
    };
    const auto drop = [&]() -> result<void> {
        UTHIN_TRY(lab.pool().delete_thin(device_id(1)));
        return lab.pool().commit();
    };
    for (std::uint64_t i = 0; i < operations; ++i) {
        UTHIN_TRY(prepare());
        UTHIN_TRY(take());
        UTHIN_TRY(drop());
    }
    counted work(name, operations);
    for (std::uint64_t i = 0; i < operations; ++i) {
        work.pause();
        UTHIN_TRY(prepare());
        work.resume();
        UTHIN_TRY(take());
        work.pause();
        UTHIN_TRY(drop());
        work.resume();
    }
    return {};
}

// A pool in memory, without a thread of its own, and its volume 0.
class pool_lab {
public:
    [[nodiscard]] result<void> make(std::uint64_t blocks) {
        pool_ = UTHIN_TRY(
            pool::open(std::make_unique<io::memory_device>(64ULL << 20),
                       std::make_unique<io::memory_device>(4 * blocks * block_bytes),
                       {.format = true, .data_block_size_sectors = block_size_sectors}, clock_));
        UTHIN_TRY(pool_->create_thin(device_id(0)));
        volume_ = UTHIN_TRY(pool_->open_volume(device_id(0), blocks * block_bytes));
        return {};
    }
    // One page of each block.
    [[nodiscard]] result<void> write(std::uint64_t begin, std::uint64_t end) {
        for (std::uint64_t block = begin; block < end; ++block) {
            UTHIN_TRY(volume_->write(block * block_bytes, page_));
        }
        return {};
    }
    [[nodiscard]] result<void> read(std::uint64_t block) {
        return volume_->read(block * block_bytes, page_);
    }
    [[nodiscard]] result<void> snapshot() {
        const snapshot_request one{device_id(0), device_id(1)};
        return pool_->create_snapshots(std::span(&one, 1));
    }

private:
    manual_clock clock_;
    std::unique_ptr<pool> pool_;
    std::shared_ptr<volume> volume_;
    std::array<std::byte, page_bytes> page_{};
};

constexpr std::uint64_t pool_blocks = 1000;

result<void> pool_hit() {
    pool_lab lab;
    UTHIN_TRY(lab.make(pool_blocks));
    UTHIN_TRY(lab.write(0, pool_blocks));
    random_generator random(seed);
    constexpr std::uint64_t operations = 5000;
    const counted work("pool-hit", operations);
    for (std::uint64_t i = 0; i < operations; ++i) {
        UTHIN_TRY(lab.read(random.below(pool_blocks)));
    }
    return {};
}

result<void> pool_first_write() {
    pool_lab lab;
    UTHIN_TRY(lab.make(pool_blocks));
    const counted work("pool-first-write", pool_blocks);
    return lab.write(0, pool_blocks);
}

result<void> pool_break_sharing() {
    pool_lab lab;
    UTHIN_TRY(lab.make(pool_blocks));
    UTHIN_TRY(lab.write(0, pool_blocks));
    UTHIN_TRY(lab.snapshot());
    const counted work("pool-break-sharing", pool_blocks);
    return lab.write(0, pool_blocks);
}

struct workload {
    std::string_view name;
    std::function<result<void>()> run;
    bool guarded = true;  // run when none is named
};

std::vector<workload> workloads() {
    constexpr std::uint64_t gibibyte = 1 << 14;
    constexpr std::uint64_t tebibyte = 1 << 24;
    return {
        {"lookup", lookup},
        {"insert", insert},
        {"remove", remove},
        {"break-sharing", break_sharing},
        {"commit", commit},
        {"pool-hit", pool_hit},
        {"pool-first-write", pool_first_write},
        {"pool-break-sharing", pool_break_sharing},
        {"snapshot-1g", [] { return snapshots("snapshot-1g", gibibyte); }},
        {"snapshot-64g", [] { return snapshots("snapshot-64g", 64 * gibibyte); }},
        {"snapshot-1t", [] { return snapshots("snapshot-1t", tebibyte); }, false},
    };
}

int run(std::span<char*> names) {
    const std::vector<workload> all = workloads();
    for (const std::string_view name : names) {
        if (name == "--list") {
            for (const workload& one : all) {
                fmt::print("{}\n", one.name);
            }
            return 0;
        }
        if (std::ranges::find(all, name, &workload::name) == all.end()) {
            fmt::print(stderr, "uthin-bench-counts: no workload '{}'; --list names them\n", name);
            return 2;
        }
    }
    for (const workload& one : all) {
        const bool named = std::ranges::find(names, one.name, [](const char* name) {
                               return std::string_view(name);
                           }) != names.end();
        if (!named && (!names.empty() || !one.guarded)) {
            continue;
        }
        if (const auto done = one.run(); !done) {
            fmt::print(stderr, "uthin-bench-counts: {}: {}\n", one.name, done.error().message());
            return 1;
        }
    }
    return 0;
}

}  // namespace
}  // namespace uthin::bench

int main(int argc, char** argv) {
    return uthin::bench::run(std::span(argv + 1, static_cast<std::size_t>(argc - 1)));
}
