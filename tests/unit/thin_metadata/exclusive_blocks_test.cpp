// What deleting devices would free, against counting every mapping, while the pool changes and the
// memo of earlier measurements is in use.
#include "thin_metadata/exclusive_blocks.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "base/random.h"
#include "support/metadata_fixture.h"
#include "support/seed.h"
#include "support/tier.h"
#include "thin_metadata/pool_usage.h"
#include "thin_metadata/subtree_memo.h"

namespace uthin::thin_metadata {
namespace {

using test::HasCode;

// The nodes that are read of somebody else's view.
class counting_view final : public metadata_view {
public:
    explicit counting_view(metadata_view& below) : below_(below), source_(below.source()) {}
    [[nodiscard]] persistent_data::block_source& source() override { return source_; }
    [[nodiscard]] const disk_superblock& superblock() const override { return below_.superblock(); }
    [[nodiscard]] bool has_space_maps() const override { return below_.has_space_maps(); }
    [[nodiscard]] bool expired() const override { return below_.expired(); }
    [[nodiscard]] std::uint64_t transaction() const override { return below_.transaction(); }
    [[nodiscard]] subtree_memo* memo() override { return below_.memo(); }
    [[nodiscard]] std::uint64_t nodes_read() const { return source_.nodes; }

private:
    struct counting_source final : public persistent_data::block_source {
        explicit counting_source(persistent_data::block_source& from) : from_(from) {}
        [[nodiscard]] result<persistent_data::block_ref> read(
            metadata_block where, persistent_data::block_kind kind) override {
            nodes += kind == persistent_data::block_kind::btree_node ? 1U : 0U;
            return from_.read(where, kind);
        }
        [[nodiscard]] std::uint64_t block_count() const override { return from_.block_count(); }
        void prefetch(std::span<const metadata_block>, persistent_data::block_kind) override {}
        persistent_data::block_source& from_;
        std::uint64_t nodes = 0;
    };
    metadata_view& below_;
    counting_source source_;
};

class ExclusiveBlocks : public test::metadata_fixture {
protected:
    void create(std::uint64_t id) {
        ASSERT_OK(pool_->create_thin(device_id(id)));
        ids_.insert(id);
    }
    void snapshot(std::uint64_t id, std::uint64_t origin) {
        ASSERT_OK(pool_->create_snap(device_id(id), device_id(origin)));
        ids_.insert(id);
    }
    void write(std::uint64_t id, std::uint64_t begin, std::uint64_t count) {
        ASSERT_OK_AND_ASSIGN(thin_device* const device, pool_->open_device(device_id(id)));
        map(device, begin, count);
        pool_->close_device(device);
    }
    void discard(std::uint64_t id, std::uint64_t begin, std::uint64_t end) {
        ASSERT_OK_AND_ASSIGN(thin_device* const device, pool_->open_device(device_id(id)));
        range<virtual_block> left{virtual_block(begin), virtual_block(end)};
        while (!left.empty()) {
            ASSERT_OK_AND_ASSIGN(left.begin, pool_->remove_some(*device, left, 64));
        }
        pool_->close_device(device);
    }
    void remove(std::uint64_t id) {
        ASSERT_OK(pool_->delete_thin(device_id(id)));
        ids_.erase(id);
    }
    [[nodiscard]] std::uint64_t any(random_generator& random) const {
        auto at = ids_.begin();
        std::advance(at, static_cast<std::ptrdiff_t>(random.below(ids_.size())));
        return *at;
    }
    [[nodiscard]] std::uint64_t counted(metadata_view& view, std::vector<device_id> deleted) {
        const auto usage = measure_usage(view, {.deleted = std::move(deleted)});
        EXPECT_OK(usage);
        return usage ? usage->freed_blocks : 0;
    }
    // Nodes that it read.
    std::uint64_t compare() {
        EXPECT_OK(pool_->commit());
        const auto view = pool_->create_view();
        EXPECT_OK(view);
        counting_view counting(**view);
        const auto measured = measure_exclusive(counting);
        EXPECT_OK(measured);
        if (!measured) {
            return 0;
        }
        EXPECT_EQ(measured->size(), ids_.size());
        for (const device_exclusive& one : *measured) {
            EXPECT_EQ(one.exclusive_blocks, counted(**view, {one.id})) << one.id.value();
            EXPECT_LE(one.exclusive_blocks, one.mapped_blocks);
        }
        return counting.nodes_read();
    }
    void compare_sets(random_generator& random) {
        const auto view = pool_->create_view();
        ASSERT_OK(view);
        std::vector<device_id> some;
        for (const std::uint64_t id : ids_) {
            if (random.one_in(2)) {
                some.emplace_back(id);
            }
        }
        EXPECT_EQ(blocks_freed_by_deleting(**view, some), counted(**view, some));
    }
    void change_something(random_generator& random);

    std::set<std::uint64_t> ids_;
    std::uint64_t next_id_ = 1;
};

void ExclusiveBlocks::change_something(random_generator& random) {
    const std::uint64_t id = any(random);
    const std::uint64_t begin = random.below(1200);
    switch (random.below(12)) {
        case 0:
            if (ids_.size() < 8) {
                return snapshot(next_id_++, id);
            }
            return remove(id);
        case 1:
            if (ids_.size() > 3) {
                return remove(id);
            }
            return create(next_id_++);
        case 2: return discard(id, begin, begin + 1 + random.below(300));
        case 3: {
            const std::uint64_t source = any(random);
            if (source == id || ids_.size() > 7) {
                return;
            }
            const std::uint64_t graveyard = next_id_++;
            ASSERT_OK(pool_->swap_root(device_id(id), device_id(source), device_id(graveyard)));
            ids_.insert(graveyard);
            return;
        }
        case 4: EXPECT_OK(pool_->commit()); return;
        case 5: {
            // What is undone was seen by nobody.
            const std::set<std::uint64_t> before = ids_;
            ASSERT_OK(pool_->commit());
            snapshot(next_id_++, id);
            write(id, begin, 5);
            ASSERT_OK(pool_->abort());
            ids_ = before;
            return;
        }
        default: return write(id, begin, 1 + random.below(6));
    }
}

TEST_F(ExclusiveBlocks, AreWhatCountingEveryMappingGivesWhileThePoolChanges) {
    random_generator random(test::seed());
    create(next_id_++);
    write(1, 0, 900);
    const std::uint64_t rounds = 150 * test::tier_scale();
    for (std::uint64_t round = 0; round < rounds; ++round) {
        for (std::uint64_t i = random.below(6); i > 0; --i) {
            change_something(random);
        }
        compare();
        compare_sets(random);
        ASSERT_FALSE(HasFailure()) << "round " << round;
    }
}

// A view that is older than the change it is measured after must not teach the memo what is over.
TEST_F(ExclusiveBlocks, OfAnOldViewAreNotRememberedForNewerOnes) {
    create(1);
    write(1, 0, 900);
    ASSERT_OK(pool_->commit());
    ASSERT_OK_AND_ASSIGN(const auto old_view, pool_->create_view());
    ids_ = {1};
    snapshot(2, 1);
    write(2, 0, 3);
    ASSERT_OK(pool_->commit());
    ASSERT_OK_AND_ASSIGN(const auto measured, measure_exclusive(*old_view));
    EXPECT_EQ(measured[0].exclusive_blocks, 900U);
    compare();
    write(1, 500, 1);
    compare();
    remove(2);
    compare();
}

TEST_F(ExclusiveBlocks, CostWhatWasWrittenSinceTheLastTime) {
    create(1);
    create(2);
    write(1, 0, 2000);
    write(2, 0, 900);
    const std::uint64_t all = compare();
    EXPECT_GT(all, 12U);
    // The top tree, the details, and for each bitmap's count a node of its index.
    EXPECT_LE(compare(), 8U);
    write(1, 77, 1);
    const std::uint64_t changed = compare();
    EXPECT_LE(changed, 12U);
    snapshot(3, 1);
    // Shared at the root: nothing of either is read.
    EXPECT_LE(compare(), 8U);
    fmt::print("nodes read: all {}, after one write {}\n", all, changed);
}

TEST_F(ExclusiveBlocks, DoNotCountWhatAMetadataSnapshotHolds) {
    create(1);
    write(1, 0, 600);
    create(2);
    ASSERT_OK(pool_->reserve_metadata_snap());
    write(1, 0, 10);
    ASSERT_OK(pool_->commit());
    {
        ASSERT_OK_AND_ASSIGN(const auto view, pool_->create_view());
        ASSERT_OK_AND_ASSIGN(const auto measured, measure_exclusive(*view));
        EXPECT_EQ(measured[0].exclusive_blocks, 10U);
    }
    ASSERT_OK_AND_ASSIGN(const space_counts before, pool_->data_space());
    ASSERT_OK(pool_->delete_thin(device_id(1)));
    ids_.erase(1);
    ASSERT_OK(pool_->commit());
    ASSERT_OK_AND_ASSIGN(const space_counts after, pool_->data_space());
    EXPECT_EQ(after.free_blocks, before.free_blocks + 10);
    ASSERT_OK(pool_->release_metadata_snap());
    compare();
}

TEST_F(ExclusiveBlocks, OfADeviceThatIsNotThereAreRefused) {
    create(1);
    ASSERT_OK(pool_->commit());
    ASSERT_OK_AND_ASSIGN(const auto view, pool_->create_view());
    const std::vector<device_id> wrong = {device_id(1), device_id(9)};
    EXPECT_THAT(blocks_freed_by_deleting(*view, wrong), HasCode(error_code::not_found));
    const std::vector<device_id> twice = {device_id(1), device_id(1)};
    EXPECT_THAT(blocks_freed_by_deleting(*view, twice), HasCode(error_code::not_found));
}

TEST(SubtreeMemo, ForgetsWhatChangedAfterTheStateThatWasSeen) {
    subtree_memo memo;
    const metadata_block node(7);
    memo.remember(node, 5, 3);
    EXPECT_EQ(memo.find(node), 5U);
    memo.changed(node, 4);
    EXPECT_EQ(memo.find(node), std::nullopt);
    memo.remember(node, 5, 3);
    EXPECT_EQ(memo.find(node), std::nullopt) << "the state is older than the change";
    memo.remember(node, 0, 4);
    EXPECT_EQ(memo.find(node), 0U);
    memo.changed_everywhere(9);
    EXPECT_EQ(memo.find(node), std::nullopt);
    memo.remember(metadata_block(8), 1, 8);
    EXPECT_EQ(memo.find(metadata_block(8)), std::nullopt);
}

}  // namespace
}  // namespace uthin::thin_metadata
