// Pages that are read while the writer changes, writes and evicts them.
#include "persistent_data/block_manager.h"

#include <functional>
#include <utility>

#include "base/endian.h"
#include "base/random.h"
#include "io/memory_device.h"
#include "support/forwarding_device.h"
#include "support/matchers.h"
#include "support/seed.h"

namespace uthin::persistent_data {
namespace {

constexpr std::uint64_t blocks = 2048;
constexpr metadata_block watched(16);

// Does something else after its next read, before the reader has the bytes.
class interrupted_device final : public test::forwarding_device {
public:
    using forwarding_device::forwarding_device;
    [[nodiscard]] result<void> read(std::uint64_t at, std::span<std::byte> buffer) override {
        auto done = below().read(at, buffer);
        if (const auto action = std::exchange(after_read, {})) {
            action();
        }
        return done;
    }

    std::function<void()> after_read;
};

class BlockManager : public ::testing::Test {
protected:
    BlockManager() {
        for (std::uint64_t block = 1; block < blocks; ++block) {
            put(metadata_block(block), 1);
        }
        EXPECT_OK(pages_.write_dirty());
        pages_.reset();
    }
    void put(metadata_block where, std::uint64_t value) {
        const auto bytes = pages_.edit_new(where, block_kind::bitmap);
        ASSERT_OK(bytes);
        store_le(bytes->data() + 100, value);
        pages_.publish();
    }
    std::uint64_t get(metadata_block where) {
        const auto page = pages_.read(where, block_kind::bitmap);
        EXPECT_OK(page);
        return page ? load_le<std::uint64_t>(page->bytes().data() + 100) : 0;
    }
    void evict_all() {
        for (std::uint64_t block = blocks / 2; block < blocks; ++block) {
            get(metadata_block(block));
        }
    }

    io::memory_device memory_{blocks * metadata_block_size_bytes};
    interrupted_device device_{memory_};
    block_manager pages_{device_, blocks, 64};
};

TEST_F(BlockManager, AReaderIsNotGivenBytesThatWereReplacedMeanwhile) {
    device_.after_read = [&] {
        put(watched, 2);
        ASSERT_OK(pages_.write_dirty());
        evict_all();
    };
    EXPECT_EQ(get(watched), 2U);
    EXPECT_EQ(get(watched), 2U);
}

TEST_F(BlockManager, ReadingAheadKeepsNothingThatWasReplacedMeanwhile) {
    device_.after_read = [&] {
        put(watched, 2);
        ASSERT_OK(pages_.write_dirty());
        evict_all();
    };
    pages_.prefetch(std::span(&watched, 1), block_kind::bitmap);
    EXPECT_EQ(get(watched), 2U);
}

TEST_F(BlockManager, ForgottenPagesAreReadAgainAndDirtyOnesAreKept) {
    put(watched, 2);
    const std::uint64_t cached = pages_.cached_blocks();
    pages_.forget(watched.value(), watched.value() + 1);
    EXPECT_EQ(pages_.cached_blocks(), cached);
    ASSERT_OK(pages_.write_dirty());
    pages_.forget(watched.value() - 1, watched.value() + 1);
    EXPECT_EQ(pages_.cached_blocks(), cached - 1);
    const std::uint64_t reads = pages_.blocks_read();
    EXPECT_EQ(get(watched), 2U);
    EXPECT_EQ(pages_.blocks_read(), reads + 1);
}

TEST_F(BlockManager, TheSweepFindsItsWayAroundForgottenPages) {
    random_generator random(test::seed());
    for (int round = 0; round < 2000; ++round) {
        const std::uint64_t block = 1 + random.below(blocks - 100);
        if (round % 3 == 0) {
            pages_.forget(block, block + random.below(100));
        } else {
            EXPECT_EQ(get(metadata_block(block)), 1U);
        }
        ASSERT_LE(pages_.cached_blocks(), pages_.cache_blocks());
    }
}

TEST_F(BlockManager, AnAbortForgetsEveryPage) {
    put(watched, 2);
    pages_.reset();
    EXPECT_EQ(get(watched), 1U);
}

TEST_F(BlockManager, ABlockIsOfOneKindAtATime) {
    get(watched);
    for (const auto& page : {pages_.read(watched, block_kind::btree_node),
                             pages_.read_cached(watched, block_kind::btree_node)}) {
        EXPECT_THAT(page, test::HasCode(error_code::corrupt));
    }
    EXPECT_OK(pages_.read_cached(watched, block_kind::bitmap));
    EXPECT_THAT(pages_.edit(watched, block_kind::btree_node), test::HasCode(error_code::corrupt));
    EXPECT_OK(pages_.edit(watched, block_kind::bitmap));
    EXPECT_THAT(pages_.edit(watched, block_kind::btree_node), test::HasCode(error_code::corrupt));
    pages_.publish();
}

TEST_F(BlockManager, BlocksBeyondTheDeviceAreCorrupt) {
    const metadata_block beyond(blocks);
    EXPECT_THAT(pages_.read(beyond, block_kind::bitmap), test::HasCode(error_code::corrupt));
    EXPECT_THAT(pages_.read_cached(beyond, block_kind::bitmap), test::HasCode(error_code::corrupt));
    EXPECT_THAT(pages_.edit(beyond, block_kind::bitmap), test::HasCode(error_code::corrupt));
    EXPECT_THAT(pages_.edit_new(beyond, block_kind::bitmap), test::HasCode(error_code::corrupt));
}

TEST_F(BlockManager, WhatIsNotInTheCacheIsNotReadForThoseWhoMayNotWait) {
    EXPECT_THAT(pages_.read_cached(watched, block_kind::bitmap),
                test::HasCode(error_code::would_block));
    EXPECT_OK(pages_.read(watched, block_kind::bitmap));
    EXPECT_OK(pages_.read_cached(watched, block_kind::bitmap));
}

TEST_F(BlockManager, ReadOnlyMetadataIsNotChanged) {
    put(watched, 2);
    pages_.set_read_only(true);
    EXPECT_THAT(pages_.edit(watched, block_kind::bitmap), test::HasCode(error_code::not_permitted));
    EXPECT_THAT(pages_.edit_new(watched, block_kind::bitmap),
                test::HasCode(error_code::not_permitted));
    EXPECT_THAT(pages_.write_dirty(), test::HasCode(error_code::not_permitted));
    pages_.set_read_only(false);
    EXPECT_OK(pages_.write_dirty());
    pages_.reset();
    EXPECT_EQ(get(watched), 2U);
}

}  // namespace
}  // namespace uthin::persistent_data
