// What changed between volumes, in bytes, against what the test did to them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "pool/pool_directory.h"
#include "support/image_check.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::HasCode;
using test::IsOk;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint64_t block_bytes = 64U << 10;

class PoolDirectoryDiff : public testing::Test {
protected:
    PoolDirectoryDiff() {
        create_pool_request request;
        request.directory = path_;
        request.data_size_bytes = 16U << 20;
        request.metadata_size_bytes = 1U << 20;
        EXPECT_THAT(pool_directory::create(request, system_clock()), IsOk());
        open(open_purpose::change);
    }
    ~PoolDirectoryDiff() override {
        pool_.reset();
        images_.push_back(judged_->path() / std::to_string(images_.size()));
        std::filesystem::copy_file(path_ + "/metadata", images_.back());
    }
    static void SetUpTestSuite() { judged_ = std::make_unique<test::temporary_directory>(); }
    static void TearDownTestSuite() {
        test::expect_images_are_clean(images_);
        images_.clear();
        judged_.reset();
    }
    void open(open_purpose purpose) {
        if (pool_) {
            EXPECT_THAT(pool_->close(), IsOk());
            pool_.reset();
        }
        directory_options options;
        options.purpose = purpose;
        auto opened = pool_directory::open(path_, options, system_clock());
        ASSERT_THAT(opened, IsOk());
        pool_ = std::move(*opened);
    }
    void create(const std::string& name, std::uint64_t size_bytes,
                const std::string& external_origin = "") {
        create_volume_request request;
        request.name = name;
        request.size_bytes = size_bytes;
        request.external_origin = external_origin;
        ASSERT_OK(pool_->create_volume(request));
    }
    void snapshot(const std::string& source, const std::string& name) {
        create_snapshots_request request;
        request.snapshots = {{source, name}};
        ASSERT_OK(pool_->create_snapshots(request));
    }
    void write(const std::string& name, std::uint64_t block, std::uint64_t count) {
        ASSERT_OK_AND_ASSIGN(const auto open, pool_->open_volume(name, false));
        const std::uint64_t begin = block * block_bytes;
        const std::string text(std::min(count * block_bytes, open->size_bytes() - begin), 'x');
        ASSERT_OK(open->write(begin, std::as_bytes(std::span(text))));
    }
    void discard(const std::string& name, std::uint64_t block, std::uint64_t count) {
        ASSERT_OK_AND_ASSIGN(const auto open, pool_->open_volume(name, false));
        ASSERT_OK(open->discard(block * block_bytes, count * block_bytes));
    }
    std::vector<changed_range> diff(const std::string& from, const std::string& to) {
        diff_request request;
        request.from = from;
        request.to = to;
        const auto reply = pool_->diff(request);
        EXPECT_THAT(reply, IsOk());
        return reply ? reply->ranges : std::vector<changed_range>{};
    }
    static changed_range range(change_kind kind, std::uint64_t block, std::uint64_t count) {
        return {block * block_bytes, count * block_bytes, kind};
    }

    static inline std::unique_ptr<test::temporary_directory> judged_;
    static inline std::vector<std::filesystem::path> images_;
    test::temporary_directory folder_;
    std::string path_ = folder_.path() / "pool";
    std::unique_ptr<pool_directory> pool_;
};

TEST_F(PoolDirectoryDiff, TellsChangedAddedAndRemovedRanges) {
    create("a", 64 * block_bytes);
    write("a", 0, 20);
    snapshot("a", "s");
    EXPECT_THAT(diff("s", "a"), IsEmpty());
    write("a", 3, 2);
    write("a", 5, 1);
    write("a", 30, 4);
    discard("a", 10, 5);
    EXPECT_THAT(diff("s", "a"),
                ElementsAre(range(change_kind::changed, 3, 3), range(change_kind::removed, 10, 5),
                            range(change_kind::added, 30, 4)));
    EXPECT_THAT(diff("a", "s"),
                ElementsAre(range(change_kind::changed, 3, 3), range(change_kind::added, 10, 5),
                            range(change_kind::removed, 30, 4)));
    EXPECT_THAT(diff("", "s"), ElementsAre(range(change_kind::added, 0, 20)));
    open(open_purpose::inspect);
    EXPECT_THAT(diff("s", "a").size(), 3U);
}

TEST_F(PoolDirectoryDiff, GoesOnWhereAReplyEnded) {
    create("a", 64 * block_bytes);
    snapshot("a", "s");
    for (const std::uint64_t block : {1U, 3U, 4U, 9U, 20U, 22U}) {
        write("a", block, 1);
    }
    std::vector<changed_range> all;
    diff_request request;
    request.from = "s";
    request.to = "a";
    request.ranges_max = 2;
    for (int replies = 1;; ++replies) {
        ASSERT_OK_AND_ASSIGN(const diff_reply reply, pool_->diff(request));
        EXPECT_LE(reply.ranges.size(), 2U);
        all.insert(all.end(), reply.ranges.begin(), reply.ranges.end());
        if (!reply.next_offset_bytes) {
            EXPECT_EQ(replies, 3);
            break;
        }
        request.offset_bytes = *reply.next_offset_bytes;
    }
    EXPECT_EQ(all, diff("s", "a"));
    EXPECT_EQ(all.size(), 5U);
}

TEST_F(PoolDirectoryDiff, EndsWithTheVolume) {
    create("a", 4 * block_bytes + 4096);
    snapshot("a", "s");
    write("a", 4, 1);
    EXPECT_THAT(diff("s", "a"),
                ElementsAre(changed_range{4 * block_bytes, 4096, change_kind::added}));
    EXPECT_THAT(diff("a", "s"),
                ElementsAre(changed_range{4 * block_bytes, 4096, change_kind::removed}));
}

TEST_F(PoolDirectoryDiff, OfVolumesWithDifferentOriginsIsRefused) {
    const std::string image = folder_.path() / "image";
    std::ofstream(image) << std::string(2 * block_bytes, 'o');
    create("a", 2 * block_bytes);
    create("b", 2 * block_bytes, image);
    diff_request request;
    request.from = "a";
    request.to = "b";
    EXPECT_THAT(pool_->diff(request), HasCode(error_code::unsupported));
    request.from = "nobody";
    EXPECT_THAT(pool_->diff(request), HasCode(error_code::not_found));
}

TEST_F(PoolDirectoryDiff, SeesTheLastChangesOfAPoolWithoutDataSpaceToo) {
    ASSERT_OK(pool_->set({{"no-space", "error"}}));
    create("a", 512 * block_bytes);
    write("a", 0, 16);
    snapshot("a", "s");
    open(open_purpose::serve);
    ASSERT_OK(pool_->start());
    ASSERT_OK_AND_ASSIGN(const auto volume, pool_->open_volume("a", false));
    const std::string text(496 * block_bytes, 'x');
    EXPECT_THAT(volume->write(16 * block_bytes, std::as_bytes(std::span(text))),
                HasCode(error_code::no_data_space));
    // "s" keeps the blocks. The pool's thread commits too, but takes its time.
    for (std::uint64_t block = 0; block < 16; ++block) {
        ASSERT_OK(volume->discard(block * block_bytes, block_bytes));
        ASSERT_EQ(pool_->engine().mode(), pool_mode::out_of_data_space);
        EXPECT_EQ(diff("s", "a").front(), range(change_kind::removed, 0, block + 1));
    }
}

}  // namespace
}  // namespace uthin
