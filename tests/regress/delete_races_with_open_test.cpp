// A volume is deleted while clients open it and go away. Once the deletion began although an
// opening was under way; once a deletion that met the last handle on its way out was put off for
// ever.
#include <atomic>
#include <chrono>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pool/pool_directory.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::HasCode;
using test::IsOk;
using test::pattern;
using test::pool_rig;
using test::read_all;
using testing::AnyOf;

constexpr std::uint64_t block = 64U << 10;

TEST(DeleteRacesWithOpen, WhoeverHasItOpenHasAllOfIt) {
    constexpr int rounds = 200;
    constexpr std::uint64_t size = 4 * block;
    pool_rig rig;
    int deleted = 0;
    int opened = 0;
    for (int round = 0; round < rounds; ++round) {
        ASSERT_OK(rig.make(0, size)->write(0, pattern(1, size)));
        std::atomic<int> at_start = 0;
        const auto meet = [&] {
            ++at_start;
            while (at_start < 2) {
            }
        };
        std::thread client([&] {
            meet();
            const auto handle = rig->open_volume(device_id(0), size);
            if (!handle) {
                ASSERT_THAT(handle,
                            AnyOf(HasCode(error_code::busy), HasCode(error_code::not_found)));
                return;
            }
            ++opened;
            for (int i = 0; i < 3; ++i) {
                ASSERT_EQ(read_all(**handle, 0, size), pattern(1, size));
                ASSERT_OK((*handle)->write(0, pattern(1, 100)));
            }
            ASSERT_OK((*handle)->flush());
        });
        meet();
        auto gone = rig->delete_in_background(device_id(0));
        if (gone) {
            gone = rig->wait_for_deletion(device_id(0));
        }
        client.join();
        ASSERT_THAT(gone, AnyOf(IsOk(), HasCode(error_code::busy)));
        deleted += gone ? 1 : 0;
        if (gone) {
            ASSERT_THAT(rig->open_volume(device_id(0), size), HasCode(error_code::not_found));
        } else {
            ASSERT_OK(rig->delete_thin(device_id(0)));
        }
    }
    EXPECT_EQ(rig->status(true)->data_used_blocks, 0U);
    std::printf("%d rounds: %d deletions, %d openings\n", rounds, deleted, opened);
    EXPECT_GT(deleted, 0);
    EXPECT_GT(opened, 0);
}

// The opening reads metadata from a slow device; the deletion is asked for at every moment of that.
TEST(DeleteRacesWithOpen, ADeletionAskedForDuringASlowOpeningIsRefused) {
    constexpr auto read_time = std::chrono::milliseconds(20);
    constexpr std::uint64_t size = 2 * block;
    pool_rig rig;
    ASSERT_OK(rig.make(0, size)->write(0, pattern(1, size)));
    int opened = 0;
    for (auto later = std::chrono::milliseconds(0); later < 6 * read_time; later += read_time / 4) {
        rig.close();
        rig.open();
        rig.slow_metadata.set_delay(io::operation_kind::read, read_time);
        result<std::shared_ptr<volume>> handle;
        std::thread client([&] { handle = rig->open_volume(device_id(0), size); });
        system_clock().sleep_for(later);
        auto gone = rig->delete_in_background(device_id(0));
        client.join();
        if (gone) {
            gone = rig->wait_for_deletion(device_id(0));
        }
        rig.slow_metadata.set_delay(io::operation_kind::read, std::chrono::milliseconds(0));
        if (!handle) {
            ASSERT_OK(gone);
            ASSERT_OK(rig.make(0, size)->write(0, pattern(1, size)));
            continue;
        }
        ++opened;
        ASSERT_THAT(gone, HasCode(error_code::busy)) << later.count();
        ASSERT_EQ(read_all(**handle, 0, size), pattern(1, size)) << later.count();
        handle->reset();
    }
    EXPECT_GT(opened, 0);
}

class DeletedName : public testing::Test {
protected:
    void SetUp() override {
        create_pool_request request;
        request.directory = path_;
        request.data_size_bytes = 64U << 20;
        request.metadata_size_bytes = 1U << 20;
        ASSERT_OK(pool_directory::create(request, system_clock()));
        auto opened = pool_directory::open(path_, {.purpose = open_purpose::serve}, system_clock());
        ASSERT_THAT(opened, IsOk());
        pool_ = std::move(*opened);
        ASSERT_OK(pool_->start());
    }
    void TearDown() override {
        if (pool_ != nullptr) {
            EXPECT_OK(pool_->close());
        }
    }
    void create() {
        create_volume_request request;
        request.name = "a";
        request.size_bytes = size;
        ASSERT_OK(pool_->create_volume(request));
    }
    // Without a command that would give it a push.
    void expect_deletions_to_end() {
        constexpr int tries_max = 2000;
        for (int i = 0; i < tries_max && pool_->report()->deletions_running != 0; ++i) {
            system_clock().sleep_for(std::chrono::milliseconds(5));
        }
        ASSERT_EQ(pool_->report()->deletions_running, 0U);
    }

    static constexpr std::uint64_t size = 16 * block;
    const test::temporary_directory folder_;
    const std::string path_ = folder_.path() / "pool";
    std::unique_ptr<pool_directory> pool_;
};

TEST_F(DeletedName, IsFreeAtOnceAndANewVolumeOfThatNameIsEmpty) {
    constexpr int rounds = 30;
    for (int round = 0; round < rounds; ++round) {
        create();
        {
            ASSERT_OK_AND_ASSIGN(const auto volume, pool_->open_volume("a", false));
            ASSERT_TRUE(test::all_zero(read_all(*volume, 0, size))) << "round " << round;
            for (std::uint64_t at = 0; at < size; at += 2 * block) {
                ASSERT_OK(volume->write(at, pattern(1, block)));
            }
        }
        ASSERT_OK(pool_->remove({.name = "a", .if_exists = false}));
        EXPECT_THAT(pool_->open_volume("a", false), HasCode(error_code::not_found));
    }
    expect_deletions_to_end();
    EXPECT_EQ(pool_->report()->data_used_blocks, 0U);
}

TEST_F(DeletedName, GoesAlthoughItsLastClientIsJustLeaving) {
    constexpr int rounds = 60;
    int refused = 0;
    for (int round = 0; round < rounds; ++round) {
        create();
        std::atomic<bool> stop = false;
        std::atomic<int> opened = 0;
        std::thread client([&] {
            while (!stop) {
                const auto volume = pool_->open_volume("a", false);
                if (volume) {
                    ++opened;
                    ASSERT_OK((*volume)->write(0, pattern(1, 100)));
                } else {
                    ASSERT_THAT(volume, HasCode(error_code::not_found));
                }
            }
        });
        while (opened == 0) {
            std::this_thread::yield();
        }
        for (;;) {
            const auto removed = pool_->remove({.name = "a", .if_exists = false});
            if (removed) {
                break;
            }
            ++refused;
            ASSERT_THAT(removed, HasCode(error_code::busy));
        }
        stop = true;
        client.join();
        ASSERT_NO_FATAL_FAILURE(expect_deletions_to_end()) << "round " << round;
    }
    std::printf("%d deletions, %d refused because a client had it open\n", rounds, refused);
    EXPECT_EQ(pool_->report()->data_used_blocks, 0U);
}

}  // namespace
}  // namespace uthin
