// Power cuts in the midst of one command of a pool's directory, at every operation of metadata,
// data and catalogue; and what the next command after the cut then finds.
#include <algorithm>
#include <chrono>
#include <functional>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/result.h"
#include "io/crash_device.h"
#include "io/delay_device.h"
#include "pool/pool_directory.h"
#include "support/crash_vfs.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/seed.h"

namespace uthin {
namespace {

using test::all_zero;
using test::borrowed_device;
using test::pattern;
using namespace std::chrono_literals;

constexpr const char* pool_uuid = "6f1d2c3b-0000-4000-8000-000000000003";
constexpr const char* catalogue_path = "/pool/catalog.db";
constexpr std::uint64_t block_bytes = 64ULL << 10;
constexpr std::uint64_t metadata_blocks = 1024;
constexpr std::uint64_t data_blocks = 256;

// A pool with its disks.
class machine {
public:
    machine() {
        domain_->add_device("metadata", metadata_blocks * metadata_block_size_bytes);
        domain_->add_device("data", data_blocks * block_bytes);
        domain_->add_device("catalog.db", std::uint64_t{0});
        domain_->add_device("catalog.db-journal", std::uint64_t{0});
    }
    explicit machine(const io::crash_state& state)
        : domain_(std::make_unique<io::crash_domain>(state)) {}

    [[nodiscard]] io::crash_domain& domain() { return *domain_; }

    [[nodiscard]] result<void> format() {
        auto formatted = UTHIN_TRY(
            pool::open(device("metadata"), device("data"),
                       {.format = true, .data_block_size_sectors = block_bytes / sector_size_bytes},
                       system_clock()));
        UTHIN_TRY(formatted->close());
        UTHIN_TRY(catalogue::create(catalogue_path, pool_uuid,
                                    {.read_only = false, .vfs_name = vfs_.name()}));
        return {};
    }
    // Served, it has an executor's thread, and metadata that takes its time.
    [[nodiscard]] result<std::unique_ptr<pool_directory>> open(open_purpose purpose) {
        directory_parts parts;
        parts.directory = "/pool";
        parts.file.uuid = pool_uuid;
        parts.file.error_if_no_space = true;
        if (purpose == open_purpose::serve) {
            auto slow =
                std::make_unique<io::delay_device>(*domain_->find("metadata"), system_clock());
            slow->set_delay(io::operation_kind::write, 20ms);
            parts.devices.metadata = std::move(slow);
        } else {
            parts.devices.metadata = device("metadata");
        }
        parts.devices.data = device("data");
        parts.names = UTHIN_TRY(catalogue::open(catalogue_path, pool_uuid,
                                                {.read_only = false, .vfs_name = vfs_.name()}));
        return pool_directory::assemble(
            std::move(parts),
            {.purpose = purpose,
             .catalogue_vfs = vfs_.name(),
             .pool = {.commit_interval = 60s, .metadata_cache_bytes = 8 << 20}},
            system_clock());
    }

private:
    std::unique_ptr<block_device> device(const char* name) {
        return std::make_unique<borrowed_device>(*domain_->find(name));
    }

    std::unique_ptr<io::crash_domain> domain_ = std::make_unique<io::crash_domain>();
    test::crash_vfs vfs_{*domain_};
};

using command = std::function<result<void>(pool_directory&)>;
// Empty: all is well.
using probe = std::function<result<std::string>(pool_directory&)>;

// Cuts are made in `during`; `after` is asked in each state that one of them can leave. Returns how
// many there were.
std::size_t cut_everywhere(open_purpose purpose, const command& before, const command& during,
                           const probe& after, std::size_t choices_max) {
    machine running;
    EXPECT_OK(running.format());
    {
        auto pool = running.open(purpose);
        EXPECT_OK(pool);
        EXPECT_OK(before(**pool));
        if (purpose == open_purpose::serve) {
            EXPECT_OK((*pool)->start());
        }
        running.domain().forget_history();
        EXPECT_OK(during(**pool));
        EXPECT_OK((*pool)->close());
    }
    io::power_cut cut(running.domain().history());
    std::size_t states = 0;
    for (std::size_t k = 0; k <= cut.operation_count(); ++k) {
        cut.move_to(k);
        for (const io::crash_choice& choice : cut.choices({.random_subsets = 4,
                                              .random_masks = 2,
                                              .choices_max = choices_max,
                                              .seed = test::seed() + k})) {
            ++states;
            machine left(cut.materialize(choice));
            auto pool = left.open(open_purpose::change);
            EXPECT_OK(pool);
            const auto complaint = after(**pool);
            EXPECT_OK(complaint);
            EXPECT_EQ(*complaint, "") << "cut at " << k << ", " << to_string(choice);
            EXPECT_OK((*pool)->close());
            if (::testing::Test::HasFailure()) {
                return states;
            }
        }
    }
    return states;
}

result<void> create(pool_directory& pool, const std::string& name, std::uint64_t size_bytes) {
    create_volume_request wanted;
    wanted.name = name;
    wanted.size_bytes = size_bytes;
    UTHIN_TRY(pool.create_volume(wanted));
    return {};
}

result<void> write(pool_directory& pool, const std::string& name, std::uint64_t begin_bytes,
                   std::size_t count) {
    const auto open = UTHIN_TRY(pool.open_volume(name, false));
    return open->write(begin_bytes, pattern(begin_bytes + 1, count));
}

// ---- sizes

constexpr std::uint64_t large_bytes = 4 * block_bytes;
constexpr std::uint64_t small_bytes = block_bytes + block_bytes / 2;

result<void> make_large(pool_directory& pool) {
    UTHIN_TRY(create(pool, "v", large_bytes));
    return write(pool, "v", 0, large_bytes);
}

// What was cut off shows no more when the volume has its size again.
result<std::string> grown(pool_directory& pool, const std::string& name) {
    UTHIN_TRY(pool.resize(name, large_bytes));
    const auto open = UTHIN_TRY(pool.open_volume(name, true));
    const auto kept = test::read_all(*open, 0, small_bytes);
    const auto tail = test::read_all(*open, small_bytes, large_bytes - small_bytes);
    const auto written = pattern(1, large_bytes);
    if (!std::ranges::equal(kept, std::span(written).first(small_bytes))) {
        return "what was kept is not what it was";
    }
    return all_zero(tail) ? "" : "what was cut off is there again";
}

TEST(DirectoryCrash, AVolumeGrowsWithZerosAfterACutWhileItWasMadeSmaller) {
    std::size_t seen_small = 0;
    const std::size_t states = cut_everywhere(
        open_purpose::change, make_large,
        [](pool_directory& pool) -> result<void> {
            UTHIN_TRY(pool.resize("v", small_bytes));
            return {};
        },
        [&](pool_directory& pool) -> result<std::string> {
            if (UTHIN_TRY(pool.show("v")).size_bytes == large_bytes) {
                return std::string();
            }
            ++seen_small;
            return grown(pool, "v");
        },
        12);
    EXPECT_GT(seen_small, 0U);
    EXPECT_GT(states, seen_small);
}

TEST(DirectoryCrash, ACloneThatWasCutGrowsWithZerosAfterACut) {
    std::size_t seen = 0;
    const std::size_t states = cut_everywhere(
        open_purpose::change, make_large,
        [](pool_directory& pool) -> result<void> {
            UTHIN_TRY(pool.begin_transfer(
                {.name = "t", .base = "v", .size_bytes = small_bytes, .notes = {}}));
            return {};
        },
        [&](pool_directory& pool) -> result<std::string> {
            const auto transfers = UTHIN_TRY(pool.list_transfers());
            if (transfers.empty()) {
                return std::string();
            }
            ++seen;
            publish_request wanted;
            wanted.name = "t";
            UTHIN_TRY(pool.publish_transfer(transfers.front().id, wanted));
            return grown(pool, "t");
        },
        12);
    EXPECT_GT(seen, 0U);
    EXPECT_GT(states, seen);
}

// ---- the lease of the metadata snapshot

metadata_snapshot_request reservation() {
    return {.action = metadata_snapshot_action::reserve, .lease_s = 3600, .owner = "reader"};
}

// Nobody would release it.
struct lease_states {
    std::size_t held = 0;
    std::size_t free = 0;
    result<std::string> look_at(pool_directory& pool) {
        const metadata_snapshot_reply now = UTHIN_TRY(pool.metadata_snapshot({}));
        ++(now.block ? held : free);
        return now.block && now.owner != "reader" ? "the metadata snapshot has lost its lease" : "";
    }
};

TEST(DirectoryCrash, AMetadataSnapshotThatIsMadeHasItsLease) {
    lease_states seen;
    cut_everywhere(
        open_purpose::change, make_large,
        [](pool_directory& pool) -> result<void> {
            UTHIN_TRY(pool.metadata_snapshot(reservation()));
            return {};
        },
        [&](pool_directory& pool) { return seen.look_at(pool); }, 12);
    EXPECT_GT(seen.held, 0U);
    EXPECT_GT(seen.free, 0U);
}

TEST(DirectoryCrash, AMetadataSnapshotThatIsReleasedKeepsItsLeaseUntilItIsGone) {
    lease_states seen;
    cut_everywhere(
        open_purpose::change,
        [](pool_directory& pool) -> result<void> {
            UTHIN_TRY(make_large(pool));
            UTHIN_TRY(pool.metadata_snapshot(reservation()));
            return {};
        },
        [](pool_directory& pool) -> result<void> {
            UTHIN_TRY(pool.metadata_snapshot(
                {.action = metadata_snapshot_action::release, .owner = "reader"}));
            return {};
        },
        [&](pool_directory& pool) { return seen.look_at(pool); }, 12);
    EXPECT_GT(seen.held, 0U);
    EXPECT_GT(seen.free, 0U);
}

// ---- deletions

// A commit of many blocks is made in steps, and what comes in between sees that the device is gone
// before that is durable. Whoever then takes the intent away leaves a device that nobody knows.
TEST(DirectoryCrash, ADeletionThatIsBeingCommittedKeepsItsIntent) {
    constexpr int volumes = 100;  // each changes a block of metadata of its own
    const auto name_of = [](int number) { return fmt::format("volume-{}", number); };
    const std::size_t states = cut_everywhere(
        open_purpose::serve,
        [&](pool_directory& pool) -> result<void> {
            UTHIN_TRY(create(pool, "victim", block_bytes));
            for (int i = 0; i < volumes; ++i) {
                UTHIN_TRY(create(pool, name_of(i), 4 * block_bytes));
            }
            for (int i = 0; i < volumes; ++i) {
                UTHIN_TRY(write(pool, name_of(i), 0, 512));
            }
            return {};
        },
        [&](pool_directory& pool) -> result<void> {
            UTHIN_TRY(pool.remove({.name = "victim"}));
            for (std::uint64_t size = 5; size < 15; ++size) {  // each looks at the deletions
                UTHIN_TRY(pool.resize(name_of(0), size * block_bytes));
                system_clock().sleep_for(5ms);
            }
            return {};
        },
        [&](pool_directory& pool) -> result<std::string> {
            const auto listed = UTHIN_TRY(pool.list());
            for (const volume_info& one : listed) {
                if (one.name != "victim" && !one.name.starts_with("volume-")) {
                    return "there is a volume that nobody made: " + one.name;
                }
            }
            return std::string();
        },
        1);
    EXPECT_GT(states, 100U);
}

}  // namespace
}  // namespace uthin
