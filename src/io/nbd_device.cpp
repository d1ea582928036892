#include "io/nbd_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/result.h"
#include "io/nbd_library.h"
#include "io/range_check.h"
#include "io/system_error.h"

namespace uthin::io {
namespace {

constexpr std::size_t in_flight_max = 64;
constexpr std::uint64_t range_request_bytes_max = std::uint64_t{1} << 30;  // 32 bits on the wire
constexpr std::uint64_t zero_bytes_max = std::uint64_t{1} << 20;

// Only where a device exists or is being opened: the library is there.
const nbd_library& nbd() {
    static const nbd_library& library = **load_nbd_library();
    return library;
}

// libnbd keeps the last error for each thread.
std::unexpected<error> nbd_failure(const std::string& uri, const char* what) {
    const char* const text = nbd().get_error();
    return io_failure(nbd().get_errno(),
                      fmt::format("{}: {}: {}", uri, what, text != nullptr ? text : "no reason"));
}

constexpr nbd_completion_callback no_completion{
    .callback = nullptr, .user_data = nullptr, .free = nullptr};

}  // namespace

result<std::unique_ptr<nbd_device>> nbd_device::open(const std::string& uri,
                                                     const open_options& options) {
    if (options.create_size_bytes) {
        return fail(error_code::unsupported,
                    uri + " cannot be created from here; make the image on its server");
    }
    UTHIN_TRY(load_nbd_library());
    nbd_handle* const handle = nbd().create();
    if (handle == nullptr) {
        return nbd_failure(uri, "libnbd does not start");
    }
    std::unique_ptr<nbd_device> device(new nbd_device(uri, handle));
    if (nbd().set_uri_allow_local_file(handle, true) != 0) {
        return nbd_failure(uri, "libnbd does not start");
    }
    if (nbd().connect_uri(handle, uri.c_str()) != 0) {
        return nbd_failure(uri, "cannot connect; is the server running and the export there?");
    }
    UTHIN_TRY(device->learn(options));
    return device;
}

nbd_device::~nbd_device() {
    // Polite if the connection still lives; nothing depends on it.
    static_cast<void>(nbd().shutdown(handle_, 0));
    nbd().close(handle_);
}

result<void> nbd_device::learn(const open_options& options) {
    const std::int64_t size_bytes = nbd().get_size(handle_);
    if (size_bytes < 0) {
        return nbd_failure(uri_, "its size cannot be learned");
    }
    size_bytes_ = static_cast<std::uint64_t>(size_bytes);
    if (size_bytes_ < options.size_bytes_min) {
        return fail(error_code::invalid_argument,
                    fmt::format("{} has only {} bytes; at least {} are needed", uri_, size_bytes_,
                                options.size_bytes_min));
    }
    if (!options.read_only && nbd().is_read_only(handle_) == 1) {
        return fail(error_code::read_only, uri_ + " is a read-only export; open it read-only");
    }
    if (!options.read_only && nbd().can_flush(handle_) != 1) {
        return fail(error_code::unsupported,
                    uri_ +
                        ": its server has no FLUSH, so nothing could be made durable; open it "
                        "read-only, or use another server");
    }
    // 0: the server did not say, or nothing that NBD knows; then anything goes.
    const std::int64_t minimum_bytes = nbd().get_block_size(handle_, LIBNBD_SIZE_MINIMUM);
    const std::int64_t maximum_bytes = nbd().get_block_size(handle_, LIBNBD_SIZE_MAXIMUM);
    if (minimum_bytes > 0) {
        capabilities_.alignment_bytes = static_cast<std::uint32_t>(minimum_bytes);
    }
    if (maximum_bytes > 0) {
        const std::uint64_t unit_bytes = capabilities_.alignment_bytes;
        request_bytes_max_ =
            std::min(request_bytes_max_, static_cast<std::uint64_t>(maximum_bytes));
        request_bytes_max_ =
            std::max(unit_bytes, request_bytes_max_ - request_bytes_max_ % unit_bytes);
    }
    capabilities_.read_only = options.read_only;
    capabilities_.can_discard = !options.read_only && nbd().can_trim(handle_) == 1;
    can_write_zeroes_ = nbd().can_zero(handle_) == 1;
    capabilities_.fast_write_zeroes = !options.read_only && can_write_zeroes_;
    capabilities_.rotational = nbd().is_rotational(handle_) == 1;
    return {};
}

result<void> nbd_device::check(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                               bool changes) const {
    if (changes && capabilities_.read_only) {
        return fail(error_code::read_only, uri_ + " was opened read-only");
    }
    return check_range(uri_, offset_bytes, length_bytes, size_bytes_);
}

std::uint64_t nbd_device::first_part(std::uint64_t offset_bytes, std::uint64_t length_bytes) const {
    const std::uint64_t unit_bytes = capabilities_.alignment_bytes;
    const std::uint64_t begin = offset_bytes % unit_bytes;
    return begin != 0 || length_bytes < unit_bytes ? std::min(length_bytes, unit_bytes - begin)
                                                   : length_bytes - length_bytes % unit_bytes;
}

result<nbd_device::surroundings> nbd_device::read_around(std::uint64_t offset_bytes,
                                                         std::uint64_t length_bytes) {
    const std::uint64_t unit_bytes = capabilities_.alignment_bytes;
    const std::uint64_t begin = offset_bytes % unit_bytes;
    const std::uint64_t block_begin = offset_bytes - begin;
    surroundings around{
        std::vector<std::byte>(std::min(unit_bytes, size_bytes_ - block_begin)), block_begin, {}};
    UTHIN_TRY(read_whole(block_begin, around.bytes));
    around.part = std::span(around.bytes).subspan(begin, length_bytes);
    return around;
}

result<void> nbd_device::read_whole(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    while (!buffer.empty()) {
        const std::uint64_t part = std::min<std::uint64_t>(buffer.size(), request_bytes_max_);
        if (nbd().pread(handle_, buffer.data(), part, offset_bytes, 0) != 0) {
            return nbd_failure(uri_, "read failed");
        }
        buffer = buffer.subspan(part);
        offset_bytes += part;
    }
    return {};
}

result<void> nbd_device::write_whole(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) {
    while (!buffer.empty()) {
        const std::uint64_t part = std::min<std::uint64_t>(buffer.size(), request_bytes_max_);
        if (nbd().pwrite(handle_, buffer.data(), part, offset_bytes, 0) != 0) {
            return nbd_failure(uri_, "write failed");
        }
        buffer = buffer.subspan(part);
        offset_bytes += part;
    }
    return {};
}

result<void> nbd_device::read_held(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    while (!buffer.empty()) {
        const std::span<std::byte> part = buffer.first(first_part(offset_bytes, buffer.size()));
        if (is_whole(offset_bytes, part.size())) {
            UTHIN_TRY(read_whole(offset_bytes, part));
        } else {
            const surroundings around = UTHIN_TRY(read_around(offset_bytes, part.size()));
            std::ranges::copy(around.part, part.begin());
        }
        buffer = buffer.subspan(part.size());
        offset_bytes += part.size();
    }
    return {};
}

result<void> nbd_device::write_held(std::uint64_t offset_bytes, std::span<const std::byte> buffer) {
    while (!buffer.empty()) {
        const auto part = buffer.first(first_part(offset_bytes, buffer.size()));
        if (is_whole(offset_bytes, part.size())) {
            UTHIN_TRY(write_whole(offset_bytes, part));
        } else {
            const surroundings around = UTHIN_TRY(read_around(offset_bytes, part.size()));
            std::ranges::copy(part, around.part.begin());
            UTHIN_TRY(write_whole(around.block_begin_bytes, around.bytes));
        }
        buffer = buffer.subspan(part.size());
        offset_bytes += part.size();
    }
    return {};
}

result<void> nbd_device::read(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    UTHIN_TRY(check(offset_bytes, buffer.size(), false));
    const lock_guard held(lock_);
    return read_held(offset_bytes, buffer);
}

result<void> nbd_device::write(std::uint64_t offset_bytes, std::span<const std::byte> buffer) {
    UTHIN_TRY(check(offset_bytes, buffer.size(), true));
    const lock_guard held(lock_);
    return write_held(offset_bytes, buffer);
}

result<void> nbd_device::flush() {
    if (capabilities_.read_only) {
        return {};
    }
    const lock_guard held(lock_);
    if (flush_failed_) {
        return fail(error_code::io_error,
                    uri_ +
                        ": a flush failed before; what was written since the last good one may "
                        "be lost",
                    EIO);
    }
    if (nbd().flush(handle_, 0) != 0) {
        flush_failed_ = true;
        return nbd_failure(uri_, "flush failed");
    }
    return {};
}

result<void> nbd_device::discard(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    UTHIN_TRY(check(offset_bytes, length_bytes, true));
    if (!capabilities_.can_discard) {
        return fail(error_code::unsupported, uri_ + ": its server cannot trim");
    }
    const std::uint64_t unit_bytes = capabilities_.alignment_bytes;
    const std::uint64_t end_bytes = offset_bytes + length_bytes;
    const std::uint64_t end =
        end_bytes == size_bytes_ ? end_bytes : end_bytes - end_bytes % unit_bytes;
    offset_bytes += (unit_bytes - offset_bytes % unit_bytes) % unit_bytes;
    length_bytes = end - std::min(offset_bytes, end);
    const lock_guard held(lock_);
    while (length_bytes != 0) {
        const std::uint64_t part = std::min(length_bytes, range_request_bytes_max);
        if (nbd().trim(handle_, part, offset_bytes, 0) != 0) {
            return nbd_failure(uri_, "trim failed");
        }
        offset_bytes += part;
        length_bytes -= part;
    }
    return {};
}

result<void> nbd_device::write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    UTHIN_TRY(check(offset_bytes, length_bytes, true));
    const lock_guard held(lock_);
    while (length_bytes != 0) {
        const std::uint64_t part =
            std::min(first_part(offset_bytes, length_bytes),
                     can_write_zeroes_ ? range_request_bytes_max : zero_bytes_max);
        if (!can_write_zeroes_ || !is_whole(offset_bytes, part)) {
            const std::vector<std::byte> zeros(part);
            UTHIN_TRY(write_held(offset_bytes, zeros));
        } else if (nbd().zero(handle_, part, offset_bytes, 0) != 0) {
            return nbd_failure(uri_, "write-zeroes failed");
        }
        offset_bytes += part;
        length_bytes -= part;
    }
    return {};
}

// Requests of one batch that are in flight.
class nbd_device::batch {
public:
    batch(nbd_handle* handle, const std::string& uri) : handle_(handle), uri_(uri) {}

    void note(result<void> ended) {
        if (!ended && first_) {
            first_ = std::move(ended);
        }
    }

    void send(const io_op& op, std::uint64_t request_bytes_max) {
        const bool is_read = op.kind == io_kind::read;
        std::span<std::byte> rest = op.buffer_bytes;
        std::uint64_t offset_bytes = op.offset_bytes;
        while (!rest.empty()) {
            collect(in_flight_max - 1);
            const std::uint64_t part = std::min<std::uint64_t>(rest.size(), request_bytes_max);
            const std::int64_t cookie =
                is_read
                    ? nbd().aio_pread(handle_, rest.data(), part, offset_bytes, no_completion, 0)
                    : nbd().aio_pwrite(handle_, rest.data(), part, offset_bytes, no_completion, 0);
            if (cookie < 0) {
                note(nbd_failure(uri_, is_read ? "read failed" : "write failed"));
                return;
            }
            cookies_.push_back(static_cast<std::uint64_t>(cookie));
            rest = rest.subspan(part);
            offset_bytes += part;
        }
    }

    [[nodiscard]] result<void> outcome() { return std::move(first_); }

    // Waits until no more than `left_max` are in flight.
    void collect(std::size_t left_max) {
        retire();
        while (cookies_.size() > left_max) {
            // An interrupted wait is no end.
            if (nbd().poll(handle_, -1) < 0 &&
                (nbd().aio_is_dead(handle_) == 1 || nbd().aio_is_closed(handle_) == 1)) {
                note(nbd_failure(uri_, "the connection is lost"));
                retire();
                // A dead connection completes nothing any more and touches no buffer.
                cookies_.clear();
                return;
            }
            retire();
        }
    }

private:
    void retire() {
        std::erase_if(cookies_, [this](std::uint64_t cookie) {
            const int status = nbd().aio_command_completed(handle_, cookie);
            if (status < 0) {
                note(nbd_failure(uri_, "a request failed"));
            }
            return status != 0;
        });
    }

    nbd_handle* const handle_;
    const std::string& uri_;
    std::vector<std::uint64_t> cookies_;
    result<void> first_;
};

result<void> nbd_device::run(std::span<const io_op> ops) {
    const lock_guard held(lock_);
    batch requests(handle_, uri_);
    std::vector<const io_op*> in_part;
    for (const io_op& op : ops) {
        result<void> legal =
            check(op.offset_bytes, op.buffer_bytes.size(), op.kind == io_kind::write);
        if (!legal) {
            requests.note(std::move(legal));
        } else if (is_whole(op.offset_bytes, op.buffer_bytes.size())) {
            requests.send(op, request_bytes_max_);
        } else {
            in_part.push_back(&op);
        }
    }
    requests.collect(0);
    for (const io_op* op : in_part) {
        requests.note(op->kind == io_kind::read ? read_held(op->offset_bytes, op->buffer_bytes)
                                                : write_held(op->offset_bytes, op->buffer_bytes));
    }
    return requests.outcome();
}

}  // namespace uthin::io
