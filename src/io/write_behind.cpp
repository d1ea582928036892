#include "io/write_behind.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "base/out_of_memory.h"
#include "base/result.h"

namespace uthin::io {

write_behind::write_behind(block_device& device, std::size_t piece_bytes)
    : device_(device), piece_bytes_(piece_bytes) {
}

write_behind::~write_behind() {
    {
        const lock_guard held(lock_);
        ending_ = true;
        changed_.notify_all();
    }
    thread_.join();
}

result<void> write_behind::write(std::uint64_t offset_bytes, std::span<const std::byte> bytes) {
    UTHIN_ASSERT(bytes.size() <= piece_bytes_);
    UTHIN_TRY(told_);
    const piece& last = filling();
    const bool goes_on = last.offset_bytes + last.used_bytes == offset_bytes &&
                         last.used_bytes + bytes.size() <= piece_bytes_;
    if (last.used_bytes != 0 && !goes_on) {
        // A few short pieces are not worth a thread.
        threaded_ = threaded_ || (last.used_bytes > piece_bytes_ / 2 &&
                                  thread_.start([this] { write_pieces(); }).has_value());
        UTHIN_TRY(hand_over());
    }
    piece& into = filling();
    make_room(into, bytes.size());
    if (into.used_bytes == 0) {
        into.offset_bytes = offset_bytes;
    }
    std::memcpy(into.buffer.data() + into.used_bytes, bytes.data(), bytes.size());
    into.used_bytes += bytes.size();
    return {};
}

// A small image does not touch a whole piece.
void write_behind::make_room(piece& into, std::size_t more_bytes) const {
    const std::size_t wanted_bytes = into.used_bytes + more_bytes;
    if (wanted_bytes <= into.buffer.size()) {
        return;
    }
    aligned_buffer larger(std::min(piece_bytes_, std::max(wanted_bytes, 16 * into.buffer.size())));
    if (into.used_bytes != 0) {
        std::memcpy(larger.data(), into.buffer.data(), into.used_bytes);
    }
    into.buffer = std::move(larger);
}

result<void> write_behind::read(std::uint64_t offset_bytes, std::span<std::byte> bytes) {
    UTHIN_TRY(told_);
    // A piece keeps its bytes until it is filled anew, and it is written before that.
    for (std::size_t back = 0; back < std::min<std::uint64_t>(piece_count, begun_ + 1); ++back) {
        const piece& from = pieces_[(begun_ - back) % piece_count];
        if (offset_bytes >= from.offset_bytes &&
            offset_bytes + bytes.size() <= from.offset_bytes + from.used_bytes) {
            std::memcpy(bytes.data(), from.buffer.data() + (offset_bytes - from.offset_bytes),
                        bytes.size());
            return {};
        }
    }
    return device_.read(offset_bytes, bytes);
}

result<void> write_behind::finish() {
    UTHIN_TRY(told_);
    if (filling().used_bytes != 0) {
        UTHIN_TRY(hand_over());
    }
    const lock_guard held(lock_);
    while (written_ != handed_over_) {
        changed_.wait(lock_);
    }
    told_ = outcome_;
    return told_;
}

result<void> write_behind::hand_over() {
    if (!threaded_) {
        auto done = write_some(begun_, begun_ + 1);
        const lock_guard held(lock_);
        outcome_ = std::move(done);
        written_ = handed_over_ = ++begun_;
        filling().used_bytes = 0;
        told_ = outcome_;
        return told_;
    }
    const lock_guard held(lock_);
    handed_over_ = ++begun_;
    changed_.notify_all();
    while (handed_over_ - written_ == piece_count) {
        changed_.wait(lock_);
    }
    filling().used_bytes = 0;
    told_ = outcome_;
    return told_;
}

void write_behind::write_pieces() {
    while (true) {
        std::uint64_t begin = 0;
        std::uint64_t end = 0;
        bool failed = false;
        {
            const lock_guard held(lock_);
            while (written_ == handed_over_ && !ending_) {
                changed_.wait(lock_);
            }
            if (ending_) {
                return;
            }
            begin = written_;
            end = handed_over_;
            failed = !outcome_;
        }
        auto done =
            failed ? result<void>() : or_out_of_memory([&] { return write_some(begin, end); });
        const lock_guard held(lock_);
        if (!done) {
            outcome_ = std::move(done);
        }
        written_ = end;
        changed_.notify_all();
    }
}

result<void> write_behind::write_some(std::uint64_t begin, std::uint64_t end) {
    std::vector<io_op> ops;
    for (std::uint64_t number = begin; number != end; ++number) {
        piece& one = pieces_[number % piece_count];
        const bool overlaps = std::ranges::any_of(ops, [&](const io_op& other) {
            return one.offset_bytes < other.offset_bytes + other.buffer_bytes.size() &&
                   other.offset_bytes < one.offset_bytes + one.used_bytes;
        });
        // WB1: run() promises no order.
        if (overlaps) {
            UTHIN_TRY(device_.run(ops));
            ops.clear();
        }
        ops.push_back({io_kind::write, one.offset_bytes, one.buffer.span().first(one.used_bytes)});
    }
    return device_.run(ops);
}

}  // namespace uthin::io
