// The seam under everything: an array of bytes that can be read, written and flushed.
//
// Invariants
//   BD1  A completed flush makes every write that completed before it began durable.
//   BD2  A write is not atomic: after a power cut any subset of its aligned 512-byte sectors may be
//        there. A single aligned sector is old or new.
//   BD3  Writes not followed by a flush may become durable at any time, in any order, or never.
// Threads   Every function may be called from any thread; overlapping concurrent writes have no
// order. Failures  io_error: what a write covered is unknown afterwards. After a failed flush
// nothing may be
//           assumed about any write since the last good one; do not retry, stop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "uthin/error.h"

namespace uthin {

struct device_capabilities {
    std::uint32_t alignment_bytes = 1;  // offset, length and memory of each I/O; 1, 512 or 4096
    bool read_only = false;
    bool can_discard = false;
    bool discard_zeroes = false;     // discarded ranges read as zeros
    bool fast_write_zeroes = false;  // write_zeroes is cheaper than writing
    bool rotational = false;
    bool durable_flush = true;  // false: a memory device
};

enum class io_kind : std::uint8_t { read, write };

// One piece of a batch. `buffer_bytes` is owned by the caller and must outlive the call.
struct io_op {
    io_kind kind = io_kind::read;
    std::uint64_t offset_bytes = 0;
    std::span<std::byte> buffer_bytes;
};

class block_device {
public:
    block_device() = default;
    block_device(const block_device&) = delete;
    block_device& operator=(const block_device&) = delete;
    virtual ~block_device() = default;

    [[nodiscard]] virtual std::string name() const = 0;  // path or URL, for messages
    // Re-reads the size, so that a grown file or disk is noticed.
    [[nodiscard]] virtual result<std::uint64_t> size_bytes() const = 0;
    [[nodiscard]] virtual device_capabilities capabilities() const = 0;

    // Complete transfers or an error: no short reads or writes come back. Beyond the end:
    // out_of_range.
    [[nodiscard]] virtual result<void> read(std::uint64_t offset_bytes,
                                            std::span<std::byte> buffer) = 0;
    [[nodiscard]] virtual result<void> write(std::uint64_t offset_bytes,
                                             std::span<const std::byte> buffer) = 0;
    [[nodiscard]] virtual result<void> flush() = 0;
    // A hint: contents become zeros when discard_zeroes, else undefined. unsupported when
    // !can_discard.
    [[nodiscard]] virtual result<void> discard(std::uint64_t offset_bytes,
                                               std::uint64_t length_bytes) = 0;
    [[nodiscard]] virtual result<void> write_zeroes(std::uint64_t offset_bytes,
                                                    std::uint64_t length_bytes) = 0;
    // A hint: all of the range, whose content nobody wants, is about to be written to in pieces. A
    // file system does less when it takes the space for them at once.
    virtual void take_space(std::uint64_t offset_bytes, std::uint64_t length_bytes);
    // All of `ops`, in any order, possibly in parallel; the first error is returned after all
    // ended.
    [[nodiscard]] virtual result<void> run(std::span<const io_op> ops);
    // Write that is durable on return, without promising anything about other writes.
    [[nodiscard]] virtual result<void> write_fua(std::uint64_t offset_bytes,
                                                 std::span<const std::byte> buffer);
    // Makes the device at least this long; unsupported for disks and remote images.
    [[nodiscard]] virtual result<void> grow(std::uint64_t size_bytes);
};

}  // namespace uthin
