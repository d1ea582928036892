// Trees that are not as they should be: left underfull by older kernels, or damaged.
#include <algorithm>

#include <fmt/format.h>

#include "base/random.h"
#include "persistent_data/btree.h"
#include "support/btree_fixture.h"
#include "support/seed.h"

namespace uthin::test {
namespace {

// ---- trees that older kernels or other programs left behind

class BtreeLegacy : public BtreeTest {
protected:
    // A tree of two levels with these leaf sizes and capacities, keys 0, 1, 2...
    void build(const std::vector<std::uint32_t>& sizes, std::uint32_t leaf_capacity) {
        auto root = lab->tm.new_block(block_kind::btree_node);
        ASSERT_OK(root);
        node_editor top(root->bytes);
        top.init(false, 8);
        versions.push_back({root->where, {}});
        std::uint64_t key = 0;
        for (std::uint32_t leaf = 0; leaf < sizes.size(); ++leaf) {
            auto node = lab->tm.new_block(block_kind::btree_node);
            ASSERT_OK(node);
            const le64 child(node->where.value());
            top.insert_at(leaf, key, std::as_bytes(std::span(&child, 1)).data());
            node_editor edit(node->bytes);
            edit.init(true, lab->value_size_bytes, leaf_capacity);
            for (std::uint32_t i = 0; i < sizes[leaf]; ++i, ++key) {
                edit.insert_at(i, key, make_value(next_name, lab->value_size_bytes).data());
                ++lab->rule.owners[next_name];
                versions.back().entries[key] = next_name++;
            }
            ++key;
        }
    }
    // The leaf that `key` is looked for in.
    bool leaf_is_legal(std::uint64_t key) {
        for (metadata_block where = versions[0].root;;) {
            const block_ref node = lab->tm.read(where, block_kind::btree_node).value();
            const node_view view(node.bytes());
            if (view.is_leaf()) {
                return where == versions[0].root || view.nr_entries() >= 84;
            }
            where = view.child(static_cast<std::uint32_t>(std::max(0, view.lower_bound(key))));
        }
    }
};

TEST_F(BtreeLegacy, UnderfullAndEmptyLeavesAreMendedWhereARemovalPasses) {
    for (const std::vector<std::uint32_t>& sizes : {std::vector<std::uint32_t>{1, 1, 1, 1, 1},
                                                    {83, 252, 10},
                                                    {0, 90, 0, 3, 90},
                                                    {252, 1, 252},
                                                    {1},
                                                    {0, 0, 2}}) {
        open(8);
        build(sizes, 252);
        ASSERT_OK(lab->commit());
        while (!versions[0].entries.empty()) {
            const std::uint64_t key = versions[0].entries.begin()->first;
            remove_range(0, key, key + 1);
            EXPECT_TRUE(leaf_is_legal(key));
        }
        judge();
    }
}

TEST_F(BtreeLegacy, SmallerCapacitiesAreKeptByInsertsAndEvenedOutByRemovals) {
    open(8);
    build({9, 9, 9, 4}, 9);
    for (std::uint64_t key = 100; key < 200; ++key) {
        insert(0, key);
    }
    block_source& source = lab->tm.source();
    EXPECT_EQ(btree_count_range(source, versions[0].root, 0, 1000).value(), 131U);
    while (versions[0].entries.size() > 50) {
        const std::uint64_t key = versions[0].entries.rbegin()->first;
        auto done = lab->tree.remove_range(versions[0].root, key, key + 1);
        ASSERT_OK(done);
        versions[0].root = done->root;
        versions[0].entries.erase(key);
    }
    for (const auto& [key, name] : versions[0].entries) {
        EXPECT_EQ(btree_lookup_u64(source, versions[0].root, key).value(), name);
    }
    ASSERT_OK(lab->tree.destroy(versions[0].root));
    EXPECT_TRUE(lab->rule.owners.empty());
}

TEST_F(BtreeLegacy, NodesOfOneEntryStillSplit) {
    open(8);
    build({1, 1, 1}, 1);
    for (std::uint64_t key = 10; key < 600; ++key) {
        insert(0, key);
    }
    EXPECT_EQ(btree_count_range(lab->tm.source(), versions[0].root, 0, 1000).value(), 593U);
}

TEST_F(BtreeLegacy, ASharedOnlyChildGivesWayWithoutLosingReferences) {
    open(8);
    // Two trees with a single leaf each under an internal root, then a root over both.
    build({100}, 252);
    build({100}, 252);
    auto root = lab->tm.new_block(block_kind::btree_node);
    ASSERT_OK(root);
    node_editor top(root->bytes);
    top.init(false, 8);
    for (std::uint32_t i = 0; i < 2; ++i) {
        const le64 child(versions[i].root.value());
        top.insert_at(i, 1000 * i, std::as_bytes(std::span(&child, 1)).data());
    }
    // The second part's keys are 1000 higher now than build() made them.
    const metadata_block second = node_view(lab->edit(versions[1].root)).child(0);
    node_editor(lab->edit(versions[1].root)).set_key(0, 1000);
    for (std::uint32_t i = 0; i < 100; ++i) {
        node_editor(lab->edit(second)).set_key(i, 1000 + i);
    }
    // The first part stays a tree of its own as well, the second one does not.
    ASSERT_OK(lab->tm.inc(versions[0].root));
    versions[1] = {root->where, versions[0].entries};
    auto done = lab->tree.remove_range(root->where, 1000, 2000);
    ASSERT_OK(done);
    EXPECT_EQ(done->entries, 100U);
    versions[1].root = done->root;
    judge();
    EXPECT_EQ(lab->leaf_sizes(done->root), (std::vector<std::uint32_t>{100}));
    destroy(0);
    judge();
}

// ---- damage

class BtreeDamage : public BtreeTest {
protected:
    void SetUp() override {
        open(wide_value_bytes);
        fill(4000);
        ASSERT_OK(lab->commit());
        root = versions[0].root;
        inner = child(root, 1);
        leaf = child(inner, 5);
    }
    metadata_block child(metadata_block parent, std::uint32_t index) {
        return node_view(lab->tm.read(parent, block_kind::btree_node)->bytes()).child(index);
    }
    node_editor edit(metadata_block where) { return node_editor(lab->edit(where)); }

    result<void> walk() {
        btree_cursor cursor(lab->tm.source(), root, wide_value_bytes);
        UTHIN_TRY(cursor.seek(0));
        while (!cursor.at_end()) {
            UTHIN_TRY(cursor.next());
        }
        return {};
    }
    void expect_corrupt_walk(metadata_block named) {
        const auto walked = walk();
        ASSERT_THAT(walked, HasCode(error_code::corrupt));
        EXPECT_NE(walked.error().message().find(fmt::format("node {}:", named.value())),
                  std::string::npos)
            << walked.error().message();
    }

    metadata_block root;
    metadata_block inner;
    metadata_block leaf;
};

TEST_F(BtreeDamage, KeysThatDoNotAscendAreCorrupt) {
    ASSERT_OK(walk());
    const std::uint64_t key = edit(leaf).view().key(2);
    edit(leaf).set_key(1, key);
    expect_corrupt_walk(leaf);
}

TEST_F(BtreeDamage, AKeyBelowTheParentsBoundIsCorrupt) {
    edit(leaf).set_key(0, edit(leaf).view().key(0) - 1);
    expect_corrupt_walk(leaf);
}

TEST_F(BtreeDamage, AKeyAboveTheParentsBoundIsCorrupt) {
    const std::uint32_t last = edit(inner).view().nr_entries() - 1;
    edit(inner).set_key(last, UINT64_MAX - 1);
    expect_corrupt_walk(inner);
}

TEST_F(BtreeDamage, ForeignValueSizesAreCorruptEverywhere) {
    edit(leaf).init(true, 24);
    expect_corrupt_walk(leaf);
    const std::uint64_t key = edit(inner).view().key(5);
    std::vector<std::byte> value(wide_value_bytes);
    EXPECT_THAT(btree_lookup(lab->tm.source(), root, key, value), HasCode(error_code::corrupt));
    EXPECT_THAT(lab->tree.insert(root, key, value.data()), HasCode(error_code::corrupt));
    EXPECT_THAT(lab->tree.destroy(root), HasCode(error_code::corrupt));
}

TEST_F(BtreeDamage, PointersToNowhereAreCorruptEverywhere) {
    for (const std::uint64_t target : {0ULL, 16320ULL, ~0ULL}) {
        const std::uint64_t key = edit(inner).view().key(5);
        edit(inner).set_child(5, metadata_block(target));
        expect_corrupt_walk(inner);
        std::vector<std::byte> value(wide_value_bytes);
        EXPECT_THAT(btree_lookup(lab->tm.source(), root, key, value), HasCode(error_code::corrupt));
        EXPECT_THAT(lab->tree.insert(root, key, value.data()), HasCode(error_code::corrupt));
        EXPECT_THAT(btree_count_range(lab->tm.source(), root, 0, 4000),
                    HasCode(error_code::corrupt));
        SetUp();
    }
}

TEST_F(BtreeDamage, APointerToABlockThatIsABitmapByNowIsCorrupt) {
    const auto bitmap = lab->tm.new_block(block_kind::bitmap);
    ASSERT_OK(bitmap);
    const std::uint64_t key = edit(inner).view().key(5);
    edit(inner).set_child(5, bitmap->where);
    const auto value = make_value(1, wide_value_bytes);
    EXPECT_FALSE(lab->tree.insert(root, key, value.data()).has_value());
    EXPECT_FALSE(walk().has_value());
}

TEST_F(BtreeDamage, ACycleIsCorruptAndNotEndless) {
    edit(inner).set_child(0, root);
    EXPECT_THAT(walk(), HasCode(error_code::corrupt));
    EXPECT_THAT(btree_count_range(lab->tm.source(), root, 0, UINT64_MAX),
                HasCode(error_code::corrupt));
    // At the last child it is met by every key above.
    SetUp();
    edit(inner).set_child(edit(inner).view().nr_entries() - 1, inner);
    const std::uint64_t above = edit(inner).view().key(edit(inner).view().nr_entries() - 1);
    std::vector<std::byte> value(wide_value_bytes);
    EXPECT_THAT(btree_lookup(lab->tm.source(), root, above, value), HasCode(error_code::corrupt));
    EXPECT_THAT(btree_highest_key(lab->tm.source(), inner), HasCode(error_code::corrupt));
    EXPECT_THAT(lab->tree.destroy(root), HasCode(error_code::corrupt));
}

TEST_F(BtreeDamage, ManyPathsToOneEmptyLeafAreNotEndless) {
    // Each level points to the next 252 times: 252^12 paths.
    lab->rule.owners.clear();
    auto bottom = lab->tree.create();
    ASSERT_OK(bottom);
    metadata_block below = *bottom;
    for (int level = 0; level < 12; ++level) {
        auto node = lab->tm.new_block(block_kind::btree_node);
        ASSERT_OK(node);
        node_editor top(node->bytes);
        top.init(false, 8);
        const le64 target(below.value());
        for (std::uint32_t i = 0; i < 252; ++i) {
            top.insert_at(i, i, std::as_bytes(std::span(&target, 1)).data());
        }
        below = node->where;
    }
    EXPECT_THAT(btree_highest_key(lab->tm.source(), below), HasCode(error_code::corrupt));
    EXPECT_THAT(btree_count_range(lab->tm.source(), below, 0, UINT64_MAX),
                HasCode(error_code::corrupt));
    root = below;
    EXPECT_THAT(walk(), HasCode(error_code::corrupt));
    EXPECT_THAT(lab->tree.destroy(below), HasCode(error_code::corrupt));
}

TEST_F(BtreeDamage, CountingManyPathsToOneSharedNodeIsNotEndless) {
    // A shared node under the root leads to one leaf on 252^2 paths, more than there are blocks.
    lab->rule.owners.clear();
    auto bottom = lab->tree.create();
    ASSERT_OK(bottom);
    metadata_block below = *bottom;
    for (int level = 0; level < 2; ++level) {
        auto node = lab->tm.new_block(block_kind::btree_node);
        ASSERT_OK(node);
        node_editor fan(node->bytes);
        fan.init(false, 8);
        const le64 target(below.value());
        for (std::uint32_t i = 0; i < 252; ++i) {
            fan.insert_at(i, 1000 + i, std::as_bytes(std::span(&target, 1)).data());
        }
        below = node->where;
    }
    ASSERT_OK(lab->tm.inc(below));
    auto top = lab->tm.new_block(block_kind::btree_node);
    ASSERT_OK(top);
    node_editor edit_top(top->bytes);
    edit_top.init(false, 8);
    // Survivors on both sides, so that what is dropped is counted.
    const auto side = [&](std::uint64_t first_key) {
        metadata_block made = *lab->tree.create();
        for (std::uint64_t key = first_key; key < first_key + 9 * 252; ++key) {
            ++lab->rule.owners[next_name];
            const auto value = make_value(next_name++, wide_value_bytes);
            made = lab->tree.insert(made, key, value.data())->root;
        }
        return made;
    };
    std::uint32_t index = 0;
    for (const auto& [key, target] : {std::pair<std::uint64_t, metadata_block>{0, side(0)},
                                      {10'000, below},
                                      {20'000, side(20'000)}}) {
        const le64 pointer(target.value());
        edit_top.insert_at(index++, key, std::as_bytes(std::span(&pointer, 1)).data());
    }
    const auto done = lab->tree.remove_range(top->where, 100, 21'000);
    ASSERT_THAT(done, HasCode(error_code::corrupt));
    EXPECT_NE(done.error().message().find("again and again"), std::string::npos)
        << done.error().message();
}

TEST_F(BtreeDamage, LeavesAtTwoDepthsAreCorruptToARemoval) {
    auto shallow = lab->tree.create();
    ASSERT_OK(shallow);
    edit(root).set_child(edit(root).view().nr_entries() - 1, *shallow);
    const auto destroyed = lab->tree.destroy(root);
    ASSERT_THAT(destroyed, HasCode(error_code::corrupt));
    EXPECT_NE(destroyed.error().message().find("depth"), std::string::npos);
}

TEST_F(BtreeDamage, AnEmptyNodeAboveTheLeavesIsCorruptToChanges) {
    const std::uint64_t key = edit(inner).view().key(0);
    edit(inner).set_nr_entries(0);
    const auto value = make_value(1, wide_value_bytes);
    const auto inserted = lab->tree.insert(root, key, value.data());
    ASSERT_THAT(inserted, HasCode(error_code::corrupt));
    EXPECT_NE(inserted.error().message().find("internal and empty"), std::string::npos);
    // The height is that of the first child.
    SetUp();
    edit(child(root, 0)).set_nr_entries(0);
    EXPECT_THAT(lab->tree.destroy(root), HasCode(error_code::corrupt));
}

TEST_F(BtreeDamage, AChainOfNodesIsFollowedSoFarAndNoFarther) {
    metadata_block below = *lab->tree.create();
    for (std::uint32_t level = 0; level < btree_depth_max + 2; ++level) {
        const auto node = lab->tm.new_block(block_kind::btree_node);
        ASSERT_OK(node);
        node_editor top(node->bytes);
        top.init(false, 8);
        const le64 target(below.value());
        top.insert_at(0, 0, std::as_bytes(std::span(&target, 1)).data());
        below = node->where;
    }
    root = below;
    std::vector<std::byte> value(wide_value_bytes);
    EXPECT_THAT(walk(), HasCode(error_code::corrupt));
    EXPECT_THAT(btree_lookup(lab->tm.source(), root, 1, value), HasCode(error_code::corrupt));
    EXPECT_THAT(lab->tree.insert(root, 1, value.data()), HasCode(error_code::corrupt));
    EXPECT_THAT(lab->tree.destroy(root), HasCode(error_code::corrupt));
}

TEST_F(BtreeDamage, ALeafThatIsTwiceInItsParentIsNotSplitWithItself) {
    open(wide_value_bytes);
    fill(4000, 100);
    root = versions[0].root;
    inner = child(root, 1);
    const std::uint64_t key = edit(inner).view().key(5);
    edit(inner).set_child(4, child(inner, 5));
    result<void> ended;
    for (std::uint64_t i = 1; i < 99 && ended; ++i) {
        const auto value = make_value(next_name, wide_value_bytes);
        ++lab->rule.owners[next_name++];
        const auto done = lab->tree.insert(root, key + i, value.data());
        ended = done ? result<void>() : std::unexpected(done.error());
    }
    ASSERT_THAT(ended, HasCode(error_code::corrupt));
}

TEST_F(BtreeDamage, ALeafIsNotMergedWithANodeAboveTheLeaves) {
    const metadata_block first = child(inner, 0);
    edit(inner).set_child(1, child(root, 0));
    const std::uint64_t begin = edit(first).view().key(0);
    // All of the first leaf but its last entry.
    const auto done = lab->tree.remove_range(root, begin, edit(inner).view().key(1) - 1);
    ASSERT_THAT(done, HasCode(error_code::corrupt));
    EXPECT_NE(done.error().message().find("not a sibling"), std::string::npos)
        << done.error().message();
}

// Whatever is in the nodes, every call comes back.
TEST_F(BtreeDamage, RandomDamageNeverHangsOrCrashes) {
    random_generator random(seed());
    std::uint64_t corrupt = 0;
    for (int round = 0; round < 150; ++round) {
        SetUp();
        const metadata_block first = child(root, 0);  // damage may hide it
        for (std::uint64_t i = 0, n = 1 + random.below(4); i < n; ++i) {
            const metadata_block victim = random.one_in(3) ? root : random.one_in(2) ? first : leaf;
            node_editor node = edit(victim);
            const std::uint32_t nr = node.view().nr_entries();
            const auto index = static_cast<std::uint32_t>(random.below(std::max(nr, 1U)));
            switch (random.below(4)) {
                case 0: node.set_key(index, random.below(5000)); break;
                case 1:
                    if (!node.view().is_leaf()) {
                        node.set_child(index, metadata_block(random.below(700)));
                    }
                    break;
                case 2:
                    node.set_nr_entries(static_cast<std::uint32_t>(random.below(nr + 1)));
                    break;
                default:
                    if (!node.view().is_leaf()) {
                        node.set_child(index, node.view().child(0));
                    }
            }
        }
        const std::uint64_t key = random.below(4500);
        const auto value = make_value(next_name, wide_value_bytes);
        ++lab->rule.owners[next_name++];
        std::vector<std::byte> out(wide_value_bytes);
        const auto count = [&](const auto& outcome) { corrupt += outcome.has_value() ? 0U : 1U; };
        count(walk());
        count(btree_lookup(lab->tm.source(), root, key, out));
        count(btree_count_range(lab->tm.source(), root, key, 4500));
        switch (random.below(4)) {
            case 0:
                for (int i = 0; i < 200; ++i) {
                    auto done = lab->tree.insert(root, random.below(5000), value.data());
                    count(done);
                    if (!done) {
                        break;
                    }
                    ++lab->rule.owners[load_le<std::uint64_t>(value.data())];
                    root = done->root;
                }
                break;
            case 1: count(lab->tree.remove_range(root, key, key + random.below(3000))); break;
            case 2: count(lab->tree.remove_range(root, 0, 5000, 1 + random.below(50))); break;
            default: count(lab->tree.destroy(root));
        }
    }
    EXPECT_GT(corrupt, 100U);
}

}  // namespace
}  // namespace uthin::test
