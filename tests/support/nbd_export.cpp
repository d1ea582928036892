#include "support/nbd_export.h"

#include <endian.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "base/result.h"

namespace uthin::test {
namespace {

constexpr std::uint64_t option_magic = 0x49484156454F5054;  // "IHAVEOPT"
constexpr std::uint64_t option_reply_magic = 0x3e889045565a9;
constexpr std::uint32_t request_magic = 0x25609513;
constexpr std::uint32_t reply_magic = 0x67446698;
constexpr std::uint32_t option_abort = 2;
constexpr std::uint32_t option_go = 7;
constexpr std::uint32_t reply_ack = 1;
constexpr std::uint32_t reply_info = 3;
constexpr std::uint32_t reply_unsupported = 0x80000001;
// Flags of the export: has flags, flush, FUA, trim, write-zeroes, several connections agree.
constexpr std::uint16_t export_flags = 1 | 4 | 8 | 32 | 64 | 256;
constexpr std::uint16_t flag_fua = 1;
constexpr std::uint32_t answer_eio = 5;
constexpr std::uint32_t length_max = 32U << 20;

enum request_kind : std::uint16_t { read_kind, write_kind, disconnect, flush, trim, zeroes = 6 };

struct [[gnu::packed]] option_header {
    std::uint64_t magic;
    std::uint32_t option;
    std::uint32_t length;
};
struct [[gnu::packed]] option_reply {
    std::uint64_t magic;
    std::uint32_t option;
    std::uint32_t kind;
    std::uint32_t length;
};
struct [[gnu::packed]] export_info {
    std::uint16_t kind;
    std::uint64_t size;
    std::uint16_t flags;
};
struct [[gnu::packed]] request_header {
    std::uint32_t magic;
    std::uint16_t flags;
    std::uint16_t kind;
    std::uint64_t handle;
    std::uint64_t offset;
    std::uint32_t length;
};
struct [[gnu::packed]] request_reply {
    std::uint32_t magic;
    std::uint32_t error;
    std::uint64_t handle;
};

bool receive(int connection, std::span<std::byte> into) {
    while (!into.empty()) {
        const ssize_t got = ::recv(connection, into.data(), into.size(), 0);
        if (got <= 0) {
            return false;
        }
        into = into.subspan(static_cast<std::size_t>(got));
    }
    return true;
}

bool send(int connection, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t sent = ::send(connection, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent <= 0) {
            return false;
        }
        bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
    return true;
}

template <class Header>
bool receive_header(int connection, Header& header) {
    return receive(connection, std::as_writable_bytes(std::span(&header, 1)));
}

template <class Header>
bool send_header(int connection, const Header& header) {
    return send(connection, std::as_bytes(std::span(&header, 1)));
}

bool reply_to_option(int connection, std::uint32_t option, std::uint32_t kind,
                     std::span<const std::byte> data) {
    return send_header(connection,
                       option_reply{.magic = htobe64(option_reply_magic),
                                    .option = option,
                                    .kind = htobe32(kind),
                                    .length = htobe32(static_cast<std::uint32_t>(data.size()))}) &&
           send(connection, data);
}

}  // namespace

nbd_export::nbd_export(std::shared_ptr<volume> served, const std::filesystem::path& socket)
    : volume_(std::move(served)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (socket.native().size() >= sizeof address.sun_path) {
        return;
    }
    std::memcpy(address.sun_path, socket.c_str(), socket.native().size());
    listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener_ < 0 ||
        ::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        ::listen(listener_, 8) != 0) {
        return;
    }
    uri_ = "nbd+unix:///?socket=" + socket.string();
    acceptor_ = std::thread([this] { accept_all(); });
}

nbd_export::~nbd_export() {
    std::vector<std::thread> threads;
    if (acceptor_.joinable()) {
        ::shutdown(listener_, SHUT_RDWR);
        acceptor_.join();
    }
    {
        const lock_guard held(lock_);
        ending_ = true;
        for (const int connection : connections_) {
            ::shutdown(connection, SHUT_RDWR);
        }
        threads.swap(threads_);
    }
    for (std::thread& one : threads) {
        one.join();
    }
    if (listener_ >= 0) {
        ::close(listener_);
    }
}

void nbd_export::accept_all() {
    for (;;) {
        const int connection = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        if (connection < 0) {
            return;
        }
        const lock_guard held(lock_);
        connections_.push_back(connection);
        threads_.emplace_back([this, connection] { serve(connection); });
    }
}

void nbd_export::serve(int connection) {
    std::vector<std::byte> buffer;
    if (negotiate(connection)) {
        while (answer_request(connection, buffer)) {
        }
    }
    const lock_guard held(lock_);
    std::erase(connections_, connection);
    ::close(connection);
}

bool nbd_export::negotiate(int connection) const {
    constexpr std::string_view greeting("NBDMAGICIHAVEOPT\0\3", 18);
    std::uint32_t client_flags = 0;
    if (!send(connection, std::as_bytes(std::span(greeting))) ||
        !receive_header(connection, client_flags)) {
        return false;
    }
    for (;;) {
        option_header asked{};
        if (!receive_header(connection, asked) || be64toh(asked.magic) != option_magic ||
            be32toh(asked.length) > length_max) {
            return false;
        }
        std::vector<std::byte> data(be32toh(asked.length));
        if (!receive(connection, data) || be32toh(asked.option) == option_abort) {
            return false;
        }
        if (be32toh(asked.option) != option_go) {
            if (!reply_to_option(connection, asked.option, reply_unsupported, {})) {
                return false;
            }
            continue;
        }
        const export_info info{
            .kind = 0, .size = htobe64(volume_->size_bytes()), .flags = htobe16(export_flags)};
        return reply_to_option(connection, asked.option, reply_info,
                               std::as_bytes(std::span(&info, 1))) &&
               reply_to_option(connection, asked.option, reply_ack, {});
    }
}

bool nbd_export::answer_request(int connection, std::vector<std::byte>& buffer) {
    request_header asked{};
    if (!receive_header(connection, asked) || be32toh(asked.magic) != request_magic) {
        return false;
    }
    const std::uint16_t kind = be16toh(asked.kind);
    const std::uint32_t length = be32toh(asked.length);
    const bool has_data = kind == read_kind || kind == write_kind;
    if (kind == disconnect || (has_data && length > length_max)) {
        return false;
    }
    buffer.resize(has_data ? length : 0);
    if (kind == write_kind && !receive(connection, buffer)) {
        return false;
    }
    const auto done = carry_out(be16toh(asked.flags), kind, be64toh(asked.offset), buffer, length);
    return send_header(connection, request_reply{.magic = htobe32(reply_magic),
                                                 .error = htobe32(done ? 0 : answer_eio),
                                                 .handle = asked.handle}) &&
           (kind != read_kind || !done || send(connection, buffer));
}

result<void> nbd_export::carry_out(std::uint16_t flags, std::uint16_t kind, std::uint64_t offset,
                                   std::span<std::byte> data, std::uint64_t length) {
    const bool fua = (flags & flag_fua) != 0;
    switch (kind) {
        case read_kind: return volume_->read(offset, data);
        case write_kind: return volume_->write(offset, data, fua);
        case trim: UTHIN_TRY(volume_->discard(offset, length)); break;
        case zeroes: UTHIN_TRY(volume_->write_zeroes(offset, length)); break;
        case flush: break;
        default: return fail(error_code::unsupported, "no such request");
    }
    flushes_.fetch_add(kind == flush ? 1U : 0U);
    return kind == flush || fua ? volume_->flush() : result<void>();
}

}  // namespace uthin::test
