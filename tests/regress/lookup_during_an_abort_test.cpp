// While an abort read the last commit back, lookups went on with the roots of the transaction that
// it threw away, and read from the device what its blocks had held long before: a block that was
// mapped read as a hole, or as corrupt, and a write could have gone to another volume's block.
#include <gtest/gtest.h>

#include "io/memory_device.h"
#include "support/hooked_device.h"
#include "support/matchers.h"
#include "uthin/metadata.h"

namespace uthin {
namespace {

constexpr std::uint64_t metadata_bytes = 1 << 20;

TEST(LookupDuringAnAbort, SeesTheLastCommit) {
    io::memory_device memory(metadata_bytes);
    test::hooked_device device(memory);
    auto opened = metadata::open(device, {.data_block_size_sectors = 128, .format = true});
    ASSERT_OK(opened);
    metadata& pool = **opened;
    ASSERT_OK(pool.resize_data(1000));
    ASSERT_OK(pool.create_thin(device_id(1)));
    thin_device* thin = pool.open_device(device_id(1)).value();
    const auto map = [&](std::uint64_t block) {
        ASSERT_OK(pool.insert_block(*thin, virtual_block(block), pool.alloc_data_block().value()));
    };
    constexpr std::uint64_t rounds = 20;
    std::uint64_t lookups = 0;
    for (std::uint64_t block = 0; block < rounds; ++block) {
        map(block);
        ASSERT_OK(pool.commit());
        map(rounds + block);
        device.before_reads([&] {
            ++lookups;
            const auto found = pool.find_block(*thin, virtual_block(block));
            ASSERT_OK(found);
            EXPECT_TRUE(found->has_value()) << "block " << block;
        });
        ASSERT_OK(pool.abort());
        device.before_reads(nullptr);
    }
    EXPECT_GE(lookups, rounds);
    pool.close_device(thin);
    ASSERT_OK(pool.close());
}

}  // namespace
}  // namespace uthin
