// Reading ahead gives every sound block in any order that is near the planned one, and nothing
// else.
#include "persistent_data/read_ahead.h"

#include <algorithm>

#include "base/endian.h"
#include "base/random.h"
#include "io/memory_device.h"
#include "support/matchers.h"
#include "support/seed.h"

namespace uthin::persistent_data {
namespace {

constexpr std::uint64_t blocks = 3000;

// Each block a bitmap that says its own number.
std::unique_ptr<io::memory_device> numbered_device() {
    auto device = std::make_unique<io::memory_device>(blocks * metadata_block_size_bytes);
    aligned_buffer buffer(metadata_block_size_bytes);
    const block_bytes bytes(buffer.data(), metadata_block_size_bytes);
    for (std::uint64_t block = 0; block < blocks; ++block) {
        store_le(bytes.data() + 100, ~block);
        prepare_block(block_kind::bitmap, metadata_block(block), bytes);
        EXPECT_OK(device->write(block * metadata_block_size_bytes, bytes));
    }
    return device;
}

std::vector<std::uint32_t> shuffled(std::size_t count) {
    random_generator random(test::seed());
    std::vector<std::uint32_t> order;
    for (std::size_t index = 0; index < count; ++index) {
        order.push_back(static_cast<std::uint32_t>(random.below(blocks)));
    }
    return order;
}

void expect_block(const block_ref& page, std::uint64_t block) {
    ASSERT_TRUE(page) << block;
    EXPECT_EQ(page.where().value(), block);
    EXPECT_EQ(load_le<std::uint64_t>(page.bytes().data() + 100), ~block);
}

class ReadAhead : public ::testing::TestWithParam<std::size_t> {};

TEST_P(ReadAhead, GivesTheBlocksInOrderWhateverIsStillHeld) {
    const auto device = numbered_device();
    const auto order = shuffled(GetParam());
    read_ahead ahead(*device, blocks, order, block_kind::bitmap);
    std::vector<block_ref> held;
    for (std::size_t at = 0; at < order.size(); ++at) {
        held.push_back(ahead.take(metadata_block(order[at])));
        expect_block(held.back(), order[at]);
        if (at % 3 == 0 && held.size() > 500) {
            held.erase(held.begin(), held.begin() + 400);
        }
    }
    for (std::size_t at = 0; at < held.size(); ++at) {
        expect_block(held[at], order[order.size() - held.size() + at]);
    }
}

TEST_P(ReadAhead, PassesOverWhatIsLeftOut) {
    const auto device = numbered_device();
    std::vector<std::uint32_t> order(GetParam());
    for (std::size_t at = 0; at < order.size(); ++at) {
        order[at] = static_cast<std::uint32_t>((at * 7) % blocks);
    }
    read_ahead ahead(*device, blocks, order, block_kind::bitmap);
    for (std::size_t at = 0; at < order.size(); at += 200) {
        expect_block(ahead.take(metadata_block(order[at])), order[at]);
    }
    EXPECT_FALSE(ahead.take(metadata_block(order.front() + 1)));
}

TEST_P(ReadAhead, LeavesDamageToTheReader) {
    const auto device = numbered_device();
    std::byte flipped{0x55};
    ASSERT_OK(device->write(5 * metadata_block_size_bytes + 77, std::span(&flipped, 1)));
    std::vector<std::uint32_t> order(GetParam());
    for (std::size_t at = 0; at < order.size(); ++at) {
        order[at] = static_cast<std::uint32_t>(at % blocks);
    }
    if (order.size() > 2) {
        order[2] = UINT32_MAX;
    }
    read_ahead ahead(*device, blocks, order, block_kind::bitmap);
    for (std::size_t at = 0; at < order.size(); ++at) {
        const block_ref page = ahead.take(metadata_block(order[at]));
        if (at == 2 || order[at] == 5) {
            EXPECT_FALSE(page);
        } else {
            expect_block(page, order[at]);
        }
    }
}

TEST_P(ReadAhead, CanBeGivenUpAtAnyTime) {
    const auto device = numbered_device();
    for (const std::size_t taken : {0UL, 1UL, 130UL}) {
        const auto order = shuffled(GetParam());
        read_ahead ahead(*device, blocks, order, block_kind::bitmap);
        for (std::size_t at = 0; at < std::min(taken, order.size()); ++at) {
            expect_block(ahead.take(metadata_block(order[at])), order[at]);
        }
    }
}

// Without threads and with them; the last window full and not.
INSTANTIATE_TEST_SUITE_P(Lengths, ReadAhead, ::testing::Values(1, 128, 300, 512, 2900));

}  // namespace
}  // namespace uthin::persistent_data
