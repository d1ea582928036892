#include "io/file_device.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/result.h"
#include "io/range_check.h"
#include "io/system_error.h"
#include "io/uring_batch.h"

namespace uthin::io {
namespace {

constexpr std::size_t bounce_bytes_max = std::size_t{1} << 20;
constexpr std::size_t transfer_bytes_max = std::size_t{1} << 30;  // Linux stops below 2 GiB
// Written to the page cache at once: Linux keeps it together there, and ext4 then looks at each of
// its 4 KiB whenever one of them is written.
constexpr std::size_t cached_piece_bytes = 64 << 10;

std::uint64_t round_down(std::uint64_t value, std::uint64_t unit) {
    return value / unit * unit;
}

std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
    return round_down(value + unit - 1, unit);
}

bool is_out_of_space(int os_errno) {
    return os_errno == ENOSPC || os_errno == EDQUOT || os_errno == EFBIG;
}

// What a write that makes itself durable fails with as a flush does. Not what the system refuses
// before it has written anything.
bool may_have_lost_writes(int os_errno) {
    return !is_out_of_space(os_errno) && os_errno != EOPNOTSUPP && os_errno != EINVAL;
}

result<std::uint64_t> size_of(int descriptor, bool is_disk, const std::string& path) {
    std::uint64_t size_bytes = 0;
    if (is_disk) {
        if (::ioctl(descriptor, BLKGETSIZE64, &size_bytes) != 0) {
            return io_failure(errno, path + ": its size cannot be learned");
        }
        return size_bytes;
    }
    struct stat status {};
    if (::fstat(descriptor, &status) != 0) {
        return io_failure(errno, path + ": its size cannot be learned");
    }
    return static_cast<std::uint64_t>(status.st_size);
}

}  // namespace

result<std::uint64_t> file_device::size_bytes() const {
    return size_of(descriptor_, is_disk_, path_);
}

result<std::uint64_t> file_device::refresh_size() {
    const std::uint64_t size_bytes = UTHIN_TRY(size_of(descriptor_, is_disk_, path_));
    if (size_bytes % alignment_bytes_ != 0 && set_direct(false)) {
        // Its last sector could not be written without making the file longer.
        alignment_bytes_ = 1;
    }
    known_size_bytes_ = size_bytes;
    return size_bytes;
}

device_capabilities file_device::capabilities() const {
    return {.alignment_bytes = alignment_bytes_,
            .read_only = read_only_,
            .can_discard = can_discard_,
            .discard_zeroes = can_discard_ && !is_disk_,
            .fast_write_zeroes = can_zero_fast_ && !read_only_,
            .rotational = rotational_};
}

result<void> file_device::check(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                bool changes) {
    if (changes && read_only_) {
        return fail(error_code::read_only, path_ + " was opened read-only");
    }
    if (is_inside(offset_bytes, length_bytes, known_size_bytes_)) {
        return {};
    }
    return check_range(path_, offset_bytes, length_bytes, UTHIN_TRY(refresh_size()));
}

bool file_device::is_aligned(std::uint64_t offset_bytes,
                             std::span<const std::byte> buffer) const noexcept {
    const std::uint64_t address = reinterpret_cast<std::uintptr_t>(buffer.data());
    return ((offset_bytes | buffer.size() | address) & (alignment_bytes_ - 1)) == 0;
}

result<void> file_device::transfer_in(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    while (!buffer.empty()) {
        const ssize_t length =
            ::pread(descriptor_, buffer.data(), std::min(buffer.size(), transfer_bytes_max),
                    static_cast<off_t>(offset_bytes));
        if (length < 0 && errno == EINTR) {
            continue;
        }
        if (length <= 0) {
            return io_failure(
                length < 0 ? errno : EIO,
                fmt::format("{}: read of {} bytes at offset {} {}", path_, buffer.size(),
                            offset_bytes, length < 0 ? "failed" : "met the end: it was cut short"));
        }
        buffer = buffer.subspan(static_cast<std::size_t>(length));
        offset_bytes += static_cast<std::uint64_t>(length);
    }
    return {};
}

std::size_t file_device::piece_bytes(std::uint64_t offset_bytes,
                                     std::size_t length_bytes) const noexcept {
    const std::size_t longest = is_disk_ || direct()
                                    ? transfer_bytes_max
                                    : cached_piece_bytes - offset_bytes % cached_piece_bytes;
    return std::min(length_bytes, longest);
}

result<void> file_device::transfer_out(std::uint64_t offset_bytes,
                                       std::span<const std::byte> buffer, bool fua) {
    while (!buffer.empty()) {
        iovec piece{.iov_base = const_cast<std::byte*>(buffer.data()),
                    .iov_len = piece_bytes(offset_bytes, buffer.size())};
        const ssize_t length = ::pwritev2(descriptor_, &piece, 1, static_cast<off_t>(offset_bytes),
                                          fua ? RWF_DSYNC : 0);
        if (length < 0 && errno == EINTR) {
            continue;
        }
        if (length <= 0) {
            const int os_errno = length < 0 ? errno : EIO;
            if (fua && may_have_lost_writes(os_errno)) {
                const lock_guard held(flush_lock_);
                flush_errno_ = os_errno;
            }
            return io_failure(os_errno, fmt::format("{}: write of {} bytes at offset {} failed",
                                                    path_, buffer.size(), offset_bytes));
        }
        buffer = buffer.subspan(static_cast<std::size_t>(length));
        offset_bytes += static_cast<std::uint64_t>(length);
    }
    return {};
}

result<void> file_device::read(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    UTHIN_TRY(check(offset_bytes, buffer.size(), false));
    if (buffer.empty()) {
        return {};
    }
    return is_aligned(offset_bytes, buffer) ? transfer_in(offset_bytes, buffer)
                                            : read_bounced(offset_bytes, buffer);
}

result<void> file_device::read_bounced(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    const std::uint64_t unit = alignment_bytes_;
    const std::uint64_t end_bytes = offset_bytes + buffer.size();
    const std::uint64_t cover_end = round_up(end_bytes, unit);
    const std::uint64_t cover_begin = round_down(offset_bytes, unit);
    aligned_buffer bounce(std::min<std::uint64_t>(cover_end - cover_begin, bounce_bytes_max));
    for (std::uint64_t at = cover_begin; at < cover_end; at += bounce.size()) {
        const std::uint64_t window_end = std::min(cover_end, at + bounce.size());
        UTHIN_TRY(transfer_in(at, bounce.span().first(window_end - at)));
        const std::uint64_t begin = std::max(at, offset_bytes);
        const std::uint64_t end = std::min(window_end, end_bytes);
        std::memcpy(buffer.data() + (begin - offset_bytes), bounce.data() + (begin - at),
                    end - begin);
    }
    return {};
}

result<void> file_device::write(std::uint64_t offset_bytes, std::span<const std::byte> buffer) {
    UTHIN_TRY(check(offset_bytes, buffer.size(), true));
    return write_any(offset_bytes, buffer, false);
}

result<void> file_device::write_any(std::uint64_t offset_bytes, std::span<const std::byte> buffer,
                                    bool fua) {
    if (buffer.empty()) {
        return {};
    }
    if (!is_aligned(offset_bytes, buffer)) {
        return write_bounced(offset_bytes, buffer, fua);
    }
    const range_lock::guard held(writers_, offset_bytes, offset_bytes + buffer.size(), false);
    return transfer_out(offset_bytes, buffer, fua);
}

result<void> file_device::write_bounced(std::uint64_t offset_bytes,
                                        std::span<const std::byte> buffer, bool fua) {
    const std::uint64_t unit = alignment_bytes_;
    const std::uint64_t end_bytes = offset_bytes + buffer.size();
    const std::uint64_t cover_begin = round_down(offset_bytes, unit);
    const std::uint64_t cover_end = round_up(end_bytes, unit);
    // Whoever writes the rest of a sector that is read, changed and written back here has to wait.
    const range_lock::guard held(writers_, cover_begin, cover_end, true);
    aligned_buffer bounce(std::min<std::uint64_t>(cover_end - cover_begin, bounce_bytes_max));
    for (std::uint64_t at = cover_begin; at < cover_end; at += bounce.size()) {
        const std::uint64_t window_end = std::min(cover_end, at + bounce.size());
        const std::span<std::byte> window = bounce.span().first(window_end - at);
        const std::uint64_t begin = std::max(at, offset_bytes);
        const std::uint64_t end = std::min(window_end, end_bytes);
        if (begin != at) {
            UTHIN_TRY(transfer_in(at, window.first(unit)));
        }
        if (end != window_end && (begin == at || window.size() > unit)) {
            UTHIN_TRY(transfer_in(window_end - unit, window.last(unit)));
        }
        std::memcpy(window.data() + (begin - at), buffer.data() + (begin - offset_bytes),
                    end - begin);
        UTHIN_TRY(transfer_out(at, window, fua));
    }
    return {};
}

// Where there is none, it is the writes that have to tell.
void file_device::take_space(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    if (!is_disk_ && !read_only_ && is_inside(offset_bytes, length_bytes, known_size_bytes_)) {
        static_cast<void>(::fallocate(descriptor_, FALLOC_FL_KEEP_SIZE,
                                      static_cast<off_t>(offset_bytes),
                                      static_cast<off_t>(length_bytes)));
    }
}

result<void> file_device::run(std::span<const io_op> ops) {
    result<void> first;
    const auto note = [&first](result<void> ended) {
        if (!ended && first) {
            first = std::move(ended);
        }
    };
    std::vector<io_op> batch;
    batch.reserve(ops.size());
    for (const io_op& op : ops) {
        const bool changes = op.kind == io_kind::write;
        if (result<void> legal = check(op.offset_bytes, op.buffer_bytes.size(), changes); !legal) {
            note(std::move(legal));
        } else if (ops.size() > 1 && is_aligned(op.offset_bytes, op.buffer_bytes)) {
            batch.push_back(op);
        } else if (changes) {
            note(write_any(op.offset_bytes, op.buffer_bytes, false));
        } else {
            note(read(op.offset_bytes, op.buffer_bytes));
        }
    }
    if (batch.empty()) {
        return first;
    }
    result<void> ended;
    {
        std::deque<range_lock::guard> held;
        for (const io_op& op : batch) {
            if (op.kind == io_kind::write) {
                held.emplace_back(writers_, op.offset_bytes,
                                  op.offset_bytes + op.buffer_bytes.size(), false);
            }
        }
        ended = run_uring_batch(descriptor_, path_, batch);
    }
    if (!ended && ended.error().code() == error_code::unsupported) {
        ended = block_device::run(batch);
    }
    note(std::move(ended));
    return first;
}

result<void> file_device::flush_outcome() const {
    if (flush_errno_ != 0) {
        return io_failure(flush_errno_,
                          path_ +
                              ": a flush failed; what was written since the last good one may "
                              "be lost");
    }
    return {};
}

result<void> file_device::flush() {
    if (read_only_) {
        return {};
    }
    const lock_guard held(flush_lock_);
    // ORDER: FI4. A flush that is running began before we arrived and may miss our writes: the next
    // one counts. Flushes run one at a time so that no caller takes the success of a second one for
    // his own while the first one is being told of the lost writes.
    const std::uint64_t mine = flushes_done_ + (flush_running_ ? 2 : 1);
    while (flush_running_ && flushes_done_ < mine) {
        flush_done_.wait(flush_lock_);
    }
    if (flushes_done_ >= mine || flush_errno_ != 0) {
        return flush_outcome();
    }
    flush_running_ = true;
    flush_lock_.unlock();
    const bool with_size = size_changed_.exchange(false);
    const int status = with_size ? ::fsync(descriptor_) : ::fdatasync(descriptor_);
    const int os_errno = status == 0 ? 0 : errno;
    flush_lock_.lock();
    flush_running_ = false;
    ++flushes_done_;
    if (os_errno != 0) {
        flush_errno_ = os_errno;
    }
    flush_done_.notify_all();
    return flush_outcome();
}

result<void> file_device::write_fua(std::uint64_t offset_bytes, std::span<const std::byte> buffer) {
    UTHIN_TRY(check(offset_bytes, buffer.size(), true));
    if (!direct()) {
        // Through the page cache only flush() may learn of lost writes (FI3).
        UTHIN_TRY(write_any(offset_bytes, buffer, false));
        return flush();
    }
    {
        const lock_guard held(flush_lock_);
        UTHIN_TRY(flush_outcome());
    }
    result<void> ended = write_any(offset_bytes, buffer, true);
    if (!ended && ended.error().os_errno() == EOPNOTSUPP) {
        UTHIN_TRY(write_any(offset_bytes, buffer, false));
        return flush();
    }
    return ended;
}

result<void> file_device::discard(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    UTHIN_TRY(check(offset_bytes, length_bytes, true));
    if (!can_discard_) {
        return fail(error_code::unsupported, path_ + " cannot discard");
    }
    std::uint64_t begin = offset_bytes;
    std::uint64_t end = offset_bytes + length_bytes;
    if (is_disk_) {  // takes whole sectors only; a hint may do less
        begin = round_up(begin, logical_sector_bytes_);
        end = round_down(end, logical_sector_bytes_);
    }
    if (begin >= end) {
        return {};
    }
    const range_lock::guard held(writers_, begin, end, false);
    std::uint64_t disk_range[2] = {begin, end - begin};
    const int status =
        is_disk_ ? ::ioctl(descriptor_, BLKDISCARD, disk_range)
                 : ::fallocate(descriptor_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               static_cast<off_t>(begin), static_cast<off_t>(end - begin));
    if (status != 0) {
        return system_failure(errno, fmt::format("{}: discard of {} bytes at offset {} failed",
                                                 path_, length_bytes, offset_bytes));
    }
    return {};
}

result<void> file_device::write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    UTHIN_TRY(check(offset_bytes, length_bytes, true));
    if (length_bytes == 0) {
        return {};
    }
    return is_disk_ ? zero_disk(offset_bytes, length_bytes) : zero_file(offset_bytes, length_bytes);
}

// When in doubt it is none.
bool file_device::is_hole(std::uint64_t offset_bytes, std::uint64_t length_bytes) const {
    const off_t begin = static_cast<off_t>(offset_bytes);
    const off_t data = ::lseek(descriptor_, begin, SEEK_DATA);
    return data < 0 ? errno == ENXIO
                    : static_cast<std::uint64_t>(data) >= offset_bytes + length_bytes;
}

result<void> file_device::zero_file(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    {
        const range_lock::guard held(writers_, offset_bytes, offset_bytes + length_bytes, false);
        // Around the page cache it would give each later write an extent of its own.
        if (!direct() && is_hole(offset_bytes, length_bytes)) {
            return {};
        }
        // The first keeps the space allocated.
        for (const int mode : {FALLOC_FL_ZERO_RANGE, FALLOC_FL_PUNCH_HOLE}) {
            int status = 0;
            do {
                status =
                    ::fallocate(descriptor_, mode | FALLOC_FL_KEEP_SIZE,
                                static_cast<off_t>(offset_bytes), static_cast<off_t>(length_bytes));
            } while (status != 0 && errno == EINTR);
            if (status == 0) {
                return {};
            }
            if (errno != EOPNOTSUPP) {
                return io_failure(errno, fmt::format("{}: zeroing of {} bytes at offset {} failed",
                                                     path_, length_bytes, offset_bytes));
            }
        }
    }
    return write_zero_bytes(offset_bytes, length_bytes);
}

result<void> file_device::zero_disk(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    const std::uint64_t end_bytes = offset_bytes + length_bytes;
    const std::uint64_t begin = round_up(offset_bytes, logical_sector_bytes_);
    const std::uint64_t end = round_down(end_bytes, logical_sector_bytes_);
    if (begin >= end) {
        return write_zero_bytes(offset_bytes, length_bytes);
    }
    UTHIN_TRY(write_zero_bytes(offset_bytes, begin - offset_bytes));
    UTHIN_TRY(write_zero_bytes(end, end_bytes - end));
    {
        const range_lock::guard held(writers_, begin, end, false);
        std::uint64_t range[2] = {begin, end - begin};
        if (::ioctl(descriptor_, BLKZEROOUT, range) == 0) {
            return {};
        }
        if (errno != EOPNOTSUPP && errno != EINVAL && errno != ENOTTY) {
            return io_failure(errno, fmt::format("{}: zeroing of {} bytes at offset {} failed",
                                                 path_, length_bytes, offset_bytes));
        }
    }
    return write_zero_bytes(begin, end - begin);
}

result<void> file_device::write_zero_bytes(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    const aligned_buffer zeros(std::min<std::uint64_t>(length_bytes, bounce_bytes_max));
    while (length_bytes != 0) {
        const std::uint64_t part = std::min<std::uint64_t>(length_bytes, zeros.size());
        UTHIN_TRY(write_any(offset_bytes, zeros.span().first(part), false));
        offset_bytes += part;
        length_bytes -= part;
    }
    return {};
}

result<void> file_device::grow(std::uint64_t size_bytes) {
    if (is_disk_) {
        return block_device::grow(size_bytes);
    }
    const lock_guard held(grow_lock_);
    const std::uint64_t present_bytes = UTHIN_TRY(refresh_size());
    if (present_bytes >= size_bytes) {
        return {};
    }
    if (read_only_) {
        return fail(error_code::read_only, path_ + " was opened read-only");
    }
    const std::uint64_t wanted_bytes = round_up(size_bytes, alignment_bytes_);
    if (wanted_bytes < size_bytes || wanted_bytes > static_cast<std::uint64_t>(INT64_MAX)) {
        return fail(error_code::invalid_argument,
                    fmt::format("{} cannot have {} bytes", path_, size_bytes));
    }
    if (::ftruncate(descriptor_, static_cast<off_t>(wanted_bytes)) != 0) {
        return io_failure(errno,
                          fmt::format("{} cannot be made {} bytes long", path_, wanted_bytes));
    }
    size_changed_ = true;
    UTHIN_TRY(refresh_size());
    return {};
}

}  // namespace uthin::io
