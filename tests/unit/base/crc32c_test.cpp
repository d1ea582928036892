#include "base/crc32c.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "support/seed.h"

namespace uthin::test {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}

// docs/format.md, test vectors.
TEST(Crc32c, GivesTheKnownValues) {
    EXPECT_EQ(~crc32c_raw(~0U, bytes_of("123456789")), 0xE3069283U);
    EXPECT_EQ(~crc32c_raw_table(~0U, bytes_of("123456789")), 0xE3069283U);
    const std::vector<std::byte> zeros(4092);
    EXPECT_EQ(crc32c_raw(~0U, zeros), 0x58CDA791U);
    EXPECT_EQ(crc32c_raw_table(~0U, zeros), 0x58CDA791U);
}

// RFC 3720, B.4.
TEST(Crc32c, GivesTheValuesOfIscsi) {
    std::vector<std::byte> bytes(32, std::byte{0});
    EXPECT_EQ(~crc32c_raw(~0U, bytes), 0x8A9136AAU);
    bytes.assign(32, std::byte{0xFF});
    EXPECT_EQ(~crc32c_raw(~0U, bytes), 0x62A8AB43U);
    for (std::size_t i = 0; i < 32; ++i) {
        bytes[i] = static_cast<std::byte>(i);
    }
    EXPECT_EQ(~crc32c_raw(~0U, bytes), 0x46DD794EU);
    for (std::size_t i = 0; i < 32; ++i) {
        bytes[i] = static_cast<std::byte>(31 - i);
    }
    EXPECT_EQ(~crc32c_raw(~0U, bytes), 0x113FDB5CU);
}

TEST(Crc32c, TableAndInstructionAgreeAtAnyLengthAndAlignment) {
    random_generator random(seed());
    std::vector<std::byte> bytes(20000);
    for (std::byte& byte : bytes) {
        byte = static_cast<std::byte>(random.next());
    }
    for (int i = 0; i < 2000; ++i) {
        // Around the three lanes of the fast path too.
        const std::size_t length = random.one_in(4)
                                       ? 4080 * (1 + random.below(4)) - 8 + random.below(16)
                                       : random.below(5000);
        const std::size_t offset = random.below(bytes.size() - length + 1);
        const auto part = std::span(bytes).subspan(offset, length);
        const auto start = static_cast<std::uint32_t>(random.next());
        ASSERT_EQ(crc32c_raw(start, part), crc32c_raw_table(start, part))
            << length << " bytes at " << offset;
    }
}

TEST(Crc32c, CanBeComputedInParts) {
    const auto text = bytes_of("the quick brown fox jumps over the lazy dog");
    for (std::size_t cut = 0; cut <= text.size(); ++cut) {
        EXPECT_EQ(crc32c_raw(crc32c_raw(7, text.first(cut)), text.subspan(cut)),
                  crc32c_raw(7, text));
    }
}

TEST(Crc32c, NoticesEverySingleBitFlip) {
    std::vector<std::byte> block(4092, std::byte{0x11});
    const std::uint32_t good = crc32c_raw(~0U, block);
    for (std::size_t bit = 0; bit < block.size() * 8; bit += 7) {
        block[bit / 8] ^= static_cast<std::byte>(1U << bit % 8);
        ASSERT_NE(crc32c_raw(~0U, block), good) << bit;
        block[bit / 8] ^= static_cast<std::byte>(1U << bit % 8);
    }
}

}  // namespace
}  // namespace uthin::test
