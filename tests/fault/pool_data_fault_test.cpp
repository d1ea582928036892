// The n-th operation of the data device fails, for every n, under everything that a volume does.
//
// A failed read, write, zeroing or discard is told to whoever asked and leaves the pool in write
// mode; a failed flush makes it read-only, to be checked, because nobody knows what the device
// dropped. In both cases: what was there before, what the snapshot holds and what a later flush
// acknowledged is there; what the failed call covered is old or new, sector by sector; the metadata
// is clean and nothing has leaked.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/pool_state.h"
#include "support/tier.h"

namespace uthin {
namespace {

using io::fault_outcome;
using io::operation_kind;
using test::pool_rig;
using test::rig_options;
using namespace std::chrono_literals;

constexpr std::uint64_t sector = 512;
constexpr std::uint64_t volume_id = 0;
constexpr std::uint64_t snapshot_id = 1;

using bytes = std::vector<std::byte>;

// What a call does to the content.
struct effect {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    std::byte with{};
    bool whole_blocks_only = false;  // discard
};

struct action {
    const char* name;
    std::function<effect(std::uint64_t block)> covers;
    std::function<result<void>(volume& volume, const effect& what)> run;
    bool flushes = false;  // acknowledges durability
};

bytes filled(std::uint64_t length, std::byte with) {
    return bytes(length, with);
}

result<void> write_it(volume& volume, const effect& what, bool fua = false) {
    return volume.write(what.begin, filled(what.end - what.begin, what.with), fua);
}

constexpr std::byte old_byte{0x11};
constexpr std::byte new_byte{0x22};

// Blocks 0..3 are shared with the snapshot, 4 and 5 exclusively owned, 6 and 7 holes.
std::vector<action> actions() {
    const auto plain = [](volume& volume, const effect& what) { return write_it(volume, what); };
    std::vector<action> all;
    all.push_back({"first write of a part",
                   [](std::uint64_t block) -> effect {
                       return {6 * block + 3 * sector, 6 * block + 8 * sector, new_byte};
                   },
                   plain});
    all.push_back({"first write over a border",
                   [](std::uint64_t block) -> effect {
                       return {6 * block + sector, 8 * block, new_byte};
                   },
                   plain});
    all.push_back({"breaking sharing by a copy",
                   [](std::uint64_t block) -> effect {
                       return {block + 5 * sector, block + 9 * sector, new_byte};
                   },
                   plain});
    all.push_back({"breaking sharing of whole blocks",
                   [](std::uint64_t block) -> effect {
                       return {0, 3 * block, new_byte};
                   },
                   plain});
    all.push_back({"overwrite",
                   [](std::uint64_t block) -> effect {
                       return {4 * block + sector, 6 * block, new_byte};
                   },
                   plain});
    all.push_back({"FUA write to shared, own and new blocks",
                   [](std::uint64_t block) -> effect {
                       return {3 * block + sector, 7 * block, new_byte};
                   },
                   [](volume& volume, const effect& what) { return write_it(volume, what, true); },
                   true});
    all.push_back({"FUA overwrite",
                   [](std::uint64_t block) -> effect {
                       return {4 * block, 4 * block + 8 * sector, new_byte};
                   },
                   [](volume& volume, const effect& what) { return write_it(volume, what, true); },
                   true});
    all.push_back({"zeroing with unmapping",
                   [](std::uint64_t block) -> effect {
                       return {3 * block + sector, 5 * block + 2 * sector, std::byte{}};
                   },
                   [](volume& volume, const effect& what) {
                       return volume.write_zeroes(what.begin, what.end - what.begin, {});
                   }});
    all.push_back({"zeroing in place",
                   [](std::uint64_t block) -> effect {
                       return {3 * block + sector, 7 * block - sector, std::byte{}};
                   },
                   [](volume& volume, const effect& what) {
                       return volume.write_zeroes(what.begin, what.end - what.begin,
                                                  {.may_unmap = false});
                   }});
    all.push_back({"discard",
                   [](std::uint64_t block) -> effect {
                       return {2 * block, 6 * block};
                   },
                   [](volume& volume, const effect& what) {
                       return volume.discard(what.begin, what.end - what.begin);
                   }});
    all.push_back({"flush of nothing", [](std::uint64_t) -> effect { return {}; },
                   [](volume& volume, const effect&) { return volume.flush(); }, true});
    return all;
}

struct totals {
    std::uint64_t runs = 0;
    std::uint64_t failed = 0;
    std::uint64_t read_only = 0;
};

class trial {
public:
    trial(const action& what, std::uint32_t block_size_sectors, const io::fault_rule& rule,
          totals& sums)
        : action_(what),
          rule_(rule),
          totals_(sums),
          block_(std::uint64_t{block_size_sectors} * sector),
          rig_(options(block_size_sectors)) {}

    // False: no fault was left to inject.
    bool run() {
        prepare();
        effect_ = action_.covers(block_);
        rig_.data_faults.arm(rule_);
        const result<void> done = action_.run(*volume_, effect_);
        const result<void> flushed = volume_->flush();
        const bool injected = rig_.data_faults.injected() != 0;
        rig_.data_faults.disarm();
        ++totals_.runs;
        totals_.failed += done && flushed ? 0U : 1U;
        if (!injected) {
            EXPECT_OK(done);
            EXPECT_OK(flushed);
        }
        expect_mode(done && flushed);
        expect_told(done, flushed);
        const bool durable = done && (flushed || action_.flushes);
        check(*volume_, done.has_value() && rig_->mode() == pool_mode::write, "at once");
        if (rig_->mode() == pool_mode::write) {
            EXPECT_OK(volume_->flush());
            EXPECT_OK(rig_->commit());
            expect_no_leak();
        }
        // As if the process had been killed then and there.
        volume_.reset();
        rig_.drop();
        expect_clean_metadata();
        rig_.open();
        volume_ = rig_.open_volume(volume_id, 8 * block_);
        check(*volume_, durable, "after a restart");
        volume_.reset();
        return injected;
    }

private:
    static rig_options options(std::uint32_t block_size_sectors) {
        rig_options with;
        with.metadata_bytes = 64 * metadata_block_size_bytes;
        with.data_blocks = 24;
        with.block_size_sectors = block_size_sectors;
        with.threads = false;
        with.pool.commit_interval = 1h;
        with.pool.error_if_no_space = true;
        return with;
    }

    void prepare() {
        rig_.do_not_judge();  // the library's own check has to do for hundreds of images
        volume_ = rig_.make(volume_id, 8 * block_);
        ASSERT_OK(volume_->write(0, filled(4 * block_, old_byte)));
        ASSERT_OK(rig_.snapshot(volume_id, snapshot_id));
        ASSERT_OK(volume_->write(4 * block_, filled(2 * block_, old_byte)));
        ASSERT_OK(volume_->flush());
    }

    void expect_mode(bool all_went_well) {
        const bool flush_failed = rule_.kinds.contains(operation_kind::flush) && !all_went_well;
        EXPECT_EQ(rig_->mode(), flush_failed ? pool_mode::read_only : pool_mode::write)
            << rig_->mode_cause();
        EXPECT_EQ(rig_->status()->needs_check, flush_failed);
        totals_.read_only += flush_failed ? 1U : 0U;
    }

    void expect_told(const result<void>& done, const result<void>& flushed) {
        for (const result<void>* outcome : {&done, &flushed}) {
            if (!*outcome) {
                EXPECT_EQ(outcome->error().code(), error_code::io_error)
                    << outcome->error().to_string();
            }
        }
        if (rig_->mode() == pool_mode::read_only) {
            EXPECT_FALSE(flushed) << "a flush after a failed one must not acknowledge anything";
        }
    }

    // Every sector of the volume and of the snapshot.
    void check(volume& volume, bool must_be_new, const char* when) {
        const bytes found = test::read_all(volume, 0, 8 * block_);
        for (std::uint64_t at = 0; at < found.size(); at += sector) {
            const std::byte before = at < 6 * block_ ? old_byte : std::byte{};
            const bool covered = at >= effect_.begin && at < effect_.end;
            const std::byte after = covered ? effect_.with : before;
            ASSERT_TRUE(std::all_of(found.begin() + static_cast<std::ptrdiff_t>(at),
                                    found.begin() + static_cast<std::ptrdiff_t>(at + sector),
                                    [&](std::byte one) { return one == found[at]; }))
                << when << ": torn sector at " << at;
            ASSERT_TRUE(found[at] == after || (!must_be_new && found[at] == before))
                << when << ": sector at " << at << " holds " << std::to_integer<int>(found[at]);
        }
        const auto snapshot = rig_.open_volume(snapshot_id, 8 * block_);
        bytes frozen = filled(8 * block_, std::byte{});
        std::fill_n(frozen.begin(), 4 * block_, old_byte);
        ASSERT_EQ(test::read_all(*snapshot, 0, 8 * block_), frozen) << when;
    }

    // A data block is used exactly when a mapping names it.
    void expect_no_leak() {
        const auto view = thin_metadata::open_offline(rig_.metadata, {});
        ASSERT_TRUE(view);
        const auto state = test::read_state(**view, nullptr);
        ASSERT_TRUE(state);
        std::set<std::uint64_t> used;
        for (const auto& [id, device] : state->devices) {
            for (const auto& [block, mapping] : device.mappings) {
                used.insert(mapping.data);
            }
        }
        EXPECT_EQ(rig_->status()->data_used_blocks, used.size());
    }

    void expect_clean_metadata() {
        const auto view = thin_metadata::open_offline(rig_.metadata, {});
        ASSERT_TRUE(view);
        EXPECT_EQ(test::check_complaint(**view), "");
    }

    const action& action_;
    const io::fault_rule rule_;
    totals& totals_;
    const std::uint64_t block_;
    pool_rig rig_;
    std::shared_ptr<volume> volume_;
    effect effect_;
};

void fail_each(const action& what, std::uint32_t block_size_sectors, io::fault_rule rule,
               totals& sums) {
    constexpr std::uint64_t nth_max = 200;
    for (rule.nth = 1; rule.nth < nth_max; ++rule.nth) {
        SCOPED_TRACE(fmt::format("{}: number {} fails{}{}", what.name, rule.nth,
                                 rule.persistent ? ", and all after it" : "",
                                 rule.outcome == fault_outcome::io_error ? "" : ", short"));
        trial now(what, block_size_sectors, rule, sums);
        if (!now.run() || ::testing::Test::HasFailure()) {
            return;
        }
    }
    ADD_FAILURE() << what.name << ": does not come to an end";
}

// `short_run`: each operation fails once and wholly, and those after it succeed.
void run_all(std::uint32_t block_size_sectors, bool short_run) {
    totals sums;
    for (const action& one : actions()) {
        for (const auto kind : {operation_kind::read, operation_kind::write, operation_kind::flush,
                                operation_kind::discard, operation_kind::write_zeroes}) {
            for (int variant = 0; variant < (short_run ? 1 : 4); ++variant) {
                io::fault_rule rule{.kinds = {kind}, .persistent = variant % 2 != 0};
                rule.outcome =
                    variant < 2 ? fault_outcome::io_error : fault_outcome::short_transfer;
                fail_each(one, block_size_sectors, rule, sums);
            }
        }
    }
    const auto ull = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
    std::printf("blocks of %u sectors: runs=%llu violations=%d failed_calls=%llu read_only=%llu\n",
                block_size_sectors, ull(sums.runs), ::testing::Test::HasFailure() ? 1 : 0,
                ull(sums.failed), ull(sums.read_only));
    EXPECT_GT(sums.failed, 40U);
    EXPECT_GT(sums.read_only, 10U);
}

TEST(PoolDataFault, NothingAcknowledgedIsLostWithSmallBlocks) {
    run_all(128, false);
}

// Zeroing and copying go in pieces.
TEST(PoolDataFault, NothingAcknowledgedIsLostWithLargeBlocks) {
    constexpr std::uint32_t above_a_mebibyte = 2176;
    run_all(above_a_mebibyte, test::tier() == 0);
}

// The independent judges see one image of each kind of failure.
TEST(PoolDataFault, TheJudgesFindTheMetadataClean) {
    for (const auto kind : {operation_kind::read, operation_kind::write, operation_kind::flush}) {
        pool_rig rig;
        auto volume = rig.make(volume_id, 1 << 20);
        ASSERT_OK(volume->write(0, filled(3 << 16, old_byte)));
        ASSERT_OK(rig.snapshot(volume_id, snapshot_id));
        rig.data_faults.arm({.kinds = {kind}});
        static_cast<void>(volume->write(5, filled(100, new_byte)));
        static_cast<void>(volume->flush());
        EXPECT_EQ(rig.data_faults.injected(), 1U);
        volume.reset();
    }
}

}  // namespace
}  // namespace uthin
