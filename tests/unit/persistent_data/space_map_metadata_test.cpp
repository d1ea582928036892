// Counts of metadata blocks that change while counts are being changed.
#include "persistent_data/space_map_metadata.h"

#include "io/memory_device.h"
#include "persistent_data/transaction_manager.h"
#include "support/matchers.h"

namespace uthin::persistent_data {
namespace {

constexpr std::uint64_t blocks = 8192;
constexpr std::uint64_t begin = 4000;
constexpr std::uint64_t end = 4400;

class SpaceMapMetadata : public ::testing::Test {
protected:
    void commit() {
        ASSERT_OK(tm_.metadata_map().commit());
        pages_.publish();
        ASSERT_OK(pages_.write_dirty());
        tm_.metadata_map().committed();
        tm_.committed();
    }

    io::memory_device device_{blocks * metadata_block_size_bytes};
    block_manager pages_{device_, blocks, 512};
    transaction_manager tm_{pages_};
};

// Each change copies a leaf of the tree of large counts and at last merges the copy with another
// leaf: an increment and a decrement of one block, queued while a count is being changed.
TEST_F(SpaceMapMetadata, NestedChangesOfOneBlockAreAppliedInTheirOrder) {
    ASSERT_OK(tm_.format_space_map(blocks));
    space_map_metadata& map = tm_.metadata_map();
    commit();
    const std::uint64_t free_before = map.nr_free();
    for (int references = 0; references < 3; ++references) {
        ASSERT_OK(map.inc(begin, end));
    }
    commit();
    for (std::uint64_t block = end; block-- > begin;) {
        ASSERT_OK(map.dec(block, block + 1)) << block;
        commit();
    }
    for (int references = 0; references < 2; ++references) {
        ASSERT_OK(map.dec(begin, end));
    }
    commit();
    EXPECT_EQ(map.nr_free(), free_before);
}

}  // namespace
}  // namespace uthin::persistent_data
