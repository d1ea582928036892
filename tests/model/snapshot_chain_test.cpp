// A chain of snapshots a thousand deep: neither reading nor taking a snapshot may depend on its
// length or on the size of the volume.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "base/random.h"
#include "io/memory_device.h"
#include "support/big_volume.h"
#include "support/image_check.h"
#include "support/matchers.h"
#include "support/metadata_fixture.h"
#include "support/seed.h"
#include "support/temporary_directory.h"
#include "thin_metadata/checker.h"

namespace uthin::test {
namespace {

constexpr std::uint64_t control_id = 1000000;  // mapped like the chain's begin, never snapshotted
constexpr std::uint64_t verified_every = 50;

constexpr std::uint64_t snapshots_per_round = 200;
// CPU times of one round differ by half on a shared machine.
std::uint64_t rounds_of_comparison() {
    return is_long_run() ? 200 : 9;
}
// What two comparisons may write.
std::uint64_t comparison_blocks() {
    return 2 * rounds_of_comparison() * snapshots_per_round + 64;
}

double median(std::vector<double> values) {
    std::ranges::sort(values);
    return values.empty() ? 0 : values[values.size() / 2];
}

// What two pieces of work cost for one generation of the chain.
struct generation_cost {
    work_done rewriting;  // of 1 % and its commit
    work_done snapshot;   // create_snap and its commit
};

class chain {
public:
    chain(std::uint64_t metadata_blocks, std::uint64_t volume_blocks, std::uint64_t data_blocks)
        : device_(metadata_blocks * metadata_block_size_bytes, "chain"),
          volume_blocks_(volume_blocks),
          stored_(data_blocks + comparison_blocks(), 0),
          live_(volume_blocks, 0),
          random_(seed()) {
        open(true);
        EXPECT_OK(pool_->resize_data(stored_.size()));
        EXPECT_OK(pool_->commit());
    }

    void open(bool format = false) {
        pool_.reset();
        auto opened = metadata::open(device_, {.data_block_size_sectors = block_size_sectors,
                                               .format = format,
                                               .read_only = false,
                                               .cache_bytes = 256ULL << 20});
        EXPECT_THAT(opened, IsOk());
        pool_ = opened ? std::move(*opened) : nullptr;
    }

    // Maps all of `id`, front to back.
    void fill(std::uint64_t id) {
        ASSERT_OK(pool_->create_thin(device_id(id)));
        ASSERT_OK_AND_ASSIGN(thin_device* const device, pool_->open_device(device_id(id)));
        for (std::uint64_t block = 0; block < volume_blocks_; ++block) {
            ASSERT_OK_AND_ASSIGN(const data_block data, pool_->alloc_data_block());
            ASSERT_OK(pool_->insert_block(*device, virtual_block(block), data));
        }
        pool_->close_device(device);
        ASSERT_OK(pool_->commit());
    }

    // As a pool does it: in place when the block is not shared, else into a new one.
    void rewrite(std::uint64_t id, std::uint64_t count) {
        ASSERT_OK_AND_ASSIGN(thin_device* const device, pool_->open_device(device_id(id)));
        for (std::uint64_t i = 0; i < count; ++i) {
            const std::uint64_t block = random_.below(volume_blocks_);
            ASSERT_OK_AND_ASSIGN(const auto found,
                                 pool_->find_block_in_batch(*device, virtual_block(block)));
            ASSERT_TRUE(found.has_value());
            data_block data = found->block;
            if (found->shared) {
                ASSERT_OK_AND_ASSIGN(data, pool_->alloc_data_block());
                ASSERT_OK(pool_->insert_block(*device, virtual_block(block), data));
            }
            stored_[data.value()] = ++stamp_;
            live_[block] = stamp_;
        }
        pool_->close_device(device);
        ASSERT_OK(pool_->commit());
    }

    // 1 % of device `generation` - 1 changes, then device `generation` becomes its snapshot.
    [[nodiscard]] generation_cost grow(std::uint64_t generation) {
        generation_cost cost;
        const work_meter rewriting(*pool_);
        rewrite(generation - 1, volume_blocks_ / 100);
        cost.rewriting = rewriting.done();
        cost.snapshot = snapshot(generation, generation - 1);
        if ((generation - 1) % verified_every == 0) {
            kept_[generation - 1] = live_;  // nobody writes to it from now on
        }
        return cost;
    }
    [[nodiscard]] work_done snapshot(std::uint64_t id, std::uint64_t origin) {
        const work_meter meter(*pool_);
        EXPECT_OK(pool_->create_snap(device_id(id), device_id(origin)));
        EXPECT_OK(pool_->commit());
        return meter.done();
    }

    // CPU time of one of `count` snapshots of `origin`, one block written before each, which is
    // deleted before the next; their blocks.
    [[nodiscard]] work_done average_snapshot(std::uint64_t origin, std::uint64_t count) {
        constexpr std::uint64_t id = 2000000;
        work_done sum;
        for (std::uint64_t i = 0; i < count; ++i) {
            rewrite(origin, 1);
            const work_done one = snapshot(id, origin);
            sum.blocks_written += one.blocks_written;
            sum.cpu_milliseconds += one.cpu_milliseconds / static_cast<double>(count);
            EXPECT_OK(pool_->delete_thin(device_id(id)));
            EXPECT_OK(pool_->commit());
        }
        return sum;
    }

    // Blocks wrong in the kept snapshots.
    [[nodiscard]] std::uint64_t wrong_blocks() {
        std::uint64_t wrong = 0;
        for (const auto& [id, content] : kept_) {
            auto device = pool_->open_device(device_id(id));
            EXPECT_THAT(device, IsOk());
            for (std::uint64_t block = 0; device && block < volume_blocks_; ++block) {
                auto found = pool_->find_block(**device, virtual_block(block));
                wrong += !found || !*found || stored_[(**found).block.value()] != content[block];
            }
            if (device) {
                pool_->close_device(*device);
            }
        }
        return wrong;
    }

    // CPU nanoseconds of one lookup in a warm cache.
    [[nodiscard]] double lookup_ns(std::uint64_t id, std::uint64_t lookups) {
        auto device = pool_->open_device(device_id(id));
        EXPECT_THAT(device, IsOk());
        random_generator positions(seed());
        const double begin = cpu_seconds();
        for (std::uint64_t i = 0; i < lookups; ++i) {
            const auto found =
                pool_->find_block(**device, virtual_block(positions.below(volume_blocks_)));
            EXPECT_TRUE(found && found->has_value());
        }
        const double used = cpu_seconds() - begin;
        pool_->close_device(*device);
        return used * 1e9 / static_cast<double>(lookups);
    }

    // Metadata blocks that one lookup reads when nothing is cached.
    [[nodiscard]] std::uint64_t cold_lookup_reads(std::uint64_t id, std::uint64_t block) {
        open();
        auto device = pool_->open_device(device_id(id));
        EXPECT_THAT(device, IsOk());
        const work_meter meter(*pool_);
        EXPECT_THAT(pool_->find_block(**device, virtual_block(block)), IsOk());
        const std::uint64_t reads = meter.done().blocks_read;
        pool_->close_device(*device);
        return reads;
    }

    void expect_clean() {
        ASSERT_OK(pool_->close());
        pool_.reset();
        auto view = thin_metadata::open_offline(device_, {});
        ASSERT_THAT(view, IsOk());
        auto report = thin_metadata::check_metadata(**view, {});
        ASSERT_THAT(report, IsOk());
        EXPECT_TRUE(report->is_clean())
            << (report->findings.empty() ? "" : report->findings[0].text);
        std::printf("checked: %llu devices, %llu mappings, %llu metadata blocks\n",
                    static_cast<unsigned long long>(report->devices),
                    static_cast<unsigned long long>(report->mapped_blocks),
                    static_cast<unsigned long long>(report->metadata_blocks_used));
    }

    [[nodiscard]] metadata& pool() { return *pool_; }
    [[nodiscard]] io::memory_device& device() { return device_; }

private:
    io::memory_device device_;
    std::unique_ptr<metadata> pool_;
    const std::uint64_t volume_blocks_;
    std::vector<std::uint32_t> stored_;  // by data block: the stamp that was written to it
    std::vector<std::uint32_t> live_;    // by virtual block: what the newest device reads
    std::map<std::uint64_t, std::vector<std::uint32_t>> kept_;
    random_generator random_;
    std::uint32_t stamp_ = 0;
};

void print(const char* what, const work_done& done) {
    std::printf("%-42s %5llu blocks written, %4llu read, %8.3f ms CPU\n", what,
                static_cast<unsigned long long>(done.blocks_written),
                static_cast<unsigned long long>(done.blocks_read), done.cpu_milliseconds);
}

// Takes snapshots of both in turns, so that both meet the same noise. `more_blocks`: how many more
// blocks (and a tenth) a snapshot of the other may write. CPU time is printed, not judged: it is
// noise on a busy machine. tests/tools/instruction_counts_test.py judges instructions.
void compare_snapshots(const char* what, chain& plain, std::uint64_t plain_origin, chain& other,
                       std::uint64_t other_origin, std::uint64_t more_blocks) {
    const std::uint64_t rounds = rounds_of_comparison();
    std::vector<double> plain_cpu;
    std::vector<double> other_cpu;
    std::uint64_t plain_written = 0;
    std::uint64_t other_written = 0;
    for (std::uint64_t round = 0; round < rounds; ++round) {
        const work_done a = plain.average_snapshot(plain_origin, snapshots_per_round);
        const work_done b = other.average_snapshot(other_origin, snapshots_per_round);
        plain_cpu.push_back(a.cpu_milliseconds);
        other_cpu.push_back(b.cpu_milliseconds);
        plain_written += a.blocks_written;
        other_written += b.blocks_written;
    }
    const double snapshots = static_cast<double>(rounds * snapshots_per_round);
    std::printf(
        "%s: %.3f against %.3f blocks written for a snapshot and commit, CPU %.4f against "
        "%.4f ms (least of %llu rounds: %.4f against %.4f), ratio %.3f (of the least: %.3f)\n",
        what, static_cast<double>(plain_written) / snapshots,
        static_cast<double>(other_written) / snapshots, median(plain_cpu), median(other_cpu),
        static_cast<unsigned long long>(rounds), std::ranges::min(plain_cpu),
        std::ranges::min(other_cpu), median(other_cpu) / median(plain_cpu),
        std::ranges::min(other_cpu) / std::ranges::min(plain_cpu));
    EXPECT_LE(10 * other_written,
              11 * (plain_written + more_blocks * rounds * snapshots_per_round));
}

struct chain_shape {
    std::uint64_t depth;
    std::uint64_t volume_blocks;
};

chain_shape shape_of_run() {
    return is_long_run() ? chain_shape{1000, 16384} : chain_shape{300, 4096};
}

double median_cpu(const std::vector<generation_cost>& costs, std::size_t begin, std::size_t end,
                  work_done generation_cost::*part) {
    std::vector<double> values;
    for (std::size_t i = begin; i < end; ++i) {
        values.push_back((costs[i].*part).cpu_milliseconds);
    }
    return median(values);
}

void print(const chain_shape& shape, const std::vector<generation_cost>& costs) {
    std::printf("chain of %llu snapshots, volume of %llu blocks of 64 KiB, 1 %% rewritten each\n",
                static_cast<unsigned long long>(shape.depth),
                static_cast<unsigned long long>(shape.volume_blocks));
    for (const std::uint64_t generation :
         {std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{3}, std::uint64_t{5}, std::uint64_t{10},
          std::uint64_t{50}, std::uint64_t{100}, std::uint64_t{200}, shape.depth / 2,
          shape.depth}) {
        const generation_cost& cost = costs[generation - 1];
        print(fmt::format("generation {}: rewrite and commit", generation).c_str(), cost.rewriting);
        print(fmt::format("generation {}: snapshot and commit", generation).c_str(), cost.snapshot);
    }
    const std::size_t sample = shape.depth / 10;
    for (const auto& [what, part] : {std::pair{"rewrite", &generation_cost::rewriting},
                                     std::pair{"snapshot", &generation_cost::snapshot}}) {
        const double first = median_cpu(costs, 0, sample, part);
        const double last = median_cpu(costs, shape.depth - sample, shape.depth, part);
        std::printf("%s, median CPU of the first %zu: %.3f ms, of the last: %.3f ms, ratio %.3f\n",
                    what, sample, first, last, last / first);
    }
}

// The end of the chain against a device of the same shape that never had a snapshot. `alone_ns`: a
// lookup before there was a chain.
void compare_lookups(chain& lab, const chain_shape& shape, std::uint64_t lookups, double alone_ns) {
    std::vector<double> shallow;
    std::vector<double> deep;
    for (int round = 0; round < 7; ++round) {
        shallow.push_back(lab.lookup_ns(control_id, lookups));
        deep.push_back(lab.lookup_ns(shape.depth, lookups));
    }
    std::printf(
        "lookup, CPU: %.0f ns while there was one device; now depth 0 %.0f ns, depth %llu "
        "%.0f ns, ratio %.3f\n",
        alone_ns, median(shallow), static_cast<unsigned long long>(shape.depth), median(deep),
        median(deep) / median(shallow));

    for (std::uint64_t block = 1; block < shape.volume_blocks; block += shape.volume_blocks / 8) {
        EXPECT_EQ(lab.cold_lookup_reads(shape.depth, block),
                  lab.cold_lookup_reads(control_id, block));
    }
    std::printf("blocks read by a cold lookup: depth 0 %llu, depth %llu %llu\n",
                static_cast<unsigned long long>(lab.cold_lookup_reads(control_id, 1)),
                static_cast<unsigned long long>(shape.depth),
                static_cast<unsigned long long>(lab.cold_lookup_reads(shape.depth, 1)));
}

TEST(SnapshotChain, ReadingAndSnapshottingDoNotDependOnItsDepth) {
    const chain_shape shape = shape_of_run();
    const std::uint64_t data_blocks =
        2 * shape.volume_blocks + shape.depth * (shape.volume_blocks / 100);
    chain lab(512 * shape.depth + 32768, shape.volume_blocks, data_blocks);
    lab.fill(0);
    lab.fill(control_id);
    const std::uint64_t lookups = is_long_run() ? 1000000 : 200000;
    const double alone_ns = lab.lookup_ns(0, lookups);

    std::vector<generation_cost> costs;
    for (std::uint64_t generation = 1; generation <= shape.depth; ++generation) {
        costs.push_back(lab.grow(generation));
        ASSERT_FALSE(HasFatalFailure());
    }
    print(shape, costs);
    EXPECT_EQ(lab.wrong_blocks(), 0U);
    compare_lookups(lab, shape, lookups, alone_ns);

    lab.open();
    chain plain(32768, shape.volume_blocks, shape.volume_blocks);
    plain.fill(0);
    // The top tree and the details tree have one level more when there are hundreds of devices.
    compare_snapshots("pool with one volume and end of the chain", plain, 0, lab, shape.depth, 2);
    for (std::uint64_t id = 1; id <= shape.depth + 1; ++id) {
        ASSERT_OK(plain.pool().create_thin(device_id(id)));
    }
    ASSERT_OK(plain.pool().commit());
    compare_snapshots("pool with as many volumes and end of the chain", plain, 0, lab, shape.depth,
                      0);
    const std::uint64_t first = costs.front().snapshot.blocks_written;
    const std::uint64_t last = costs.back().snapshot.blocks_written;
    EXPECT_LE(last, first + 2);
    lab.expect_clean();
    if (!is_long_run()) {
        expect_image_is_clean(image_of(lab.device()));
    }
}

TEST(SnapshotChain, ASnapshotOfATebibyteCostsWhatOneOfAGibibyteDoes) {
    const std::uint64_t small_blocks = 1ULL << 14U;
    const std::uint64_t large_blocks = is_long_run() ? 1ULL << 24U : 1ULL << 20U;
    constexpr std::uint64_t rewrites = 100;
    constexpr std::uint64_t generations = 100;
    constexpr std::uint64_t extra_blocks = rewrites * (generations + 1);
    chain small(1 << 17, small_blocks, small_blocks + extra_blocks);
    chain large(1 << 18, large_blocks, large_blocks + extra_blocks);
    ASSERT_OK(build_volume(small.pool(), device_id(0), small_blocks, layout::contiguous));
    ASSERT_OK(build_volume(large.pool(), device_id(0), large_blocks, layout::contiguous));
    std::uint64_t small_written = 0;
    std::uint64_t large_written = 0;
    std::printf("volume of %llu blocks and of %llu\n",
                static_cast<unsigned long long>(small_blocks),
                static_cast<unsigned long long>(large_blocks));
    for (std::uint64_t generation = 1; generation <= generations; ++generation) {
        small.rewrite(generation - 1, rewrites);
        const work_done a = small.snapshot(generation, generation - 1);
        large.rewrite(generation - 1, rewrites);
        const work_done b = large.snapshot(generation, generation - 1);
        small_written += a.blocks_written;
        large_written += b.blocks_written;
        if (generation == 1 || generation == generations) {
            print(fmt::format("small volume, snapshot {}", generation).c_str(), a);
            print(fmt::format("large volume, snapshot {}", generation).c_str(), b);
        }
    }
    std::printf("%llu snapshots: %llu blocks written for the small one, %llu for the large one\n",
                static_cast<unsigned long long>(generations),
                static_cast<unsigned long long>(small_written),
                static_cast<unsigned long long>(large_written));
    EXPECT_LE(large_written, small_written * 11 / 10);
    compare_snapshots("small and large volume", small, generations, large, generations, 0);
    small.expect_clean();
    large.expect_clean();
}

}  // namespace
}  // namespace uthin::test
