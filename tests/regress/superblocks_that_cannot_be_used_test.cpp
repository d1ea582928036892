// A superblock with a good checksum and a data block size of 0 ended the process with a division by
// it; one whose time does not fit into a mapping made insertions map another block than the one
// that was written. (Found by reading.)
#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"
#include "thin_metadata/superblock.h"

namespace uthin {
namespace {

using test::HasCode;
using thin_metadata::disk_superblock;

class UnusableSuperblock : public testing::Test {
protected:
    void change(const std::function<void(disk_superblock&)>& how) {
        if (rig_.is_open()) {
            rig_.close();
        }
        rig_.do_not_judge();
        std::vector<std::byte> bytes(metadata_block_size_bytes);
        ASSERT_OK(rig_.metadata.read(0, bytes));
        const persistent_data::block_bytes block(bytes.data(), metadata_block_size_bytes);
        ASSERT_OK_AND_ASSIGN(disk_superblock superblock,
                             thin_metadata::check_superblock(metadata_block(0), block));
        how(superblock);
        thin_metadata::store_superblock(superblock, block);
        persistent_data::prepare_block(persistent_data::block_kind::superblock, metadata_block(0),
                                       block);
        ASSERT_OK(rig_.metadata.write(0, bytes));
    }
    result<std::unique_ptr<pool>> open(bool read_only) {
        pool_options options;
        options.read_only = read_only;
        return pool::open(std::make_unique<test::borrowed_device>(rig_.metadata),
                          std::make_unique<test::borrowed_device>(rig_.data), options,
                          system_clock());
    }

    test::pool_rig rig_;
};

TEST_F(UnusableSuperblock, HasABlockSizeThatIsNone) {
    for (const std::uint32_t sectors : {0U, 3U, 100U, 1U << 22}) {
        change([&](disk_superblock& of) { of.data_block_size_sectors = sectors; });
        EXPECT_THAT(open(false), HasCode(error_code::corrupt)) << sectors;
        EXPECT_THAT(open(true), HasCode(error_code::corrupt)) << sectors;
    }
}

TEST_F(UnusableSuperblock, HasATimeThatFitsIntoNoMapping) {
    for (const std::uint32_t time : {1U << 24, UINT32_MAX}) {
        change([&](disk_superblock& of) { of.time = time; });
        EXPECT_THAT(open(false), HasCode(error_code::corrupt)) << time;
        EXPECT_OK(open(true)) << time;
    }
    change([](disk_superblock& of) { of.time = (1U << 24) - 1; });
    ASSERT_OK_AND_ASSIGN(const auto full, open(false));
    ASSERT_OK(full->create_thin(device_id(0)));
    const snapshot_request one{device_id(0), device_id(1)};
    EXPECT_THAT(full->create_snapshots(std::span(&one, 1)), HasCode(error_code::out_of_range));
    ASSERT_OK(full->close());
}

}  // namespace
}  // namespace uthin
