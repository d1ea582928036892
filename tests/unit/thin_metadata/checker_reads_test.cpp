// What a check reads: each block once, neighbours together.
#include "support/forwarding_device.h"
#include "support/mapping_model.h"
#include "support/matchers.h"
#include "thin_metadata/checker.h"

namespace uthin::thin_metadata {
namespace {

class counting_device final : public test::forwarding_device {
public:
    using forwarding_device::forwarding_device;
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                    std::span<std::byte> buffer) override {
        ++reads;
        blocks += buffer.size() / metadata_block_size_bytes;
        return below().read(offset_bytes, buffer);
    }

    std::uint64_t reads = 0;
    std::uint64_t blocks = 0;
};

TEST(CheckerReads, BitmapsOfALargePoolComeInLargePieces) {
    constexpr std::uint64_t bitmaps = 300;
    constexpr std::uint64_t blocks_per_bitmap = 16320;
    test::mapping_model model;
    model.pool.data_blocks = bitmaps * blocks_per_bitmap;
    model.devices[1].mappings[0] = {model.pool.data_blocks - 1, 0};
    model.devices[1].details.mapped_blocks = 1;
    const auto image = test::image_of(model);
    ASSERT_NE(image, nullptr);
    counting_device counted(*image);
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(counted, {}));
    ASSERT_OK_AND_ASSIGN(const check_report report, check_metadata(*view, {}));
    EXPECT_TRUE(report.is_clean());
    EXPECT_GT(counted.blocks, bitmaps);
    EXPECT_LT(counted.blocks, bitmaps + 20);
    EXPECT_LT(counted.reads, 20U);
}

}  // namespace
}  // namespace uthin::thin_metadata
