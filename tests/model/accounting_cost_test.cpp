// What it costs to know what deleting each volume would free, on a large pool with many snapshots:
// the figures of docs/space.md. UTHIN_TIER=1: a tebibyte, otherwise a half. Its blocks are
// scattered, so that each leaf needs most of the bitmaps.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/random.h"
#include "io/memory_device.h"
#include "support/big_volume.h"
#include "support/matchers.h"
#include "support/seed.h"
#include "thin_metadata/exclusive_blocks.h"
#include "thin_metadata/metadata_view.h"

namespace uthin::test {
namespace {

using thin_metadata::device_exclusive;
using thin_metadata::measure_exclusive;

constexpr std::uint64_t snapshots = 120;
constexpr std::uint64_t rewrites = 100;  // scattered, after each snapshot
constexpr std::uint32_t block_sectors = 128;

// Somebody else's view, and the blocks that are read of it.
class counting_view final : public thin_metadata::metadata_view {
public:
    explicit counting_view(thin_metadata::metadata_view& below)
        : below_(below), source_(below.source()) {}
    [[nodiscard]] persistent_data::block_source& source() override { return source_; }
    [[nodiscard]] const thin_metadata::disk_superblock& superblock() const override {
        return below_.superblock();
    }
    [[nodiscard]] bool has_space_maps() const override { return below_.has_space_maps(); }
    [[nodiscard]] bool expired() const override { return below_.expired(); }
    [[nodiscard]] std::uint64_t transaction() const override { return below_.transaction(); }
    [[nodiscard]] thin_metadata::subtree_memo* memo() override { return below_.memo(); }
    [[nodiscard]] std::uint64_t reads() const { return source_.reads; }

private:
    struct counting_source final : public persistent_data::block_source {
        explicit counting_source(persistent_data::block_source& from) : from_(from) {}
        [[nodiscard]] result<persistent_data::block_ref> read(
            metadata_block where, persistent_data::block_kind kind) override {
            ++reads;
            return from_.read(where, kind);
        }
        [[nodiscard]] std::uint64_t block_count() const override { return from_.block_count(); }
        void prefetch(std::span<const metadata_block>, persistent_data::block_kind) override {}
        persistent_data::block_source& from_;
        std::uint64_t reads = 0;
    };
    thin_metadata::metadata_view& below_;
    counting_source source_;
};

struct measurement {
    std::uint64_t reads = 0;
    std::uint64_t exclusive_blocks = 0;  // of all devices together
};

class large_pool {
public:
    explicit large_pool(std::uint64_t blocks)
        : blocks_(blocks),
          device_(
              (blocks / 200 + 8 * snapshots * rewrites + (1U << 14)) * metadata_block_size_bytes,
              "large"),
          random_(seed()) {
        open(true);
        EXPECT_OK(pool_->resize_data(blocks + (snapshots + 4) * rewrites));
        EXPECT_OK(build_volume(*pool_, device_id(0), blocks, layout::scattered));
        EXPECT_OK(pool_->commit());
    }
    // Afterwards nothing is known of earlier measurements, and nothing cached.
    void open(bool format = false) {
        pool_.reset();
        auto opened = metadata::open(device_, {.data_block_size_sectors = block_sectors,
                                               .format = format,
                                               .read_only = false,
                                               .cache_bytes = 512ULL << 20});
        ASSERT_OK(opened);
        pool_ = std::move(*opened);
    }
    void snapshot(std::uint64_t id) {
        ASSERT_OK(pool_->create_snap(device_id(id), device_id(0)));
        ASSERT_OK_AND_ASSIGN(thin_device* const device, pool_->open_device(device_id(0)));
        for (std::uint64_t i = 0; i < rewrites; ++i) {
            const virtual_block at(random_.below(blocks_));
            ASSERT_OK_AND_ASSIGN(const auto fresh, pool_->alloc_data_range(1));
            ASSERT_OK(pool_->insert_block(*device, at, fresh.begin));
        }
        pool_->close_device(device);
        ASSERT_OK(pool_->commit());
    }
    measurement measure(const char* what) {
        measurement found;
        const auto view = pool_->create_view();
        EXPECT_OK(view);
        counting_view counting(**view);
        const double cpu = cpu_seconds();
        const auto begin = system_clock().monotonic();
        const auto measured = measure_exclusive(counting);
        const std::chrono::duration<double, std::milli> took = system_clock().monotonic() - begin;
        EXPECT_OK(measured);
        if (measured) {
            for (const device_exclusive& one : *measured) {
                found.exclusive_blocks += one.exclusive_blocks;
            }
        }
        found.reads = counting.reads();
        fmt::print("{}: {} metadata blocks read, {:.1f} ms of CPU, {:.1f} ms\n", what, found.reads,
                   (cpu_seconds() - cpu) * 1e3, took.count());
        return found;
    }
    [[nodiscard]] std::uint64_t metadata_used() const {
        const auto space = pool_->metadata_space();
        return space->total_blocks - space->raw_free_blocks;
    }
    [[nodiscard]] metadata& pool() { return *pool_; }

private:
    const std::uint64_t blocks_;
    io::memory_device device_;
    std::unique_ptr<metadata> pool_;
    random_generator random_;
};

TEST(AccountingCost, IsBoundedByWhatVolumesOwnAloneAndThenByWhatChanged) {
    const std::uint64_t blocks = is_long_run() ? 1ULL << 24U : 1ULL << 23U;
    large_pool pool(blocks);
    fmt::print("{} GiB mapped in blocks of 64 KiB\n", blocks >> 14U);
    const std::uint64_t of_one = pool.metadata_used();
    const measurement alone = pool.measure("one volume");
    EXPECT_EQ(alone.exclusive_blocks, blocks);
    // A bitmap is found through its index, of two levels at most.
    EXPECT_LE(alone.reads, of_one + 2 * (blocks / 16320 + 1));
    EXPECT_LE(pool.measure("one volume, again").reads, 16U);
    for (std::uint64_t id = 1; id <= snapshots; ++id) {
        pool.snapshot(id);
    }
    pool.open();
    const std::uint64_t used = pool.metadata_used();
    fmt::print("{} snapshots, {} blocks rewritten after each; {} metadata blocks used\n", snapshots,
               rewrites, used);
    const measurement cold = pool.measure("opened anew, the first time");
    EXPECT_LE(cold.reads, used);
    // Only what was rewritten belongs to one alone: the new block, or the one that it replaced.
    EXPECT_GE(cold.exclusive_blocks, rewrites);
    EXPECT_LE(cold.exclusive_blocks, 2 * rewrites * snapshots);
    const measurement again = pool.measure("again");
    EXPECT_EQ(again.exclusive_blocks, cold.exclusive_blocks);
    EXPECT_LE(again.reads, cold.reads);
    const std::uint64_t written = pool.pool().statistics().blocks_written;
    pool.snapshot(snapshots + 1);
    const std::uint64_t changed = pool.pool().statistics().blocks_written - written;
    const measurement after = pool.measure("after one more snapshot");
    fmt::print("that wrote {} metadata blocks\n", changed);
    EXPECT_LE(after.reads, again.reads + 2 * changed);
}

}  // namespace
}  // namespace uthin::test
