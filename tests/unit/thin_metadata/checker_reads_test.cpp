// What a check reads: each block once, neighbours together.
#include "support/mapping_model.h"
#include "support/matchers.h"
#include "thin_metadata/checker.h"

namespace uthin::thin_metadata {
namespace {

class counting_device final : public block_device {
public:
    explicit counting_device(block_device& below) : below_(below) {}

    [[nodiscard]] std::string name() const override { return below_.name(); }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override { return below_.size_bytes(); }
    [[nodiscard]] device_capabilities capabilities() const override {
        return below_.capabilities();
    }
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                    std::span<std::byte> buffer) override {
        ++reads;
        blocks += buffer.size() / metadata_block_size_bytes;
        return below_.read(offset_bytes, buffer);
    }
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) override {
        return below_.write(offset_bytes, buffer);
    }
    [[nodiscard]] result<void> flush() override { return below_.flush(); }
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) override {
        return below_.discard(offset_bytes, length_bytes);
    }
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes) override {
        return below_.write_zeroes(offset_bytes, length_bytes);
    }

    std::uint64_t reads = 0;
    std::uint64_t blocks = 0;

private:
    block_device& below_;
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
