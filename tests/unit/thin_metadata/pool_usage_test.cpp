// Usage and reverse mappings against plain tables.
#include "thin_metadata/pool_usage.h"

#include <set>

#include "support/mapping_model.h"
#include "support/matchers.h"
#include "support/seed.h"

namespace uthin::thin_metadata {
namespace {

using test::HasCode;
using test::mapping_model;

// How many mappings lead to each data block.
std::map<std::uint64_t, int> uses_of(const mapping_model& model) {
    std::map<std::uint64_t, int> uses;
    for (const auto& [id, device] : model.devices) {
        for (const auto& [block, mapped] : device.mappings) {
            ++uses[mapped.first];
        }
    }
    return uses;
}

// Blocks that nobody but `deleted` maps.
std::uint64_t freed_by(const mapping_model& model, const std::set<std::uint64_t>& deleted) {
    std::set<std::uint64_t> freed;
    for (const auto& [id, device] : model.devices) {
        for (const auto& [block, mapped] : device.mappings) {
            if (deleted.contains(id)) {
                freed.insert(mapped.first);
            }
        }
    }
    for (const auto& [id, device] : model.devices) {
        for (const auto& [block, mapped] : device.mappings) {
            if (!deleted.contains(id)) {
                freed.erase(mapped.first);
            }
        }
    }
    return freed.size();
}

TEST(PoolUsage, RandomPoolsUseWhatTheirTablesSay) {
    random_generator random(test::seed());
    for (int round = 0; round < 25; ++round) {
        const mapping_model model = test::random_model(random, {});
        const auto image = test::image_of(model);
        ASSERT_NE(image, nullptr);
        ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {}));
        usage_options options;
        std::set<std::uint64_t> deleted;
        for (const auto& [id, device] : model.devices) {
            if (random.one_in(2)) {
                deleted.insert(id);
                options.deleted.emplace_back(id);
            }
        }
        ASSERT_OK_AND_ASSIGN(const pool_usage usage, measure_usage(*view, options));
        EXPECT_EQ(usage.freed_blocks, freed_by(model, deleted));
        const auto uses = uses_of(model);
        ASSERT_EQ(usage.devices.size(), model.devices.size());
        auto expected = model.devices.begin();
        for (const device_usage& device : usage.devices) {
            EXPECT_EQ(device.info.id.value(), expected->first);
            const auto& mappings = expected->second.mappings;
            std::uint64_t shared = 0;
            for (const auto& [block, mapped] : mappings) {
                shared += uses.at(mapped.first) > 1 ? 1U : 0U;
            }
            EXPECT_EQ(device.mapped_blocks, mappings.size());
            EXPECT_EQ(device.shared_blocks, shared);
            EXPECT_EQ(device.highest_block,
                      mappings.empty() ? std::nullopt : std::optional(mappings.rbegin()->first));
            ++expected;
        }
    }
}

TEST(PoolUsage, WithoutTheWalkOnlyTheDetailsAreRead) {
    random_generator random(test::seed());
    const mapping_model model = test::random_model(random, {});
    const auto image = test::image_of(model);
    ASSERT_NE(image, nullptr);
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {}));
    ASSERT_OK_AND_ASSIGN(const pool_usage usage, measure_usage(*view, {.walk_mappings = false}));
    ASSERT_EQ(usage.devices.size(), model.devices.size());
    for (const device_usage& device : usage.devices) {
        EXPECT_EQ(device.info.details, model.devices.at(device.info.id.value()).details);
        EXPECT_EQ(device.shared_blocks, 0U);
    }
}

TEST(PoolUsage, ADeviceToBeDeletedMustExist) {
    mapping_model model;
    model.devices[1];
    const auto image = test::image_of(model);
    ASSERT_NE(image, nullptr);
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {}));
    EXPECT_THAT(measure_usage(*view, {.deleted = {device_id(2)}}), HasCode(error_code::not_found));
}

using reverse_entry = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>;

TEST(PoolUsage, ReverseMappingsNameEveryDeviceOfEveryBlock) {
    random_generator random(test::seed());
    for (int round = 0; round < 20; ++round) {
        const mapping_model model = test::random_model(random, {});
        const auto image = test::image_of(model);
        ASSERT_NE(image, nullptr);
        ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {}));
        const std::uint64_t begin = random.below(model.pool.data_blocks);
        const std::uint64_t end = begin + 1 + random.below(model.pool.data_blocks - begin);
        ASSERT_OK_AND_ASSIGN(const auto runs,
                             reverse_mappings(*view, {{data_block(begin), data_block(end)}}));
        std::multiset<reverse_entry> found;
        for (const reverse_run& run : runs) {
            for (std::uint64_t index = 0; index < run.count; ++index) {
                found.emplace(run.data_begin.value() + index, run.device.value(),
                              run.begin.value() + index);
            }
        }
        std::multiset<reverse_entry> expected;
        for (const auto& [id, device] : model.devices) {
            for (const auto& [block, mapped] : device.mappings) {
                if (mapped.first >= begin && mapped.first < end) {
                    expected.emplace(mapped.first, id, block);
                }
            }
        }
        EXPECT_EQ(found, expected);
        EXPECT_TRUE(std::is_sorted(runs.begin(), runs.end()));
    }
}

}  // namespace
}  // namespace uthin::thin_metadata
