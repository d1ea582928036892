// One seed, one image: the same operations leave the same bytes on both devices, block for block.
//
// What is not initialised, and what depends on addresses, on the order of a hash table or on the
// time of day, would show as a difference: between two pools of one process, or between processes
// whose fresh memory holds other bytes.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/random.h"
#include "io/memory_device.h"
#include "replication/digest.h"
#include "support/image_check.h"
#include "support/matchers.h"
#include "support/metadata_driver.h"
#include "support/pool_rig.h"
#include "support/seed.h"
#include "uthin/pool.h"

namespace uthin {
namespace {

using test::metadata_driver;

struct pair_of_images {
    std::vector<std::byte> metadata;
    std::vector<std::byte> data;
};

std::vector<std::byte> image_of(block_device& device) {
    std::vector<std::byte> bytes(device.size_bytes().value());
    EXPECT_OK(device.read(0, bytes));
    return bytes;
}

std::string digest_of(std::span<const std::byte> image) {
    auto sum = replication::digest::begin().value();
    EXPECT_OK(sum.add(image));
    const replication::digest_value value = sum.finish().value();
    std::string text;
    for (const std::byte byte : value) {
        text += fmt::format("{:02x}", static_cast<unsigned>(byte));
    }
    return text;
}

std::string digests_of(const pair_of_images& images) {
    return fmt::format("metadata={} data={}", digest_of(images.metadata), digest_of(images.data));
}

// Empty, or the first block of 4 KiB that is another one.
std::string difference(std::span<const std::byte> one, std::span<const std::byte> other) {
    if (one.size() != other.size()) {
        return fmt::format("{} and {} bytes", one.size(), other.size());
    }
    const auto at = std::mismatch(one.begin(), one.end(), other.begin()).first - one.begin();
    if (static_cast<std::size_t>(at) == one.size()) {
        return {};
    }
    return fmt::format("block {}, byte {} of it", at / 4096, at % 4096);
}

// The metadata library alone, with aborts, reopenings and resizing.
pair_of_images metadata_images(std::uint64_t seed) {
    constexpr std::uint64_t operations = 3000;
    io::memory_device metadata(256 * metadata_block_size_bytes, "metadata");
    io::memory_device data(400 * test::stamped_block_bytes, "data");
    test::driver_options options;
    options.seed = seed;
    options.cache_bytes = 32 * metadata_block_size_bytes;
    options.span_blocks = 60;
    options.metadata_blocks_max = 256;
    options.data_blocks_max = 400;
    metadata_driver driver(metadata, data, options);
    EXPECT_OK(driver.format(200));
    for (std::uint64_t i = 0; i < operations; ++i) {
        EXPECT_OK(driver.step(driver.any_operation()));
    }
    EXPECT_OK(driver.commit());
    EXPECT_GT(driver.now().devices.size(), 1U);
    EXPECT_OK(driver.close());
    EXPECT_EQ(driver.complaints(), std::vector<std::string>());
    return {image_of(metadata), image_of(data)};
}

// A whole pool without threads, under a clock that the seed moves.
class seeded_pool {
public:
    explicit seeded_pool(std::uint64_t seed) : random_(seed) { open(); }

    pair_of_images run(std::uint64_t operations) {
        for (std::uint64_t i = 0; i < operations; ++i) {
            time_.advance(std::chrono::milliseconds(random_.below(40)));
            step();
        }
        close();
        EXPECT_GT(broken_blocks_, 20U);
        return {image_of(metadata_), image_of(data_)};
    }

private:
    static constexpr std::uint64_t block_bytes = 64 << 10;
    static constexpr std::uint64_t data_blocks = 320;
    static constexpr std::uint64_t sector = 512;
    static constexpr std::size_t volumes_max = 8;

    void open() {
        pool_options options;
        options.format = true;
        options.data_block_size_sectors = block_bytes / sector;
        options.data_blocks = data_blocks - 100;
        options.error_if_no_space = true;
        options.commit_interval = std::chrono::milliseconds(300);
        options.metadata_cache_bytes = 1 << 20;
        options.mapping_cache_entries = 64;
        pool_ = pool::open(std::make_unique<test::borrowed_device>(metadata_),
                           std::make_unique<test::borrowed_device>(data_), options, time_)
                    .value();
    }
    void close() {
        broken_blocks_ += pool_->counters().broken_blocks;
        EXPECT_OK(pool_->close());
        pool_.reset();
    }

    // No space is an answer, too, and the same one each time.
    static void expect_done(const result<void>& done) {
        EXPECT_TRUE(done || done.error().code() == error_code::no_data_space)
            << done.error().to_string();
    }

    std::shared_ptr<volume> any_volume() {
        auto at = sizes_.begin();
        std::advance(at, static_cast<std::ptrdiff_t>(random_.below(sizes_.size())));
        return pool_->open_volume(device_id(at->first), at->second).value();
    }

    void create() {
        EXPECT_OK(pool_->create_thin(device_id(next_id_)));
        sizes_[next_id_++] = (20 + random_.below(20)) * block_bytes + 3 * sector;
    }
    void snapshot() {
        const auto origin = any_volume()->id();
        EXPECT_OK(
            pool_->create_snapshots(std::vector<snapshot_request>{{origin, device_id(next_id_)}}));
        sizes_[next_id_++] = sizes_.at(origin.value());
    }
    void remove() {
        const auto id = any_volume()->id();
        sizes_.erase(id.value());
        if (random_.one_in(2)) {
            EXPECT_OK(pool_->delete_thin(id));
            return;
        }
        EXPECT_OK(pool_->delete_in_background(id));
        EXPECT_OK(pool_->wait_for_deletion(id));
    }
    // Anything from a part of a sector to three blocks.
    void transfer(std::uint64_t kind) {
        const auto to = any_volume();
        const std::uint64_t offset = random_.below(to->size_bytes());
        const std::uint64_t length =
            std::min(1 + random_.below(random_.one_in(3) ? 3 * block_bytes : 4096),
                     to->size_bytes() - offset);
        switch (kind) {
            case 0:
                return expect_done(to->discard(offset / sector * sector, length / sector * sector));
            case 1:
                return expect_done(
                    to->write_zeroes(offset, length, {.may_unmap = length % 2 == 0}));
            default: break;
        }
        expect_done(to->write(offset, test::pattern(random_.next(), length), random_.one_in(30)));
    }
    void toggle_metadata_snapshot() {
        expect_done(pool_->metadata_snap().value() ? pool_->release_metadata_snap()
                                                   : pool_->reserve_metadata_snap());
    }

    void step() {
        if (sizes_.size() < 2) {
            return create();
        }
        const bool room = sizes_.size() < volumes_max;
        switch (random_.below(100)) {
            case 0: return room ? create() : remove();
            case 1:
            case 2:
            case 3: return room ? snapshot() : remove();
            case 4: return remove();
            case 5: return expect_done(pool_->commit());
            case 6: return toggle_metadata_snapshot();
            case 7: return expect_done(any_volume()->flush());
            case 8: return reopen_now_and_then();
            case 9: EXPECT_OK(pool_->trim()); return;
            default: return transfer(random_.below(5));
        }
    }
    void reopen_now_and_then() {
        if (random_.one_in(4)) {
            close();
            open();
            // Once; later it has that size already.
            EXPECT_OK(pool_->grow_data(data_blocks));
        }
    }

    io::memory_device metadata_{1 << 20, "metadata"};
    io::memory_device data_{data_blocks * block_bytes, "data"};
    manual_clock time_;
    random_generator random_;
    std::unique_ptr<pool> pool_;
    std::map<std::uint64_t, std::uint64_t> sizes_;
    std::uint64_t next_id_ = 0;
    std::uint64_t broken_blocks_ = 0;
};

pair_of_images pool_images(std::uint64_t seed) {
    return seeded_pool(seed).run(1500);
}

using image_maker = pair_of_images (*)(std::uint64_t seed);

// Twice here, on a heap that the first left behind; prints the digests.
void expect_the_same_twice(const char* name, image_maker make) {
    const pair_of_images first = make(test::seed());
    const pair_of_images second = make(test::seed());
    EXPECT_EQ(difference(first.metadata, second.metadata), "") << "metadata";
    EXPECT_EQ(difference(first.data, second.data), "") << "data";
    EXPECT_NE(digests_of(first), digests_of(make(test::seed() + 1)));
    fmt::print("{}: {}\n", name, digests_of(first));
}

TEST(SameImages, OfTheMetadataLibrary) {
    expect_the_same_twice("metadata library", metadata_images);
}

TEST(SameImages, OfAPool) {
    expect_the_same_twice("pool", pool_images);
}

// glibc fills what it gives out with one byte, and what it takes back with its complement.
TEST(SameImages, InProcessesWhoseFreshMemoryDiffers) {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
    const std::string wanted[] = {
        fmt::format("metadata library: {}\n", digests_of(metadata_images(test::seed()))),
        fmt::format("pool: {}\n", digests_of(pool_images(test::seed())))};
    for (const int fill : {0x55, 0xff}) {
        const auto ran = test::run_command(fmt::format(
            "MALLOC_PERTURB_={} {} --gtest_filter=SameImages.Of*", fill, test::shell_quoted(self)));
        EXPECT_EQ(ran.status, 0) << ran.text;
        for (const std::string& line : wanted) {
            EXPECT_NE(ran.text.find(line), std::string::npos)
                << "fill " << fill << ", wanted " << line << ran.text;
        }
    }
}

}  // namespace
}  // namespace uthin
