// What stands behind `pool` and its volumes: the metadata, the data device, the executor, the
// modes.
//
// Invariants
//   EN1  Metadata is changed on the executor only, in works or in the host functions below.
//   EN2  A data block that is allocated but not yet mapped (in flight) is free in every committed
//        state, so that a crash leaks nothing.
//   EN3  After an abort every mapping cache is empty and no block is in flight.
// Threads   Functions marked "Executor" run there; the others anywhere.
// Lock order  docs/concurrency.md.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "pool/bio_prison.h"
#include "pool/data_block_set.h"
#include "pool/data_epochs.h"
#include "pool/event_log.h"
#include "pool/executor.h"
#include "pool/io_tickets.h"
#include "pool/ready_blocks.h"
#include "pool/space_shares.h"
#include "pool/volume_state.h"
#include "uthin/metadata.h"
#include "uthin/pool.h"
#include "uthin/thin.h"

namespace uthin::pool_engine {

class deletion;
class trimmer;

class engine final : public executor_host, public std::enable_shared_from_this<engine> {
public:
    engine(std::unique_ptr<block_device> metadata_device, std::unique_ptr<block_device> data_device,
           pool_options options, clock& time);
    ~engine() override;

    // ---- life (engine.cpp)
    [[nodiscard]] result<void> open();
    [[nodiscard]] result<void> start();
    [[nodiscard]] result<void> close();
    // Stops without a commit. For an owner that did not close().
    void abandon();

    // ---- devices and volumes (engine_devices.cpp)
    [[nodiscard]] result<void> create_thin(device_id id);
    [[nodiscard]] result<void> create_snapshots(std::span<const snapshot_request> requests);
    [[nodiscard]] result<void> delete_thin(device_id id);
    [[nodiscard]] result<void> delete_in_background(device_id id);
    [[nodiscard]] std::vector<deletion_status> deletions() const;
    [[nodiscard]] result<void> wait_for_deletion(device_id id);
    [[nodiscard]] result<void> rollback(device_id id, device_id to_snapshot,
                                        device_id graveyard_id);
    [[nodiscard]] result<std::shared_ptr<volume>> open_volume(
        device_id id, std::uint64_t size_bytes, bool read_only,
        std::shared_ptr<external_origin> origin);
    void close_volume(const std::shared_ptr<volume_state>& state);
    // Null when it is not open.
    [[nodiscard]] std::shared_ptr<volume_state> find_open(device_id id) const;
    [[nodiscard]] bool is_being_deleted(device_id id) const;
    [[nodiscard]] std::size_t open_volume_count() const;

    // ---- the pool as a whole (engine_admin.cpp)
    // Changes of the metadata, and the data that they name.
    [[nodiscard]] result<void> commit_changes();
    // That, and every write that completed before the call.
    [[nodiscard]] result<void> commit_all();
    // Until every data I/O has ended that may use a mapping, or a hole, found before the call.
    [[nodiscard]] result<void> wait_for_reads();
    [[nodiscard]] result<pool_status> status(bool commit_first);
    [[nodiscard]] pool_counters counters() const;
    [[nodiscard]] result<void> grow_data(std::uint64_t blocks);
    [[nodiscard]] result<void> grow_metadata(std::uint64_t blocks);
    [[nodiscard]] result<void> reserve_metadata_snap();
    [[nodiscard]] result<void> clear_needs_check();
    [[nodiscard]] result<void> repair_leaks();
    void set_low_water(std::uint64_t blocks);
    [[nodiscard]] result<void> set_discard(discard_mode mode);
    [[nodiscard]] result<void> set_space_policies(std::map<device_id, space_policy> policies,
                                                  bool must_fit);
    // Runs `change` on the executor: alone or in a batch, committing afterwards or not, if the mode
    // allows what it needs.
    enum class need : std::uint8_t { nothing, deleting, changing };
    struct run_style {
        need needs = need::changing;
        bool alone = false;
        bool commit = false;
        bool counts_as_change = true;
        bool may_only_read = false;  // then it counts only if something was changed
    };
    [[nodiscard]] result<void> run(const std::function<result<void>()>& change, run_style style);

    // ---- modes (engine_modes.cpp)
    [[nodiscard]] pool_mode mode() const noexcept { return mode_.load(); }
    [[nodiscard]] std::string mode_cause() const;
    // `failed` in fail mode and after close().
    [[nodiscard]] result<void> alive() const;
    [[nodiscard]] bool is_alive() const noexcept {
        return !closed_.load() && !closing_.load() && mode() != pool_mode::fail;
    }
    // read_only or failed unless mappings may be added.
    [[nodiscard]] result<void> may_change() const;
    // The same, but out_of_metadata_space is good enough.
    [[nodiscard]] result<void> may_delete() const;
    [[nodiscard]] result<void> allows(need wanted) const;
    // Executor.
    void set_mode(pool_mode mode, std::string_view cause);
    void raise(pool_event event, std::string text);
    [[nodiscard]] event_log& events() noexcept { return events_; }
    void set_error_if_no_space(bool error_out);
    void set_no_space_timeout(std::chrono::nanoseconds timeout);
    // Executor. No data block was found, twice.
    void out_of_data_space();
    // Waits until the pool left out_of_data_space; no_data_space when it should not be waited any
    // longer, or `holds` has no place left. The caller holds no ticket and no cell.
    [[nodiscard]] result<void> wait_for_space(hold_limit* holds);
    // A write found no space in the data device itself, as in a file on a full file system: the
    // pool has no data space either, until a write finds some. Waits a little; the caller tries
    // again unless this fails.
    [[nodiscard]] result<void> wait_for_device(const error& why, hold_limit* holds);
    // New bytes were written: there is some.
    void device_has_space();
    void look_at_clock() override;

    // ---- changes, commit, failure (engine_commit.cpp)
    // Executor. Something happened that a commit makes durable; `frees`: it may have freed blocks.
    void changed(bool frees);
    // Executor, before the metadata of the blocks is changed: MC4, until all requests of the batch
    // (or the one alone) have told the caches what they did.
    void expect_change(volume_state& state, range<virtual_block> blocks);
    [[nodiscard]] bool frees_pending() const noexcept { return frees_pending_; }
    // Executor. What the metadata allocated just now may be used: keeps EN2 for the block until
    // settle(). False: it was in use earlier in this transaction, so that PO2 forbids it; it is
    // parked until the next commit, and another one is to be allocated.
    [[nodiscard]] bool may_use(data_block allocated);
    // Executor. The block got its mapping.
    void settle(data_block block);
    // Executor. Blocks that can be allocated now; those that the batch took are taken off.
    [[nodiscard]] result<std::uint64_t> free_blocks() const;
    // Executor. It got none and was given back: nobody but its allocator ever saw it.
    void never_used(data_block block);
    // Executor, at the end of a request that changed the transaction. Allocates ahead when nothing
    // is left, twice as many each time within a transaction; not when space is short.
    [[nodiscard]] result<void> allocate_ahead();
    [[nodiscard]] ready_blocks& ready() noexcept { return ready_; }
    // Executor. Counts aborts: what was allocated in an older era is not ours any more.
    [[nodiscard]] std::uint64_t era() const noexcept { return era_; }
    // Executor. Ends `request` with `why`; unless that is a logical refusal, the batch is broken.
    [[nodiscard]] work::next refuse(work& request, error why);
    // Flushes the data device on the caller's thread. A failure costs the pool its write mode: what
    // was written since the last good flush is unknown.
    [[nodiscard]] result<void> flush_data();
    // Executor.
    void request_commit() noexcept { commit_requested_ = true; }
    [[nodiscard]] bool commit_requested() const noexcept { return commit_requested_; }
    // Executor, between slices of a removal. On a full pool what each slice replaced comes back by
    // a commit before the next one begins; otherwise a long removal would use up the reserve.
    void spare_the_reserve();
    [[nodiscard]] bool stopping() const noexcept { return closing_.load(); }

    // ---- executor_host (engine_commit.cpp)
    void begin_batch() override;
    [[nodiscard]] result<void> end_batch() override;
    void begin_alone() override {}
    [[nodiscard]] result<void> end_alone() override;
    void ran_out_of_memory() noexcept override;
    void caches_told() noexcept override;
    [[nodiscard]] bool prepare_commit() override;
    [[nodiscard]] result<void> commit() override;
    [[nodiscard]] bool commit_is_due() override;
    [[nodiscard]] std::chrono::nanoseconds idle_time() override;
    [[nodiscard]] bool has_changes() override { return changed_; }

    // ---- parts
    [[nodiscard]] uthin::metadata& metadata() noexcept { return *metadata_; }
    [[nodiscard]] block_device& data() noexcept { return *data_device_; }
    [[nodiscard]] trimmer& space_trimmer() noexcept { return *trimmer_; }
    // Executor.
    [[nodiscard]] space_shares& shares() noexcept { return shares_; }
    [[nodiscard]] executor& worker() noexcept { return executor_; }
    // What a volume is asked for without an io_ticket, or beyond one: close() waits for it as well.
    [[nodiscard]] io_tickets& calls() noexcept { return calls_; }
    [[nodiscard]] bio_prison& prison() noexcept { return prison_; }
    [[nodiscard]] data_epochs& epochs() noexcept { return epochs_; }
    [[nodiscard]] std::uint64_t block_bytes() const noexcept { return block_bytes_; }
    // Its logarithm, 0 when it is no power of two: dividing takes longer than the rest of a lookup.
    [[nodiscard]] std::uint32_t block_shift() const noexcept { return block_shift_; }
    [[nodiscard]] std::uint64_t data_blocks() const noexcept { return data_blocks_.load(); }
    [[nodiscard]] bool zero_new_blocks() const noexcept { return zero_new_blocks_.load(); }
    void set_zero_new_blocks(bool zero) noexcept { zero_new_blocks_.store(zero); }
    [[nodiscard]] discard_mode discards() const noexcept { return discard_.load(); }
    [[nodiscard]] std::uint64_t discard_bytes_per_s() const noexcept {
        return discard_bytes_per_s_.load();
    }
    void set_discard_rate(std::uint64_t bytes_per_s) noexcept {
        discard_bytes_per_s_.store(bytes_per_s);
    }
    [[nodiscard]] std::chrono::nanoseconds now() const { return clock_.monotonic(); }
    [[nodiscard]] const pool_options& options() const noexcept { return options_; }

    struct counter_set {
        sharded_counter hits;
        sharded_counter misses;
        sharded_counter flushes;
        sharded_counter clean_flushes;
        std::atomic<std::uint64_t> provisioned{0};
        std::atomic<std::uint64_t> broken{0};
        std::atomic<std::uint64_t> discards{0};
        std::atomic<std::uint64_t> pieced{0};
        std::atomic<std::uint64_t> ignored_discards{0};
        std::atomic<std::uint64_t> snapshots{0};
        std::atomic<std::uint64_t> commits{0};
        std::atomic<std::uint64_t> events{0};
        std::atomic<std::uint64_t> held{0};
    };
    [[nodiscard]] counter_set& count() noexcept { return counters_; }

private:
    struct open_entry {
        std::weak_ptr<volume> handle;
        std::shared_ptr<volume_state> state;
    };

    void begin_closing();
    // Nothing is let in any more, and what is inside ends.
    void drain(io_tickets& tickets);
    [[nodiscard]] result<void> has_metadata_for(std::uint64_t data_blocks_wanted);
    void watch_thresholds();
    // Needs no memory.
    void metadata_failed(const error& why);
    void give_transaction_up(const error& why);
    // Tries again what failed then.
    void record_needs_check();
    void mark_all_lost();
    [[nodiscard]] result<void> give_ready_back();
    [[nodiscard]] result<void> give_in_flight_back();
    [[nodiscard]] result<void> take_in_flight_again();
    // Executor. Nothing is wrong with the metadata any more.
    void leave_read_only();
    void judge_space();
    void judge_metadata_mark();
    [[nodiscard]] bool is_waited_for_space() const REQUIRES(mode_lock_);
    // Until the mode changes, at most for `longest` (0: any time).
    [[nodiscard]] result<void> hold(hold_limit* holds, std::chrono::nanoseconds longest,
                                    const std::string& in_vain_because);
    // Until writes that wait for space fail; absent: they do not.
    [[nodiscard]] std::optional<std::chrono::nanoseconds> time_left_for_space() const
        REQUIRES(mode_lock_);
    [[nodiscard]] std::vector<std::shared_ptr<volume_state>> open_states() const;
    // Null: none is. The one with the next id; the first without `id`.
    [[nodiscard]] std::shared_ptr<volume_state> open_after(std::optional<device_id> id) const;
    // Without memory for a list of them.
    template <class Fn>
    void for_each_open(const Fn& fn) const {
        for (auto state = open_after({}); state != nullptr; state = open_after(state->id)) {
            fn(*state);
        }
    }
    [[nodiscard]] result<std::shared_ptr<volume_state>> open_state(device_id id,
                                                                   std::uint64_t size_bytes);
    [[nodiscard]] result<void> close_devices();
    [[nodiscard]] result<std::uint64_t> promised_blocks();
    [[nodiscard]] result<void> check_promises(std::uint64_t before, bool had_ready);

    static constexpr std::size_t ahead_least = 4;

    const pool_options options_;
    clock& clock_;
    const std::unique_ptr<block_device> metadata_device_;
    const std::unique_ptr<block_device> data_device_;
    std::unique_ptr<uthin::metadata> metadata_;
    std::uint64_t block_bytes_ = 0;
    std::uint32_t block_shift_ = 0;
    std::atomic<std::uint64_t> data_blocks_{0};
    std::atomic<std::uint64_t> metadata_low_watermark_{0};

    executor executor_;
    work_queue pool_queue_;
    io_tickets calls_;
    bio_prison prison_;
    data_epochs epochs_;
    counter_set counters_;
    event_log events_;
    const std::unique_ptr<trimmer> trimmer_;

    std::atomic<pool_mode> mode_{pool_mode::write};
    std::atomic<bool> closing_{false};
    std::atomic<bool> closed_{false};
    std::atomic<bool> zero_new_blocks_;
    std::atomic<discard_mode> discard_;
    std::atomic<bool> error_if_no_space_;
    std::atomic<std::uint64_t> low_water_blocks_;
    std::atomic<std::uint64_t> discard_bytes_per_s_;
    std::atomic<bool> has_shares_{false};
    std::atomic<bool> device_is_full_{false};  // that is why there is no data space

    // Executor only.
    bool changed_ = false;
    bool frees_pending_ = false;
    bool commit_requested_ = false;
    std::optional<std::uint64_t> preparation_left_;  // blocks to write before the commit
    bool data_flush_failed_ = false;
    bool needs_check_pending_ = false;
    std::chrono::nanoseconds needs_check_tried_{0};
    volume_state* expecting_ = nullptr;
    bool giving_back_ = false;  // what is freed now was never mapped
    bool metadata_is_low_ = false;
    std::chrono::nanoseconds changed_since_{0};
    std::uint64_t era_ = 0;
    space_shares shares_;
    std::uint64_t allocated_in_batch_ = 0;
    data_block_set in_flight_;  // EN2
    ready_blocks ready_;
    std::size_t ahead_ = ahead_least;  // how many are allocated ahead the next time
    // Data blocks that were given out since the last commit. Freed again before the next one they
    // are free in the committed state too, and the metadata would allocate them at once.
    data_block_set used_since_commit_;
    std::vector<std::uint64_t> parked_;  // allocated, of nobody's use before the next commit
    std::optional<error> broken_by_;

    mutable mutex mode_lock_;
    condition space_;  // the mode changed
    std::string mode_cause_ GUARDED_BY(mode_lock_);
    std::chrono::nanoseconds out_of_space_since_ GUARDED_BY(mode_lock_){0};
    bool space_timed_out_ GUARDED_BY(mode_lock_) = false;
    std::chrono::nanoseconds no_space_timeout_ GUARDED_BY(mode_lock_);

    mutable mutex volumes_lock_;
    std::map<device_id, open_entry> volumes_ GUARDED_BY(volumes_lock_);
    std::map<device_id, std::shared_ptr<deletion>> deletions_ GUARDED_BY(volumes_lock_);
};

// A function as a request, for the calls that need no class of their own.
class simple_work final : public work {
public:
    simple_work(engine& owner, const std::function<result<void>()>& change, engine::run_style style)
        : engine_(owner), change_(change), style_(style) {
        runs_alone_ = style.alone;
        wants_commit_ = style.commit;
    }
    [[nodiscard]] next run() override;

private:
    engine& engine_;
    const std::function<result<void>()>& change_;
    const engine::run_style style_;
};

}  // namespace uthin::pool_engine
