// Packing: what comes back, and damaged pack files.
#include "thin_metadata/pack.h"

#include "base/aligned_buffer.h"
#include "base/endian.h"
#include "base/random.h"
#include "io/memory_device.h"
#include "persistent_data/validator.h"
#include "support/matchers.h"
#include "support/metadata_images.h"
#include "support/seed.h"

namespace uthin::thin_metadata {
namespace {

using persistent_data::block_bytes;
using persistent_data::block_kind;
using test::HasCode;
using bytes = std::vector<std::byte>;

result<bytes> packed(block_device& device) {
    bytes all;
    UTHIN_TRY(pack_metadata(device, [&all](std::span<const std::byte> piece) -> result<void> {
        all.insert(all.end(), piece.begin(), piece.end());
        return {};
    }));
    return all;
}

byte_input input_of(std::span<const std::byte> from) {
    return [from](std::span<std::byte> buffer) mutable -> result<std::size_t> {
        const std::size_t got = std::min(buffer.size(), from.size());
        std::copy_n(from.begin(), got, buffer.begin());
        from = from.subspan(got);
        return got;
    };
}

// Into `image`, which keeps its bytes where nothing is written, as a device does.
result<void> unpack_into(bytes& image, std::span<const std::byte> from) {
    // What a damaged header says is not allocated.
    constexpr std::uint64_t blocks_max = 1 << 16;
    const unpack_target target{
        .resize = [&image](std::uint64_t blocks) -> result<void> {
            if (blocks > blocks_max) {
                return fail(error_code::no_metadata_space, "too large for this test");
            }
            image.resize(blocks * metadata_block_size_bytes);
            return {};
        },
        .write = [&image](std::uint64_t block, std::span<const std::byte> content) -> result<void> {
            EXPECT_LE((block + 1) * metadata_block_size_bytes, image.size());
            std::copy(
                content.begin(), content.end(),
                image.begin() + static_cast<std::ptrdiff_t>(block * metadata_block_size_bytes));
            return {};
        },
        .flush = []() -> result<void> { return {}; }};
    return unpack_metadata(input_of(from), target);
}

result<bytes> unpacked(std::span<const std::byte> from) {
    bytes image;
    UTHIN_TRY(unpack_into(image, from));
    return image;
}

// Blocks of all kinds, and some of none.
std::unique_ptr<io::memory_device> random_image(random_generator& random, std::uint64_t blocks,
                                                bytes& expected) {
    constexpr std::array kinds = {block_kind::superblock, block_kind::btree_node,
                                  block_kind::bitmap, block_kind::index};
    auto device = std::make_unique<io::memory_device>(blocks * metadata_block_size_bytes);
    expected.assign(blocks * metadata_block_size_bytes, std::byte{0});
    aligned_buffer page(metadata_block_size_bytes);
    const block_bytes content(page.data(), metadata_block_size_bytes);
    for (std::uint64_t block = 0; block < blocks; ++block) {
        for (std::size_t at = 0; at < metadata_block_size_bytes; at += 8) {
            store_le(page.data() + at, random.one_in(4) ? random.next() : at);
        }
        const bool is_valid = !random.one_in(3);
        if (is_valid) {
            persistent_data::prepare_block(kinds[random.below(kinds.size())], metadata_block(block),
                                           content);
            std::copy(
                content.begin(), content.end(),
                expected.begin() + static_cast<std::ptrdiff_t>(block * metadata_block_size_bytes));
        }
        EXPECT_OK(device->write(block * metadata_block_size_bytes, content));
    }
    return device;
}

TEST(Pack, EveryNumberOfBlocksComesBack) {
    random_generator random(test::seed());
    for (const std::uint64_t blocks : {1U, 2U, 47U, 127U, 128U, 129U, 1023U, 1024U, 1025U, 2100U}) {
        SCOPED_TRACE(blocks);
        bytes expected;
        const auto device = random_image(random, blocks, expected);
        ASSERT_OK_AND_ASSIGN(const bytes pack, packed(*device));
        ASSERT_OK_AND_ASSIGN(const bytes image, unpacked(pack));
        EXPECT_TRUE(image == expected);
        ASSERT_OK_AND_ASSIGN(const bytes again, packed(*device));
        EXPECT_TRUE(pack == again);
    }
}

// Numbers as nodes have them, and as nothing should have them.
std::uint64_t next_number(std::uint64_t before, random_generator& random, std::uint64_t style) {
    switch (style) {
        case 0: return before + 1;
        case 1: return before + random.below(40);
        case 2: return before - random.below(300);
        case 3: return before + (std::uint64_t{1} << random.below(64));
        case 4: return random.below(3) << 24 | random.below(2);
        default: return random.next();
    }
}

TEST(Pack, NodesOfEveryShapeComeBack) {
    random_generator random(test::seed());
    constexpr std::uint64_t blocks = 1500;
    io::memory_device device(blocks * metadata_block_size_bytes);
    bytes expected(blocks * metadata_block_size_bytes);
    for (std::uint64_t block = 0; block < blocks; ++block) {
        const std::span content = std::span(expected).subspan(block * metadata_block_size_bytes,
                                                              metadata_block_size_bytes);
        std::uint64_t number = random.next();
        std::uint64_t style = 0;
        for (std::size_t at = 0; at < content.size(); at += 8) {
            style = random.one_in(20) ? random.below(6) : style;
            number = next_number(number, random, style);
            store_le(content.data() + at, number);
        }
        // Leaf or not, or both; from no place at all to more than there are.
        constexpr std::array<std::uint32_t, 8> value_sizes = {0, 4, 8, 8, 8, 16, 24, 4000};
        store_le(content.data() + 4, static_cast<std::uint32_t>(random.below(4)));
        store_le(content.data() + 20,
                 random.one_in(30) ? UINT32_MAX : static_cast<std::uint32_t>(random.below(270)));
        store_le(content.data() + 24, value_sizes[random.below(value_sizes.size())]);
        persistent_data::prepare_block(block_kind::btree_node, metadata_block(block),
                                       block_bytes(content.data(), metadata_block_size_bytes));
    }
    ASSERT_OK(device.write(0, expected));
    ASSERT_OK_AND_ASSIGN(const bytes pack, packed(device));
    ASSERT_OK_AND_ASSIGN(const bytes image, unpacked(pack));
    EXPECT_TRUE(image == expected);
}

TEST(Pack, RealMetadataGetsSmall) {
    const auto device = test::load_corpus_metadata("snap-chain-50-64k");
    ASSERT_NE(device, nullptr);
    ASSERT_OK_AND_ASSIGN(const bytes pack, packed(*device));
    ASSERT_OK_AND_ASSIGN(const bytes image, unpacked(pack));
    ASSERT_OK_AND_ASSIGN(const std::uint64_t size, device->size_bytes());
    EXPECT_EQ(image.size(), size);
    EXPECT_LT(pack.size(), size / 60);
    // Each block is as it was or, without a checksum, zeros.
    bytes whole(size);
    ASSERT_OK(device->read(0, whole));
    EXPECT_TRUE(
        std::equal(image.begin(), image.begin() + metadata_block_size_bytes, whole.begin()));
}

TEST(Pack, TheSuperblockIsWrittenLastAfterAFlush) {
    const auto device = test::load_corpus_metadata("snap-chain-50-64k");
    ASSERT_NE(device, nullptr);
    ASSERT_OK_AND_ASSIGN(const bytes pack, packed(*device));
    std::vector<std::string> events;
    const auto note = [&events](std::string what) {
        if (events.empty() || events.back() != what) {
            events.push_back(std::move(what));
        }
    };
    ASSERT_OK(unpack_metadata(
        input_of(pack),
        {.resize = [](std::uint64_t) -> result<void> { return {}; },
         .write = [&](std::uint64_t block, std::span<const std::byte> content) -> result<void> {
             note(block != 0 ? "others" : is_any_superblock(content) ? "superblock" : "mark");
             return {};
         },
         .flush = [&]() -> result<void> {
             note("flush");
             return {};
         }}));
    EXPECT_THAT(events,
                testing::ElementsAre("mark", "flush", "others", "flush", "superblock", "flush"));
}

TEST(Pack, KnowsSuperblocks) {
    bytes expected;
    random_generator random(test::seed());
    aligned_buffer page(metadata_block_size_bytes);
    const block_bytes content(page.data(), metadata_block_size_bytes);
    persistent_data::prepare_block(block_kind::superblock, metadata_block(0), content);
    EXPECT_TRUE(is_any_superblock(content));
    persistent_data::prepare_block(block_kind::btree_node, metadata_block(0), content);
    EXPECT_FALSE(is_any_superblock(content));
    page.data()[100] ^= std::byte{1};
    EXPECT_FALSE(is_any_superblock(content));
}

TEST(Pack, WhatIsCutOffAnywhereIsAnError) {
    random_generator random(test::seed());
    bytes expected;
    const auto device = random_image(random, 6, expected);
    ASSERT_OK_AND_ASSIGN(const bytes pack, packed(*device));
    // 32 bytes of header, then one stream.
    for (std::size_t length = 0; length < pack.size(); length += 1 + length / 40) {
        if (length != 32) {
            EXPECT_FALSE(unpacked(std::span(pack).first(length)).has_value()) << length;
        }
    }
    ASSERT_OK_AND_ASSIGN(const bytes nothing, unpacked(std::span(pack).first(32)));
    EXPECT_TRUE(nothing == bytes(expected.size()));
}

// Neither the one that comes nor the one that was there.
TEST(Pack, WhatIsCutOffLeavesNoSuperblock) {
    const auto device = test::load_corpus_metadata("snap-chain-50-64k");
    ASSERT_NE(device, nullptr);
    ASSERT_OK_AND_ASSIGN(const bytes pack, packed(*device));
    ASSERT_OK_AND_ASSIGN(const std::uint64_t size, device->size_bytes());
    bytes whole(size);
    ASSERT_OK(device->read(0, whole));
    ASSERT_TRUE(is_any_superblock(std::span(whole).first(metadata_block_size_bytes)));
    for (const std::size_t missing : {std::size_t{1}, pack.size() / 4, pack.size() / 2}) {
        bytes image = whole;
        EXPECT_FALSE(unpack_into(image, std::span(pack).first(pack.size() - missing)).has_value());
        const auto first = std::span(image).first(metadata_block_size_bytes);
        EXPECT_FALSE(is_any_superblock(first)) << missing;
        // A kernel formats a device that begins with zeros.
        EXPECT_NE(std::count(first.begin(), first.end(), std::byte{0}), metadata_block_size_bytes);
    }
}

TEST(Pack, OtherFilesAndVersionsAreRefused) {
    random_generator random(test::seed());
    bytes expected;
    auto device = random_image(random, 3, expected);
    const auto ends_in_the_first_block = [&] {
        return std::all_of(expected.begin() + metadata_block_size_bytes, expected.end(),
                           [](std::byte one) { return one == std::byte{0}; });
    };
    while (ends_in_the_first_block()) {
        device = random_image(random, 3, expected);
    }
    ASSERT_OK_AND_ASSIGN(const bytes good, packed(*device));
    const auto with_field = [&good](std::size_t field, std::uint64_t value) {
        bytes changed = good;
        store_le(changed.data() + 8 * field, value);
        return unpacked(changed);
    };
    EXPECT_THAT(with_field(0, 1), HasCode(error_code::invalid_argument));
    EXPECT_THAT(with_field(1, 4), HasCode(error_code::invalid_argument));
    EXPECT_FALSE(with_field(2, 512).has_value());
    // A block beyond what the header says.
    EXPECT_FALSE(with_field(3, 1).has_value());
    EXPECT_FALSE(with_field(4, UINT64_MAX).has_value());
}

TEST(Pack, ErrorsOfTheOutputComeBack) {
    random_generator random(test::seed());
    bytes expected;
    const auto device = random_image(random, 3, expected);
    EXPECT_THAT(pack_metadata(*device,
                              [](std::span<const std::byte>) -> result<void> {
                                  return fail(error_code::no_data_space, "full");
                              }),
                HasCode(error_code::no_data_space));
}

}  // namespace
}  // namespace uthin::thin_metadata
