// One thin volume of an open pool: read, write, flush, discard at any offset, length and alignment.
//
// Invariants
//   VO1  A request that starts after another one completed sees its effect.
//   VO2  A write (also of zeros, also a discard) is wholly inside a snapshot or wholly outside,
//        however many blocks it spans. Exception: one that waited for space.
//   VO3  A block never written reads as zeros, or as the external origin if there is one; around
//        what was written in part it reads the same, with pool_options::zero_new_blocks.
//   VO4  After flush() returned ok, every write that had completed before it was called survives a
//        power cut: data and mapping.
//   VO5  After changes of the volume were lost (failed commit, failed data flush) every flush and
//        every FUA write fails until the volume is opened again.
// Threads
//   Every function may be called from any number of threads at once; each blocks its caller until
//   the request is done. Hits (mapped, not shared) run wholly on the caller's thread and never wait
//   for a commit.
// Failures
//   - out_of_range: beyond size_bytes(); nothing was done
//   - read_only: the volume or the pool is read-only
//   - no_data_space: no free block, after waiting as pool_options says; a part may have been
//   written
//   - no_metadata_space: the metadata is full
//   - io_error: a device failed; what a write covered is old or new, sector by sector
//   - failed: the pool is in fail mode or was closed
// Source    the kernel's thin target (v6.12), docs/concurrency.md.
#pragma once

#include <atomic>
#include <cstddef>
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

class pool;
namespace pool_engine {
class engine;
class io_tickets;
class data_epochs;
class origin_mover;
struct volume_state;
}  // namespace pool_engine

// What the kernel's thin target completes a failed request with, for front ends that pass it on: a
// client is told that the volume is full, that a request makes no sense, or that it failed.
[[nodiscard]] int to_io_errno(const error& failure) noexcept;

enum class extent_kind : std::uint8_t {
    data,  // mapped; reads what was written
    hole,  // not mapped; reads as zeros
    zero,  // takes space and is known to read as zeros
};

struct volume_extent {
    std::uint64_t begin_bytes = 0;
    std::uint64_t length_bytes = 0;
    extent_kind kind = extent_kind::hole;
    bool operator==(const volume_extent&) const = default;
};

// How many of the writes that share it may wait for space at a time; one more fails with
// no_data_space at once. For a client that would otherwise wait with all it has, and could not send
// the discard that makes room. Any thread; outlives the writes.
class hold_limit {
public:
    explicit hold_limit(std::uint32_t held_max) noexcept : held_max_(held_max) {}
    // False: all places are taken.
    [[nodiscard]] bool take() noexcept;
    void leave() noexcept;

private:
    const std::uint32_t held_max_;
    std::atomic<std::uint32_t> held_{0};
};

struct zero_options {
    // Whole blocks may be unmapped, and holes may stay holes. Otherwise zeros are written and the
    // whole range is provisioned.
    bool may_unmap = true;
    bool fua = false;
    hold_limit* holds = nullptr;  // null: no limit
};

// A client request in flight: as long as it lives, a snapshot (write tickets) or a rollback, shrink
// or close (all tickets) of its volume waits. Keep it for the whole request, until its data I/O
// ended; never while waiting for anything but a device. Movable; belongs to one thread at a time.
class io_ticket {
public:
    io_ticket() noexcept = default;
    io_ticket(io_ticket&& other) noexcept;
    io_ticket& operator=(io_ticket&& other) noexcept;
    ~io_ticket();
    [[nodiscard]] bool held() const noexcept { return owner_ != nullptr; }
    [[nodiscard]] io_kind kind() const noexcept { return kind_; }

private:
    friend class pool_engine::io_tickets;
    pool_engine::io_tickets* owner_ = nullptr;
    std::uint32_t shard_ = 0;
    io_kind kind_ = io_kind::read;
};

// Keeps freed data blocks from being used again while a caller's own I/O may still touch them.
class data_pin {
public:
    data_pin() noexcept = default;
    data_pin(data_pin&& other) noexcept;
    data_pin& operator=(data_pin&& other) noexcept;
    ~data_pin();

private:
    friend class pool_engine::data_epochs;
    pool_engine::data_epochs* owner_ = nullptr;
    std::uint32_t slot_ = 0;
};

// Where a piece of a volume lies. The caller does its own I/O on the data device and then drops the
// object; a commit that makes freed blocks usable again waits for it, so it must be short-lived.
struct mapped_extent {
    enum class place : std::uint8_t {
        data_device,  // at data_offset_bytes of pool::data_device()
        zeros,        // reads as zeros (read tickets only)
        engine,       // provisioning or breaking of sharing is needed: call read()/write() instead
    };
    place where = place::engine;
    std::uint64_t data_offset_bytes = 0;
    std::uint64_t length_bytes = 0;  // from the offset asked for; at least one byte
    data_pin pin;
};

class volume {
public:
    ~volume();
    volume(const volume&) = delete;
    volume& operator=(const volume&) = delete;

    [[nodiscard]] device_id id() const noexcept;
    [[nodiscard]] std::uint64_t size_bytes() const noexcept;
    [[nodiscard]] bool read_only() const noexcept;

    // Fills `buffer`. Never provisions.
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes, std::span<std::byte> buffer);
    // With `fua` the data and its mapping are durable on return. `holds`: null is no limit.
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes, std::span<const std::byte> buffer,
                                     bool fua = false, hold_limit* holds = nullptr);
    // The range reads as zeros afterwards.
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                            zero_options options = {});
    // Unmaps the blocks that lie wholly inside the range: they read as zeros (or as the external
    // origin again). Parts of blocks at either end keep their content, until every part of their
    // block was discarded and not written since: then it is unmapped as well
    // (pool_options::remember_partial_discards). Succeeds without effect in
    // read_only mode, as the kernel does; unsupported with discard_mode::ignore.
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes, std::uint64_t length_bytes);
    // VO4. Writes no metadata when the volume has no change that is not durable.
    [[nodiscard]] result<void> flush();

    // Covers the range without gaps, neighbours of one kind merged; at most `extents_max` (>= 1),
    // so it may end early.
    [[nodiscard]] result<std::vector<volume_extent>> block_status(std::uint64_t offset_bytes,
                                                                  std::uint64_t length_bytes,
                                                                  std::size_t extents_max = 4096);

    // For callers that do their own I/O. begin() blocks while a snapshot is being made (writes);
    // map() looks up one contiguous piece under that ticket. Allocates nothing on a hit.
    [[nodiscard]] result<io_ticket> begin(io_kind kind);
    [[nodiscard]] result<mapped_extent> map(const io_ticket& ticket, std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes);

    // Growing: the new part reads as a block never written. Shrinking: waits for every request in
    // flight, then unmaps what lies beyond the end and zeroes the rest of the last block, and
    // commits; if that fails the size is the old one, and a part beyond the new end may be gone.
    // The size itself is not stored in the metadata; the pool's catalogue keeps it. Also on a
    // volume that is opened read-only.
    [[nodiscard]] result<void> set_size(std::uint64_t size_bytes);

    // The next change of the content, through any handle, calls `before` first: on the caller's
    // thread, who holds no ticket. Fails it, that change fails as well, and the next one calls
    // again. Not for a volume that is opened read-only. set_size() does not ask.
    void set_before_first_change(std::function<result<void>()> before);

    // Blocks that the volume maps, shared ones included; those beyond its end are counted too.
    [[nodiscard]] result<std::uint64_t> mapped_blocks() const;
    // Absent when nothing is mapped.
    [[nodiscard]] result<std::optional<virtual_block>> highest_mapped_block() const;
    // A flush() now would have to commit.
    [[nodiscard]] bool changed_since_durable() const noexcept;
    // VO5 is in force.
    [[nodiscard]] bool lost_changes() const noexcept;

private:
    friend class pool_engine::engine;
    friend class pool_engine::origin_mover;
    volume(std::shared_ptr<pool_engine::engine> engine,
           std::shared_ptr<pool_engine::volume_state> state);
    std::shared_ptr<pool_engine::engine> engine_;
    std::shared_ptr<pool_engine::volume_state> state_;
};

}  // namespace uthin
