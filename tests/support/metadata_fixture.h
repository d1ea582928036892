// A metadata device in memory with a pool's metadata on it, for tests of the metadata library.
#pragma once

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "io/fault_device.h"
#include "io/memory_device.h"
#include "support/image_check.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"
#include "uthin/metadata.h"

namespace uthin::test {

inline constexpr std::uint32_t block_size_sectors = 128;

// Bytes of the whole device.
inline std::vector<std::byte> image_of(block_device& device) {
    std::vector<std::byte> bytes(device.size_bytes().value());
    EXPECT_TRUE(device.read(0, bytes));
    return bytes;
}

class metadata_fixture : public ::testing::Test {
protected:
    static constexpr std::uint64_t metadata_blocks = 1024;
    static constexpr std::uint64_t data_blocks = 4000;

    void SetUp() override {
        device_ = std::make_unique<io::memory_device>(metadata_blocks * metadata_block_size_bytes,
                                                      "metadata");
        faulty_ = std::make_unique<io::fault_device>(*device_, plan_);
        open({.data_block_size_sectors = block_size_sectors, .format = true});
        ASSERT_NE(pool_, nullptr);
        ASSERT_OK(pool_->resize_data(data_blocks));
        ASSERT_OK(pool_->commit());
    }
    // Every test that ends with a pool ends with a check by the independent judges.
    void TearDown() override {
        if (pool_ && !pool_->failed() && !pool_->is_read_only() && check_at_end_) {
            for (thin_device* device : opened_) {
                pool_->close_device(device);
            }
            EXPECT_OK(pool_->close());
        }
        pool_.reset();
        if (check_at_end_) {
            check_later(*device_);
        }
    }
    // The judges take half a second a call, so a suite's images are shown to them together.
    static void TearDownTestSuite() {
        expect_images_are_clean(images_);
        images_.clear();
        folder_ = {};
    }
    static void check_later(block_device& device) {
        if (folder_.path().empty()) {
            folder_ = temporary_directory();
        }
        const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
        images_.push_back(folder_.path() / (name + "-" + std::to_string(images_.size())));
        const std::vector<std::byte> bytes = image_of(device);
        std::ofstream out(images_.back(), std::ios::binary);
        out.write(reinterpret_cast<const char*>(bytes.data()),
                  static_cast<std::streamsize>(bytes.size()));
        ASSERT_TRUE(out.flush().good()) << images_.back();
    }

    void open(const metadata_options& options) {
        opened_.clear();
        auto opened = metadata::open(*faulty_, options);
        ASSERT_THAT(opened, IsOk());
        pool_ = std::move(*opened);
    }
    void reopen(const metadata_options& options = {}) {
        pool_.reset();
        open(options);
    }
    [[nodiscard]] thin_device* open_device(std::uint64_t id) {
        auto device = pool_->open_device(device_id(id));
        EXPECT_THAT(device, IsOk());
        if (!device) {
            return nullptr;
        }
        opened_.push_back(*device);
        return *device;
    }
    // Allocates and maps [begin, begin + count).
    void map(thin_device* device, std::uint64_t begin, std::uint64_t count) {
        for (std::uint64_t i = 0; i < count; ++i) {
            auto block = pool_->alloc_data_block();
            ASSERT_THAT(block, IsOk());
            ASSERT_OK(pool_->insert_block(*device, virtual_block(begin + i), *block));
        }
    }
    [[nodiscard]] std::uint64_t device_writes() const {
        return plan_.count(io::operation_kind::write);
    }

    io::fault_plan plan_;
    std::unique_ptr<io::memory_device> device_;
    std::unique_ptr<io::fault_device> faulty_;
    std::unique_ptr<metadata> pool_;
    std::vector<thin_device*> opened_;
    bool check_at_end_ = true;
    static inline temporary_directory folder_;
    static inline std::vector<std::filesystem::path> images_;
};

}  // namespace uthin::test
