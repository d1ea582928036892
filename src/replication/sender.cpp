#include "replication/sender.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/result.h"
#include "base/zero.h"
#include "pool/labels.h"
#include "pool/names.h"
#include "replication/content_id.h"
#include "replication/patience.h"
#include "replication/resume_token.h"
#include "replication/thin_send.h"

namespace uthin::replication {

namespace {

// Zeros are found in pieces of this length.
constexpr std::size_t zero_test_bytes = 64U << 10;

constexpr std::string_view temporary_prefix = "sending-";

// An earlier stream made it for itself. The lease alone does not say so: users give some, too.
bool is_temporary(const volume_info& volume) {
    return is_temporary_name(volume.name, temporary_prefix) &&
           volume.labels.contains(std::string(lease_until_label));
}

// A snapshot for this stream.
class temporary_snapshot {
public:
    explicit temporary_snapshot(pool_service& pool) : pool_(pool) {}
    temporary_snapshot(const temporary_snapshot&) = delete;
    temporary_snapshot& operator=(const temporary_snapshot&) = delete;
    ~temporary_snapshot() {
        if (!name_.empty()) {
            (void)keep();  // the failure that led here is the one to tell
        }
    }
    result<volume_info> make(const std::string& of) {
        create_snapshots_request request;
        const std::string name = std::string(temporary_prefix) + make_uuid();
        renewed_ = system_clock().unix_seconds();
        request.snapshots = {{of, name, make_lease(renewed_ + temporary_keep_seconds)}};
        const auto made = UTHIN_TRY(pool_.create_snapshots(request));
        name_ = name;
        return made.front();
    }
    // One that an earlier stream left.
    result<void> take(const std::string& name) {
        name_ = name;
        renewed_ = 0;
        return renew();
    }
    // Now and then, while it is sent.
    result<void> renew() {
        const std::int64_t now = system_clock().unix_seconds();
        if (name_.empty() || now < renewed_ + temporary_keep_seconds / 4) {
            return {};
        }
        renewed_ = now;
        label_request request;
        request.name = name_;
        request.set = make_lease(now + temporary_keep_seconds);
        UTHIN_TRY(pool_.label_volume(request));
        return {};
    }
    result<void> remove() {
        if (name_.empty()) {
            return {};
        }
        const std::string name = std::exchange(name_, {});
        UTHIN_TRY(
            while_busy([&] { return pool_.delete_volume({.name = name, .if_exists = true}); }));
        return {};
    }

private:
    // Its time begins now, and this process may end.
    result<void> keep() {
        label_request request;
        request.name = std::exchange(name_, {});
        request.set = make_lease(system_clock().unix_seconds() + temporary_keep_seconds);
        request.set.erase(std::string(lease_owner_label));
        request.remove = {std::string(lease_owner_label)};
        UTHIN_TRY(pool_.label_volume(request));
        return {};
    }

    pool_service& pool_;
    std::string name_;
    std::int64_t renewed_ = 0;
};

// What a stream is made of.
struct stream_plan {
    volume_info to{};
    volume_info from{};          // without a name: the whole content
    bool make_snapshot = false;  // of `to`
};

// The pieces of one snapshot on their way into the stream.
class content_sender {
public:
    content_sender(pool_service& pool, const stream_plan& plan, const send_request& request,
                   content_writer& writer, send_reply& reply, volume_data& data,
                   temporary_snapshot& made)
        : pool_(pool),
          plan_(plan),
          request_(request),
          writer_(writer),
          reply_(reply),
          data_(data),
          made_(made),
          has_origin_(!plan.to.external_origin.empty()) {}

    // All of it, whatever is mapped: what is not mapped is the external origin's.
    result<void> send_everything() {
        return data(reply_.header.start_bytes, reply_.header.to_size_bytes);
    }

    result<void> send_changes() {
        diff_request wanted;
        wanted.from = plan_.from.name;
        wanted.from_device = wanted.from.empty() ? "" : device_tag(plan_.from);
        wanted.to = plan_.to.name;
        wanted.to_device = device_tag(plan_.to);
        wanted.offset_bytes = reply_.header.start_bytes;
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
        return data(std::max(ranges_end(), reply_.header.start_bytes), reply_.header.to_size_bytes);
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
        const std::uint64_t to_block_end = block_bytes - old_bytes % block_bytes;
        seam_end_ = old_bytes + std::min(to_block_end, reply_.header.to_size_bytes - old_bytes);
        seam_begin_ = std::min(std::max(old_bytes, reply_.header.start_bytes), seam_end_);
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
            UTHIN_TRY(writer_.reached(begin));
            UTHIN_TRY(made_.renew());
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
    const stream_plan& plan_;
    const send_request& request_;
    content_writer& writer_;
    send_reply& reply_;
    volume_data& data_;
    temporary_snapshot& made_;
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

result<void> set_base(stream_header& header, const volume_info& from, const volume_info& to) {
    if (!is_snapshot(from)) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: is no snapshot, so that nobody can have the same; name a "
                                "snapshot with --from",
                                printable(from.name)));
    }
    if (from.external_origin != to.external_origin) {
        return fail(error_code::unsupported,
                    fmt::format("{}: has another external origin than '{}'; send it whole",
                                printable(to.name), printable(from.name)));
    }
    UTHIN_TRY(check_has_size(from));
    header.from = {content_id(from), from.name};
    header.from_size_bytes = from.size_bytes;
    return {};
}

result<stream_plan> plan_new(const std::vector<volume_info>& volumes, const send_request& request,
                             bool pool_is_still) {
    stream_plan plan;
    plan.to = UTHIN_TRY(must_find(volumes, request.name));
    if (!request.from.empty()) {
        plan.from = UTHIN_TRY(must_find(volumes, request.from));
    }
    // Who has a snapshot open may be writing to it.
    plan.make_snapshot = (!is_snapshot(plan.to) || plan.to.in_use) && !pool_is_still;
    return plan;
}

result<stream_plan> plan_resumed(const std::vector<volume_info>& volumes,
                                 const send_request& request, const resume_token& token) {
    stream_plan plan;
    for (const volume_info& volume : volumes) {
        const bool fits = is_snapshot(volume) && content_id(volume) == token.to_id;
        if (fits && (plan.to.name.empty() || volume.name == request.name)) {
            plan.to = volume;
        }
        if (is_snapshot(volume) && !token.from_id.empty() && content_id(volume) == token.from_id) {
            plan.from = volume;
        }
    }
    if (plan.to.name.empty() || (plan.from.name.empty() && !token.from_id.empty())) {
        return fail(error_code::not_found,
                    fmt::format("the token is of {} {} that is not here any more; send again "
                                "without --resume",
                                plan.to.name.empty() ? "the snapshot" : "the base",
                                printable(plan.to.name.empty() ? token.to_id : token.from_id)));
    }
    const bool named =
        request.name.empty() || request.name == plan.to.name || request.name == plan.to.parent;
    const bool based = request.from.empty() || request.from == plan.from.name;
    if (!named || !based) {
        return fail(
            error_code::invalid_argument,
            fmt::format("{}: the token is of '{}'{}{}; name that, or send again without "
                        "--resume",
                        printable(request.name), printable(plan.to.name),
                        plan.from.name.empty() ? "" : " --from ", printable(plan.from.name)));
    }
    return plan;
}

void describe(stream_header& header, const pool_report& report, const volume_info& to) {
    header.pool_uuid = report.uuid;
    header.block_size_bytes = report.block_size_bytes;
    header.volume_uuid = to.parent_uuid;
    header.volume_name = to.parent;
    header.to = {content_id(to), to.name};
    header.to_size_bytes = to.size_bytes;
    header.created_unix_seconds = to.created_unix_seconds;
    header.temporary = !is_snapshot(to) || is_temporary(to);
    if (header.to.id.empty()) {
        header.to.id = make_uuid();  // a device that no catalogue knows
    }
}

result<std::unique_ptr<content_writer>> begin_stream(byte_sink& sink, const send_request& request,
                                                     const stream_header& header) {
    if (request.thin_send_form) {
        return write_thin_send(sink);
    }
    return std::make_unique<stream_writer>(UTHIN_TRY(
        stream_writer::begin(sink, header, request.compress, request.mark_interval_bytes)));
}

result<void> send_content(pool_service& pool, const send_request& request, const stream_plan& plan,
                          temporary_snapshot& made, send_reply& reply, byte_sink& sink) {
    const auto data = UTHIN_TRY(pool.open_data(plan.to.name, true));
    UTHIN_TRY(show_again(pool, plan.to));  // what was opened is what the header tells of
    UTHIN_TRY(make_durable(*data, plan.to));
    const auto writer = UTHIN_TRY(begin_stream(sink, request, reply.header));
    // Holes on an origin are the origin's content; the receiver has no such origin.
    const bool whole = !plan.to.external_origin.empty() && !reply.header.is_incremental();
    content_sender content(pool, plan, request, *writer, reply, *data, made);
    UTHIN_TRY(whole ? content.send_everything() : content.send_changes());
    UTHIN_TRY(show_again(pool, plan.to));  // CI2: nobody wrote to it meanwhile
    return writer->end();
}

}  // namespace

result<void> check_has_size(const volume_info& volume) {
    if (volume.size_bytes != 0) {
        return {};
    }
    return fail(error_code::invalid_argument,
                fmt::format("{}: is empty and has no size; give it one with 'uthin volume resize'",
                            printable(volume.name)));
}

result<send_reply> send_snapshot(pool_service& pool, const send_request& request, byte_sink& sink) {
    const auto volumes = UTHIN_TRY(pool.list_volumes());
    const pool_report report = UTHIN_TRY(pool.status());
    temporary_snapshot made(pool);
    send_reply reply;
    stream_header& header = reply.header;
    stream_plan plan;
    if (request.token.empty()) {
        plan = UTHIN_TRY(plan_new(volumes, request, is_still(report)));
    } else {
        const resume_token token = UTHIN_TRY(parse_resume_token(request.token));
        plan = UTHIN_TRY(plan_resumed(volumes, request, token));
        header.transfer_id = token.transfer_id;
        header.start_bytes = token.position_bytes;
    }
    UTHIN_TRY(check_has_size(plan.to));
    if (!plan.from.name.empty()) {
        UTHIN_TRY(set_base(header, plan.from, plan.to));
    }
    const volume_info named = plan.to;
    if (plan.make_snapshot) {
        plan.to = UTHIN_TRY(made.make(named.name));
    } else if (is_temporary(named)) {
        UTHIN_TRY(made.take(named.name));
    }
    describe(header, report, plan.to);
    name_relatives(header, volumes, is_snapshot(named) ? named : plan.to);
    if (header.start_bytes > header.to_size_bytes) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: the token begins behind its end; send again without --resume",
                                printable(plan.to.name)));
    }
    if (request.begun) {
        request.begun(header.to_size_bytes);
    }
    UTHIN_TRY(send_content(pool, request, plan, made, reply, sink));
    UTHIN_TRY(made.remove());
    return reply;
}

}  // namespace uthin::replication
