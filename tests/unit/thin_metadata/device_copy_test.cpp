// Copies of devices against plain tables and stamped data blocks.
#include "thin_metadata/device_copy.h"

#include "io/memory_device.h"
#include "support/mapping_model.h"
#include "support/matchers.h"
#include "support/seed.h"

namespace uthin::thin_metadata {
namespace {

using test::HasCode;
using test::mapping_model;

constexpr std::uint64_t block_bytes = 128 * sector_size_bytes;

class memory_target final : public copy_target {
public:
    explicit memory_target(std::uint64_t size) : device(size) {}
    result<void> read(std::uint64_t offset, std::span<std::byte> buffer) override {
        return device.read(offset, buffer);
    }
    result<void> write(std::uint64_t offset, std::span<const std::byte> buffer) override {
        written_bytes += buffer.size();
        return device.write(offset, buffer);
    }
    result<void> make_hole(std::uint64_t offset, std::uint64_t length) override {
        return device.write_zeroes(offset, length);
    }
    result<void> flush() override {
        ++flushes;
        return {};
    }

    io::memory_device device;
    std::uint64_t written_bytes = 0;
    int flushes = 0;
};

// Each data block holds its own number, plus one, at its begin and end.
void stamp(block_device& data, std::uint64_t blocks) {
    std::array<std::byte, 8> number{};
    for (std::uint64_t block = 0; block < blocks; ++block) {
        store_le(number.data(), block + 1);
        ASSERT_OK(data.write(block * block_bytes, number));
        ASSERT_OK(data.write((block + 1) * block_bytes - 8, number));
    }
}
std::uint64_t word_at(block_device& device, std::uint64_t offset) {
    std::array<std::byte, 8> number{};
    EXPECT_OK(device.read(offset, number));
    return load_le<std::uint64_t>(number.data());
}

void expect_reads_as(block_device& target, const mapping_model::table& mappings,
                     std::uint64_t size) {
    for (std::uint64_t at = 0; at < size; at += block_bytes) {
        const auto mapped = mappings.find(at / block_bytes);
        const std::uint64_t expected = mapped == mappings.end() ? 0 : mapped->second.first + 1;
        ASSERT_EQ(word_at(target, at), expected) << at / block_bytes;
        if (at + block_bytes <= size) {
            ASSERT_EQ(word_at(target, at + block_bytes - 8), expected) << at / block_bytes;
        }
    }
}

struct fixture {
    explicit fixture(const mapping_model& used)
        : model(used), image(test::image_of(used)), data(used.pool.data_blocks * block_bytes) {
        stamp(data, used.pool.data_blocks);
        auto opened = open_offline(*image, {});
        EXPECT_OK(opened);
        view = std::move(*opened);
    }
    const mapping_model& model;
    std::unique_ptr<block_device> image;
    std::unique_ptr<metadata_view> view;
    io::memory_device data;
};

TEST(DeviceCopy, ATargetReadsAsTheDeviceWhateverItHeld) {
    random_generator random(test::seed());
    for (int round = 0; round < 8; ++round) {
        const mapping_model model = test::random_model(random, {.data_blocks = 400});
        fixture f(model);
        for (const auto& [id, device] : model.devices) {
            // Not always whole blocks, and sometimes shorter than what is mapped.
            const std::uint64_t size =
                (1 + random.below(1700)) * block_bytes - 512 * random.below(5);
            memory_target target(size);
            for (std::uint64_t at = 0; at < size; at += block_bytes) {
                ASSERT_OK(target.device.write(at, std::array{std::byte{0xff}}));
            }
            const copy_request request{
                .device = device_id(id), .size_bytes = size, .buffer_bytes = 3 * block_bytes / 2};
            ASSERT_OK_AND_ASSIGN(const copy_totals totals,
                                 copy_device(*f.view, f.data, target, request));
            expect_reads_as(target.device, device.mappings, size);
            EXPECT_EQ(totals.data_bytes + totals.hole_bytes, size);
            EXPECT_EQ(target.written_bytes, totals.data_bytes);
            EXPECT_EQ(target.flushes, 1);
            EXPECT_OK(verify_copy(*f.view, f.data, target, request));
        }
    }
}

TEST(DeviceCopy, ADeltaWritesOnlyWhatDiffers) {
    random_generator random(test::seed());
    for (int round = 0; round < 8; ++round) {
        const mapping_model model = test::random_model(random, {.data_blocks = 400});
        fixture f(model);
        constexpr std::uint64_t size = 1700 * block_bytes;
        for (const auto& [base, old_device] : model.devices) {
            for (const auto& [id, device] : model.devices) {
                memory_target target(size);
                copy_request request{
                    .device = device_id(base), .size_bytes = size, .is_blank = true};
                ASSERT_OK(copy_device(*f.view, f.data, target, request));
                target.written_bytes = 0;
                request = {.device = device_id(id), .base = device_id(base), .size_bytes = size};
                ASSERT_OK(copy_device(*f.view, f.data, target, request));
                expect_reads_as(target.device, device.mappings, size);
                std::uint64_t changed = 0;
                for (const auto& [block, mapped] : device.mappings) {
                    const auto before = old_device.mappings.find(block);
                    changed +=
                        before == old_device.mappings.end() || before->second.first != mapped.first
                            ? 1U
                            : 0U;
                }
                EXPECT_EQ(target.written_bytes, changed * block_bytes);
            }
        }
    }
}

TEST(DeviceCopy, ABlankTargetKeepsItsHoles) {
    mapping_model model;
    model.devices[1].mappings = {{100, {3, 1}}};
    fixture f(model);
    memory_target target(1000 * block_bytes);
    ASSERT_OK(
        copy_device(*f.view, f.data, target,
                    {.device = device_id(1), .size_bytes = 1000 * block_bytes, .is_blank = true}));
    EXPECT_EQ(target.device.allocated_bytes(), block_bytes);
}

TEST(DeviceCopy, VerifyingFindsEveryDifference) {
    mapping_model model;
    model.devices[1].mappings = {{2, {3, 1}}, {3, {4, 1}}};
    fixture f(model);
    const copy_request request{.device = device_id(1), .size_bytes = 6 * block_bytes};
    for (const std::uint64_t at : {std::uint64_t{0}, 3 * block_bytes + 777, 6 * block_bytes - 1}) {
        memory_target target(6 * block_bytes);
        ASSERT_OK(copy_device(*f.view, f.data, target, request));
        ASSERT_OK(verify_copy(*f.view, f.data, target, request));
        ASSERT_OK(target.device.write(at, std::array{std::byte{0x5a}}));
        EXPECT_THAT(verify_copy(*f.view, f.data, target, request), HasCode(error_code::corrupt));
    }
}

TEST(DeviceCopy, WhatDoesNotExistIsRefused) {
    mapping_model model;
    model.devices[1].mappings = {{2, {900, 1}}};
    fixture f(model);
    memory_target target(10 * block_bytes);
    const auto copied = [&](copy_request request) {
        request.size_bytes = 10 * block_bytes;
        return copy_device(*f.view, f.data, target, request);
    };
    EXPECT_THAT(copied({.device = device_id(2)}), HasCode(error_code::not_found));
    EXPECT_THAT(copied({.device = device_id(1), .base = device_id(2)}),
                HasCode(error_code::not_found));
    io::memory_device short_data(900 * block_bytes);
    EXPECT_THAT(copy_device(*f.view, short_data, target,
                            {.device = device_id(1), .size_bytes = 10 * block_bytes}),
                HasCode(error_code::out_of_range));
    ASSERT_OK_AND_ASSIGN(const std::uint64_t end, mapped_end_bytes(*f.view, device_id(1)));
    EXPECT_EQ(end, 3 * block_bytes);
}

}  // namespace
}  // namespace uthin::thin_metadata
