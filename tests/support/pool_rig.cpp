#include "support/pool_rig.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/random.h"
#include "support/image_check.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin::test {

namespace {

// Starting the judges costs more than judging: the images of all tests of the program are kept and
// judged together at its end. Their names are those of the tests.
class judged_at_the_end final : public ::testing::Environment {
public:
    void add(std::span<const std::byte> image) {
        if (directory_ == nullptr) {
            directory_ = std::make_unique<temporary_directory>();
        }
        const auto* now = ::testing::UnitTest::GetInstance()->current_test_info();
        std::string name =
            fmt::format("{}-{}.{}", images_.size(), now->test_suite_name(), now->name());
        std::replace(name.begin(), name.end(), '/', '-');
        images_.push_back(directory_->path() / name);
        std::FILE* file = std::fopen(images_.back().c_str(), "wb");
        ASSERT_NE(file, nullptr) << images_.back();
        // Zeros need not be written.
        while (!image.empty()) {
            const auto piece = image.first(std::min<std::size_t>(image.size(), 4096));
            image = image.subspan(piece.size());
            const bool skip = all_zero(piece) && !image.empty();
            const bool done =
                skip ? std::fseek(file, 4096, SEEK_CUR) == 0
                     : std::fwrite(piece.data(), 1, piece.size(), file) == piece.size();
            ASSERT_TRUE(done) << images_.back();
        }
        ASSERT_EQ(std::fclose(file), 0) << images_.back();
    }
    void TearDown() override {
        if (!images_.empty()) {
            expect_images_are_clean(images_);
            std::printf("%zu metadata images went to the judges\n", images_.size());
        }
        images_.clear();
        directory_.reset();
    }

private:
    std::unique_ptr<temporary_directory> directory_;
    std::vector<std::filesystem::path> images_;
};

// GoogleTest owns and deletes it.
judged_at_the_end* const judge = [] {
    auto* made = new judged_at_the_end;
    ::testing::AddGlobalTestEnvironment(made);
    return made;
}();

}  // namespace

pool_rig::pool_rig(rig_options options)
    : metadata(options.metadata_bytes, "metadata"),
      data(options.data_blocks * options.block_size_sectors * sector_size_bytes, "data"),
      hooked_data(data),
      faulty_metadata(metadata, metadata_faults),
      faulty_data(hooked_data, data_faults),
      slow_metadata(faulty_metadata, system_clock()),
      slow_data(faulty_data, system_clock()),
      options_(std::move(options)) {
    open();
}

pool_rig::~pool_rig() {
    if (pool_ != nullptr) {
        close();
    }
    if (judge_) {
        expect_clean();
    }
}

void pool_rig::open() {
    open(options_.pool);
}

void pool_rig::open(const pool_options& options) {
    pool_options with = options;
    with.data_block_size_sectors = options_.block_size_sectors;
    with.format = !with.read_only;
    auto opened =
        pool::open(std::make_unique<borrowed_device>(slow_metadata),
                   std::make_unique<borrowed_device>(slow_data), std::move(with), system_clock());
    ASSERT_TRUE(opened) << opened.error().to_string();
    pool_ = std::move(*opened);
    if (options_.threads) {
        ASSERT_OK(pool_->start());
    }
}

void pool_rig::close() {
    EXPECT_OK(pool_->close());
    pool_.reset();
}

void pool_rig::expect_clean() {
    std::vector<std::byte> image(*metadata.size_bytes());
    ASSERT_OK(metadata.read(0, image));
    judge->add(image);
}

std::shared_ptr<volume> pool_rig::make(std::uint64_t id, std::uint64_t size_bytes) {
    EXPECT_OK(pool_->create_thin(device_id(id)));
    return open_volume(id, size_bytes);
}

std::shared_ptr<volume> pool_rig::open_volume(std::uint64_t id, std::uint64_t size_bytes) {
    auto opened = pool_->open_volume(device_id(id), size_bytes);
    EXPECT_OK(opened);
    return opened ? *opened : nullptr;
}

result<void> pool_rig::snapshot(std::uint64_t origin, std::uint64_t id) {
    const snapshot_request one{device_id(origin), device_id(id)};
    return pool_->create_snapshots({&one, 1});
}

std::vector<std::byte> pattern(std::uint64_t seed, std::size_t count) {
    random_generator random(seed + 1);
    std::vector<std::byte> bytes(count);
    for (std::byte& one : bytes) {
        one = static_cast<std::byte>(1 + random.below(255));
    }
    return bytes;
}

std::vector<std::byte> read_all(volume& from, std::uint64_t offset, std::size_t count) {
    std::vector<std::byte> bytes(count, std::byte{0xee});
    EXPECT_OK(from.read(offset, bytes));
    return bytes;
}

bool all_zero(std::span<const std::byte> bytes) {
    return std::all_of(bytes.begin(), bytes.end(),
                       [](std::byte one) { return one == std::byte{}; });
}

}  // namespace uthin::test
