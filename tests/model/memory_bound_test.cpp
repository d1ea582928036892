// A pool of millions of scattered mappings: opening it reads a handful of blocks, and reading it at
// random takes no more memory than the cache that was asked for, and a little.
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "base/random.h"
#include "io/file_device.h"
#include "support/big_volume.h"
#include "support/matchers.h"
#include "support/metadata_fixture.h"
#include "support/seed.h"
#include "support/temporary_directory.h"

namespace uthin::test {
namespace {

constexpr std::uint64_t mebibyte = 1 << 20;
constexpr std::uint64_t volume_blocks = 5000000;
constexpr std::uint64_t cache_bytes = 16 * mebibyte;
constexpr std::uint64_t allowance_bytes = 64 * mebibyte;
constexpr std::uint64_t metadata_size_bytes = 160 * mebibyte;

// What the child found out.
struct measurement {
    std::uint64_t ok = 0;
    std::uint64_t mapped = 0;
    std::uint64_t blocks_read_by_open = 0;
    std::uint64_t blocks_read = 0;
    std::uint64_t lookups = 0;
    std::uint64_t resident_before = 0;
    std::uint64_t resident_open = 0;
    std::uint64_t resident_most = 0;
};

void build(const std::filesystem::path& file) {
    ASSERT_OK_AND_ASSIGN(const auto device,
                         io::file_device::open(file, {.create_size_bytes = metadata_size_bytes}));
    ASSERT_OK_AND_ASSIGN(
        const auto pool,
        metadata::open(*device, {.data_block_size_sectors = block_size_sectors, .format = true}));
    ASSERT_OK(pool->resize_data(volume_blocks));
    ASSERT_OK(pool->commit());
    ASSERT_OK(build_volume(*pool, device_id(0), volume_blocks, layout::scattered));
    ASSERT_OK(pool->commit());
    ASSERT_OK(pool->create_snap(device_id(1), device_id(0)));
    ASSERT_OK(pool->close());
}

measurement read_at_random(const std::filesystem::path& file, std::uint64_t lookups) {
    measurement found;
    ::malloc_trim(0);  // or memory that other tests gave back would be taken again, unseen
    found.resident_before = resident_bytes();
    auto device = io::file_device::open(file, {});
    if (!device) {
        return found;
    }
    auto pool = metadata::open(**device, {.cache_bytes = cache_bytes});
    if (!pool) {
        return found;
    }
    auto thin = (*pool)->open_device(device_id(1));
    if (!thin) {
        return found;
    }
    found.blocks_read_by_open = (*pool)->statistics().blocks_read;
    found.resident_open = resident_bytes();
    random_generator positions(seed());
    for (found.lookups = 0; found.lookups < lookups; ++found.lookups) {
        const auto block =
            (*pool)->find_block(**thin, virtual_block(positions.below(volume_blocks)));
        if (!block) {
            return found;
        }
        found.mapped += std::uint64_t{block->has_value()};
        if (found.lookups % 1024 == 0) {
            found.resident_most = std::max(found.resident_most, resident_bytes());
        }
    }
    found.resident_most = std::max(found.resident_most, resident_bytes());
    found.blocks_read = (*pool)->statistics().blocks_read;
    found.ok = 1;
    return found;
}

// In a process of its own, which has not yet taken memory for anything else.
measurement measured_in_child(const std::filesystem::path& file, std::uint64_t lookups) {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe(ends.data()), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        const measurement found = read_at_random(file, lookups);
        const auto sent = ::write(ends[1], &found, sizeof found);
        ::_exit(sent == sizeof found ? 0 : 1);
    }
    ::close(ends[1]);
    measurement found;
    const auto got = ::read(ends[0], &found, sizeof found);
    ::close(ends[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(got, static_cast<ssize_t>(sizeof found));
    EXPECT_EQ(status, 0);
    return found;
}

TEST(MemoryBound, FiveMillionMappingsAreReadInTheCacheAndALittle) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "a sanitizer keeps freed memory, so that resident memory says nothing";
#endif
    const temporary_directory folder;
    const auto file = folder.path() / "metadata";
    const pid_t builder = ::fork();  // so that what building takes is not counted
    if (builder == 0) {
        build(file);
        ::_exit(HasFailure() ? 1 : 0);
    }
    int status = 0;
    ::waitpid(builder, &status, 0);
    ASSERT_EQ(status, 0);

    const std::uint64_t lookups = is_long_run() ? 2000000 : 200000;
    const measurement found = measured_in_child(file, lookups);
    ASSERT_EQ(found.ok, 1U);
    EXPECT_EQ(found.mapped, lookups);
    const std::uint64_t grown = found.resident_most - found.resident_before;
    const auto mib = [](std::uint64_t bytes) { return static_cast<double>(bytes) / mebibyte; };
    std::printf(
        "%llu mappings: opening read %llu blocks and took %.1f MiB; %llu random lookups "
        "read %llu blocks; grown by %.1f MiB with a cache of %.0f MiB (allowed: %.0f)\n",
        static_cast<unsigned long long>(volume_blocks),
        static_cast<unsigned long long>(found.blocks_read_by_open),
        mib(found.resident_open - found.resident_before), static_cast<unsigned long long>(lookups),
        static_cast<unsigned long long>(found.blocks_read), mib(grown), mib(cache_bytes),
        mib(cache_bytes + allowance_bytes));
    EXPECT_LE(grown, cache_bytes + allowance_bytes);
    EXPECT_GE(grown, cache_bytes / 2) << "the measurement cannot be right";
    EXPECT_LE(found.blocks_read_by_open, 16U);
    EXPECT_GT(found.blocks_read, lookups / 2) << "the cache is too large for this test";
}

}  // namespace
}  // namespace uthin::test
