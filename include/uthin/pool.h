// A thin pool: many volumes that share the blocks of one data device.
//
// Invariants
//   PO1  A new mapping is published only after its data block was written whole (or zeroed, or
//        copied), and is durable only after the data device was flushed.
//   PO2  A freed data block is used again only after the commit that frees it and after the end of
//        every I/O that could have looked it up.
//   PO3  Snapshots of one call are of one instant, and appear together or not at all.
//   PO4  Nothing is written to the metadata device while nothing changed.
// Threads
//   Every function from any thread, except open(), start(), close() and the destructor: one thread,
//   nothing else running; beside close() requests of volumes may be. Until start() the pool has no
//   thread of its own; each call then runs its metadata work on the caller's thread (so a process
//   may fork between open() and start()), and the periodic commit happens at the end of such calls.
// Failures
//   Logical refusals (not_found, already_exists, busy, invalid_argument, out_of_range) change
//   nothing. A failure of the metadata aborts the open transaction, sets needs_check and leaves the
//   pool read_only, or in `fail` mode when that fails too: semantics of the kernel's pool modes.
// Source    the kernel's thin-pool target (v6.12); docs/concurrency.md.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "uthin/metadata.h"
#include "uthin/thin.h"

namespace uthin {

class clock;

enum class discard_mode : std::uint8_t { passdown, no_passdown, ignore };

enum class pool_mode : std::uint8_t {
    write,
    out_of_data_space,  // reads and writes to mapped, unshared blocks go on
    // As read_only, but what frees space is allowed: deleting, discarding. Ends by it, or by
    // growing the metadata. A pool that is full already is opened in this mode.
    out_of_metadata_space,
    read_only,
    fail,  // everything but close() is refused
};
[[nodiscard]] std::string_view to_string(pool_mode mode) noexcept;

enum class pool_event : std::uint8_t {
    low_data_space,      // once for each time that the free blocks fall to the low water mark
    low_metadata_space,  // the same for the metadata, judged after commits
    mode_changed,
    no_space_timeout,  // writes that wait for space fail from now on
};
[[nodiscard]] std::string_view to_string(pool_event event) noexcept;

struct pool_event_record {
    std::uint64_t number = 0;  // ascends, also over a restart
    std::int64_t unix_seconds = 0;
    pool_event event = pool_event::mode_changed;
    pool_mode mode = pool_mode::write;  // afterwards
    std::string text{};                 // for people
};

struct pool_events {
    std::vector<pool_event_record> events{};
    std::uint64_t last = 0;  // to go on after, also when there are none
    // Between the number asked for and the first of `events` there were more, or the pool was
    // opened anew: its state is to be looked at.
    bool some_lost = false;
};

struct pool_options {
    bool zero_new_blocks = true;
    discard_mode discard = discard_mode::passdown;
    // False: a write that finds no free block waits until there is one, at most no_space_timeout
    // (0: for ever) after the pool ran out.
    bool error_if_no_space = false;
    std::chrono::nanoseconds no_space_timeout = std::chrono::seconds(60);
    // low_data_space is raised when free data blocks fall to this number.
    std::uint64_t low_water_blocks = 0;
    // Changes become durable at the latest this long after they were made.
    std::chrono::nanoseconds commit_interval = std::chrono::seconds(1);
    std::uint64_t metadata_cache_bytes = 64ULL << 20;
    // Single mappings kept for the hit path of one volume, 21 bytes each; rounded up to a power of
    // two. A quarter of the memory more is for runs of neighbours, up to 8 times as many mappings.
    std::uint32_t mapping_cache_entries = 1U << 14;
    // Requests that the executor takes in one turn.
    std::uint32_t executor_batch = 64;
    // Parts of blocks that are discarded one by one are remembered (in memory only), and the block
    // is unmapped when all of it was. False: such parts are left alone, as by the kernel.
    bool remember_partial_discards = true;
    // Of discards that are passed down, by trim() too; 0: as fast as the device takes them.
    std::uint64_t discard_bytes_per_s = 0;
    bool read_only = false;  // no device is written
    bool format = false;     // a blank metadata device may be formatted
    // Must equal the stored size; 0 accepts it (not when formatting).
    std::uint32_t data_block_size_sectors = 0;
    // Size of the pool when it is formatted; 0: the whole data device.
    std::uint64_t data_blocks = 0;
    // Called after the fact, on the pool's thread or a caller's; must not call the pool.
    std::function<void(pool_event)> on_event{};
};

struct snapshot_request {
    device_id origin;
    device_id id;  // the new device
};

// What a device may take of the pool's data blocks.
struct space_policy {
    // It can map so many whatever others do. 0: nothing is promised.
    std::uint64_t reserved_blocks = 0;
    // It never maps more. 0: no limit.
    std::uint64_t limit_blocks = 0;
    bool operator==(const space_policy&) const = default;
};

// What the kernel's status line holds, and more. Sizes in blocks of their device.
struct pool_status {
    std::uint64_t transaction_id = 0;
    std::uint64_t metadata_total_blocks = 0;
    std::uint64_t metadata_used_blocks = 0;  // the reserve counts as used, as in the kernel
    std::uint64_t data_total_blocks = 0;
    std::uint64_t data_used_blocks = 0;
    std::optional<metadata_block> metadata_snap;  // held root
    pool_mode mode = pool_mode::write;
    std::string mode_cause;                         // empty in write mode
    discard_mode discard = discard_mode::passdown;  // the effective one
    bool error_if_no_space = false;                 // the effective one: true after the timeout
    bool needs_check = false;
    std::uint64_t metadata_low_watermark_blocks = 0;
    std::uint64_t data_low_watermark_blocks = 0;
    std::uint32_t data_block_size_sectors = 0;
    std::uint32_t time = 0;
    std::uint64_t device_count = 0;
    std::uint64_t open_volume_count = 0;
    bool zero_new_blocks = true;
    bool read_only_requested = false;
    // Promised to devices that have not mapped them yet. More than are free when somebody else (the
    // kernel, an older uthin) took them.
    std::uint64_t data_promised_blocks = 0;
};

// Since open.
struct pool_counters {
    std::uint64_t mapping_hits = 0;  // a sum over shards: what is counted meanwhile may be missing
    std::uint64_t mapping_misses = 0;
    std::uint64_t provisioned_blocks = 0;
    std::uint64_t broken_blocks = 0;  // copied because shared
    std::uint64_t discarded_requests = 0;
    std::uint64_t pieced_blocks = 0;       // unmapped because all of their parts had been discarded
    std::uint64_t passed_down_blocks = 0;  // free blocks that the data device was told of
    std::uint64_t ignored_discards = 0;    // succeeded without effect in a read-only mode
    std::uint64_t snapshots = 0;
    std::uint64_t commits = 0;
    std::uint64_t flushes = 0;        // volume::flush calls
    std::uint64_t clean_flushes = 0;  // of these, without a commit
    std::uint64_t held_requests = 0;  // waiting for space now
    std::uint64_t events = 0;
    std::uint64_t executor_turns = 0;
    std::uint64_t executor_requests = 0;
    metadata_statistics metadata;
};

// A background deletion.
struct deletion_status {
    device_id id;
    bool done = false;
    std::uint64_t blocks_left = 0;  // mappings not yet removed
    std::optional<error> failure;   // why it stopped; delete_in_background() again goes on
};

class pool {
public:
    // Takes the devices. Formats a blank metadata device if allowed; otherwise writes nothing.
    // With needs_check set the pool comes up read_only. `time` must outlive the pool. Errors of
    // metadata::open, and: invalid_argument (the data device is smaller than the pool).
    [[nodiscard]] static result<std::unique_ptr<pool>> open(
        std::unique_ptr<block_device> metadata_device, std::unique_ptr<block_device> data_device,
        pool_options options, clock& time);
    // Closes without a last commit if close() was not called.
    ~pool();
    pool(const pool&) = delete;
    pool& operator=(const pool&) = delete;

    // Starts the metadata executor's thread. Once.
    [[nodiscard]] result<void> start();
    // Waits for requests in flight, fails those held for space, commits, stops the thread. Volumes
    // that still exist answer `failed` from then on. Background deletions stop where they are. The
    // error of the last commit, if any; the pool is closed in every case.
    [[nodiscard]] result<void> close();

    // ---- devices. Durable on return unless said otherwise. Refused (read_only) outside the modes
    // write and out_of_data_space.

    // already_exists; invalid_argument (more than 24 bits).
    [[nodiscard]] result<void> create_thin(device_id id);
    // PO3. Origins may be open and written to; a later request may name a device of an earlier one
    // as its origin. already_exists; not_found; out_of_range (the pool's time is used up). Writes
    // to the origins wait from the moment the older ones have ended until the snapshots exist, not
    // until they are durable.
    [[nodiscard]] result<void> create_snapshots(std::span<const snapshot_request> requests);
    // Blocks the executor for the whole walk: for small devices. not_found; busy (open, or being
    // deleted). Also in out_of_metadata_space.
    [[nodiscard]] result<void> delete_thin(device_id id);
    // Returns at once; the work goes on in slices with commits between, and the id is free at the
    // end. Not durable on return: after a crash call it again. The same call while it runs is ok.
    // not_found; busy (open). Before start() it runs to its end.
    [[nodiscard]] result<void> delete_in_background(device_id id);
    // Running and finished deletions since open; a device deleted twice shows the later one.
    [[nodiscard]] std::vector<deletion_status> deletions() const;
    // Until the deletion of `id` ended; its failure, if any. not_found: none was begun.
    [[nodiscard]] result<void> wait_for_deletion(device_id id);
    // `id` reads as `to_snapshot` from now on (which keeps its content); what it was moves to the
    // new device `graveyard_id`, to be deleted in the background by the caller. O(1). Waits for all
    // requests of `id`, open or not. not_found; already_exists (graveyard_id).
    [[nodiscard]] result<void> rollback(device_id id, device_id to_snapshot,
                                        device_id graveyard_id);
    // One live object per id: opening again returns the same, with the size it has; `read_only`
    // false makes a live read-only one writable. not_found; busy (being deleted); invalid_argument
    // (size over 2^63). `external_origin`, opened read-only: what unmapped blocks read as, zeros
    // beyond its end; a live object keeps the one it has.
    [[nodiscard]] result<std::shared_ptr<volume>> open_volume(
        device_id id, std::uint64_t size_bytes, bool read_only = false,
        std::unique_ptr<block_device> external_origin = nullptr);
    // As committed or about to be.
    [[nodiscard]] result<std::vector<thin_device_info>> list_devices() const;

    // ---- the pool

    // Everything that completed before the call is durable on return. Writes nothing when nothing
    // changed.
    [[nodiscard]] result<void> commit();
    // With `commit_first` figures are exact (as the kernel's status without noflush); a failing
    // commit shows in the mode only. `failed` in fail mode.
    [[nodiscard]] result<pool_status> status(bool commit_first = false);
    [[nodiscard]] pool_counters counters() const;
    // What happened after the event `number` (0: since the pool was opened); waits at most `wait`
    // for something to happen. The last 256 are kept.
    [[nodiscard]] pool_events events(std::uint64_t number, std::chrono::nanoseconds wait) const;
    [[nodiscard]] pool_mode mode() const noexcept;
    // Why the mode is not `write`; empty when it is.
    [[nodiscard]] std::string mode_cause() const;
    [[nodiscard]] std::uint32_t data_block_size_sectors() const noexcept;
    [[nodiscard]] std::uint64_t data_block_size_bytes() const noexcept;
    // For callers of volume::map. Lives as long as the pool.
    [[nodiscard]] block_device& data_device() noexcept;

    // Durable on return. 0: as many as the device has now. invalid_argument: smaller than now or
    // larger than the device; needs_check; read_only.
    [[nodiscard]] result<void> grow_data(std::uint64_t blocks = 0);
    [[nodiscard]] result<void> grow_metadata(std::uint64_t blocks = 0);
    // Changes of options while the pool lives. discard `ignore` <-> others: invalid_argument.
    void set_low_water(std::uint64_t blocks);
    void set_zero_new_blocks(bool zero);
    // False also begins the timeout anew, after it expired too.
    void set_error_if_no_space(bool error_out);
    void set_no_space_timeout(std::chrono::nanoseconds timeout);
    [[nodiscard]] result<void> set_discard(discard_mode mode);
    void set_discard_rate(std::uint64_t bytes_per_s);
    // The policies of all devices from now on; they are not stored. A device that does not exist
    // yet has mapped nothing. A write that would break one fails with no_data_space at once, and
    // only that: it is never held, and the mode stays. With `must_fit` no_data_space when more
    // would be promised than before and than is free.
    [[nodiscard]] result<void> set_space_policies(std::map<device_id, space_policy> policies,
                                                  bool must_fit);

    // Discards all free space of the data device, in steps between which other requests go on. With
    // discard_mode::passdown whatever becomes free is discarded soon after the commit that frees
    // it; this is for what was free before, or free when the pool was closed. The bytes discarded.
    // unsupported: the mode is another one, or the device takes no discards.
    [[nodiscard]] result<std::uint64_t> trim();

    // busy: one is held. Durable on return.
    [[nodiscard]] result<void> reserve_metadata_snap();
    // invalid_argument: none is held. Durable on return.
    [[nodiscard]] result<void> release_metadata_snap();
    [[nodiscard]] result<std::optional<metadata_block>> metadata_snap() const;
    // invalid_argument unless `current` is the stored id. Durable on return.
    [[nodiscard]] result<void> set_transaction_id(std::uint64_t current, std::uint64_t next);
    // The last committed state, pinned; commit() first for the present one.
    [[nodiscard]] result<std::shared_ptr<thin_metadata::metadata_view>> create_view();

    // After a full check that came out clean: the pool leaves read_only, unless it was opened so.
    // Volumes that lost changes still say so until they are opened again.
    [[nodiscard]] result<void> clear_needs_check();
    // After a full check that found nothing but counts that are too high: puts them right, clears
    // needs_check and leaves read_only. Revokes every read view; changes wait as long as it takes
    // to read all metadata. corrupt, no_metadata_space: nothing was changed. io_error: as it was,
    // or, if it is not known which superblock is durable, `fail`: open the pool again.
    [[nodiscard]] result<void> repair_leaks();

    // Runs `change` on the executor, alone, outside a batch; the writer's calls are legal in it. It
    // must not call the pool, not commit (commit() afterwards makes it durable) and not allocate
    // data blocks (a block freed just now may be in use by I/O still; volumes know). If it
    // returns an error that is not a logical refusal, the transaction is aborted and the pool
    // leaves write mode: keep the errors of mere reading to yourself. Refused in fail mode only.
    [[nodiscard]] result<void> with_metadata(const std::function<result<void>(metadata&)>& change);

private:
    explicit pool(std::shared_ptr<pool_engine::engine> engine);
    std::shared_ptr<pool_engine::engine> engine_;
};

}  // namespace uthin
