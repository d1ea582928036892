// Merging and flattening as commands: what is refused, what is recorded, what a restart does.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/clock.h"
#include "io/lock.h"
#include "pool/pool_directory.h"
#include "support/image_check.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::HasCode;
using test::pattern;

constexpr std::uint64_t block_bytes = 64 << 10;
constexpr std::uint64_t volume_bytes = 20 * block_bytes;

class OriginJob : public ::testing::Test {
protected:
    OriginJob() {
        write_image(volume_bytes);
        create_pool_request request;
        request.directory = path_;
        request.data_size_bytes = 16U << 20;
        request.metadata_size_bytes = 1U << 20;
        EXPECT_OK(pool_directory::create(request, system_clock()));
        open();
    }
    ~OriginJob() override {
        pool_.reset();
        images_.push_back(judged_->path() / std::to_string(images_.size()));
        std::filesystem::copy_file(path_ + "/metadata", images_.back());
    }
    // Starting the judges costs more than judging.
    static void SetUpTestSuite() { judged_ = std::make_unique<test::temporary_directory>(); }
    static void TearDownTestSuite() {
        test::expect_images_are_clean(images_);
        judged_.reset();
    }

    void write_image(std::uint64_t size_bytes) {
        const auto bytes = pattern(7, size_bytes);
        std::ofstream out(image_, std::ios::binary);
        out.write(reinterpret_cast<const char*>(bytes.data()),
                  static_cast<std::streamsize>(bytes.size()));
    }
    [[nodiscard]] std::vector<std::byte> image() const {
        std::vector<std::byte> bytes(std::filesystem::file_size(image_));
        std::ifstream in(image_, std::ios::binary);
        in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        return bytes;
    }
    void open(open_purpose purpose = open_purpose::change) {
        pool_.reset();
        directory_options options;
        options.purpose = purpose;
        auto opened = pool_directory::open(path_, options, system_clock());
        ASSERT_OK(opened);
        pool_ = std::move(*opened);
        if (purpose == open_purpose::serve) {
            ASSERT_OK(pool_->start());
        }
    }
    void create(const std::string& name, std::uint64_t size_bytes = volume_bytes) {
        create_volume_request request;
        request.name = name;
        request.size_bytes = size_bytes;
        request.external_origin = image_;
        ASSERT_OK(pool_->create_volume(request));
    }
    void write(const std::string& name, std::uint64_t offset, std::span<const std::byte> bytes) {
        auto open = pool_->open_volume(name, false);
        ASSERT_OK(open);
        ASSERT_OK((*open)->write(offset, bytes));
    }
    [[nodiscard]] std::vector<std::byte> content(const std::string& name) {
        auto open = pool_->open_volume(name, true);
        EXPECT_OK(open);
        std::vector<std::byte> bytes((*open)->size_bytes());
        EXPECT_OK((*open)->read(0, bytes));
        return bytes;
    }
    [[nodiscard]] static origin_job_request merge(const std::string& name) {
        origin_job_request request;
        request.name = name;
        return request;
    }
    [[nodiscard]] static origin_job_request flatten(const std::string& name) {
        origin_job_request request;
        request.name = name;
        request.kind = origin_job_kind::flatten;
        return request;
    }
    origin_job_info wait(const std::string& name) {
        auto info = pool_->show_origin_job(name);
        while (info && info->state == "running") {
            system_clock().sleep_for(std::chrono::milliseconds(2));
            info = pool_->show_origin_job(name);
        }
        EXPECT_OK(info);
        return *info;
    }

    static inline std::unique_ptr<test::temporary_directory> judged_;
    static inline std::vector<std::filesystem::path> images_;
    test::temporary_directory folder_ = test::temporary_directory::in_memory();
    const std::string path_ = folder_.path() / "pool";
    const std::string image_ = folder_.path() / "image";
    std::unique_ptr<pool_directory> pool_;
};

TEST_F(OriginJob, AMergeOfAnIdlePoolEndsBeforeItReturns) {
    create("disk");
    write("disk", 3 * block_bytes - 5, pattern(1, 2 * block_bytes));
    const auto wanted = content("disk");
    ASSERT_OK_AND_ASSIGN(const origin_job_info info, pool_->start_origin_job(merge("disk")));
    EXPECT_EQ(info.state, "done");
    EXPECT_EQ(info.total_bytes, 3 * block_bytes);
    EXPECT_EQ(info.left_bytes, 0U);
    EXPECT_EQ(content("disk"), wanted);
    EXPECT_EQ(image(), wanted);
    EXPECT_EQ(pool_->show("disk")->mapped_bytes, 0U);
    EXPECT_TRUE(pool_->show("disk")->labels.empty());
    open();
    EXPECT_EQ(content("disk"), wanted);
    EXPECT_THAT(pool_->show_origin_job("disk"), HasCode(error_code::not_found));
}

TEST_F(OriginJob, AFlattenedVolumeIsRecordedWithoutOrigin) {
    create("disk");
    write("disk", 100, pattern(1, 100));
    const auto wanted = content("disk");
    ASSERT_OK(pool_->start_origin_job(flatten("disk")));
    EXPECT_EQ(pool_->show("disk")->external_origin, "");
    std::filesystem::remove(image_);
    EXPECT_EQ(content("disk"), wanted);
    open();
    EXPECT_EQ(content("disk"), wanted);
    EXPECT_THAT(pool_->start_origin_job(flatten("disk")), HasCode(error_code::invalid_argument));
}

TEST_F(OriginJob, AMergeIsRefusedWhenAnotherVolumeStandsOnTheOrigin) {
    create("disk");
    create("other");
    write("disk", 0, pattern(1, block_bytes));
    const auto before = content("other");
    const auto refused = pool_->start_origin_job(merge("disk"));
    ASSERT_THAT(refused, HasCode(error_code::busy));
    EXPECT_NE(refused.error().message().find("'other'"), std::string::npos);
    EXPECT_NE(refused.error().message().find("--copy-up"), std::string::npos);
    EXPECT_EQ(image(), pattern(7, volume_bytes));
    origin_job_request with_copies = merge("disk");
    with_copies.copy_up = true;
    ASSERT_OK(pool_->start_origin_job(with_copies));
    EXPECT_EQ(content("other"), before);
    EXPECT_EQ(pool_->show("other")->mapped_bytes, block_bytes);
    EXPECT_EQ(image(), content("disk"));
}

TEST_F(OriginJob, AHardLinkIsTheSameOrigin) {
    create("disk");
    const std::string link = image_ + "-link";
    std::filesystem::create_hard_link(image_, link);
    create_volume_request request;
    request.name = "other";
    request.external_origin = link;
    ASSERT_OK(pool_->create_volume(request));
    EXPECT_THAT(pool_->start_origin_job(merge("disk")), HasCode(error_code::busy));
}

TEST_F(OriginJob, AnOriginThatIsGoneOrReadOnlyIsRefused) {
    create("disk");
    write("disk", 0, pattern(1, block_bytes));
    std::filesystem::rename(image_, image_ + ".away");
    EXPECT_THAT(pool_->start_origin_job(merge("disk")), HasCode(error_code::not_found));
    std::filesystem::rename(image_ + ".away", image_);
    // Somebody else reads it.
    const auto reader = io::acquire_ownership(image_, io::lock_mode::shared);
    EXPECT_THAT(pool_->start_origin_job(merge("disk")), HasCode(error_code::busy));
    EXPECT_TRUE(pool_->show("disk")->labels.empty());
    EXPECT_EQ(pool_->show("disk")->mapped_bytes, block_bytes);
}

TEST_F(OriginJob, AShorterOriginGrowsOnlyWhenItIsAllowedTo) {
    write_image(5 * block_bytes + 700);
    create("disk");
    write("disk", 0, pattern(1, block_bytes));
    write("disk", 9 * block_bytes, pattern(2, block_bytes));
    const auto wanted = content("disk");
    const auto refused = pool_->start_origin_job(merge("disk"));
    ASSERT_THAT(refused, HasCode(error_code::out_of_range));
    EXPECT_NE(refused.error().message().find("--grow-origin"), std::string::npos);
    EXPECT_EQ(std::filesystem::file_size(image_), 5 * block_bytes + 700);
    // A client that has it open sees no difference.
    auto client = pool_->open_volume("disk", false);
    ASSERT_OK(client);
    origin_job_request growing = merge("disk");
    growing.grow_origin = true;
    ASSERT_OK(pool_->start_origin_job(growing));
    EXPECT_EQ(image(), wanted);
    EXPECT_EQ(content("disk"), wanted);
    client->reset();
    EXPECT_EQ(content("disk"), wanted);
    EXPECT_EQ(pool_->show("disk")->mapped_bytes, 0U);
}

TEST_F(OriginJob, AVolumeWithoutOriginIsRefused) {
    create_volume_request request;
    request.name = "plain";
    request.size_bytes = volume_bytes;
    ASSERT_OK(pool_->create_volume(request));
    EXPECT_THAT(pool_->start_origin_job(merge("plain")), HasCode(error_code::invalid_argument));
    EXPECT_THAT(pool_->start_origin_job(merge("nobody")), HasCode(error_code::not_found));
    EXPECT_THAT(pool_->stop_origin_job("plain", true), HasCode(error_code::not_found));
}

TEST_F(OriginJob, WhileItRunsWhatWouldBreakItIsRefused) {
    create("disk");
    create("other");
    write("disk", 0, pattern(1, volume_bytes));
    origin_job_request request = merge("disk");
    request.copy_up = true;
    bool asked = false;
    ASSERT_OK(pool_->run_origin_job(request, [&] {
        if (std::exchange(asked, true)) {
            return;
        }
        create_snapshots_request snapshot;
        snapshot.snapshots = {{"disk", "late"}};
        EXPECT_THAT(pool_->create_snapshots(snapshot), HasCode(error_code::busy));
        EXPECT_THAT(pool_->resize("disk", volume_bytes / 2), HasCode(error_code::busy));
        EXPECT_THAT(pool_->remove({.name = "disk"}), HasCode(error_code::busy));
        EXPECT_THAT(pool_->start_origin_job(flatten("disk")), HasCode(error_code::busy));
        EXPECT_THAT(pool_->start_origin_job(flatten("other")), HasCode(error_code::busy));
        create_volume_request late;
        late.name = "late";
        late.external_origin = image_;
        EXPECT_THAT(pool_->create_volume(late), HasCode(error_code::busy));
        EXPECT_OK(pool_->rename("disk", "renamed"));
    }));
    EXPECT_TRUE(asked);
    EXPECT_EQ(content("renamed"), pattern(1, volume_bytes));
    EXPECT_EQ(content("other"), pattern(7, volume_bytes));
    EXPECT_EQ(pool_->show_origin_job("renamed")->state, "done");
}

TEST_F(OriginJob, ItGoesOnWhenThePoolIsServedAgain) {
    create("disk");
    for (std::uint64_t block = 0; block < 20; block += 2) {
        write("disk", block * block_bytes, pattern(block, block_bytes));
    }
    const auto wanted = content("disk");
    // As if killed in the middle.
    EXPECT_THAT(pool_->run_origin_job(merge("disk"),
                                      [&, steps = 0]() mutable {
                                          if (++steps == 3) {
                                              ASSERT_OK(pool_->engine().commit());
                                              EXPECT_OK(pool_->stop_origin_job("disk", false));
                                          }
                                      }),
                test::IsOk());
    EXPECT_EQ(pool_->show_origin_job("disk")->state, "paused");
    EXPECT_EQ(pool_->show("disk")->mapped_bytes, 7 * block_bytes);
    EXPECT_EQ(content("disk"), wanted);
    // Paused, it stays so.
    open(open_purpose::serve);
    EXPECT_EQ(pool_->show_origin_job("disk")->state, "paused");
    EXPECT_EQ(pool_->show("disk")->mapped_bytes, 7 * block_bytes);
    ASSERT_OK(pool_->start_origin_job(merge("disk")));
    EXPECT_EQ(wait("disk").state, "done");
    EXPECT_EQ(pool_->show("disk")->mapped_bytes, 0U);
    EXPECT_EQ(image(), wanted);
    ASSERT_OK(pool_->close());
}

TEST_F(OriginJob, WhatWasNotPausedIsResumedByTheServer) {
    create("disk");
    for (std::uint64_t block = 0; block < 20; block += 2) {
        write("disk", block * block_bytes, pattern(block, block_bytes));
    }
    const auto wanted = content("disk");
    // Everything as it is in the middle, to be put back.
    const std::filesystem::path kept = folder_.path() / "kept";
    ASSERT_OK(pool_->run_origin_job(merge("disk"), [&, steps = 0]() mutable {
        if (++steps == 3) {
            ASSERT_OK(pool_->engine().commit());
            std::filesystem::copy(path_, kept, std::filesystem::copy_options::recursive);
            std::filesystem::copy_file(image_, kept / "image");
        }
    }));
    pool_.reset();
    std::filesystem::rename(kept / "image", image_);
    std::filesystem::remove_all(path_);
    std::filesystem::rename(kept, path_);
    open();
    EXPECT_EQ(pool_->show_origin_job("disk")->state, "stopped");
    EXPECT_EQ(pool_->show("disk")->mapped_bytes, 7 * block_bytes);
    EXPECT_EQ(content("disk"), wanted);
    open(open_purpose::serve);
    EXPECT_EQ(wait("disk").state, "done");
    EXPECT_EQ(pool_->show("disk")->mapped_bytes, 0U);
    EXPECT_EQ(image(), wanted);
    ASSERT_OK(pool_->close());
}

TEST_F(OriginJob, ARecordedMergeThatCannotGoOnSaysWhy) {
    create("disk");
    write("disk", 0, pattern(1, block_bytes));
    ASSERT_OK(pool_->run_origin_job(merge("disk"), [&] {
        std::filesystem::copy_file(path_ + "/catalog.db", folder_.path() / "catalog");
    }));
    write("disk", 0, pattern(2, block_bytes));
    pool_.reset();
    std::filesystem::rename(folder_.path() / "catalog", path_ + "/catalog.db");
    std::filesystem::rename(image_, image_ + ".away");
    open(open_purpose::serve);
    const auto info = pool_->show_origin_job("disk");
    ASSERT_OK(info);
    EXPECT_EQ(info->state, "failed");
    EXPECT_NE(info->failure.find("image"), std::string::npos);
    std::filesystem::rename(image_ + ".away", image_);
    ASSERT_OK(pool_->start_origin_job(merge("disk")));
    EXPECT_EQ(wait("disk").state, "done");
    ASSERT_OK(pool_->close());
}

TEST_F(OriginJob, AnAbortKeepsWhatWasDoneAndForgetsTheRest) {
    create("disk");
    for (std::uint64_t block = 0; block < 20; block += 2) {
        write("disk", block * block_bytes, pattern(block, block_bytes));
    }
    const auto wanted = content("disk");
    bool aborted = false;
    ASSERT_OK(pool_->run_origin_job(merge("disk"), [&] {
        if (!std::exchange(aborted, true)) {
            EXPECT_OK(pool_->stop_origin_job("disk", true));
        }
    }));
    EXPECT_TRUE(pool_->show("disk")->labels.empty());
    EXPECT_EQ(pool_->show("disk")->mapped_bytes, 9 * block_bytes);
    EXPECT_EQ(content("disk"), wanted);
    ASSERT_OK(pool_->engine().commit());
    open(open_purpose::serve);
    EXPECT_THAT(pool_->show_origin_job("disk"), HasCode(error_code::not_found));
    EXPECT_EQ(content("disk"), wanted);
    ASSERT_OK(pool_->close());
}

}  // namespace
}  // namespace uthin
