// Collects the pieces of one request on the data device and does them together.
//
// Invariants
//   EI1  Pieces that touch on the device and in memory are one I/O.
//   EI2  At most `pieces_max` are pending; no memory is allocated.
// Threads   One owner.
// Failures  Those of the device; some pieces may have been done.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "uthin/block_device.h"

namespace uthin::pool_engine {

class extent_io {
public:
    extent_io(block_device& device, io_kind kind) : device_(device), kind_(kind) {}

    // A write never changes `buffer`.
    [[nodiscard]] result<void> add(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
        if (count_ > 0) {
            io_op& last = storage_.ops[count_ - 1];
            if (last.offset_bytes + last.buffer_bytes.size() == offset_bytes &&
                last.buffer_bytes.data() + last.buffer_bytes.size() == buffer.data()) {
                last.buffer_bytes = {last.buffer_bytes.data(),
                                     last.buffer_bytes.size() + buffer.size()};
                return {};
            }
        }
        if (count_ == pieces_max) {
            UTHIN_TRY(run(false));
        }
        std::construct_at(&storage_.ops[count_], io_op{kind_, offset_bytes, buffer});
        ++count_;
        return {};
    }

    // Does what is pending. `fua`: writes are durable on return.
    [[nodiscard]] result<void> run(bool fua) {
        const std::span<const io_op> pending(storage_.ops.data(), count_);
        count_ = 0;
        if (fua) {
            for (const io_op& op : pending) {
                UTHIN_TRY(device_.write_fua(op.offset_bytes, op.buffer_bytes));
            }
            return {};
        }
        if (pending.size() != 1) {
            return pending.empty() ? result<void>() : device_.run(pending);
        }
        const io_op& only = pending.front();
        return kind_ == io_kind::read ? device_.read(only.offset_bytes, only.buffer_bytes)
                                      : device_.write(only.offset_bytes, only.buffer_bytes);
    }

    [[nodiscard]] bool full() const noexcept { return count_ == pieces_max; }

private:
    static constexpr std::size_t pieces_max = 32;
    // Not initialised: most requests have one piece, and clearing 32 takes as long as all the rest
    // of a hit.
    union storage {
        storage() {}
        std::array<io_op, pieces_max> ops;
    };

    block_device& device_;
    const io_kind kind_;
    storage storage_;
    std::size_t count_ = 0;
};

}  // namespace uthin::pool_engine
