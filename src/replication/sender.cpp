#include "replication/sender.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/result.h"
#include "pool/names.h"
#include "replication/content_id.h"

namespace uthin::replication {

namespace {

// Zeros are found in pieces of this length.
constexpr std::size_t zero_test_bytes = 64U << 10;

bool is_zero(std::span<const std::byte> bytes) {
    return bytes.empty() || (bytes[0] == std::byte{0} &&
                             std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

// A snapshot for this stream; gone with the object.
class temporary_snapshot {
public:
    explicit temporary_snapshot(pool_service& pool) : pool_(pool) {}
    temporary_snapshot(const temporary_snapshot&) = delete;
    temporary_snapshot& operator=(const temporary_snapshot&) = delete;
    ~temporary_snapshot() {
        if (!name_.empty()) {
            (void)remove();  // the failure that led here is the one to tell
        }
    }
    result<volume_info> make(const std::string& of) {
        create_snapshots_request request;
        const std::string name = "sending-" + make_uuid();
        request.snapshots = {{of, name}};
        const auto made = UTHIN_TRY(pool_.create_snapshots(request));
        name_ = name;
        return made.front();
    }
    // A server may take a moment to notice that its client has gone.
    result<void> remove() {
        constexpr int attempts_max = 50;
        constexpr std::chrono::milliseconds pause{100};
        if (name_.empty()) {
            return {};
        }
        const std::string name = std::exchange(name_, {});
        for (int attempt = 1;; ++attempt) {
            const auto deleted = pool_.delete_volume({.name = name, .if_exists = true});
            if (deleted) {
                return {};
            }
            if (deleted.error().code() != error_code::busy || attempt == attempts_max) {
                return std::unexpected(deleted.error());
            }
            system_clock().sleep_for(pause);
        }
    }

private:
    pool_service& pool_;
    std::string name_;
};

// The pieces of one snapshot on their way into the stream.
class content_sender {
public:
    content_sender(pool_service& pool, const send_request& request, stream_writer& writer,
                   send_reply& reply, volume_data& data, bool has_origin)
        : pool_(pool),
          request_(request),
          writer_(writer),
          reply_(reply),
          data_(data),
          has_origin_(has_origin) {}

    // All of it, whatever is mapped: what is not mapped is the external origin's.
    result<void> send_everything() { return data(0, reply_.header.to_size_bytes); }

    result<void> send_changes(const std::string& to) {
        diff_request wanted;
        wanted.from = request_.from;
        wanted.to = to;
        while (true) {
            const diff_reply found = UTHIN_TRY(pool_.diff(wanted));
            set_seam(found);
            for (const changed_range& range : found.ranges) {
                UTHIN_TRY(send_range(range));
            }
            if (!found.next_offset_bytes) {
                break;
            }
            wanted.offset_bytes = *found.next_offset_bytes;
        }
        UTHIN_TRY(cross_seam(UINT64_MAX));
        return data(ranges_end(), reply_.header.to_size_bytes);
    }

private:
    // Up to where the difference of the mappings tells what to send. Behind the end of a smaller
    // base everything is new if there is an origin: holes read as the origin there.
    [[nodiscard]] std::uint64_t ranges_end() const {
        const stream_header& header = reply_.header;
        return has_origin_ ? std::min(header.from_size_bytes, header.to_size_bytes)
                           : header.to_size_bytes;
    }
    // The block in which a smaller base ends: what lies behind that end was never part of it, and
    // is sent even if the block did not change.
    void set_seam(const diff_reply& found) {
        const std::uint64_t old_bytes = reply_.header.from_size_bytes;
        const std::uint64_t block_bytes = found.block_size_bytes;
        if (!reply_.header.is_incremental() || old_bytes >= reply_.header.to_size_bytes ||
            old_bytes % block_bytes == 0 || seam_crossed_ || has_origin_) {
            return;
        }
        seam_begin_ = old_bytes;
        const std::uint64_t to_block_end = block_bytes - old_bytes % block_bytes;
        seam_end_ = old_bytes + std::min(to_block_end, reply_.header.to_size_bytes - old_bytes);
    }
    result<void> cross_seam(std::uint64_t next_bytes) {
        if (seam_crossed_ || seam_begin_ == seam_end_ || next_bytes <= seam_begin_) {
            return {};
        }
        seam_crossed_ = true;
        return data(seam_begin_, seam_end_);
    }
    result<void> send_range(const changed_range& range) {
        const std::uint64_t begin = range.offset_bytes;
        // Removed ranges may lie behind the end of a volume that has shrunk.
        const std::uint64_t end = std::min(begin + range.length_bytes, ranges_end());
        if (begin >= end) {
            return {};
        }
        UTHIN_TRY(cross_seam(begin));
        if (begin <= seam_begin_ && seam_begin_ < end) {
            seam_crossed_ = true;
        }
        // A hole reads as the origin, if there is one.
        const bool zero = range.kind == change_kind::removed && !has_origin_;
        return zero ? zeros(begin, end) : data(begin, end);
    }
    result<void> data(std::uint64_t begin, std::uint64_t end) {
        while (begin < end) {
            const auto count =
                static_cast<std::size_t>(std::min<std::uint64_t>(buffer_.size(), end - begin));
            UTHIN_TRY(data_.read(begin, buffer_.span().first(count)));
            UTHIN_TRY(send_piece(begin, buffer_.span().first(count)));
            begin += count;
            if (request_.progress) {
                request_.progress(begin);
            }
        }
        return {};
    }
    result<void> send_piece(std::uint64_t offset_bytes, std::span<const std::byte> bytes) {
        std::size_t begin = 0;
        while (begin < bytes.size()) {
            const auto piece_at = [&](std::size_t at) {
                return bytes.subspan(at, std::min(zero_test_bytes, bytes.size() - at));
            };
            const bool zero = is_zero(piece_at(begin));
            std::size_t end = begin + piece_at(begin).size();
            while (end < bytes.size() && is_zero(piece_at(end)) == zero) {
                end += piece_at(end).size();
            }
            if (zero) {
                UTHIN_TRY(zeros(offset_bytes + begin, offset_bytes + end));
            } else {
                reply_.data_bytes += end - begin;
                UTHIN_TRY(writer_.data(offset_bytes + begin, bytes.subspan(begin, end - begin)));
            }
            begin = end;
        }
        return {};
    }
    result<void> zeros(std::uint64_t begin, std::uint64_t end) {
        if (!reply_.header.is_incremental()) {
            return {};  // a new volume reads as zeros
        }
        reply_.zero_bytes += end - begin;
        return writer_.zeros(begin, end - begin);
    }

    pool_service& pool_;
    const send_request& request_;
    stream_writer& writer_;
    send_reply& reply_;
    volume_data& data_;
    const bool has_origin_;
    aligned_buffer buffer_{data_bytes_max};
    std::uint64_t seam_begin_ = 0;
    std::uint64_t seam_end_ = 0;
    bool seam_crossed_ = false;
};

result<volume_info> must_find(const std::vector<volume_info>& volumes, const std::string& name) {
    const volume_info* found = find_volume(volumes, name);
    if (found == nullptr) {
        return fail(error_code::not_found,
                    fmt::format("{}: no such volume; see 'uthin volume list'", printable(name)));
    }
    return *found;
}

void name_relatives(stream_header& header, const std::vector<volume_info>& volumes,
                    const volume_info& to) {
    std::vector<const volume_info*> found;
    for (const volume_info& volume : volumes) {
        const bool same_family =
            volume.parent_uuid == to.parent_uuid || volume.uuid == to.parent_uuid;
        if (is_snapshot(volume) && same_family && volume.uuid != to.uuid) {
            found.push_back(&volume);
        }
    }
    std::ranges::sort(found, [](const volume_info* a, const volume_info* b) {
        return a->creation_time > b->creation_time;
    });
    for (const volume_info* volume : found) {
        header.relatives.push_back({content_id(*volume), volume->name});
    }
}

result<void> set_base(stream_header& header, const std::vector<volume_info>& volumes,
                      const volume_info& to, const std::string& name) {
    const volume_info from = UTHIN_TRY(must_find(volumes, name));
    if (!is_snapshot(from)) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: is no snapshot, so that nobody can have the same; name a "
                                "snapshot with --from",
                                printable(name)));
    }
    if (from.external_origin != to.external_origin) {
        return fail(error_code::unsupported,
                    fmt::format("{}: has another external origin than '{}'; send it whole",
                                printable(to.name), printable(name)));
    }
    header.from = {content_id(from), from.name};
    header.from_size_bytes = from.size_bytes;
    return {};
}

}  // namespace

result<send_reply> send_snapshot(pool_service& pool, const send_request& request, byte_sink& sink) {
    const auto volumes = UTHIN_TRY(pool.list_volumes());
    const volume_info named = UTHIN_TRY(must_find(volumes, request.name));
    temporary_snapshot made(pool);
    volume_info to = named;
    send_reply reply;
    stream_header& header = reply.header;
    if (!request.from.empty()) {
        UTHIN_TRY(set_base(header, volumes, named, request.from));
    }
    // Who has a snapshot open may be writing to it.
    if (!is_snapshot(named) || named.in_use) {
        to = UTHIN_TRY(made.make(named.name));
        header.temporary = true;
    }
    const pool_report report = UTHIN_TRY(pool.status());
    header.pool_uuid = report.uuid;
    header.block_size_bytes = report.block_size_bytes;
    header.volume_uuid = to.parent_uuid;
    header.volume_name = to.parent;
    header.to = {content_id(to), to.name};
    header.to_size_bytes = to.size_bytes;
    header.created_unix_seconds = to.created_unix_seconds;
    name_relatives(header, volumes, is_snapshot(named) ? named : to);
    if (request.begun) {
        request.begun(header.to_size_bytes);
    }
    {
        const auto data = UTHIN_TRY(pool.open_data(to.name, true));
        auto writer = UTHIN_TRY(stream_writer::begin(sink, header, request.compress));
        // Holes on an origin are the origin's content; the receiver has no such origin.
        const bool has_origin = !to.external_origin.empty();
        const bool whole = has_origin && !header.is_incremental();
        content_sender content(pool, request, writer, reply, *data, has_origin);
        UTHIN_TRY(whole ? content.send_everything() : content.send_changes(to.name));
        UTHIN_TRY(writer.end());
    }
    UTHIN_TRY(made.remove());
    return reply;
}

}  // namespace uthin::replication
