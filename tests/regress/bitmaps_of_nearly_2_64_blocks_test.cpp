// A superblock that names nearly 2^64 data blocks had no bitmaps at all: their number overflowed. A
// search for a free block then went through 10^15 of them, with memory for each. (Found by the
// fuzz targets `change` and `space_map`.)
#include <array>
#include <cstdint>

#include "io/memory_device.h"
#include "persistent_data/validator.h"
#include "support/matchers.h"
#include "thin_metadata/superblock.h"
#include "uthin/metadata.h"

namespace uthin {
namespace {

using test::HasCode;

TEST(BitmapsOfNearly2To64Blocks, AreMissedAtOnce) {
    io::memory_device device(256 * metadata_block_size_bytes);
    {
        ASSERT_OK_AND_ASSIGN(
            const auto pool,
            metadata::open(device, {.data_block_size_sectors = 128, .format = true}));
        ASSERT_OK(pool->resize_data(100));
        ASSERT_OK(pool->commit());
        ASSERT_OK(pool->close());
    }
    std::array<std::byte, metadata_block_size_bytes> page{};
    const persistent_data::block_bytes bytes(page);
    ASSERT_OK(device.read(0, page));
    ASSERT_OK_AND_ASSIGN(auto superblock,
                         thin_metadata::check_superblock(metadata_block(0), bytes));
    superblock.data_sm_root.nr_blocks = UINT64_MAX - 5;
    thin_metadata::store_superblock(superblock, bytes);
    persistent_data::prepare_block(persistent_data::block_kind::superblock, metadata_block(0),
                                   bytes);
    ASSERT_OK(device.write(0, page));

    ASSERT_OK_AND_ASSIGN(const auto pool, metadata::open(device, {}));
    for (int i = 0; i < 100; ++i) {  // what the first bitmap has
        ASSERT_OK(pool->alloc_data_block());
    }
    ASSERT_THAT(pool->alloc_data_range(1U << 20), HasCode(error_code::corrupt));
}

}  // namespace
}  // namespace uthin
