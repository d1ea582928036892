// A rollback that was durable in the metadata, but could not be recorded in the catalogue, said
// that it had succeeded and deleted the old root: the only proof that it had happened. The next
// opening took it for undone and kept the old size, and the old external origin, with the new
// content.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pool/pool_directory.h"
#include "support/failing_sqlite.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::IsOk;
using test::statement_stage;

constexpr std::uint64_t block = 64U << 10;

std::unique_ptr<pool_directory> open(const std::string& path) {
    auto opened = pool_directory::open(path, {}, system_clock());
    EXPECT_THAT(opened, IsOk());
    return std::move(*opened);
}

void fill(pool_directory& pool, const char* name, std::byte with) {
    auto volume = pool.open_volume(name, false);
    ASSERT_THAT(volume, IsOk());
    ASSERT_OK((*volume)->write(0, std::vector<std::byte>(block, with)));
    ASSERT_OK((*volume)->flush());
}

std::byte first_byte(pool_directory& pool, const char* name) {
    auto volume = pool.open_volume(name, true);
    EXPECT_THAT(volume, IsOk());
    std::byte byte{};
    EXPECT_THAT((*volume)->read(0, std::span(&byte, 1)), IsOk());
    return byte;
}

TEST(RollbackThatCouldNotBeRecorded, HasHappenedWhollyOrNotAtAll) {
    test::failing_statements statements;
    bool struck = true;
    for (std::uint64_t nth = 1; struck; ++nth) {
        SCOPED_TRACE(fmt::format("statement {} and all after it fail", nth));
        const test::temporary_directory directory;
        const std::string path = directory.path() / "pool";
        ASSERT_OK(pool_directory::create(
            {.directory = path, .data_size_bytes = 16 * block, .metadata_size_bytes = 1U << 20},
            system_clock()));
        auto pool = open(path);
        ASSERT_OK(pool->create_volume({.name = "a", .size_bytes = 4 * block}));
        ASSERT_OK(pool->create_volume({.name = "b", .size_bytes = 2 * block}));
        fill(*pool, "a", std::byte{0x11});
        fill(*pool, "b", std::byte{0x22});
        statements.arm(statement_stage::run, nth, true);
        const auto done = pool->rollback({.name = "a", .to = "b", .force = true});
        struck = statements.injected() != 0;
        statements.disarm();
        EXPECT_TRUE(done || struck);
        pool.reset();
        pool = open(path);
        ASSERT_OK(pool->wait_for_deletions());
        const bool happened = first_byte(*pool, "a") == std::byte{0x22};
        EXPECT_EQ(pool->show("a")->size_bytes, happened ? 2 * block : 4 * block);
        EXPECT_TRUE(happened || !done);
        EXPECT_EQ(pool->engine().list_devices()->size(), 2U);
        ASSERT_OK(pool->close());
    }
}

}  // namespace
}  // namespace uthin
