// Trees written bottom-up.
#include <fmt/format.h>

#include "persistent_data/btree.h"
#include "support/matchers.h"
#include "support/tree_lab.h"

namespace uthin::test {
namespace {

using namespace persistent_data;

struct shape {
    std::uint32_t value_size_bytes;
    std::uint64_t entries;
};

class BtreeBuilder : public ::testing::TestWithParam<shape> {};

TEST_P(BtreeBuilder, MakesALegalTreeOfWhatItIsGiven) {
    tree_lab lab(GetParam().value_size_bytes, 3 * 16320);
    btree_builder builder(lab.tree);
    tree_version version;
    for (std::uint64_t i = 0; i < GetParam().entries; ++i) {
        const std::uint64_t key = 5 + 3 * i;
        ++lab.rule.owners[i];
        ASSERT_OK(builder.push(key, make_value(i, GetParam().value_size_bytes).data()));
        version.entries[key] = i;
    }
    ASSERT_OK_AND_ASSIGN(version.root, builder.finish());
    const std::vector versions{version};
    EXPECT_EQ(lab.judge(versions), "");

    // All but the last two leaves are full.
    const auto leaves = lab.leaf_sizes(version.root);
    for (std::size_t i = 0; i + 2 < leaves.size(); ++i) {
        ASSERT_EQ(leaves[i], max_entries_for(GetParam().value_size_bytes));
    }

    // It goes on living as any other tree.
    ASSERT_OK(lab.commit());
    ++lab.rule.owners[1'000'000];
    const auto value = make_value(1'000'000, GetParam().value_size_bytes);
    ASSERT_OK_AND_ASSIGN(const btree::inserted grown,
                         lab.tree.insert(version.root, 7, value.data()));
    version.root = grown.root;
    version.entries[7] = 1'000'000;
    const std::vector grown_versions{version};
    EXPECT_EQ(lab.judge(grown_versions), "");
}

INSTANTIATE_TEST_SUITE_P(Shapes, BtreeBuilder,
                         ::testing::Values(shape{8, 0}, shape{8, 1}, shape{8, 83}, shape{8, 84},
                                           shape{8, 252}, shape{8, 253}, shape{8, 503},
                                           shape{8, 504}, shape{8, 505}, shape{8, 756},
                                           shape{8, 252 * 252}, shape{8, 252 * 252 + 1},
                                           shape{8, 252 * 252 + 126}, shape{8, 100'000},
                                           shape{24, 1000}, shape{400, 9 * 252 * 2},
                                           shape{400, 9 * 252 * 2 + 1}, shape{400, 20'000}),
                         [](const auto& parameter) {
                             return fmt::format("{}BytesTimes{}", parameter.param.value_size_bytes,
                                                parameter.param.entries);
                         });

TEST(BtreeBuilderInput, MustAscend) {
    tree_lab lab(8);
    btree_builder builder(lab.tree);
    const auto value = make_value(1, 8);
    ASSERT_OK(builder.push(10, value.data()));
    EXPECT_THAT(builder.push(10, value.data()), HasCode(error_code::invalid_argument));
    EXPECT_THAT(builder.push(9, value.data()), HasCode(error_code::invalid_argument));
    EXPECT_OK(builder.push(11, value.data()));
}

}  // namespace
}  // namespace uthin::test
