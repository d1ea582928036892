// The metadata of one pool: which thin maps which virtual block to which data block, on the
// kernel's own on-disk format.
//
// Invariants
//   PM1  What is reachable from the committed superblock is never overwritten by the open
//   transaction. PM2  Every mutation happens in the open transaction; after a failed one the only
//   legal call is abort(). PM3  mapped_blocks of a device equals the number of entries of its
//   mapping tree. PM4  A read view reads exactly the state of the commit it was taken at, until it
//   is released or revoked.
// Threads
//   "Writer" calls come from one thread at a time (the pool's metadata executor). "Any" calls may
//   run on any thread beside them: they see the last *published* state. A mutation is published
//   when it returns, or, inside a batch, when the batch is published. No lock is held across device
//   I/O, but that a reader who loses the cache's pages again and again reads under the lock that
//   publishing takes.
// Failures
//   Logical refusals (already_exists, not_found, busy, invalid_argument, out_of_range) change
//   nothing. Any other error of a writer call may leave the open transaction half changed: abort().
//   In fail mode all but close(), needs_check() and the boolean queries return `failed`.
// Source
//   docs/format.md; behaviour after the kernel's dm-thin-metadata interface (v6.12).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "uthin/block_device.h"
#include "uthin/error.h"
#include "uthin/units.h"

namespace uthin {

namespace thin_metadata {
class metadata_view;
}

struct metadata_options {
    // Must equal the stored size; 0 accepts what is stored (not with `format` on a blank device).
    std::uint32_t data_block_size_sectors = 0;
    // A blank device may be formatted. Without it a blank device is `not_permitted` and nothing is
    // written.
    bool format = false;
    // No device write is ever made.
    bool read_only = false;
    // Bound of the block cache; half of it may be dirty before blocks are written early.
    std::uint64_t cache_bytes = 64ULL << 20;
};

struct lookup_result {
    data_block block;
    // True may mean "no longer shared"; false is always right.
    bool shared = false;
    bool operator==(const lookup_result&) const = default;
};

// Contiguous in both spaces and uniform in `maybe_shared`.
struct mapped_range {
    virtual_block begin;
    virtual_block end;
    data_block data_begin;
    bool maybe_shared = false;
    bool operator==(const mapped_range&) const = default;
};

struct device_details {
    std::uint64_t mapped_blocks = 0;
    std::uint64_t transaction_id = 0;  // the pool's when the device was made
    std::uint32_t creation_time = 0;
    std::uint32_t snapshotted_time = 0;
    bool operator==(const device_details&) const = default;
};

struct thin_device_info {
    device_id id;
    device_details details;
};

struct space_counts {
    std::uint64_t total_blocks = 0;
    // Data: free now and at the last commit, plus nothing that the open transaction freed.
    // Metadata: the same, less the reserve, floored at 0.
    std::uint64_t free_blocks = 0;
    // total - committed used, before the reserve is taken off; the same as free_blocks for data.
    std::uint64_t raw_free_blocks = 0;
};

// Counters since open, for tests and benchmarks.
struct metadata_statistics {
    std::uint64_t blocks_read = 0;
    std::uint64_t blocks_written = 0;  // the superblock included
    std::uint64_t superblock_writes = 0;
    std::uint64_t commits = 0;
    std::uint64_t cached_blocks = 0;
    std::uint64_t dirty_blocks = 0;
};

// A run of mappings for bulk loading: [begin, begin + count) -> data_begin..., all made at `time`.
struct mapping_run {
    virtual_block begin;
    data_block data_begin;
    std::uint64_t count = 0;
    std::uint32_t time = 0;
    bool operator==(const mapping_run&) const = default;
};

// An open thin. Obtained from and returned to `metadata`; valid until close_device.
class thin_device;

class metadata {
public:
    // Any thread; the object belongs to the caller, `device` must outlive it. Nothing is written
    // unless a blank device is formatted. Errors: not_permitted (blank, format not allowed),
    // wrong_block / corrupt (superblock), invalid_argument (block size differs, unknown incompat
    // feature bits), unsupported (unknown compat-ro bits and not read_only), no_metadata_space (too
    // small to format).
    [[nodiscard]] static result<std::unique_ptr<metadata>> open(block_device& device,
                                                                const metadata_options& options);
    // Drops everything uncommitted. Prefer close().
    ~metadata();
    metadata(const metadata&) = delete;
    metadata& operator=(const metadata&) = delete;

    // Writer. busy while a device is open. Commits what is uncommitted unless read-only or failed.
    [[nodiscard]] result<void> close();

    // ---- devices
    // -------------------------------------------------------------------------------------------

    // Writer. already_exists; invalid_argument above 24 bits; busy while a device is open that had
    // this id until an abort took its creation back. (So for every id that becomes a device's.)
    [[nodiscard]] result<void> create_thin(device_id id);
    // Writer. O(depth of the top tree). already_exists; not_found (no origin); no_data_space never;
    // out_of_range when the pool's time would reach 2^24. The caller has quiesced the origin's
    // writes.
    [[nodiscard]] result<void> create_snap(device_id id, device_id origin);
    // Writer. not_found; busy while open. Walks only what the device owns exclusively.
    [[nodiscard]] result<void> delete_thin(device_id id);
    // Writer. Gives `id` the mappings of `source` (which keeps them) by a root swap, O(1). The old
    // mappings move to the new hidden device `graveyard`, to be emptied by remove_range slices and
    // deleted. Both `id` and `source` count as snapshotted
    // now. already_exists when `graveyard` is taken.
    [[nodiscard]] result<void> swap_root(device_id id, device_id source, device_id graveyard);
    // Writer. Gives `id` the tree that `donor` has and deletes `donor`; the old tree of `id` moves
    // to `graveyard`.
    [[nodiscard]] result<void> replace_root(device_id id, device_id donor, device_id graveyard);
    // Writer. Counted: opening twice is allowed. not_found.
    [[nodiscard]] result<thin_device*> open_device(device_id id);
    // Writer.
    void close_device(thin_device* device);
    [[nodiscard]] static device_id id_of(const thin_device& device) noexcept;

    // Any. Devices in ascending order of id, as published.
    [[nodiscard]] result<std::vector<thin_device_info>> list_devices() const;
    // Any. not_found.
    [[nodiscard]] result<device_details> get_details(device_id id) const;

    // ---- transaction id
    // ------------------------------------------------------------------------------------

    // Writer. invalid_argument unless `current` is the stored id. Durable with the next commit.
    [[nodiscard]] result<void> set_transaction_id(std::uint64_t current, std::uint64_t next);
    // Any.
    [[nodiscard]] result<std::uint64_t> transaction_id() const;
    [[nodiscard]] result<std::uint32_t> time() const;

    // ---- lookup
    // --------------------------------------------------------------------------------------------

    // Any. Value absent: not mapped. Reads missing metadata blocks on the calling thread, outside
    // all locks, so misses of several threads are served in parallel.
    [[nodiscard]] result<std::optional<lookup_result>> find_block(const thin_device& device,
                                                                  virtual_block block) const;
    // Any. As find_block, but never touches the device: would_block when a block is not cached; the
    // block is remembered for issue_prefetches().
    [[nodiscard]] result<std::optional<lookup_result>> find_cached(const thin_device& device,
                                                                   virtual_block block) const;
    // Any. First run at or after range.begin; absent when nothing is mapped in the range.
    [[nodiscard]] result<std::optional<mapped_range>> find_mapped_range(
        const thin_device& device, range<virtual_block> within) const;
    // Writer. Sees the unpublished changes of the open batch.
    [[nodiscard]] result<std::optional<lookup_result>> find_block_in_batch(
        const thin_device& device, virtual_block block) const;
    [[nodiscard]] result<std::optional<mapped_range>> find_mapped_range_in_batch(
        const thin_device& device, range<virtual_block> within) const;
    // Writer. The block's reference count is above 1. Exact only right after the caller unmapped
    // the block.
    [[nodiscard]] result<bool> block_is_shared(data_block block) const;
    [[nodiscard]] result<std::uint32_t> data_block_count(data_block block) const;
    // Any. In-core counter.
    [[nodiscard]] result<std::uint64_t> mapped_count(const thin_device& device) const;
    // Any. Absent when nothing is mapped.
    [[nodiscard]] result<std::optional<virtual_block>> highest_mapped_block(
        const thin_device& device) const;
    // Any. Reads the blocks that find_cached missed, in one batch.
    void issue_prefetches() const;

    // ---- changing mappings
    // ---------------------------------------------------------------------------------

    // Writer. A block free now and at the last commit and not kept by a read view; its count
    // becomes 1. no_data_space leaves everything unchanged and is not a reason to abort.
    [[nodiscard]] result<data_block> alloc_data_block();
    // Writer. Up to `count_max` consecutive blocks; at least one.
    [[nodiscard]] result<range<data_block>> alloc_data_range(std::uint64_t count_max);
    // Writer. Stores {data, current time}; a different block that was mapped loses one reference.
    [[nodiscard]] result<void> insert_block(thin_device& device, virtual_block block,
                                            data_block data);
    // Writer. The same, if the block is mapped to `present` now (absent: not mapped). False: it is
    // not, and nothing was changed.
    [[nodiscard]] result<bool> insert_block_if(thin_device& device, virtual_block block,
                                               std::optional<data_block> present, data_block data);
    // Writer. Unmaps [begin, end). Subtrees shared with others are dropped by one decrement.
    [[nodiscard]] result<void> remove_range(thin_device& device, range<virtual_block> blocks);
    // Writer. The same in a slice: visits at most about `budget_blocks` exclusively owned metadata
    // blocks and returns where to go on; equal to range.end when done.
    [[nodiscard]] result<virtual_block> remove_some(thin_device& device,
                                                    range<virtual_block> blocks,
                                                    std::uint64_t budget_blocks);
    // Writer. One reference more / less on each block; dec of a free block is `corrupt`.
    [[nodiscard]] result<void> inc_data_range(range<data_block> blocks);
    [[nodiscard]] result<void> dec_data_range(range<data_block> blocks);
    // Writer. `freed` is called inside the change for each data block whose last reference went; it
    // must not call this object.
    void set_freed_callback(std::function<void(data_block)> freed);
    // Writer. The first run of at most `count_max` blocks in `within` that alloc_data_block() could
    // return; it will not until release_held_data(). For work on free space: discarding it. Not a
    // mutation. An abort ends all holds. While there are some, a full pool is no reason to revoke
    // read views: release and allocate again.
    [[nodiscard]] result<std::optional<range<data_block>>> hold_free_data(range<data_block> within,
                                                                          std::uint64_t count_max);
    void release_held_data();
    // Writer. Makes device `id` (which must not exist) from ascending runs, with full leaves, in
    // bounded memory. `next` returns absent at the end. Counts of the named data blocks are raised.
    // mapped_blocks of `details` is computed. After any failure but already_exists and busy:
    // abort().
    using run_source = std::function<result<std::optional<mapping_run>>()>;
    [[nodiscard]] result<void> build_device(device_id id, const device_details& details,
                                            const run_source& next);

    // ---- batches
    // -------------------------------------------------------------------------------------------

    // Writer. Until publish_batch(), mutations stay invisible to "Any" calls; not nested.
    // Publishing takes the exclusive lock for a time proportional to the number of changed metadata
    // blocks and does no I/O.
    void begin_batch();
    void publish_batch();

    // ---- metadata snapshot
    // ---------------------------------------------------------------------------------

    // Writer. Commits, then holds the committed trees. busy when one is held. Durable after the
    // next commit().
    [[nodiscard]] result<void> reserve_metadata_snap();
    // Writer. invalid_argument when none is held.
    [[nodiscard]] result<void> release_metadata_snap();
    // Any. Block number of the held superblock copy; absent when none.
    [[nodiscard]] result<std::optional<metadata_block>> metadata_snap() const;

    // ---- read views
    // ----------------------------------------------------------------------------------------

    // Writer. Pins the last committed state; blocks freed from then on are not reused while the
    // view lives.
    [[nodiscard]] result<std::shared_ptr<thin_metadata::metadata_view>> create_view();
    // Writer. Revokes the oldest view (its next read is view_expired). False when there is none.
    bool revoke_oldest_view();

    // ---- commit and abort
    // ----------------------------------------------------------------------------------

    // Writer. Order: docs/format.md 10. After success everything before it is durable. No-op until
    // the first mutation ("in service") and while no call since the last commit that could have
    // changed something succeeded.
    [[nodiscard]] result<void> commit();
    // Writer, outside a batch. Writes some of the blocks that commit() would have to write, so that
    // it takes less time. Nothing becomes durable. A failure leaves abort() only.
    [[nodiscard]] result<void> write_back(std::uint64_t blocks_max);
    // Writer. Back to the last committed state, everything re-read: counters, times, ids, devices.
    // A failure to re-read leaves fail mode. If the commit before it got as far as its superblock,
    // whose flush failed, that state is read, and nothing can be changed (not_permitted) before
    // set_needs_check() made it durable.
    [[nodiscard]] result<void> abort();
    // Any. The device was changed by the open transaction (cleared only by a successful commit or
    // an abort).
    [[nodiscard]] bool changed_this_transaction(const thin_device& device) const noexcept;
    [[nodiscard]] bool changed_this_transaction() const noexcept;
    // Writer. A commit has something to write.
    [[nodiscard]] bool has_changes() const;
    // Any. An abort threw changes of this device away.
    [[nodiscard]] bool aborted_changes(const thin_device& device) const noexcept;
    // Writer. Nobody who saw those changes has the device open any more.
    void forget_aborted_changes(thin_device& device) noexcept;
    // Any. Sequence numbers of transactions, in core, from 1: the open one; the newest durable one
    // (< open).
    [[nodiscard]] std::uint64_t open_transaction() const noexcept;
    [[nodiscard]] std::uint64_t durable_transaction() const noexcept;
    // Any. The transaction that last changed the device; <= durable_transaction() means nothing to
    // commit.
    [[nodiscard]] std::uint64_t last_change(const thin_device& device) const noexcept;

    // ---- size, mode, thresholds
    // ----------------------------------------------------------------------------

    // Any.
    [[nodiscard]] std::uint32_t data_block_size_sectors() const noexcept;
    [[nodiscard]] result<space_counts> data_space() const;
    [[nodiscard]] result<space_counts> metadata_space() const;
    [[nodiscard]] std::uint64_t metadata_reserve_blocks() const noexcept;
    // Writer. Whether less than half of the reserve is free, counting what the open batch took.
    [[nodiscard]] result<bool> is_reserve_half_spent() const;
    // Writer. Equal: nothing. Smaller: invalid_argument. Larger: usable after commit();
    // invalid_argument while the pool needs a check.
    [[nodiscard]] result<void> resize_data(std::uint64_t blocks);
    [[nodiscard]] result<void> resize_metadata(std::uint64_t blocks);
    // Any. min(device, 4,161,600) in 4 KiB blocks, as the device is now.
    [[nodiscard]] result<std::uint64_t> metadata_device_blocks() const;
    // Writer. While read-only every mutation is not_permitted and no device write is made.
    void set_read_only();
    void set_read_write();
    [[nodiscard]] bool is_read_only() const noexcept;
    [[nodiscard]] bool failed() const noexcept;
    // Writer. Written and flushed at once, also in read-only mode (not when opened read_only).
    // needs_check: that failed; it is set in memory, and what is on the device is the last commit
    // that succeeded. The call may be repeated.
    [[nodiscard]] result<void> set_needs_check();
    // Writer. Only after a full check came out clean.
    [[nodiscard]] result<void> clear_needs_check();
    [[nodiscard]] bool needs_check() const noexcept;
    // Writer. `crossed` is called inside allocation when raw free falls to `free_blocks` or below;
    // re-armed when free rises above free_blocks + free_blocks / 8.
    void set_metadata_threshold(std::uint64_t free_blocks, std::function<void()> crossed);
    void set_data_threshold(std::uint64_t free_blocks, std::function<void()> crossed);
    // Writer. Called first in commit(); the pool flushes the data device in it. An error fails the
    // commit.
    void set_pre_commit(std::function<result<void>()> callback);
    // Any.
    [[nodiscard]] metadata_statistics statistics() const;

private:
    struct impl;
    explicit metadata(std::unique_ptr<impl> state);
    std::unique_ptr<impl> impl_;
};

}  // namespace uthin
