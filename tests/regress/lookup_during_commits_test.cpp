// A lookup that read a block of the metadata while others committed a few times, so that the block
// was used anew for something else, was told that the metadata is corrupt.
#include <gtest/gtest.h>

#include <utility>

#include "base/random.h"
#include "io/memory_device.h"
#include "support/hooked_device.h"
#include "support/matchers.h"
#include "uthin/metadata.h"

namespace uthin {
namespace {

TEST(LookupDuringCommits, IsNotMisledByABlockThatIsUsedAnew) {
    for (std::uint64_t round = 0; round < 300; ++round) {
        random_generator random(round);
        io::memory_device memory((40 + random.below(30)) * 4096);
        test::hooked_device device(memory);
        const metadata_options with{.data_block_size_sectors = 128, .format = true};
        auto opened = metadata::open(device, with);
        ASSERT_OK(opened);
        ASSERT_OK((*opened)->resize_data(1000));
        ASSERT_OK((*opened)->create_thin(device_id(1)));
        ASSERT_OK((*opened)->close());
        opened = metadata::open(device, with);
        ASSERT_OK(opened);
        metadata& pool = **opened;
        thin_device* thin = pool.open_device(device_id(1)).value();
        bool done = false;
        device.before_reads([&] {
            if (std::exchange(done, true)) {
                return;
            }
            const std::uint64_t commits = 1 + random.below(30);
            for (std::uint64_t i = 1; i <= commits; ++i) {
                if (random.one_in(2)) {
                    ASSERT_OK(pool.insert_block(*thin, virtual_block(i),
                                                pool.alloc_data_block().value()));
                } else {
                    ASSERT_OK(pool.create_thin(device_id(i + 1)));
                }
                ASSERT_OK(pool.commit());
            }
        });
        const auto found = pool.find_block(*thin, virtual_block(0));
        device.before_reads(nullptr);
        EXPECT_TRUE(done);
        EXPECT_OK(found) << "round " << round;
        pool.close_device(thin);
        ASSERT_OK(pool.close());
    }
}

}  // namespace
}  // namespace uthin
