#include "io/memory_device.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "base/random.h"
#include "support/matchers.h"
#include "support/seed.h"

namespace uthin::test {
namespace {

constexpr std::uint64_t chunk = io::memory_device::chunk_size_bytes;
constexpr std::uint64_t tebibyte = std::uint64_t{1} << 40;

TEST(MemoryDevice, ATebibyteTakesOnlyWhatIsWritten) {
    io::memory_device device(tebibyte);
    EXPECT_EQ(device.allocated_bytes(), 0);
    const std::vector<std::byte> bytes(4096, std::byte{7});
    ASSERT_OK(device.write(tebibyte - 4096, bytes));
    ASSERT_OK(device.write(0, bytes));
    EXPECT_EQ(device.allocated_bytes(), 2 * chunk);
    std::vector<std::byte> seen(4096);
    ASSERT_OK(device.read(tebibyte / 2, seen));
    EXPECT_EQ(seen, std::vector<std::byte>(4096));
    EXPECT_EQ(device.allocated_bytes(), 2 * chunk) << "reading allocates nothing";
}

TEST(MemoryDevice, DiscardFreesWholeChunksAndZeroesTheRest) {
    io::memory_device device(tebibyte);
    ASSERT_OK(device.write(0, std::vector<std::byte>(4 * chunk, std::byte{7})));
    ASSERT_OK(device.discard(chunk / 2, 3 * chunk));
    EXPECT_EQ(device.allocated_bytes(), 2 * chunk);
    std::vector<std::byte> seen(4 * chunk);
    ASSERT_OK(device.read(0, seen));
    for (std::uint64_t i = 0; i < seen.size(); ++i) {
        const bool kept = i < chunk / 2 || i >= chunk / 2 + 3 * chunk;
        ASSERT_EQ(seen[i], kept ? std::byte{7} : std::byte{0}) << i;
    }
}

TEST(MemoryDevice, DiscardingATebibyteCostsOnlyWhatIsThere) {
    io::memory_device device(tebibyte);
    for (std::uint64_t i = 0; i < 100; ++i) {
        ASSERT_OK(device.write(i * (tebibyte / 100), std::vector<std::byte>(10, std::byte{1})));
    }
    for (int i = 0; i < 1000; ++i) {  // 16 million chunks each: would take minutes one by one
        ASSERT_OK(device.discard(1, tebibyte - 1));
    }
    EXPECT_EQ(device.allocated_bytes(), chunk);
    std::vector<std::byte> seen(2);
    ASSERT_OK(device.read(0, seen));
    EXPECT_EQ(seen[0], std::byte{1});
    EXPECT_EQ(seen[1], std::byte{0});
}

TEST(MemoryDevice, OverlappingReadersAndWritersSeeWholeChunkWrites) {
    io::memory_device device(chunk);
    std::atomic<bool> stop{false};
    std::thread writer([&] {
        for (unsigned value = 1; !stop; ++value) {
            const std::vector<std::byte> bytes(4096, static_cast<std::byte>(value));
            EXPECT_OK(device.write(0, bytes));
        }
    });
    std::vector<std::byte> seen(4096);
    for (int i = 0; i < 2000; ++i) {
        ASSERT_OK(device.read(0, seen));
        ASSERT_EQ(seen.front(), seen.back());
    }
    stop = true;
    writer.join();
}

}  // namespace
}  // namespace uthin::test
