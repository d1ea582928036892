#include "io/sparse_image.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/random.h"
#include "support/matchers.h"
#include "support/seed.h"

namespace uthin::test {
namespace {

using io::sparse_image;

std::vector<std::byte> all_of(const sparse_image& image) {
    std::vector<std::byte> bytes(image.size_bytes());
    image.read(0, bytes);
    return bytes;
}

TEST(SparseImage, ReadsZerosBeforeAnythingIsWritten) {
    const sparse_image image(10000);
    EXPECT_EQ(all_of(image), std::vector<std::byte>(10000));
}

TEST(SparseImage, HoldsBytesAtTheFarEndOfAHugeImage) {
    sparse_image image(std::uint64_t{1} << 60);
    const std::vector<std::byte> bytes(5000, std::byte{3});
    image.write((std::uint64_t{1} << 60) - 5000, bytes);
    image.write(1, bytes);
    std::vector<std::byte> seen(5000);
    image.read((std::uint64_t{1} << 60) - 5000, seen);
    EXPECT_EQ(seen, bytes);
    image.zero(0, std::uint64_t{1} << 60);
    image.read(1, seen);
    EXPECT_EQ(seen, std::vector<std::byte>(5000));
}

TEST(SparseImage, AShrinkForgetsWhatItCutsOff) {
    sparse_image image(20000);
    image.write(0, std::vector<std::byte>(20000, std::byte{9}));
    image.resize(5000);
    image.resize(20000);
    const auto seen = all_of(image);
    EXPECT_EQ(std::count(seen.begin(), seen.end(), std::byte{9}), 5000);
    EXPECT_EQ(seen[4999], std::byte{9});
}

TEST(SparseImage, WritingBeyondTheEndGrows) {
    sparse_image image(0);
    image.write(4094, std::vector<std::byte>(4, std::byte{1}));
    EXPECT_EQ(image.size_bytes(), 4098);
}

// SI1: a family of copies, each against its own vector.
TEST(SparseImage, CopiesNeverSeeEachOthersWrites) {
    constexpr std::uint64_t size_bytes = 600 << 10;  // three levels
    random_generator random(seed());
    std::vector<sparse_image> images{sparse_image(size_bytes)};
    std::vector<std::vector<std::byte>> models{std::vector<std::byte>(size_bytes)};
    for (int step = 0; step < 3000; ++step) {
        const std::size_t which = random.below(images.size());
        if (random.one_in(20)) {
            if (images.size() < 8) {
                images.push_back(images[which]);
                models.push_back(models[which]);
            } else {
                const std::size_t target = random.below(images.size());
                images[target] = images[which];
                models[target] = models[which];
            }
            continue;
        }
        const std::uint64_t length = random.below(9000);
        const std::uint64_t offset = random.below(size_bytes - length + 1);
        const auto at = models[which].begin() + static_cast<std::ptrdiff_t>(offset);
        if (random.one_in(3)) {
            images[which].zero(offset, length);
            std::fill_n(at, length, std::byte{0});
        } else {
            const std::vector<std::byte> bytes(length, static_cast<std::byte>(random.next()));
            images[which].write(offset, bytes);
            std::copy(bytes.begin(), bytes.end(), at);
        }
    }
    for (std::size_t i = 0; i < images.size(); ++i) {
        EXPECT_EQ(all_of(images[i]), models[i]) << "copy " << i;
    }
}

TEST(SparseImage, AMovedFromImageIsStillUsable) {
    sparse_image image(4096);
    image.write(0, std::vector<std::byte>(10, std::byte{1}));
    const sparse_image taken = std::move(image);
    EXPECT_EQ(all_of(taken)[9], std::byte{1});
    image = sparse_image(100);
    EXPECT_EQ(all_of(image), std::vector<std::byte>(100));
}

TEST(ImageDevice, GivesACopyOfItsContents) {
    io::image_device device("d", sparse_image(8192));
    ASSERT_OK(device.write(0, std::vector<std::byte>(8192, std::byte{1})));
    const sparse_image before = device.image();
    ASSERT_OK(device.discard(0, 4096));
    EXPECT_EQ(all_of(before)[0], std::byte{1});
    EXPECT_EQ(all_of(device.image())[0], std::byte{0});
    EXPECT_EQ(all_of(device.image())[4096], std::byte{1});
}

}  // namespace
}  // namespace uthin::test
