#include <fmt/format.h>
#include <libnbd.h>

#include <algorithm>
#include <memory>

#include "base/result.h"
#include "frontends/control/client.h"
#include "frontends/unix_socket.h"

namespace uthin::frontends {
namespace {

constexpr std::uint64_t request_bytes_max = 32U << 20;  // every server takes these
constexpr std::uint64_t zero_bytes_max = 1ULL << 30;    // the protocol's length is 32 bits wide

struct handle_closer {
    void operator()(nbd_handle* handle) const { nbd_close(handle); }
};
using handle_pointer = std::unique_ptr<nbd_handle, handle_closer>;

std::unexpected<error> nbd_failure(const std::string& name) {
    const int code = nbd_get_errno();
    const auto kind = code == ENOSPC   ? error_code::no_data_space
                      : code == EPERM  ? error_code::read_only
                      : code == EINVAL ? error_code::invalid_argument
                      : code == ENOENT ? error_code::not_found
                                       : error_code::io_error;
    const char* message = nbd_get_error();
    return fail(kind, fmt::format("{}: {}", name, message == nullptr ? "NBD error" : message),
                code);
}

class nbd_data final : public volume_data {
public:
    nbd_data(handle_pointer handle, std::string name, std::uint64_t size_bytes, bool read_only)
        : handle_(std::move(handle)),
          name_(std::move(name)),
          size_bytes_(size_bytes),
          read_only_(read_only) {}
    ~nbd_data() override { nbd_shutdown(handle_.get(), 0); }

    std::uint64_t size_bytes() const override { return size_bytes_; }
    std::uint64_t preferred_bytes() const override { return 1U << 20; }

    result<void> read(std::uint64_t offset_bytes, std::span<std::byte> buffer) override {
        while (!buffer.empty()) {
            const auto piece =
                buffer.first(std::min<std::size_t>(buffer.size(), request_bytes_max));
            if (nbd_pread(handle_.get(), piece.data(), piece.size(), offset_bytes, 0) != 0) {
                return nbd_failure(name_);
            }
            offset_bytes += piece.size();
            buffer = buffer.subspan(piece.size());
        }
        return {};
    }

    result<void> write(std::uint64_t offset_bytes, std::span<const std::byte> buffer) override {
        UTHIN_TRY(check_writable());
        while (!buffer.empty()) {
            const auto piece =
                buffer.first(std::min<std::size_t>(buffer.size(), request_bytes_max));
            if (nbd_pwrite(handle_.get(), piece.data(), piece.size(), offset_bytes, 0) != 0) {
                return nbd_failure(name_);
            }
            offset_bytes += piece.size();
            buffer = buffer.subspan(piece.size());
        }
        return {};
    }

    result<void> write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes) override {
        UTHIN_TRY(check_writable());
        while (length_bytes != 0) {
            const std::uint64_t piece_bytes = std::min(length_bytes, zero_bytes_max);
            if (nbd_zero(handle_.get(), piece_bytes, offset_bytes, 0) != 0) {
                return nbd_failure(name_);
            }
            offset_bytes += piece_bytes;
            length_bytes -= piece_bytes;
        }
        return {};
    }

    result<void> flush() override {
        if (nbd_flush(handle_.get(), 0) != 0) {
            return nbd_failure(name_);
        }
        return {};
    }

    result<std::vector<volume_extent>> extents(std::uint64_t offset_bytes,
                                               std::uint64_t length_bytes) override {
        if (nbd_can_meta_context(handle_.get(), LIBNBD_CONTEXT_BASE_ALLOCATION) != 1) {
            return std::vector<volume_extent>{{offset_bytes, length_bytes, extent_kind::data}};
        }
        collected found{
            .extents = {}, .next_bytes = offset_bytes, .end_bytes = offset_bytes + length_bytes};
        const nbd_extent_callback callback = {
            .callback = &collected::add, .user_data = &found, .free = nullptr};
        if (nbd_block_status(handle_.get(), std::min(length_bytes, zero_bytes_max), offset_bytes,
                             callback, 0) != 0) {
            return nbd_failure(name_);
        }
        if (found.extents.empty()) {
            return fail(error_code::io_error, name_ + ": the server said nothing about a range");
        }
        return std::move(found.extents);
    }

private:
    struct collected {
        std::vector<volume_extent> extents;
        std::uint64_t next_bytes = 0;
        std::uint64_t end_bytes = 0;

        // Pairs of length and flags; the server may tell of more than was asked for.
        static int add(void* self, const char* context, std::uint64_t, std::uint32_t* entries,
                       std::size_t count, int*) {
            auto& to = *static_cast<collected*>(self);
            if (std::string_view(context) != LIBNBD_CONTEXT_BASE_ALLOCATION) {
                return 0;
            }
            for (std::size_t i = 0; i + 1 < count && to.next_bytes < to.end_bytes; i += 2) {
                const std::uint64_t length_bytes =
                    std::min<std::uint64_t>(entries[i], to.end_bytes - to.next_bytes);
                const bool zero = (entries[i + 1] & LIBNBD_STATE_ZERO) != 0;
                const bool hole = (entries[i + 1] & LIBNBD_STATE_HOLE) != 0;
                to.extents.push_back({to.next_bytes, length_bytes,
                                      !zero  ? extent_kind::data
                                      : hole ? extent_kind::hole
                                             : extent_kind::zero});
                to.next_bytes += length_bytes;
            }
            return 0;
        }
    };

    [[nodiscard]] result<void> check_writable() const {
        if (read_only_) {
            return fail(error_code::read_only, name_ + ": was opened for reading");
        }
        return {};
    }

    const handle_pointer handle_;
    const std::string name_;
    const std::uint64_t size_bytes_;
    const bool read_only_;
};

}  // namespace

result<std::unique_ptr<volume_data>> open_nbd_data(const std::string& socket_path,
                                                   const std::string& export_name, bool read_only) {
    descriptor socket = UTHIN_TRY(connect_unix(socket_path));
    handle_pointer handle(nbd_create());
    if (!handle) {
        return fail(error_code::out_of_memory, "cannot make an NBD client");
    }
    // libnbd takes the socket over, also when connecting fails.
    if (nbd_set_export_name(handle.get(), export_name.c_str()) != 0 ||
        nbd_add_meta_context(handle.get(), LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 ||
        nbd_connect_socket(handle.get(), socket.release()) != 0) {
        return nbd_failure(export_name);
    }
    const std::int64_t size_bytes = nbd_get_size(handle.get());
    if (size_bytes < 0) {
        return nbd_failure(export_name);
    }
    const bool refuses_writes = nbd_is_read_only(handle.get()) != 0;
    return std::make_unique<nbd_data>(std::move(handle), export_name,
                                      static_cast<std::uint64_t>(size_bytes),
                                      read_only || refuses_writes);
}

}  // namespace uthin::frontends
