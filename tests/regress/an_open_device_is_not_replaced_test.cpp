// A new device with the id of one that was open while its creation was aborted took the place of
// the in-core record that the owner of the old one goes on using and closes. (Found by the fuzz
// target `change`: damaged metadata got there without an abort. That input is in
// tests/fuzz/corpus/change.)
#include <gtest/gtest.h>

#include "io/memory_device.h"
#include "support/matchers.h"
#include "support/round_trip.h"
#include "uthin/metadata.h"

namespace uthin {
namespace {

using test::HasCode;

class AnOpenDevice : public testing::Test {
protected:
    static constexpr std::uint64_t blocks = 256;

    void SetUp() override {
        ASSERT_OK_AND_ASSIGN(
            pool_, metadata::open(device_, {.data_block_size_sectors = 128, .format = true}));
        ASSERT_OK(pool_->resize_data(100));
        ASSERT_OK(pool_->create_thin(device_id(0)));
        ASSERT_OK(pool_->commit());
        ASSERT_OK(pool_->create_thin(device_id(1)));
        ASSERT_OK_AND_ASSIGN(open_, pool_->open_device(device_id(1)));
        ASSERT_OK(pool_->abort());
    }
    void TearDown() override {
        ASSERT_OK(pool_->close());
        pool_.reset();
        EXPECT_TRUE(test::is_accepted(device_).value());
    }

    io::memory_device device_{blocks * metadata_block_size_bytes};
    std::unique_ptr<metadata> pool_;
    thin_device* open_ = nullptr;
};

TEST_F(AnOpenDevice, KeepsItsIdUntilItIsClosed) {
    EXPECT_THAT(pool_->create_thin(device_id(1)), HasCode(error_code::busy));
    EXPECT_THAT(pool_->create_snap(device_id(1), device_id(0)), HasCode(error_code::busy));
    EXPECT_THAT(pool_->create_snap(device_id(1), device_id(1)), HasCode(error_code::busy));
    EXPECT_THAT(pool_->swap_root(device_id(0), device_id(0), device_id(1)),
                HasCode(error_code::busy));
    EXPECT_THAT(
        pool_->build_device(device_id(1), {},
                            []() -> result<std::optional<mapping_run>> { return std::nullopt; }),
        HasCode(error_code::busy));
    pool_->close_device(open_);
    ASSERT_OK(pool_->create_thin(device_id(1)));
    EXPECT_EQ(pool_->list_devices().value().size(), 2U);
}

TEST_F(AnOpenDevice, IsInNoPoolAnyMore) {
    EXPECT_THAT(pool_->open_device(device_id(1)), HasCode(error_code::not_found));
    EXPECT_THAT(pool_->delete_thin(device_id(1)), HasCode(error_code::not_found));
    EXPECT_THAT(pool_->create_snap(device_id(2), device_id(1)), HasCode(error_code::not_found));
    EXPECT_THAT(pool_->find_block(*open_, virtual_block(0)), HasCode(error_code::not_found));
    ASSERT_OK_AND_ASSIGN(const data_block data, pool_->alloc_data_block());
    EXPECT_THAT(pool_->insert_block(*open_, virtual_block(0), data),
                HasCode(error_code::not_found));
    ASSERT_OK(pool_->dec_data_range({data, data + 1}));
    ASSERT_OK(pool_->create_thin(device_id(2))) << "the refusals broke nothing";
    pool_->close_device(open_);
}

}  // namespace
}  // namespace uthin
