// Snapshots: what taking one costs, and what reading costs below many.
#include <algorithm>

#include "memory_pool.h"
#include "report.h"

namespace uthin::bench {

namespace {

constexpr std::uint64_t gibibyte_blocks = (1ULL << 30) / block_bytes;
constexpr std::uint64_t tebibyte_blocks = 1024 * gibibyte_blocks;

// Snapshots of volume 0 one at a time, a block written before each; all are deleted at the end.
class snapshot_maker {
public:
    snapshot_maker(memory_pool& pool, volume& of) : pool_(pool), volume_(of) {}

    // `committed`: the block's mapping is, before the snapshot is taken; else the snapshot's commit
    // writes what the block has changed, too.
    [[nodiscard]] result<sample> take(std::uint64_t count, bool committed) {
        alignas(4096) std::array<std::byte, page_bytes> page{};
        random_generator random(seed + next_);
        const std::uint64_t begin = next_;
        sample sum;
        for (std::uint64_t i = 0; i < count; ++i) {
            UTHIN_TRY(
                volume_.write(random.below(volume_.size_bytes() / page_bytes) * page_bytes, page));
            if (committed) {
                UTHIN_TRY(pool_->commit());
            }
            const snapshot_request one{device_id(0), device_id(next_++)};
            const stopwatch watch;
            UTHIN_TRY(pool_->create_snapshots(std::span(&one, 1)));
            const sample taken = watch.per_operation(count);
            sum.cpu_us += taken.cpu_us;
            sum.wall_us += taken.wall_us;
        }
        UTHIN_TRY(drop(begin));
        return sum;
    }
    // In one call.
    [[nodiscard]] result<sample> take_batch(std::uint64_t count) {
        std::vector<snapshot_request> all;
        const std::uint64_t begin = next_;
        for (std::uint64_t i = 0; i < count; ++i) {
            all.push_back({device_id(0), device_id(next_++)});
        }
        const stopwatch watch;
        UTHIN_TRY(pool_->create_snapshots(all));
        const sample taken = watch.per_operation(count);
        UTHIN_TRY(drop(begin));
        return taken;
    }

private:
    [[nodiscard]] result<void> drop(std::uint64_t begin) {
        for (std::uint64_t id = begin; id < next_; ++id) {
            UTHIN_TRY(pool_->delete_thin(device_id(id)));
        }
        return {};
    }

    memory_pool& pool_;
    volume& volume_;
    std::uint64_t next_ = 1;
};

}  // namespace

result<void> bench_snapshots(report& out) {
    if (!out.wanted("snapshot")) {
        return {};
    }
    const std::uint64_t large_blocks = out.options().quick ? tebibyte_blocks / 16 : tebibyte_blocks;
    const auto small_pool = UTHIN_TRY(memory_pool::make({.data_blocks = gibibyte_blocks + 65536}));
    const auto large_pool = UTHIN_TRY(
        memory_pool::make({.data_blocks = large_blocks + 65536, .metadata_bytes = 1ULL << 30}));
    const auto small = UTHIN_TRY(small_pool->build_volume(0, gibibyte_blocks, 0));
    const auto large = UTHIN_TRY(large_pool->build_volume(0, large_blocks, 0));
    snapshot_maker of_small(*small_pool, *small);
    snapshot_maker of_large(*large_pool, *large);
    constexpr std::uint64_t count = 200;
    std::vector<double> cpu_us;
    for (const bool committed : {true, false}) {
        UTHIN_TRY(of_small.take(count, committed));
        UTHIN_TRY(of_large.take(count, committed));
        cpu_us.clear();
        UTHIN_TRY(
            out.compare({committed ? "snapshot/size" : "snapshot/size-with-a-change",
                         out.options().quick ? "of 1 GiB, ours 64 GiB" : "of 1 GiB, ours 1 TiB",
                         [&](unsigned) { return of_small.take(count, committed); },
                         [&](unsigned) -> result<sample> {
                             const sample taken = UTHIN_TRY(of_large.take(count, committed));
                             cpu_us.push_back(taken.cpu_us);
                             return taken;
                         },
                         committed ? std::optional(1 / 1.1) : std::nullopt}));
    }
    out.value("snapshot/cpu", spread_of(cpu_us).median, "us CPU", bound::at_most, 100);
    std::vector<double> batched_us;
    for (unsigned round = 0; round < out.options().rounds; ++round) {
        batched_us.push_back(UTHIN_TRY(of_large.take_batch(1000)).cpu_us);
    }
    out.value("snapshot/batched-per-cpu-second", 1e6 / spread_of(batched_us).median, "snapshots",
              bound::at_least, 5000);
    return {};
}

// What a memory_device was given first it finds last: no volume is to be older than another one,
// which alone made 0.86 of a ratio.
result<void> fill_in_turn(std::initializer_list<volume*> volumes, std::uint64_t blocks) {
    constexpr std::uint64_t turn_blocks = 128;
    const std::vector<std::byte> data(turn_blocks * block_bytes, std::byte{3});
    for (std::uint64_t at = 0; at < blocks; at += turn_blocks) {
        for (volume* const one : volumes) {
            UTHIN_TRY(one->write(at * block_bytes, data));
        }
    }
    return {};
}

// Volume 0 has snapshots below it, volumes 1 and 2 none. Whenever a block of volume 0 is written
// anew, so is that of volume 1, after a discard: data and mappings of both are as scattered. Volume
// 2 stays in order: what is lost against it is lost to the order, by the device as well.
result<void> bench_depth(report& out) {
    if (!out.wanted("depth")) {
        return {};
    }
    constexpr std::uint64_t blocks = 4096;
    constexpr std::uint64_t rewritten = blocks / 100;
    const std::uint64_t depth_max = out.options().quick ? 100 : 1000;
    memory_pool::shape shape{.data_blocks = 3 * blocks + 2 * (depth_max + 2) * (rewritten + 1),
                             .metadata_bytes = 512ULL << 20};
    const auto pool = UTHIN_TRY(memory_pool::make(shape));
    const auto chained = UTHIN_TRY(pool->make_volume(0, blocks));
    const auto scattered = UTHIN_TRY(pool->make_volume(1, blocks));
    const auto ordered = UTHIN_TRY(pool->make_volume(2, blocks));
    UTHIN_TRY(fill_in_turn({chained.get(), scattered.get(), ordered.get()}, blocks));
    random_generator random(seed);
    alignas(4096) std::array<std::byte, page_bytes> page{};
    constexpr std::uint64_t operations = 200000;
    const auto reading = [&](volume& of) -> side {
        return [&of](unsigned round) -> result<sample> {
            const stopwatch watch;
            UTHIN_TRY(random_pages(of, io_kind::read, blocks * pages_per_block, operations, round));
            return watch.per_operation(operations);
        };
    };
    for (std::uint64_t depth = 1; depth <= depth_max; ++depth) {
        const snapshot_request one{device_id(0), device_id(depth + 2)};
        UTHIN_TRY((*pool)->create_snapshots(std::span(&one, 1)));
        for (std::uint64_t i = 0; i < rewritten; ++i) {
            const std::uint64_t at = random.below(blocks) * block_bytes;
            UTHIN_TRY(chained->write(at, page));
            UTHIN_TRY(scattered->discard(at, block_bytes));
            UTHIN_TRY(scattered->write(at, page));
        }
        if (depth == 1 || depth == 10 || depth == 100 || depth == 1000) {
            const std::string name = "depth/" + std::to_string(depth);
            UTHIN_TRY(out.compare(
                {name, "depth 0, as scattered", reading(*scattered), reading(*chained), 0.97}));
            UTHIN_TRY(out.compare({name + "-in-order", "depth 0, in order", reading(*ordered),
                                   reading(*chained), std::nullopt}));
        }
    }
    return {};
}

}  // namespace uthin::bench
