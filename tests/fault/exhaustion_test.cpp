// Pools with 1 to 64 free blocks, data or metadata, are filled by each kind of operation until
// there is no more, and recovered by growth, discards or deletion. A model says what every block
// must hold; whatever was flushed is there after the process was killed in the full pool.
// UTHIN_TIER=0 takes a sample of the sizes, 1 all of them.
#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/tier.h"
#include "thin_metadata/checker.h"

namespace uthin {
namespace {

using test::all_zero;
using test::HasCode;
using test::IsOk;
using test::pattern;
using test::pool_rig;
using test::read_all;
using test::rig_options;
using namespace std::chrono_literals;

constexpr std::uint64_t block = 64ULL << 10;
constexpr std::size_t edge = 512;  // what is looked at, at both ends of a block
constexpr std::uint64_t volume_bytes = (1ULL << 20) * block;
constexpr std::uint64_t shared_blocks = 80;  // of volume 0 with its snapshot
constexpr std::uint64_t spare_blocks = 6;    // of volume 2 alone
constexpr std::uint64_t first_hole = 1000;   // of volume 0
constexpr std::uint64_t apart = 7;
constexpr std::uint64_t first_free_id = 100;
constexpr std::uint64_t plenty_of_data_blocks = 16'000;  // counted in one bitmap
constexpr std::uint64_t ballast_devices = 100;
constexpr std::uint64_t devices_read_max = 200;  // in full, each time
constexpr std::uint64_t first_ballast_id = 1'000'000;

enum class resource : std::uint8_t { data, metadata };

// Tags of what both ends of a mapped block hold; 0: zeros.
struct mapped {
    std::uint64_t head = 0;
    std::uint64_t tail = 0;
};

class full_pool {
public:
    full_pool(std::uint64_t data_blocks, std::uint64_t metadata_blocks)
        : rig_(options(data_blocks, metadata_blocks)) {
        // Empty devices, so that the metadata has a reserve that deserves the name.
        for (std::uint64_t id = 0; id < ballast_devices; ++id) {
            EXPECT_OK(rig_->create_thin(device_id(first_ballast_id + id)));
        }
        EXPECT_OK(create(0));
        open_all();
        for (std::uint64_t i = 0; i < shared_blocks; ++i) {
            EXPECT_OK(write(0, i, true));
        }
        EXPECT_OK(snapshot(0, 1));
        EXPECT_OK(create(2));
        for (std::uint64_t i = 0; i < spare_blocks; ++i) {
            EXPECT_OK(write(2, i * apart, true));
        }
        EXPECT_OK(rig_->commit());
    }

    // ---- operations: what is refused has changed nothing
    [[nodiscard]] result<void> create(std::uint64_t id) {
        UTHIN_TRY(rig_->create_thin(device_id(id)));
        model_[id];
        return {};
    }
    [[nodiscard]] result<void> snapshot(std::uint64_t origin, std::uint64_t id) {
        UTHIN_TRY(rig_.snapshot(origin, id));
        model_[id] = model_[origin];
        return {};
    }
    [[nodiscard]] result<void> remove(std::uint64_t id) {
        open_.erase(id);
        UTHIN_TRY(rig_->delete_thin(device_id(id)));
        model_.erase(id);
        return {};
    }
    [[nodiscard]] result<void> write(std::uint64_t id, std::uint64_t at, bool whole) {
        const std::uint64_t tag = ++tag_;
        const auto bytes = whole ? whole_block(tag) : pattern(tag, edge);
        UTHIN_TRY(volume_of(id).write(at * block, bytes));
        mapped& now = model_[id][at];
        now.head = tag;
        now.tail = whole ? tag : now.tail;
        return {};
    }
    [[nodiscard]] result<void> zero(std::uint64_t id, std::uint64_t at) {
        UTHIN_TRY(volume_of(id).write_zeroes(at * block, block, {.may_unmap = false}));
        model_[id][at] = {};
        return {};
    }
    [[nodiscard]] result<void> discard(std::uint64_t id, std::uint64_t at, std::uint64_t count) {
        UTHIN_TRY(volume_of(id).discard(at * block, count * block));
        auto& blocks = model_[id];
        blocks.erase(blocks.lower_bound(at), blocks.lower_bound(at + count));
        return {};
    }
    // Of a request over several blocks that is refused, each block is old or new.
    [[nodiscard]] result<void> write_several(std::uint64_t id, std::uint64_t at,
                                             std::uint64_t count) {
        std::vector<std::byte> bytes;
        for (std::uint64_t i = 0; i < count; ++i) {
            const auto one = whole_block(tag_ + 1 + i);
            bytes.insert(bytes.end(), one.begin(), one.end());
        }
        auto written = volume_of(id).write(at * block, bytes);
        for (std::uint64_t i = 0; i < count; ++i) {
            const std::uint64_t tag = ++tag_;
            if (written || holds(volume_of(id), (at + i) * block, tag)) {
                model_[id][at + i] = {tag, tag};
            }
        }
        return written;
    }

    // ---- judging
    void expect_content() {
        const std::uint64_t each = 1 + model_.size() / devices_read_max;
        std::uint64_t number = 0;
        for (auto& [id, blocks] : model_) {
            ASSERT_EQ(volume_of(id).mapped_blocks().value(), blocks.size()) << "device " << id;
            if (++number % each != 0 && id > 2) {
                continue;
            }
            for (const auto& [at, now] : blocks) {
                ASSERT_TRUE(holds(volume_of(id), at * block, now.head))
                    << "device " << id << " block " << at;
                ASSERT_TRUE(holds(volume_of(id), (at + 1) * block - edge, now.tail))
                    << "device " << id << " end of block " << at;
            }
            ASSERT_TRUE(all_zero(read_all(volume_of(id), 900'000 * block, edge)));
        }
    }
    // Everything is flushed, the process is killed, and the pool is opened again.
    void kill_and_open() {
        ASSERT_OK(volume_of(0).flush());
        ASSERT_OK(rig_->commit());
        open_.clear();
        rig_.drop();
        rig_.open();
        ASSERT_TRUE(rig_.is_open());
        open_all();
    }
    void expect_checks_clean() {
        ASSERT_OK(rig_->commit());
        ASSERT_OK_AND_ASSIGN(const auto view, rig_->create_view());
        ASSERT_OK_AND_ASSIGN(const auto report, thin_metadata::check_metadata(*view, {}));
        ASSERT_TRUE(report.is_clean()) << report.findings.front().text;
        ASSERT_FALSE(report.needs_check);
    }
    void open_all() {
        for (const auto& [id, blocks] : model_) {
            open_[id] = rig_.open_volume(id, volume_bytes);
        }
    }

    [[nodiscard]] pool_rig& rig() { return rig_; }
    [[nodiscard]] std::vector<std::uint64_t> extra_devices() const {
        std::vector<std::uint64_t> ids;
        for (const auto& [id, blocks] : model_) {
            if (id >= first_free_id) {
                ids.push_back(id);
            }
        }
        return ids;
    }

private:
    static rig_options options(std::uint64_t data_blocks, std::uint64_t metadata_blocks) {
        rig_options with;
        with.data_blocks = data_blocks;
        with.metadata_bytes = metadata_blocks * metadata_block_size_bytes;
        with.pool.commit_interval = 1h;
        with.pool.error_if_no_space = true;
        return with;
    }
    volume& volume_of(std::uint64_t id) {
        auto& open = open_[id];
        if (open == nullptr) {
            open = rig_.open_volume(id, volume_bytes);
        }
        return *open;
    }
    // The same at both ends.
    static std::vector<std::byte> whole_block(std::uint64_t tag) {
        const auto part = pattern(tag, edge);
        std::vector<std::byte> bytes;
        while (bytes.size() < block) {
            bytes.insert(bytes.end(), part.begin(), part.end());
        }
        return bytes;
    }
    static bool holds(volume& of, std::uint64_t offset, std::uint64_t tag) {
        const auto found = read_all(of, offset, edge);
        return tag == 0 ? all_zero(found) : found == pattern(tag, edge);
    }

    pool_rig rig_;
    std::map<std::uint64_t, std::map<std::uint64_t, mapped>> model_;
    std::map<std::uint64_t, std::shared_ptr<volume>> open_;
    std::uint64_t tag_ = 0;
};

// ---- the operations that fill

struct filling {
    std::string name;
    // Step `i`, from 0 on.
    std::function<result<void>(full_pool&, std::uint64_t)> step;
    // More free blocks take very many steps: with UTHIN_TIER=1 only.
    std::uint64_t free_max = 64;
};

const std::vector<filling>& data_fillings() {
    static const std::vector<filling> all = {
        {"Provision",
         [](full_pool& pool, std::uint64_t i) { return pool.write(0, first_hole + i, false); }},
        {"WholeBlocks",
         [](full_pool& pool, std::uint64_t i) {
             return pool.write(0, first_hole + i * apart, true);
         }},
        {"Zeros",
         [](full_pool& pool, std::uint64_t i) { return pool.zero(0, first_hole + i * apart); }},
        {"Several",
         [](full_pool& pool, std::uint64_t i) {
             return pool.write_several(0, first_hole + i * apart, 3);
         }},
        {"BreakSharing",
         [](full_pool& pool, std::uint64_t i) { return pool.write(0, i, i % 2 == 0); }},
        {"SnapshotAndWrite",
         [](full_pool& pool, std::uint64_t i) -> result<void> {
             UTHIN_TRY(pool.snapshot(0, first_free_id + i));
             return pool.write(0, i % shared_blocks, false);
         }},
        {"SnapshotOfSnapshot",
         [](full_pool& pool, std::uint64_t i) -> result<void> {
             UTHIN_TRY(pool.snapshot(i == 0 ? 1 : first_free_id + i - 1, first_free_id + i));
             return pool.write(first_free_id + i, first_hole + i * apart, false);
         }},
        {"CreateAndWrite",
         [](full_pool& pool, std::uint64_t i) -> result<void> {
             UTHIN_TRY(pool.create(first_free_id + i));
             return pool.write(first_free_id + i, i, i % 2 == 0);
         }},
        {"DiscardAndWriteTwo",
         [](full_pool& pool, std::uint64_t i) -> result<void> {
             UTHIN_TRY(pool.write(0, first_hole + 2 * i * apart, false));
             UTHIN_TRY(pool.write(0, first_hole + (2 * i + 1) * apart, true));
             return i % 2 == 0 ? pool.discard(0, first_hole + 2 * i * apart, 1) : result<void>();
         }},
        {"DeleteAndSnapshotTwo",
         [](full_pool& pool, std::uint64_t i) -> result<void> {
             UTHIN_TRY(pool.snapshot(0, first_free_id + 2 * i));
             UTHIN_TRY(pool.snapshot(2, first_free_id + 2 * i + 1));
             UTHIN_TRY(pool.write(first_free_id + 2 * i + 1, first_hole + i, false));
             return pool.remove(first_free_id + 2 * i);
         }},
    };
    return all;
}

// Each step takes at least a block of metadata, but for the last ones.
const std::vector<filling>& metadata_fillings() {
    static const std::vector<filling> all = [] {
        std::vector<filling> some;
        for (const filling& one : data_fillings()) {
            const bool many_steps = one.name == "BreakSharing" || one.name == "DiscardAndWriteTwo";
            const bool one_volume = one.name == "Provision" || one.name == "WholeBlocks" ||
                                    one.name == "Zeros" || one.name == "Several";
            if (!many_steps && !one_volume) {
                some.push_back(one);
            } else if (one_volume) {
                some.push_back({one.name, one.step, 4});
            }
        }
        some.push_back({"Create", [](full_pool& pool, std::uint64_t i) {
                            return pool.create(first_free_id + i);
                        }});
        some.push_back({"Snapshot",
                        [](full_pool& pool, std::uint64_t i) {
                            return pool.snapshot(i % 3, first_free_id + i);
                        },
                        4});
        some.push_back({"SnapshotAndDiscard", [](full_pool& pool, std::uint64_t i) -> result<void> {
                            UTHIN_TRY(pool.snapshot(1, first_free_id + i));
                            return pool.discard(first_free_id + i, i % shared_blocks, 1);
                        }});
        return some;
    }();
    return all;
}

bool is_no_space(const result<void>& outcome) {
    return !outcome && (outcome.error().code() == error_code::no_data_space ||
                        outcome.error().code() == error_code::no_metadata_space);
}

// Until the pool refuses.
void fill(full_pool& pool, const filling& how) {
    constexpr std::uint64_t steps_max = 20'000;
    for (std::uint64_t i = 0; i < steps_max; ++i) {
        if (const auto done = how.step(pool, i); !done) {
            EXPECT_TRUE(is_no_space(done)) << done.error().to_string();
            return;
        }
    }
    ADD_FAILURE() << "the pool does not become full";
}

// Of full metadata a part is kept for deletions: a discard may be refused, and changes nothing
// then.
void discard_all(full_pool& pool, resource what) {
    std::vector<std::uint64_t> ids = pool.extra_devices();
    ids.insert(ids.begin(), {2, 0, 1});
    for (const std::uint64_t id : ids) {
        const auto done = pool.discard(id, 0, 900'000);
        ASSERT_TRUE(done || (what == resource::metadata &&
                             done.error().code() == error_code::no_metadata_space))
            << done.error().to_string();
    }
}

enum class recovery : std::uint8_t { grow, discard, remove };

void recover(full_pool& pool, resource what, recovery how) {
    pool_rig& rig = pool.rig();
    switch (how) {
        case recovery::grow:
            if (what == resource::data) {
                ASSERT_OK(rig.data.grow(*rig.data.size_bytes() + 4 * block));
                ASSERT_OK(rig->grow_data());
            } else {
                ASSERT_OK(
                    rig.metadata.grow(*rig.metadata.size_bytes() + 80 * metadata_block_size_bytes));
                ASSERT_OK(rig->grow_metadata());
            }
            break;
        case recovery::discard: discard_all(pool, what); break;
        case recovery::remove:
            ASSERT_OK(pool.remove(1));
            ASSERT_OK(pool.remove(2));
            for (const std::uint64_t id : pool.extra_devices()) {
                ASSERT_OK(pool.remove(id));
            }
            // Some distance is wanted before the pool counts as not full any more.
            for (std::uint64_t id = 0; id < 10; ++id) {
                ASSERT_OK(rig->delete_thin(device_id(first_ballast_id + id)));
            }
    }
    ASSERT_OK(rig->commit());
}

void run(std::uint64_t data_blocks, std::uint64_t metadata_blocks, resource what,
         std::uint64_t free, const filling& how, recovery recovers) {
    full_pool pool(data_blocks, metadata_blocks);
    pool.rig().do_not_judge();  // thousands of images; the checker of the library looks instead
    const pool_status before = *pool.rig()->status(true);
    ASSERT_EQ(what == resource::data ? before.data_total_blocks - before.data_used_blocks
                                     : before.metadata_total_blocks - before.metadata_used_blocks,
              free);
    fill(pool, how);
    const pool_mode mode = pool.rig()->mode();
    ASSERT_EQ(mode, what == resource::data ? pool_mode::out_of_data_space
                                           : pool_mode::out_of_metadata_space)
        << pool.rig()->mode_cause();
    if (what == resource::data) {
        const pool_status full = *pool.rig()->status(true);
        ASSERT_EQ(full.data_used_blocks, full.data_total_blocks);
    }
    pool.expect_content();
    pool.kill_and_open();
    pool.expect_content();
    pool.expect_checks_clean();
    recover(pool, what, recovers);
    ASSERT_FALSE(::testing::Test::HasFatalFailure());
    if (pool.rig()->mode() == pool_mode::write || recovers != recovery::discard) {
        ASSERT_EQ(pool.rig()->mode(), pool_mode::write) << pool.rig()->mode_cause();
        ASSERT_OK(pool.write(0, first_hole + 800'000, false));
    }
    pool.expect_content();
    pool.kill_and_open();
    pool.expect_content();
    pool.expect_checks_clean();
}

std::vector<std::uint64_t> sizes() {
    std::vector<std::uint64_t> all;
    for (std::uint64_t n = 1; n <= 64; ++n) {
        if (test::tier() > 0 || n <= 2 || n == 13 || n == 64) {
            all.push_back(n);
        }
    }
    return all;
}

// How many metadata blocks a device needs for `free` ones to be free beside the reserve.
std::uint64_t metadata_blocks_for(std::uint64_t free) {
    constexpr std::uint64_t probe_blocks = 300;
    static const std::uint64_t used = [] {
        full_pool pool(plenty_of_data_blocks, probe_blocks);
        pool.rig().do_not_judge();
        const pool_status now = *pool.rig()->status(true);
        return now.metadata_used_blocks - probe_blocks / 10;
    }();
    std::uint64_t blocks = used + free;
    while (blocks - blocks / 10 < used + free) {
        ++blocks;
    }
    return blocks;
}

constexpr std::array recoveries = {recovery::grow, recovery::discard, recovery::remove};

void run_all(resource what, const filling& how) {
    std::uint64_t runs = 0;
    for (const std::uint64_t free : sizes()) {
        const bool data = what == resource::data;
        if (!data && test::tier() == 0 && free > how.free_max) {
            continue;
        }
        const std::uint64_t data_blocks =
            data ? shared_blocks + spare_blocks + free : plenty_of_data_blocks;
        const std::uint64_t metadata_blocks = data ? 1024 : metadata_blocks_for(free);
        for (const recovery recovers : recoveries) {
            SCOPED_TRACE(fmt::format("{} free, recovery {}", free, static_cast<int>(recovers)));
            run(data_blocks, metadata_blocks, what, free, how, recovers);
            ASSERT_FALSE(::testing::Test::HasFatalFailure());
            ++runs;
        }
    }
    fmt::print("{} pools\n", runs);
}

class DataExhaustion : public ::testing::TestWithParam<std::size_t> {};

TEST_P(DataExhaustion, LosesNothingAndIsRecovered) {
    run_all(resource::data, data_fillings().at(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(By, DataExhaustion,
                         ::testing::Range(std::size_t{0}, data_fillings().size()),
                         [](const auto& at) { return data_fillings().at(at.param).name; });

class MetadataExhaustion : public ::testing::TestWithParam<std::size_t> {};

TEST_P(MetadataExhaustion, LosesNothingAndIsRecovered) {
    run_all(resource::metadata, metadata_fillings().at(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(By, MetadataExhaustion,
                         ::testing::Range(std::size_t{0}, metadata_fillings().size()),
                         [](const auto& at) { return metadata_fillings().at(at.param).name; });

}  // namespace
}  // namespace uthin
