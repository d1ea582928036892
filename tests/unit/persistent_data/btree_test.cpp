// The persistent btree: inserting, updating, removing, sharing; judged after each step by a slow
// recount of everything.
#include "persistent_data/btree.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "base/random.h"
#include "support/btree_fixture.h"
#include "support/matchers.h"
#include "support/seed.h"

namespace uthin::test {
namespace {

std::vector<std::uint32_t> repeated(std::size_t count, std::uint32_t value,
                                    std::vector<std::uint32_t> rest) {
    rest.insert(rest.begin(), count, value);
    return rest;
}

TEST_F(BtreeTest, AnEmptyTreeHasNothing) {
    open(8);
    create();
    block_source& source = lab->tm.source();
    EXPECT_EQ(btree_lookup_u64(source, versions[0].root, 5).value(), std::nullopt);
    EXPECT_EQ(btree_highest_key(source, versions[0].root).value(), std::nullopt);
    EXPECT_EQ(btree_count_range(source, versions[0].root, 0, UINT64_MAX).value(), 0U);
    btree_cursor cursor(source, versions[0].root, 8);
    ASSERT_OK(cursor.seek(0));
    EXPECT_TRUE(cursor.at_end());
    judge();
}

TEST_F(BtreeTest, AscendingInsertsGiveTheLeavesOfTheFormat) {
    open(8);
    fill(2000);
    EXPECT_EQ(lab->leaf_sizes(versions[0].root), repeated(7, 248, {126, 138}));
    judge();
}

TEST_F(BtreeTest, DescendingInsertsGiveTheLeavesOfTheFormat) {
    open(8);
    create();
    for (std::uint64_t key = 2000; key-- > 0;) {
        insert(0, key);
    }
    std::vector<std::uint32_t> expected{159, 126};
    expected.insert(expected.end(), 7, 245);
    EXPECT_EQ(lab->leaf_sizes(versions[0].root), expected);
    judge();
}

TEST_F(BtreeTest, ScatteredInsertsGiveTheLeavesOfTheFormat) {
    open(8);
    create();
    for (std::uint64_t i = 0; i < 2000; ++i) {
        insert(0, 7 * i % 2000);
    }
    EXPECT_EQ(lab->leaf_sizes(versions[0].root),
              (std::vector<std::uint32_t>{166, 166, 235, 237, 247, 242, 249, 251, 207}));
    judge();
}

// 253 entries are left of which a node takes 252.
TEST_F(BtreeTest, NodesThatHoldOneEntryTooManyAreNotMerged) {
    open(8);
    fill(300);
    ASSERT_EQ(lab->leaf_sizes(versions[0].root), (std::vector<std::uint32_t>{126, 174}));
    remove_range(0, 0, 47);
    EXPECT_EQ(lab->leaf_sizes(versions[0].root), (std::vector<std::uint32_t>{126, 127}));
    judge();
}

TEST_F(BtreeTest, AMergeCountsWhatItTakesFromASharedLeaf) {
    open(8);
    fill(300);
    snapshot(0);
    remove_range(0, 0, 100);
    EXPECT_EQ(lab->leaf_sizes(versions[0].root), (std::vector<std::uint32_t>{200}));
    judge();
}

TEST_F(BtreeTest, ALookupFindsExactlyWhatWasInserted) {
    open(8);
    fill(70'000, 3);
    block_source& source = lab->tm.source();
    for (std::uint64_t key = 0; key < 210'010; ++key) {
        const auto expected = versions[0].entries.find(key);
        const auto found = btree_lookup_u64(source, versions[0].root, key);
        ASSERT_OK(found);
        ASSERT_EQ(found->has_value(), expected != versions[0].entries.end());
        if (*found) {
            ASSERT_EQ(**found, expected->second);
        }
    }
    EXPECT_EQ(btree_highest_key(source, versions[0].root).value(), 69'999U * 3);
    EXPECT_EQ(btree_key_at_or_below(source, versions[0].root, 300).value(), 300U);
    EXPECT_EQ(btree_key_at_or_below(source, versions[0].root, 302).value(), 300U);
}

TEST_F(BtreeTest, TheGreatestKeyIsAnOrdinaryKey) {
    open(8);
    fill(600);
    insert(0, UINT64_MAX);
    EXPECT_TRUE(btree_lookup_u64(lab->tm.source(), versions[0].root, UINT64_MAX)->has_value());
    btree_cursor cursor(lab->tm.source(), versions[0].root, 8);
    ASSERT_OK(cursor.seek(600));
    ASSERT_FALSE(cursor.at_end());
    EXPECT_EQ(cursor.key(), UINT64_MAX);
    remove_range(0, 0, UINT64_MAX);
    EXPECT_EQ(versions[0].entries.size(), 1U);
    judge();
}

TEST_F(BtreeTest, ACursorVisitsEveryEntryFromWhereItIsSent) {
    open(wide_value_bytes);
    fill(5000, 10);
    btree_cursor cursor(lab->tm.source(), versions[0].root, wide_value_bytes);
    for (const std::uint64_t start : {0ULL, 1ULL, 10ULL, 24'995ULL, 49'990ULL, 49'991ULL}) {
        ASSERT_OK(cursor.seek(start));
        for (auto expected = versions[0].entries.lower_bound(start);
             expected != versions[0].entries.end(); ++expected) {
            ASSERT_FALSE(cursor.at_end());
            ASSERT_EQ(cursor.key(), expected->first);
            ASSERT_EQ(cursor.value_u64(), expected->second);
            ASSERT_EQ(cursor.depth(), 3U);
            ASSERT_OK(cursor.next());
        }
        EXPECT_TRUE(cursor.at_end());
    }
}

TEST_F(BtreeTest, OverwritingByAnEqualValueKeepsItsOwner) {
    open(8);
    create();
    insert(0, 1, 77);
    insert(0, 1, 77);
    judge();
    EXPECT_EQ(lab->rule.owners.at(77), 1U);
    insert(0, 1, 78);
    EXPECT_FALSE(lab->rule.owners.contains(77));
    judge();
}

// Readers have what is published: what is edited is copied for them. Nodes above stay as they are.
TEST_F(BtreeTest, AnInsertionIntoNodesOfTheTransactionEditsTheLeafAlone) {
    open(wide_value_bytes);
    fill(2000, 4);
    ASSERT_OK(lab->commit());
    insert(0, 1001);
    EXPECT_GE(lab->blocks.private_blocks(), 3U);  // copied: they were in the last commit
    for (const std::uint64_t key : {1002U, 1003U, 1002U}) {
        lab->blocks.publish();
        insert(0, key);
        EXPECT_EQ(lab->blocks.private_blocks(), 1U);
    }
    lab->blocks.publish();
    snapshot(0);
    insert(1, 1003);
    EXPECT_GE(lab->blocks.private_blocks(), 3U);
    judge();
}

TEST_F(BtreeTest, ASnapshotSharesEverythingUntilItIsWritten) {
    open(8);
    fill(10'000);
    ASSERT_OK(lab->commit());
    snapshot(0);
    EXPECT_LE(lab->allocations(), 3U);
    insert(1, 5000);
    judge();
    insert(0, 5000);
    update(1, 9999);
    judge();
}

TEST_F(BtreeTest, UpdatingASharedLeafLeavesTheOtherOwnerAlone) {
    open(wide_value_bytes);
    fill(300);
    ASSERT_OK(lab->commit());
    snapshot(0);
    update(1, 150);
    EXPECT_NE(versions[0].entries.at(150), versions[1].entries.at(150));
    judge();
}

TEST_F(BtreeTest, UpdatingAnAbsentKeyChangesNothing) {
    open(8);
    fill(1000, 2);
    ASSERT_OK(lab->commit());
    bool called = false;
    const auto change = [&](std::byte*) -> result<void> {
        called = true;
        return {};
    };
    for (const std::uint64_t key : {501ULL, 5000ULL}) {
        EXPECT_THAT(lab->tree.update(versions[0].root, key, change),
                    HasCode(error_code::not_found));
    }
    EXPECT_FALSE(called);
    EXPECT_EQ(lab->blocks.private_blocks(), 0U);
    EXPECT_EQ(lab->allocations(), 0U);
}

TEST_F(BtreeTest, RemovingAnAbsentRangeChangesNothing) {
    open(8);
    fill(1000, 10);
    ASSERT_OK(lab->commit());
    const metadata_block root = versions[0].root;
    remove_range(0, 1, 10);
    remove_range(0, 5005, 5005);
    remove_range(0, 9991, UINT64_MAX);
    EXPECT_EQ(versions[0].root, root);
    EXPECT_EQ(lab->blocks.private_blocks(), 0U);
    judge();
}

TEST_F(BtreeTest, ShrinkingFromTheFrontKeepsTheTreeLegal) {
    open(8);
    fill(2000);
    for (std::uint64_t key = 0; key < 2000; ++key) {
        remove_range(0, key, key + 1);
        if (key % 7 == 0) {
            judge();
        }
    }
    EXPECT_EQ(lab->leaf_sizes(versions[0].root), (std::vector<std::uint32_t>{0}));
    judge();
}

TEST_F(BtreeTest, RemovingEverythingSharedWritesConstantBlocks) {
    open(8, 3 * 16320);
    fill(200'000);
    snapshot(0);
    ASSERT_OK(lab->commit());
    remove_range(1, 0, 250'000);
    // The empty root and a bitmap: no edge is copied, although the end lies beyond the last key.
    EXPECT_LE(lab->allocations(), 2U);
    judge();
    ASSERT_OK(lab->commit());
    judge();
}

TEST_F(BtreeTest, RemovingAllButTheEndsOfASharedTreeCopiesItsEdgesOnly) {
    open(8, 3 * 16320);
    fill(200'000);
    snapshot(0);
    ASSERT_OK(lab->commit());
    remove_range(1, 10, 199'990);
    // Root, two internal and two leaf nodes, siblings for the repair, bitmaps; the internal nodes'
    // children gain references.
    EXPECT_LE(lab->allocations(), 16U);
    judge();
    destroy(0);
    judge();
}

TEST_F(BtreeTest, ASharedTreeIsRemovedWithAlmostNoFreeBlocks) {
    open(8, 3000);
    fill(100'000);
    snapshot(0);
    ASSERT_OK(lab->commit());
    std::vector<metadata_block> ballast;
    while (lab->tm.metadata_map().nr_free() > 5) {
        auto block = lab->tm.new_block(block_kind::btree_node);
        ASSERT_OK(block);
        ballast.push_back(block->where);
    }
    auto done = lab->tree.remove_range(versions[1].root, 0, 100'000);
    ASSERT_OK(done);
    versions[1] = {done->root, {}};
    for (const metadata_block block : ballast) {
        ASSERT_OK(lab->tm.dec(block));
    }
    judge();
}

TEST_F(BtreeTest, ABudgetBoundsEachSliceOfARemoval) {
    open(wide_value_bytes);
    fill(20'000);
    ASSERT_OK(lab->commit());
    const auto nodes = lab->leaf_sizes(versions[0].root).size();
    std::uint64_t slices = 0;
    std::uint64_t next = 0;
    while (next < 30'000) {
        auto done = lab->tree.remove_range(versions[0].root, next, 30'000, 100);
        ASSERT_OK(done);
        EXPECT_LE(done->entries, 9U * 101);
        EXPECT_GT(done->next_key, next);
        next = done->next_key;
        versions[0].root = done->root;
        auto& entries = versions[0].entries;
        entries.erase(entries.begin(), entries.lower_bound(next));
        if (++slices % 4 == 0) {
            ASSERT_OK(lab->commit());
        }
        judge();
    }
    EXPECT_GE(slices, nodes / 102);
    EXPECT_LE(slices, nodes / 50);
    EXPECT_TRUE(versions[0].entries.empty());
}

TEST_F(BtreeTest, ANodeThatIsSharedCostsOneUnitOfTheBudget) {
    open(8);
    fill(60'000);
    snapshot(0);
    ASSERT_OK(lab->commit());
    // Make the root and the first internal level exclusive, so that leaves are shared.
    insert(1, 0);
    auto done = lab->tree.remove_range(versions[1].root, 252, 60'000, 100);
    ASSERT_OK(done);
    versions[1].root = done->root;
    EXPECT_GE(done->dropped_shared_subtrees, 99U);
    EXPECT_LT(done->next_key, 60'000U);
    auto& entries = versions[1].entries;
    entries.erase(entries.lower_bound(252), entries.lower_bound(done->next_key));
    judge();
    remove_range(1, done->next_key, 60'000, 100);
    judge();
}

TEST_F(BtreeTest, DestroyingInAnyOrderFreesEverything) {
    random_generator random(seed());
    open(wide_value_bytes);
    const auto baseline = lab->tm.metadata_map().root().nr_allocated;
    fill(2000);
    for (int i = 0; i < 10; ++i) {
        snapshot(random.below(versions.size()));
        for (int change = 0; change < 20; ++change) {
            insert(random.below(versions.size()), random.below(3000));
        }
        if (i % 3 == 0) {
            ASSERT_OK(lab->commit());
        }
    }
    judge();
    while (!versions.empty()) {
        destroy(random.below(versions.size()));
        judge();
    }
    EXPECT_TRUE(lab->rule.owners.empty());
    EXPECT_EQ(lab->tm.metadata_map().root().nr_allocated, baseline);
}

class BtreeModel : public BtreeTest, public ::testing::WithParamInterface<std::uint32_t> {
protected:
    void step(random_generator& random, std::uint64_t key_space) {
        const std::size_t version = random.below(versions.size());
        const std::uint64_t key = random.below(key_space);
        switch (random.below(16)) {
            case 0:
                if (versions.size() < 6) {
                    snapshot(version);
                    break;
                }
                [[fallthrough]];
            case 1:
                if (versions.size() > 3) {
                    destroy(version);
                }
                break;
            case 2:
            case 3: remove_some(random, version, key, key_space); break;
            case 4:
            case 5:
                for (std::uint64_t i = 0; i < 20; ++i) {
                    remove_range(version, key + 3 * i, key + 3 * i + 1);
                }
                break;
            case 6:
                if (const auto found = versions[version].entries.lower_bound(key);
                    found != versions[version].entries.end()) {
                    update(version, found->first);
                }
                break;
            case 7: ASSERT_OK(lab->commit()); break;
            case 8:
                for (std::uint64_t i = 0, n = random.below(400); i < n; ++i) {
                    insert(version, key + i);
                }
                break;
            default:
                if (random.one_in(2)) {
                    lab->blocks.publish();
                }
                for (std::uint64_t i = 0; i < 40; ++i) {
                    insert(version, random.below(key_space));
                }
        }
    }
    void remove_some(random_generator& random, std::size_t version, std::uint64_t key,
                     std::uint64_t key_space) {
        constexpr std::array<std::uint64_t, 5> budgets{1, 3, 10, 300, UINT64_MAX};
        const std::uint64_t budget = budgets[random.below(budgets.size())];
        // One in eight takes nearly everything.
        const std::uint64_t length =
            random.one_in(8) ? key_space : 1 + random.below(1 + random.below(key_space / 2));
        remove_range(version, key, key + length, budget);
    }
};

TEST_P(BtreeModel, RandomChangesOfSnapshotsMatchTheModel) {
    random_generator random(seed() + GetParam());
    open(GetParam());
    // Sparse and dense keys.
    const bool wide = GetParam() >= wide_value_bytes;
    const std::uint64_t key_space = wide ? 8000 : 20'000;
    const int steps = wide ? 200 : 400;
    fill(3000, 2);
    judge();
    for (int i = 0; i < steps; ++i) {
        step(random, key_space);
        ASSERT_FALSE(HasFatalFailure()) << "step " << i;
        judge();
        ASSERT_FALSE(HasFatalFailure()) << "step " << i;
    }
    while (!versions.empty()) {
        destroy(random.below(versions.size()));
        judge();
    }
}

INSTANTIATE_TEST_SUITE_P(ValueSizes, BtreeModel, ::testing::Values(8, 24, wide_value_bytes, 900),
                         [](const auto& parameter) { return fmt::format("{}", parameter.param); });

}  // namespace
}  // namespace uthin::test
