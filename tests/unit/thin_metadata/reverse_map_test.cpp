// Reverse maps against the mappings of each device taken one by one.
#include "thin_metadata/reverse_map.h"

#include <algorithm>

#include "base/random.h"
#include "support/mapping_recorder.h"
#include "support/metadata_fixture.h"
#include "support/seed.h"
#include "thin_metadata/dumper.h"

namespace uthin::thin_metadata {
namespace {

using test::HasCode;
using test::mapping_recorder;
using region_list = std::vector<range<data_block>>;

region_list regions_of(std::initializer_list<std::pair<std::uint64_t, std::uint64_t>> pairs) {
    region_list regions;
    for (const auto& [begin, end] : pairs) {
        regions.push_back({data_block(begin), data_block(end)});
    }
    return regions;
}

class ReverseMap : public test::metadata_fixture {
protected:
    static constexpr std::uint64_t devices = 40;

    // Long runs over several leaves, broken here and there, in snapshots of snapshots.
    void make_pool() {
        random_generator random(test::seed());
        ASSERT_OK(pool_->create_thin(device_id(1)));
        write(1, 0, 1800);
        for (std::uint64_t id = 2; id <= devices; ++id) {
            ASSERT_OK(pool_->create_snap(device_id(id), device_id(1 + random.below(id - 1))));
            for (std::uint64_t left = random.below(4); left != 0; --left) {
                write(1 + random.below(id), random.below(2500), 1 + random.below(30));
            }
        }
        ASSERT_OK(pool_->create_thin(device_id(devices + 1)));
        ASSERT_OK(pool_->commit());
        view_ = open_offline(*device_, {}).value();
        ASSERT_OK(dump_metadata(*view_, recorder_, {}));
    }
    void write(std::uint64_t id, std::uint64_t begin, std::uint64_t count) {
        ASSERT_OK_AND_ASSIGN(thin_device* const device, pool_->open_device(device_id(id)));
        for (std::uint64_t block = begin; block < begin + count; ++block) {
            ASSERT_OK_AND_ASSIGN(const data_block data, pool_->alloc_data_block());
            ASSERT_OK(pool_->insert_block(*device, virtual_block(block), data));
        }
        pool_->close_device(device);
    }
    [[nodiscard]] std::vector<reverse_run> expected(const region_list& regions) const {
        std::vector<reverse_run> runs;
        for (const auto& [id, device] : recorder_.devices) {
            const std::size_t first = runs.size();
            for (const auto& [at, mapping] : device.mappings) {
                const data_block block(mapping.first);
                if (std::ranges::none_of(regions, [block](const range<data_block>& region) {
                        return block >= region.begin && block < region.end;
                    })) {
                    continue;
                }
                if (runs.size() > first && runs.back().data_begin + runs.back().count == block &&
                    runs.back().begin + runs.back().count == virtual_block(at)) {
                    ++runs.back().count;
                } else {
                    runs.push_back({block, 1, device_id(id), virtual_block(at)});
                }
            }
        }
        std::ranges::sort(runs);
        return runs;
    }
    [[nodiscard]] std::vector<reverse_run> found(const region_list& regions) const {
        std::vector<reverse_run> runs;
        EXPECT_OK(
            reverse_mappings(*view_, regions, [&runs](const reverse_run& run) -> result<void> {
                runs.push_back(run);
                return {};
            }));
        return runs;
    }

    std::unique_ptr<metadata_view> view_;
    mapping_recorder recorder_;
};

TEST_F(ReverseMap, NamesEveryDeviceWithItsLongestRuns) {
    make_pool();
    for (const region_list& regions :
         {regions_of({{0, UINT64_MAX}}), regions_of({{0, 1}}), regions_of({{0, 40}, {300, 1200}}),
          regions_of({{700, 900}, {100, 250}, {250, 260}}),
          regions_of({{std::uint64_t{1} << 40, std::uint64_t{1} << 41}})}) {
        const auto runs = found(regions);
        EXPECT_EQ(runs, expected(regions));
    }
    // Some runs are longer than a leaf, and some blocks are those of many devices.
    const auto all = found(regions_of({{0, UINT64_MAX}}));
    EXPECT_TRUE(std::ranges::any_of(all, [](const reverse_run& run) { return run.count > 252; }));
    EXPECT_GT(all.size(), devices);
}

TEST_F(ReverseMap, RandomRegionsAreWhatLookingAtEachMappingGives) {
    make_pool();
    random_generator random(test::seed());
    for (int round = 0; round < 50; ++round) {
        region_list regions;
        std::uint64_t at = random.below(500);
        for (std::uint64_t left = 1 + random.below(4); left != 0; --left) {
            const std::uint64_t length = 1 + random.below(random.one_in(2) ? 10 : 1500);
            regions.push_back({data_block(at), data_block(at + length)});
            at += length + random.below(3) * random.below(400);
        }
        EXPECT_EQ(found(regions), expected(regions)) << round;
    }
}

TEST_F(ReverseMap, AnOutputThatFailsEndsIt) {
    make_pool();
    std::uint64_t calls = 0;
    const auto refuse = [&calls](const reverse_run&) -> result<void> {
        return ++calls == 3 ? fail(error_code::io_error, "full") : result<void>();
    };
    EXPECT_THAT(reverse_mappings(*view_, regions_of({{0, 100}}), refuse),
                HasCode(error_code::io_error));
    EXPECT_EQ(calls, 3U);
}

// More pieces than are sorted at once.
TEST_F(ReverseMap, ManyScatteredMappingsComeSorted) {
    constexpr std::uint64_t count = 4000;
    ASSERT_OK(pool_->create_thin(device_id(1)));
    ASSERT_OK(pool_->create_thin(device_id(2)));
    for (std::uint64_t block = 0; block < count; ++block) {
        write(1 + block % 2, block * 2659 % count, 1);
    }
    ASSERT_OK(pool_->commit());
    view_ = open_offline(*device_, {}).value();
    ASSERT_OK(dump_metadata(*view_, recorder_, {}));
    for (const region_list& regions :
         {regions_of({{0, UINT64_MAX}}), regions_of({{0, 10}, {1000, 3500}})}) {
        EXPECT_EQ(found(regions), expected(regions));
    }
}

}  // namespace
}  // namespace uthin::thin_metadata
