#include "base/endian.h"

#include <gtest/gtest.h>

#include <array>

namespace uthin::test {
namespace {

TEST(Endian, TheLowestByteComesFirst) {
    std::array<std::byte, 9> bytes{};
    store_le<std::uint64_t>(&bytes[1], 0x0102030405060708);  // unaligned on purpose
    for (std::size_t i = 0; i < 8; ++i) {
        EXPECT_EQ(bytes[1 + i], static_cast<std::byte>(8 - i));
    }
    EXPECT_EQ(load_le<std::uint64_t>(&bytes[1]), 0x0102030405060708U);
    EXPECT_EQ(load_le<std::uint32_t>(&bytes[1]), 0x05060708U);
    EXPECT_EQ(load_le<std::uint16_t>(&bytes[7]), 0x0102U);
}

TEST(Endian, FieldsPackWithoutPaddingAndConvert) {
    struct record {
        le16 small;
        le64 large;
        le32 middle;
    };
    static_assert(sizeof(record) == 14);
    record on_disk{};
    EXPECT_EQ(on_disk.large, 0U);
    on_disk.small = 0xABCD;
    on_disk.large = UINT64_MAX - 1;
    on_disk.middle = 0x12345678;
    EXPECT_EQ(on_disk.small, 0xABCD);
    EXPECT_EQ(on_disk.large, UINT64_MAX - 1);
    EXPECT_EQ(on_disk.middle, 0x12345678U);
    std::array<std::byte, 14> bytes{};
    std::memcpy(bytes.data(), &on_disk, bytes.size());
    EXPECT_EQ(bytes[0], std::byte{0xCD});
    EXPECT_EQ(bytes[10], std::byte{0x78});
}

}  // namespace
}  // namespace uthin::test
