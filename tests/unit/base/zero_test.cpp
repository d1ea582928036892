#include "base/zero.h"

#include <gtest/gtest.h>

#include <vector>

namespace uthin {
namespace {

TEST(Zero, IsFoundWhereverTheOnlyOtherByteIs) {
    EXPECT_TRUE(is_zero({}));
    for (std::size_t size = 1; size <= 65; ++size) {
        std::vector<std::byte> bytes(size);
        EXPECT_TRUE(is_zero(bytes)) << size;
        for (std::byte& byte : bytes) {
            byte = std::byte{1};
            EXPECT_FALSE(is_zero(bytes)) << size;
            byte = std::byte{0};
        }
    }
}

}  // namespace
}  // namespace uthin
