// A damaged bitmap of the metadata counted itself as free: it was given out, or was its own copy,
// so that a block of the last commit was changed where it lay. (Found by the fuzz target
// `space_map`.)
#include <array>
#include <cstring>

#include "base/endian.h"
#include "io/memory_device.h"
#include "persistent_data/space_map_metadata.h"
#include "persistent_data/transaction_manager.h"
#include "persistent_data/validator.h"
#include "support/matchers.h"

namespace uthin::persistent_data {
namespace {

using test::HasCode;

constexpr std::uint64_t blocks = 256;
constexpr std::size_t index_header_bytes = 16;
using page = std::array<std::byte, metadata_block_size_bytes>;

TEST(ABitmapCountedAsFree, IsNotItsOwnCopy) {
    io::memory_device device(blocks * metadata_block_size_bytes);
    disk_space_map_root root;
    {
        block_manager pages(device, blocks, 64);
        transaction_manager tm(pages);
        ASSERT_OK(tm.format_space_map(blocks));
        ASSERT_OK(tm.metadata_map().commit());
        root = tm.metadata_map().root();
        pages.publish();
        ASSERT_OK(pages.write_dirty());
    }
    page index{};
    ASSERT_OK(device.read(root.bitmap_root * metadata_block_size_bytes, index));
    disk_index_entry entry;
    std::memcpy(&entry, index.data() + index_header_bytes, sizeof entry);
    page bitmap{};
    ASSERT_OK(device.read(entry.blocknr * metadata_block_size_bytes, bitmap));
    for (std::uint32_t used = 0; used < root.nr_allocated; ++used) {
        set_bitmap_count(bitmap.data(), used, used < entry.blocknr ? 1 : 0);
    }
    prepare_block(block_kind::bitmap, metadata_block(entry.blocknr), block_bytes(bitmap));
    ASSERT_OK(device.write(entry.blocknr * metadata_block_size_bytes, bitmap));
    // The hints agree, so that the first free block is the bitmap itself.
    entry.none_free_before = static_cast<std::uint32_t>(entry.blocknr);
    std::memcpy(index.data() + index_header_bytes, &entry, sizeof entry);
    prepare_block(block_kind::index, metadata_block(root.bitmap_root), block_bytes(index));
    ASSERT_OK(device.write(root.bitmap_root * metadata_block_size_bytes, index));

    block_manager pages(device, blocks, 64);
    transaction_manager tm(pages);
    ASSERT_OK(tm.open_space_map(root));
    EXPECT_THAT(tm.metadata_map().new_block(), HasCode(error_code::corrupt));
}

// The same with any other block.
TEST(ABlockCountedAsFree, IsNotItsOwnCopy) {
    io::memory_device device(blocks * metadata_block_size_bytes);
    block_manager pages(device, blocks, 64);
    transaction_manager tm(pages);
    ASSERT_OK(tm.format_space_map(blocks));
    const auto commit = [&] {
        ASSERT_OK(tm.metadata_map().commit());
        pages.publish();
        ASSERT_OK(pages.write_dirty());
        tm.metadata_map().committed();
        tm.committed();
    };
    ASSERT_OK_AND_ASSIGN(const shadow made, tm.new_block(block_kind::bitmap));
    commit();
    ASSERT_OK(tm.dec(made.where));
    commit();
    EXPECT_THAT(tm.shadow_block(made.where, block_kind::bitmap), HasCode(error_code::corrupt));
}

}  // namespace
}  // namespace uthin::persistent_data
