#include "io/sequential_space.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace uthin::io {
namespace {

constexpr std::uint64_t kib = 1024;
constexpr std::uint64_t ahead = sequential_space::ahead_bytes;

class SequentialSpace : public ::testing::Test {
protected:
    std::uint64_t taken(std::uint64_t begin_bytes, std::uint64_t length_bytes) {
        const auto [begin, end] = space_.wanted(begin_bytes, begin_bytes + length_bytes);
        EXPECT_LE(begin, end);
        EXPECT_LE(end, std::max(begin, begin_bytes + length_bytes + ahead));
        return end - begin;
    }
    sequential_space space_;
};

TEST_F(SequentialSpace, TheFirstWriteTakesNoneAndTheNextOneAMegabyteMore) {
    EXPECT_EQ(taken(0, 64 * kib), 0);
    const auto [begin, end] = space_.wanted(64 * kib, 128 * kib);
    EXPECT_EQ(begin, 64 * kib);
    EXPECT_EQ(end, 128 * kib + ahead);
}

TEST_F(SequentialSpace, WhatIsTakenIsNotTakenAgain) {
    std::uint64_t sum = 0;
    std::uint64_t times = 0;
    for (std::uint64_t at = 0; at < 16 * ahead; at += 64 * kib) {
        const std::uint64_t one = taken(at, 64 * kib);
        sum += one;
        times += one != 0 ? 1 : 0;
    }
    EXPECT_GE(sum, 16 * ahead - 64 * kib);
    EXPECT_LE(sum, 17 * ahead);
    EXPECT_LE(times, 17);
}

TEST_F(SequentialSpace, WritesThatOvertakeEachOtherTakeAsMuch) {
    std::uint64_t sum = 0;
    for (std::uint64_t at = 0; at < 4 * ahead; at += 256 * kib) {
        for (const std::uint64_t shift : {128 * kib, 0 * kib, 192 * kib, 64 * kib}) {
            sum += taken(at + shift, 64 * kib);
        }
    }
    EXPECT_GE(sum, 4 * ahead - 192 * kib);
    EXPECT_LE(sum, 5 * ahead);
}

TEST_F(SequentialSpace, WritesFarFromEachOtherTakeNone) {
    for (std::uint64_t i = 0; i < 100; ++i) {
        EXPECT_EQ(taken(i * 37 % 100 * 4 * ahead, 64 * kib), 0) << i;
    }
}

TEST_F(SequentialSpace, AFirstWriteAnywhereIsFarFromNothing) {
    EXPECT_EQ(taken(std::uint64_t{1} << 60, 64 * kib), 0);
}

}  // namespace
}  // namespace uthin::io
