// Volumes whose unmapped blocks read as an image outside the pool.
#include "pool/external_origin.h"

#include <algorithm>
#include <cstring>

#include <gtest/gtest.h>

#include "base/random.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/seed.h"

namespace uthin {
namespace {

using io::operation_kind;
using test::HasCode;
using test::IsOk;
using test::pattern;
using test::pool_rig;
using test::read_all;

constexpr std::uint64_t block_bytes = 64 << 10;
constexpr std::uint64_t volume_bytes = 24 * block_bytes;

struct origin_image {
    explicit origin_image(std::uint64_t size_bytes)
        : content(pattern(7, size_bytes)), device(size_bytes, "origin") {
        EXPECT_OK(device.write(0, content));
    }
    // What a volume that was never written reads as.
    [[nodiscard]] std::vector<std::byte> seen(std::uint64_t bytes = volume_bytes) const {
        std::vector<std::byte> all(bytes);
        std::memcpy(all.data(), content.data(), std::min<std::uint64_t>(bytes, content.size()));
        return all;
    }
    std::shared_ptr<volume> open(pool_rig& rig, std::uint64_t id, std::uint64_t size_bytes) {
        auto opened = rig->open_volume(device_id(id), size_bytes, false,
                                       std::make_unique<test::borrowed_device>(faulty));
        EXPECT_THAT(opened, IsOk());
        return opened ? std::move(*opened) : nullptr;
    }

    std::vector<std::byte> content;
    io::memory_device device;
    io::fault_plan plan;
    io::fault_device faulty{device, plan};
};

std::shared_ptr<volume> make(pool_rig& rig, origin_image& origin, std::uint64_t id,
                             std::uint64_t size_bytes = volume_bytes) {
    EXPECT_OK(rig->create_thin(device_id(id)));
    return origin.open(rig, id, size_bytes);
}

TEST(ExternalOrigin, ReadsAsTheImageThenZeros) {
    for (const std::uint64_t size : {std::uint64_t{512}, block_bytes - 512, 5 * block_bytes + 1536,
                                     volume_bytes, volume_bytes + block_bytes}) {
        pool_rig rig;
        origin_image origin(size);
        auto volume = make(rig, origin, 0);
        EXPECT_EQ(read_all(*volume, 0, volume_bytes), origin.seen()) << size;
        EXPECT_EQ(rig->status()->data_used_blocks, 0U);
    }
}

TEST(ExternalOrigin, APartialWriteKeepsTheImageAroundIt) {
    for (const bool zeroing : {true, false}) {
        test::rig_options options;
        options.pool.zero_new_blocks = zeroing;
        pool_rig rig(options);
        origin_image origin(5 * block_bytes + 1536);
        auto volume = make(rig, origin, 0);
        auto wanted = origin.seen();
        // In the image, over its end, and over two blocks.
        for (const auto& [at, length] : {std::pair<std::uint64_t, std::uint64_t>{700, 1000},
                                         {5 * block_bytes + 1000, 2000},
                                         {2 * block_bytes - 300, 600}}) {
            const auto bytes = pattern(at, length);
            ASSERT_OK(volume->write(at, bytes));
            std::memcpy(wanted.data() + at, bytes.data(), length);
        }
        EXPECT_EQ(read_all(*volume, 0, volume_bytes), wanted) << zeroing;
    }
}

TEST(ExternalOrigin, AWriteOfWholeBlocksDoesNotReadIt) {
    pool_rig rig;
    origin_image origin(volume_bytes);
    auto volume = make(rig, origin, 0);
    ASSERT_OK(volume->write(block_bytes, pattern(1, 3 * block_bytes)));
    EXPECT_EQ(origin.plan.count(operation_kind::read), 0U);
    EXPECT_EQ(read_all(*volume, block_bytes, 3 * block_bytes), pattern(1, 3 * block_bytes));
    EXPECT_EQ(origin.plan.count(operation_kind::write), 0U);
}

TEST(ExternalOrigin, ADiscardShowsItAgain) {
    pool_rig rig;
    origin_image origin(volume_bytes);
    auto volume = make(rig, origin, 0);
    ASSERT_OK(volume->write(0, pattern(1, volume_bytes)));
    ASSERT_OK(volume->discard(block_bytes, 2 * block_bytes));
    auto wanted = pattern(1, volume_bytes);
    std::copy_n(origin.content.begin() + block_bytes, 2 * block_bytes,
                wanted.begin() + block_bytes);
    EXPECT_EQ(read_all(*volume, 0, volume_bytes), wanted);
}

TEST(ExternalOrigin, ZerosAreStoredWhereItWouldShowThrough) {
    for (const bool may_unmap : {true, false}) {
        pool_rig rig;
        origin_image origin(6 * block_bytes + 512);
        auto volume = make(rig, origin, 0);
        const std::uint64_t at = 3 * block_bytes + 100;
        const std::uint64_t end = 10 * block_bytes - 100;
        ASSERT_OK(volume->write_zeroes(at, end - at, {.may_unmap = may_unmap}));
        auto wanted = origin.seen();
        std::memset(wanted.data() + at, 0, end - at);
        EXPECT_EQ(read_all(*volume, 0, volume_bytes), wanted);
        ASSERT_OK(rig->commit());
        EXPECT_EQ(rig->status()->data_used_blocks, may_unmap ? 4U : 7U);
    }
}

TEST(ExternalOrigin, IsDataForWhoAsksWhereDataIs) {
    pool_rig rig;
    origin_image origin(3 * block_bytes + 512);
    auto volume = make(rig, origin, 0);
    ASSERT_OK(volume->write(10 * block_bytes, pattern(1, block_bytes)));
    ASSERT_OK_AND_ASSIGN(const auto extents, volume->block_status(0, volume_bytes));
    const std::vector<volume_extent> wanted = {
        {0, 3 * block_bytes + 512, extent_kind::data},
        {3 * block_bytes + 512, 7 * block_bytes - 512, extent_kind::hole},
        {10 * block_bytes, block_bytes, extent_kind::data},
        {11 * block_bytes, volume_bytes - 11 * block_bytes, extent_kind::hole}};
    EXPECT_EQ(extents, wanted);
    ASSERT_OK_AND_ASSIGN(const io_ticket ticket, volume->begin(io_kind::read));
    ASSERT_OK_AND_ASSIGN(const auto mapped, volume->map(ticket, 0, volume_bytes));
    EXPECT_EQ(mapped.where, mapped_extent::place::engine);
    EXPECT_EQ(mapped.length_bytes, 4 * block_bytes);
}

TEST(ExternalOrigin, AFailedReadOfItFailsTheRequestAndMapsNothing) {
    pool_rig rig;
    origin_image origin(volume_bytes);
    auto volume = make(rig, origin, 0);
    io::fault_rule rule;
    rule.kinds = {operation_kind::read};
    rule.persistent = true;
    origin.plan.arm(rule);
    std::vector<std::byte> buffer(4096);
    EXPECT_THAT(volume->read(0, buffer), HasCode(error_code::io_error));
    EXPECT_THAT(volume->write(100, pattern(1, 100)), HasCode(error_code::io_error));
    EXPECT_EQ(rig->mode(), pool_mode::write);
    origin.plan.disarm();
    EXPECT_EQ(read_all(*volume, 0, volume_bytes), origin.seen());
    ASSERT_OK(rig->commit());
    EXPECT_EQ(rig->status()->data_used_blocks, 0U);
}

// Random writes, zeros, discards and snapshots of three block sizes, against flat arrays, which do
// not know that discards of all parts of a block are one of the block.
TEST(ExternalOrigin, ARandomHistoryReadsAsTheModel) {
    for (const std::uint32_t block_sectors : {128U, 384U, 4096U}) {
        test::rig_options options;
        options.block_size_sectors = block_sectors;
        options.pool.remember_partial_discards = false;
        pool_rig rig(options);
        random_generator random(test::seed() + block_sectors);
        const std::uint64_t bytes = 20ULL * block_sectors * sector_size_bytes / 2 + 512;
        origin_image origin(bytes / 2 + 1024);
        const std::uint64_t unit = std::uint64_t{block_sectors} * sector_size_bytes;
        std::vector<std::shared_ptr<volume>> volumes = {make(rig, origin, 0, bytes)};
        std::vector<std::vector<std::byte>> models = {origin.seen(bytes)};
        const auto base = models[0];
        for (int step = 0; step < 300; ++step) {
            const std::size_t which = random.below(volumes.size());
            const std::uint64_t at = random.below(bytes);
            const std::uint64_t length =
                1 + random.below(std::min<std::uint64_t>(bytes - at, 3 * unit));
            std::byte* const model = models[which].data();
            switch (random.below(8)) {
                case 0: {
                    ASSERT_OK(volumes[which]->discard(at, length));
                    const std::uint64_t begin = (at + unit - 1) / unit * unit;
                    const std::uint64_t end = (at + length) / unit * unit;
                    if (begin < end) {
                        std::memcpy(model + begin, base.data() + begin, end - begin);
                    }
                    break;
                }
                case 1:
                    ASSERT_OK(volumes[which]->write_zeroes(at, length,
                                                           {.may_unmap = random.below(2) == 0}));
                    std::memset(model + at, 0, length);
                    break;
                case 2:
                    if (volumes.size() < 5) {
                        const std::uint64_t id = volumes.size();
                        ASSERT_OK(rig.snapshot(which, id));
                        volumes.push_back(origin.open(rig, id, bytes));
                        models.push_back(models[which]);
                    }
                    break;
                default: {
                    const auto content = pattern(static_cast<std::uint64_t>(step), length);
                    ASSERT_OK(volumes[which]->write(at, content));
                    std::memcpy(model + at, content.data(), length);
                }
            }
        }
        for (std::size_t i = 0; i < volumes.size(); ++i) {
            EXPECT_EQ(read_all(*volumes[i], 0, bytes) == models[i], true)
                << "volume " << i << ", blocks of " << block_sectors << " sectors";
        }
    }
}

}  // namespace
}  // namespace uthin
