// Writes to a device while the caller goes on: neighbouring writes are put together in pieces, and
// a thread of its own writes the pieces.
//
// Invariants
//   WB1  Writes of the same bytes reach the device in the order of the calls.
//   WB2  At most piece_count pieces are in memory; whoever fills them faster waits.
// Threads   One; the device is used by another one meanwhile.
// Failures  A failed write comes back from finish(), or from an earlier call if it is known by
// then;
//           from then on every call returns it, and nothing more is written. Durable is only what
//           the caller flushes after finish().
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/aligned_buffer.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "uthin/block_device.h"

namespace uthin::io {

class write_behind {
public:
    // The device outlives the object. A write is no longer than a piece.
    write_behind(block_device& device, std::size_t piece_bytes);
    ~write_behind();
    write_behind(const write_behind&) = delete;
    write_behind& operator=(const write_behind&) = delete;

    [[nodiscard]] result<void> write(std::uint64_t offset_bytes, std::span<const std::byte> bytes);
    // What was written there, whether the device has it yet or not. A range that is not one write()
    // or part of one may come from the device as it was.
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes, std::span<std::byte> bytes);
    // The device has everything.
    [[nodiscard]] result<void> finish();

private:
    static constexpr std::size_t piece_count = 4;

    struct piece {
        aligned_buffer buffer;
        std::uint64_t offset_bytes = 0;
        std::size_t used_bytes = 0;
    };

    [[nodiscard]] piece& filling() noexcept { return pieces_[begun_ % piece_count]; }
    void make_room(piece& into, std::size_t more_bytes) const;
    [[nodiscard]] result<void> hand_over();
    void write_pieces();
    [[nodiscard]] result<void> write_some(std::uint64_t begin, std::uint64_t end);

    block_device& device_;
    const std::size_t piece_bytes_;
    // A ring; the caller's are those that handed_over_ does not count yet.
    std::array<piece, piece_count> pieces_;
    std::uint64_t begun_ = 0;  // the caller's copy of handed_over_
    bool threaded_ = false;
    result<void> told_;  // of outcome_, what the caller was told
    mutex lock_;
    condition changed_;
    std::uint64_t handed_over_ GUARDED_BY(lock_) = 0;
    std::uint64_t written_ GUARDED_BY(lock_) = 0;
    bool ending_ GUARDED_BY(lock_) = false;
    result<void> outcome_ GUARDED_BY(lock_);
    thread thread_;
};

}  // namespace uthin::io
