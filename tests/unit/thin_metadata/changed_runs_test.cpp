// Changes between trees: the same as the slow comparison finds, at the price of what changed.
#include "thin_metadata/changed_runs.h"

#include <set>

#include "base/random.h"
#include "support/big_volume.h"
#include "support/mapping_model.h"
#include "support/metadata_fixture.h"
#include "support/seed.h"

namespace uthin::thin_metadata {
namespace {

using test::HasCode;
using test::mapping_model;

// What a view reads, block by block.
class counting_view final : public metadata_view {
public:
    explicit counting_view(metadata_view& below) : below_(below), source_(below.source()) {}
    persistent_data::block_source& source() override { return source_; }
    const disk_superblock& superblock() const override { return below_.superblock(); }
    bool has_space_maps() const override { return below_.has_space_maps(); }
    bool expired() const override { return below_.expired(); }
    [[nodiscard]] std::uint64_t reads() const { return source_.reads; }

private:
    struct counting_source final : persistent_data::block_source {
        explicit counting_source(persistent_data::block_source& source) : below(source) {}
        result<persistent_data::block_ref> read(metadata_block where,
                                                persistent_data::block_kind kind) override {
            ++reads;
            return below.read(where, kind);
        }
        std::uint64_t block_count() const override { return below.block_count(); }
        void prefetch(std::span<const metadata_block> blocks,
                      persistent_data::block_kind kind) override {
            reads += blocks.size();
            below.prefetch(blocks, kind);
        }
        persistent_data::block_source& below;
        std::uint64_t reads = 0;
    };
    metadata_view& below_;
    counting_source source_;
};

using run_list = std::vector<difference_run>;

// The slow comparison, without what is the same.
result<run_list> slow_changes(metadata_view& view, metadata_block left, metadata_block right) {
    run_list runs;
    UTHIN_TRY(find_differences(view, left, right, [&](const difference_run& run) -> result<void> {
        if (run.kind != difference_kind::same) {
            runs.push_back(run);
        }
        return {};
    }));
    return runs;
}

result<run_list> fast_changes(metadata_view& view, std::optional<metadata_block> left,
                              metadata_block right, std::uint64_t from = 0) {
    run_list runs;
    UTHIN_TRY(find_changes(view, left, right, virtual_block(from),
                           [&](const difference_run& run) -> result<void> {
                               runs.push_back(run);
                               return {};
                           }));
    return runs;
}

// Block by block: how runs are cut does not count.
using block_change = std::tuple<std::uint64_t, difference_kind, std::uint64_t, std::uint64_t>;
std::vector<block_change> blocks_of(const run_list& runs, std::uint64_t from = 0) {
    std::vector<block_change> blocks;
    for (const difference_run& run : runs) {
        for (std::uint64_t i = 0; i < run.count; ++i) {
            const bool has_left = run.kind != difference_kind::right_only;
            const bool has_right = run.kind != difference_kind::left_only;
            if (run.begin.value() + i >= from) {
                blocks.emplace_back(run.begin.value() + i, run.kind,
                                    has_left ? run.left.value() + i : 0,
                                    has_right ? run.right.value() + i : 0);
            }
        }
    }
    return blocks;
}

class ChangedRuns : public test::metadata_fixture {};

TEST_F(ChangedRuns, AreThoseOfTheSlowComparisonInRandomFamilies) {
    random_generator random(test::seed());
    constexpr std::uint64_t virtual_blocks = 1500;
    std::uint64_t devices = 1;
    ASSERT_OK(pool_->create_thin(device_id(0)));
    map(open_device(0), 0, 600);
    for (int round = 0; round < 40; ++round) {
        const device_id origin(random.below(devices));
        ASSERT_OK(pool_->create_snap(device_id(devices), origin));
        const std::uint64_t changed = random.below(2) == 0 ? devices : origin.value();
        ++devices;
        thin_device* const device = open_device(changed);
        for (std::uint64_t change = random.below(12); change > 0; --change) {
            const std::uint64_t begin = random.below(virtual_blocks);
            const std::uint64_t count = 1 + random.below(random.below(4) == 0 ? 300 : 5);
            if (random.below(3) == 0) {
                ASSERT_OK(pool_->remove_range(
                    *device, {virtual_block(begin), virtual_block(begin + count)}));
            } else {
                map(device, begin, std::min<std::uint64_t>(count, 8));
            }
        }
        pool_->close_device(device);
        opened_.pop_back();
        ASSERT_OK(pool_->commit());
        ASSERT_OK_AND_ASSIGN(const auto view, pool_->create_view());
        const device_id left(random.below(devices));
        const device_id right(random.below(devices));
        ASSERT_OK_AND_ASSIGN(const auto left_root, mapping_root_of(*view, left));
        ASSERT_OK_AND_ASSIGN(const auto right_root, mapping_root_of(*view, right));
        ASSERT_OK_AND_ASSIGN(const auto slow, slow_changes(*view, left_root, right_root));
        ASSERT_OK_AND_ASSIGN(const auto fast, fast_changes(*view, left_root, right_root));
        EXPECT_EQ(blocks_of(fast), blocks_of(slow));
        const std::uint64_t from = random.below(virtual_blocks);
        ASSERT_OK_AND_ASSIGN(const auto rest, fast_changes(*view, left_root, right_root, from));
        EXPECT_EQ(blocks_of(rest), blocks_of(slow, from));
    }
}

TEST(ChangedRunsOfTables, UnrelatedTreesAreComparedEntryByEntry) {
    random_generator random(test::seed());
    for (int round = 0; round < 10; ++round) {
        const mapping_model model = test::random_model(random, {});
        const auto image = test::image_of(model);
        ASSERT_NE(image, nullptr);
        ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {}));
        for (const auto& [left, left_device] : model.devices) {
            for (const auto& [right, right_device] : model.devices) {
                ASSERT_OK_AND_ASSIGN(const auto left_root, mapping_root_of(*view, device_id(left)));
                ASSERT_OK_AND_ASSIGN(const auto right_root,
                                     mapping_root_of(*view, device_id(right)));
                ASSERT_OK_AND_ASSIGN(const auto slow, slow_changes(*view, left_root, right_root));
                ASSERT_OK_AND_ASSIGN(const auto fast, fast_changes(*view, left_root, right_root));
                EXPECT_EQ(blocks_of(fast), blocks_of(slow));
            }
        }
    }
}

TEST_F(ChangedRuns, WithoutALeftTreeAreEverythingOnTheRight) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    map(open_device(0), 10, 700);
    ASSERT_OK(pool_->commit());
    ASSERT_OK_AND_ASSIGN(const auto view, pool_->create_view());
    ASSERT_OK_AND_ASSIGN(const auto root, mapping_root_of(*view, device_id(0)));
    ASSERT_OK_AND_ASSIGN(const auto runs, fast_changes(*view, std::nullopt, root, 300));
    ASSERT_EQ(runs.size(), 1U);
    EXPECT_EQ(runs[0].kind, difference_kind::right_only);
    EXPECT_EQ(runs[0].begin, virtual_block(300));
    EXPECT_EQ(runs[0].count, 410U);
}

TEST_F(ChangedRuns, OfATreeAndItselfAreNoneAndNothingIsRead) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    map(open_device(0), 0, 1000);
    ASSERT_OK(pool_->create_snap(device_id(1), device_id(0)));
    ASSERT_OK(pool_->commit());
    ASSERT_OK_AND_ASSIGN(const auto view, pool_->create_view());
    ASSERT_OK_AND_ASSIGN(const auto left, mapping_root_of(*view, device_id(0)));
    ASSERT_OK_AND_ASSIGN(const auto right, mapping_root_of(*view, device_id(1)));
    counting_view counted(*view);
    ASSERT_OK_AND_ASSIGN(const auto runs, fast_changes(counted, left, right));
    EXPECT_TRUE(runs.empty());
    EXPECT_EQ(counted.reads(), 0U);
}

TEST_F(ChangedRuns, AnErrorOfTheCallerEndsTheWalk) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    map(open_device(0), 0, 3);
    ASSERT_OK(pool_->commit());
    ASSERT_OK_AND_ASSIGN(const auto view, pool_->create_view());
    ASSERT_OK_AND_ASSIGN(const auto root, mapping_root_of(*view, device_id(0)));
    EXPECT_THAT(find_changes(*view, std::nullopt, root, virtual_block(0),
                             [](const difference_run&) -> result<void> {
                                 return fail(error_code::cancelled, "enough");
                             }),
                HasCode(error_code::cancelled));
}

// The price of a comparison of a mapped volume with its snapshot in which 100 blocks were written
// anew, scattered over all of it.
struct diff_price {
    std::uint64_t reads = 0;
    double milliseconds = 0;
};

void measure(std::uint64_t volume_blocks, diff_price& price) {
    constexpr std::uint64_t changes = 100;
    // A leaf for 252 mappings, and room for the upper levels and the space maps.
    const std::uint64_t metadata_blocks = volume_blocks / 252 + volume_blocks / 16000 + 4096;
    io::memory_device device(metadata_blocks * metadata_block_size_bytes, "metadata");
    ASSERT_OK_AND_ASSIGN(const auto pool,
                         metadata::open(device, {.data_block_size_sectors = 128, .format = true}));
    ASSERT_OK(pool->resize_data(volume_blocks + changes));
    ASSERT_OK(test::build_volume(*pool, device_id(1), volume_blocks, test::layout::contiguous));
    ASSERT_OK(pool->commit());
    ASSERT_OK(pool->create_snap(device_id(2), device_id(1)));
    random_generator random(test::seed());
    std::set<std::uint64_t> changed;
    while (changed.size() < changes) {
        changed.insert(random.below(volume_blocks));
    }
    ASSERT_OK_AND_ASSIGN(thin_device* const origin, pool->open_device(device_id(1)));
    for (const std::uint64_t block : changed) {
        ASSERT_OK_AND_ASSIGN(const data_block fresh, pool->alloc_data_block());
        ASSERT_OK(pool->insert_block(*origin, virtual_block(block), fresh));
    }
    pool->close_device(origin);
    ASSERT_OK(pool->commit());
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(device, {}));
    counting_view counted(*view);
    const double begun = test::cpu_seconds();
    ASSERT_OK_AND_ASSIGN(const auto left, mapping_root_of(counted, device_id(2)));
    ASSERT_OK_AND_ASSIGN(const auto right, mapping_root_of(counted, device_id(1)));
    ASSERT_OK_AND_ASSIGN(const auto runs, fast_changes(counted, left, right));
    price = {counted.reads(), (test::cpu_seconds() - begun) * 1e3};
    std::set<std::uint64_t> found;
    for (const auto& [block, kind, from, to] : blocks_of(runs)) {
        EXPECT_EQ(kind, difference_kind::different);
        found.insert(block);
    }
    EXPECT_EQ(found, changed);
}

// The CPU time is printed, not judged.
TEST(ChangedRunsPrice, OfAHundredBlocksInATebibyteIsUnderAThousandReads) {
    diff_price price;
    ASSERT_NO_FATAL_FAILURE(measure(1ULL << 24, price));  // 1 TiB in blocks of 64 KiB
    std::printf("reads %d, %.1f ms\n", static_cast<int>(price.reads), price.milliseconds);
    EXPECT_LE(price.reads, 1000U);
}

TEST(ChangedRunsPrice, OfAHundredBlocksInTenTebibytesIsUnderAThousandReads) {
    diff_price price;
    ASSERT_NO_FATAL_FAILURE(measure(10ULL << 20, price));  // 10 TiB in blocks of 1 MiB
    std::printf("reads %d, %.1f ms\n", static_cast<int>(price.reads), price.milliseconds);
    EXPECT_LE(price.reads, 1000U);
}

}  // namespace
}  // namespace uthin::thin_metadata
