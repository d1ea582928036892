// The pool as a whole: status, sizes, settings.
#include <algorithm>

#include <fmt/format.h>

#include "persistent_data/space_map_common.h"
#include "pool/barrier.h"
#include "pool/engine.h"
#include "pool/trimmer.h"
#include "thin_metadata/leak_repair.h"

namespace uthin::pool_engine {

namespace {

// A change after which blocks may be given out again that an abort freed: what began before the
// abort may still be filling or reading one of them, and ends first.
class mending final : public barrier {
public:
    mending(engine& owner, std::vector<device_id> devices,
            const std::function<result<void>()>& change)
        : barrier(owner, std::move(devices), true), change_(change) {
        runs_alone_ = true;
    }

private:
    [[nodiscard]] next act() override {
        if (auto done = change_(); !done) {
            return engine_.refuse(*this, std::move(done).error());
        }
        return next::done;
    }

    const std::function<result<void>()>& change_;
};

std::vector<device_id> ids_of(const std::vector<std::shared_ptr<volume_state>>& states) {
    std::vector<device_id> ids;
    for (const auto& state : states) {
        ids.push_back(state->id);
    }
    return ids;
}

}  // namespace

result<void> engine::wait_for_reads() {
    return run(
        [&]() -> result<void> {
            epochs_.wait(epochs_.begin_grace());
            return {};
        },
        {.needs = need::nothing, .counts_as_change = false});
}

result<void> engine::commit_changes() {
    if (options_.read_only) {
        return {};
    }
    return run([]() -> result<void> { return {}; },
               {.needs = need::deleting, .commit = true, .counts_as_change = false});
}

result<void> engine::commit_all() {
    if (options_.read_only) {
        return {};
    }
    std::uint64_t durable = 0;
    UTHIN_TRY(run(
        [&]() -> result<void> {
            durable = metadata_->durable_transaction();
            return {};
        },
        {.needs = need::deleting, .commit = true, .counts_as_change = false}));
    // ORDER: a commit that began after the call flushed the data. Without one (no mapping changed)
    // what was written in place is still in the device's cache.
    return metadata_->durable_transaction() == durable ? flush_data() : result<void>();
}

result<pool_status> engine::status(bool commit_first) {
    UTHIN_TRY(alive());
    if (commit_first && may_delete()) {
        static_cast<void>(commit_changes());  // its failure shows in the mode
        UTHIN_TRY(alive());
    }
    pool_status now;
    const space_counts data = UTHIN_TRY(metadata_->data_space());
    const space_counts metadata = UTHIN_TRY(metadata_->metadata_space());
    now.transaction_id = UTHIN_TRY(metadata_->transaction_id());
    now.metadata_total_blocks = metadata.total_blocks;
    now.metadata_used_blocks = metadata.total_blocks - metadata.free_blocks;
    now.data_total_blocks = data.total_blocks;
    const std::uint64_t allocated = data.total_blocks - data.free_blocks;
    now.data_used_blocks =
        allocated - std::min<std::uint64_t>(allocated, ready_.count() + ready_.lent());
    now.metadata_snap = UTHIN_TRY(metadata_->metadata_snap());
    now.mode = mode();
    now.mode_cause = mode_cause();
    now.discard = discards();
    if (now.discard == discard_mode::passdown && !data_device_->capabilities().can_discard) {
        now.discard = discard_mode::no_passdown;
    }
    {
        lock_guard held(mode_lock_);
        now.error_if_no_space = error_if_no_space_.load() || space_timed_out_;
    }
    now.needs_check = metadata_->needs_check();
    now.metadata_low_watermark_blocks = metadata_low_watermark_.load();
    now.data_low_watermark_blocks = low_water_blocks_.load();
    now.data_block_size_sectors = metadata_->data_block_size_sectors();
    now.time = UTHIN_TRY(metadata_->time());
    now.device_count = UTHIN_TRY(metadata_->list_devices()).size();
    now.open_volume_count = open_volume_count();
    now.zero_new_blocks = zero_new_blocks();
    now.read_only_requested = options_.read_only;
    now.data_promised_blocks = UTHIN_TRY(promised_blocks());
    return now;
}

result<std::uint64_t> engine::promised_blocks() {
    std::uint64_t promised = 0;
    if (has_shares_.load()) {
        UTHIN_TRY(run(
            [&]() -> result<void> {
                promised = UTHIN_TRY(shares_.promised_blocks(*metadata_));
                return {};
            },
            {.needs = need::nothing, .alone = true, .counts_as_change = false}));
    }
    return promised;
}

// Whether what is promised now, if it is more than `before`, is free.
result<void> engine::check_promises(std::uint64_t before, bool had_ready) {
    const std::uint64_t after = UTHIN_TRY(shares_.promised_blocks(*metadata_));
    if (after <= before) {
        return {};
    }
    if ((frees_pending_ || had_ready) && may_delete()) {
        UTHIN_TRY(commit());  // what was freed counts
    }
    const std::uint64_t free = UTHIN_TRY(free_blocks()) + ready_.lent();
    if (after > free) {
        return fail(error_code::no_data_space,
                    fmt::format("{} blocks would be promised, {} are free", after, free));
    }
    return {};
}

result<void> engine::set_space_policies(std::map<device_id, space_policy> policies, bool must_fit) {
    const auto replace = [&]() -> result<void> {
        const bool had_ready = ready_.count() + ready_.lent() != 0;
        UTHIN_TRY(give_ready_back());  // from now on who allocates is asked whether he may
        const std::uint64_t before = UTHIN_TRY(shares_.promised_blocks(*metadata_));
        space_shares old = shares_;
        const std::uint64_t era = era_;
        shares_.replace(policies);
        auto fit = must_fit ? check_promises(before, had_ready) : result<void>();
        if (!fit) {
            shares_ = std::move(old);
            if (era != era_) {
                shares_.aborted();  // what was in flight then is gone
            }
            return fit;
        }
        has_shares_.store(!shares_.empty());
        return {};
    };
    return run(replace, {.needs = need::nothing, .alone = true, .counts_as_change = false});
}

pool_counters engine::counters() const {
    pool_counters now;
    now.mapping_hits = counters_.hits.sum();
    now.mapping_misses = counters_.misses.sum();
    now.provisioned_blocks = counters_.provisioned.load();
    now.broken_blocks = counters_.broken.load();
    now.discarded_requests = counters_.discards.load();
    now.pieced_blocks = counters_.pieced.load();
    now.passed_down_blocks = trimmer_->discarded_blocks();
    now.ignored_discards = counters_.ignored_discards.load();
    now.snapshots = counters_.snapshots.load();
    now.commits = counters_.commits.load();
    now.flushes = counters_.flushes.sum();
    now.clean_flushes = counters_.clean_flushes.sum();
    now.held_requests = counters_.held.load();
    now.events = counters_.events.load();
    now.executor_turns = executor_.turns();
    now.executor_requests = executor_.requests();
    now.metadata = metadata_->statistics();
    return now;
}

// Found out in the middle it would cost the pool its write mode.
result<void> engine::has_metadata_for(std::uint64_t data_blocks_wanted) {
    using persistent_data::bitmaps_for;
    const space_counts space = UTHIN_TRY(metadata_->metadata_space());
    const std::uint64_t bitmaps = bitmaps_for(data_blocks_wanted) - bitmaps_for(data_blocks());
    // Nodes of the index tree are at least a third full; what else a commit replaces.
    const std::uint64_t nodes = bitmaps / 80 + 8;
    if (bitmaps != 0 && space.free_blocks < bitmaps + nodes) {
        return fail(error_code::no_metadata_space,
                    fmt::format("{} data blocks need {} metadata blocks more, and {} are free; "
                                "grow the metadata first",
                                data_blocks_wanted, bitmaps + nodes, space.free_blocks));
    }
    return {};
}

result<void> engine::grow_data(std::uint64_t blocks) {
    UTHIN_TRY(alive());
    if (metadata_->needs_check()) {
        return fail(error_code::needs_check,
                    "the pool does not grow before its metadata is checked");
    }
    const std::uint64_t on_device = UTHIN_TRY(data_device_->size_bytes()) / block_bytes_;
    const std::uint64_t wanted = blocks == 0 ? on_device : blocks;
    if (wanted > on_device || wanted < data_blocks()) {
        return fail(error_code::invalid_argument,
                    fmt::format("{} data blocks: the pool has {} and the device {}", wanted,
                                data_blocks(), on_device));
    }
    UTHIN_TRY(has_metadata_for(wanted));
    return run(
        [&]() -> result<void> {
            UTHIN_TRY(metadata_->resize_data(wanted));
            data_blocks_.store(wanted);
            return {};
        },
        {.alone = true, .commit = true});
}

result<void> engine::grow_metadata(std::uint64_t blocks) {
    UTHIN_TRY(alive());
    if (metadata_->needs_check()) {
        return fail(error_code::needs_check,
                    "the pool does not grow before its metadata is checked");
    }
    const std::uint64_t on_device = UTHIN_TRY(metadata_->metadata_device_blocks());
    const std::uint64_t wanted = blocks == 0 ? on_device : blocks;
    if (wanted > on_device) {
        return fail(error_code::invalid_argument,
                    fmt::format("{} metadata blocks: {} can be used", wanted, on_device));
    }
    return run(
        [&]() -> result<void> {
            UTHIN_TRY(metadata_->resize_metadata(wanted));
            watch_thresholds();
            return {};
        },
        {.needs = need::deleting, .alone = true, .commit = true});
}

// The metadata commits inside: EN2 holds for that commit too.
result<void> engine::reserve_metadata_snap() {
    return run(
        [this]() -> result<void> {
            UTHIN_TRY(commit());
            UTHIN_TRY(give_in_flight_back());
            auto reserved = metadata_->reserve_metadata_snap();
            UTHIN_TRY(take_in_flight_again());
            return reserved;
        },
        {.alone = true, .commit = true});
}

// What an abort threw away stays lost: the volumes say so until they are opened again.
result<void> engine::clear_needs_check() {
    UTHIN_TRY(alive());
    const std::function<result<void>()> change = [this]() -> result<void> {
        UTHIN_TRY(metadata_->clear_needs_check());
        leave_read_only();
        return {};
    };
    mending request(*this, ids_of(open_states()), change);
    return executor_.execute(pool_queue_, request);
}

// The trees stay where they are, so that lookups go on meanwhile; only the space maps are made
// anew, on the device, and read again.
result<void> engine::repair_leaks() {
    UTHIN_TRY(alive());
    if (options_.read_only) {
        return fail(error_code::read_only, "the pool is opened read-only");
    }
    result<void> repaired;
    const std::function<result<void>()> change = [&]() -> result<void> {
        // ORDER: EN2. In the committed state blocks in flight (of volumes that were opened just
        // now) are free; they are taken again when it was read.
        if (mode() != pool_mode::read_only) {
            UTHIN_TRY(commit());
        }
        // Blocks that only views need are free for a repair.
        while (metadata_->revoke_oldest_view()) {
        }
        bool in_doubt = false;
        repaired = thin_metadata::repair_leaks(
            *metadata_device_, {.rebuild_space_maps = true, .clear_needs_check = true}, &in_doubt);
        // ORDER: TR2. Reading anew ends every hold: no discard may be under way then.
        static_cast<void>(trimmer_->let_go());
        if (auto reloaded = metadata_->abort(); !reloaded) {
            set_mode(pool_mode::fail, reloaded.error().to_string());
            return reloaded;
        }
        if (in_doubt) {
            // The next transaction would write over what the other superblock may still need.
            set_mode(pool_mode::fail, repaired.error().to_string());
            return {};
        }
        trimmer_->aborted();
        UTHIN_TRY(take_in_flight_again());
        if (repaired && needs_check_pending_) {
            // A superblock may have been written whose fate is not known; the one that was read is
            // durable.
            UTHIN_TRY(metadata_->clear_needs_check());
        }
        if (repaired) {
            leave_read_only();
        }
        return {};
    };
    mending request(*this, ids_of(open_states()), change);
    UTHIN_TRY(executor_.execute(pool_queue_, request));
    return repaired;
}

void engine::set_low_water(std::uint64_t blocks) {
    low_water_blocks_.store(blocks);
    static_cast<void>(run(
        [&]() -> result<void> {
            watch_thresholds();
            return {};
        },
        {.needs = need::nothing, .alone = true, .counts_as_change = false}));
}

result<void> engine::set_discard(discard_mode mode) {
    if ((mode == discard_mode::ignore) != (discards() == discard_mode::ignore)) {
        return fail(error_code::invalid_argument,
                    "discards cannot be switched on or off while the pool is open");
    }
    discard_.store(mode);
    return {};
}

}  // namespace uthin::pool_engine
