#include "replication/receiver.h"

#include <fmt/format.h>

#include <utility>

#include "base/result.h"
#include "pool/names.h"
#include "replication/content_id.h"

namespace uthin::replication {

namespace {

class stream_receiver {
public:
    stream_receiver(pool_directory& pool, const receive_request& request, stream_reader& reader)
        : pool_(pool), request_(request), reader_(reader), header_(reader.header()) {}

    result<receive_reply> receive() {
        volumes_ = UTHIN_TRY(pool_.list());
        UTHIN_TRY(choose_names());
        UTHIN_TRY(choose_base());
        UTHIN_TRY(check_target());
        hidden_volume hidden = UTHIN_TRY(pool_.make_hidden(base_, header_.to_size_bytes));
        auto published = fill_and_publish(hidden);
        if (!published) {
            pool_.drop_hidden(hidden);
            return std::unexpected(std::move(published).error());
        }
        receive_reply reply;
        reply.header = header_;
        reply.volume = UTHIN_TRY(pool_.show(request_.name));
        reply.snapshot = snapshot_;
        return reply;
    }

private:
    [[nodiscard]] std::string shown(const std::string& name) const {
        return fmt::format("{}/{}", printable(pool_.directory()), printable(name));
    }

    result<void> choose_names() {
        snapshot_ = request_.snapshot;
        if (snapshot_.empty() && !header_.temporary) {
            snapshot_ = header_.to.name;
        }
        if (snapshot_.empty()) {
            return {};
        }
        if (snapshot_ == request_.name || find_volume(volumes_, snapshot_) != nullptr) {
            return fail(error_code::already_exists,
                        fmt::format("{}: the snapshot that is to be kept has a name that is taken; "
                                    "give another one with --snapshot",
                                    shown(snapshot_)));
        }
        return check_volume_name(snapshot_, std::nullopt);
    }

    result<void> choose_base() {
        if (!header_.is_incremental()) {
            return {};
        }
        const volume_info* target = find_volume(volumes_, request_.name);
        const volume_info* base = nullptr;
        for (const volume_info& volume : volumes_) {
            const bool fits = is_snapshot(volume) && content_id(volume) == header_.from.id &&
                              volume.size_bytes == header_.from_size_bytes;
            const bool of_target = target != nullptr && volume.parent_uuid == target->uuid;
            if (fits && (base == nullptr || of_target)) {
                base = &volume;
            }
        }
        if (base == nullptr) {
            return wrong_base();
        }
        base_ = base->name;
        return {};
    }

    result<void> wrong_base() const {
        std::string remedy = "there is no common snapshot, send it whole";
        for (const snapshot_name& relative : header_.relatives) {
            const auto common = std::ranges::find_if(volumes_, [&](const volume_info& volume) {
                return is_snapshot(volume) && content_id(volume) == relative.id;
            });
            if (common != volumes_.end()) {
                remedy = fmt::format(
                    "the newest common snapshot is '{}', here '{}'; send with "
                    "--from {}",
                    printable(relative.name), printable(common->name), printable(relative.name));
                break;
            }
        }
        return fail(
            error_code::invalid_argument,
            fmt::format("{}: the stream builds on snapshot '{}' ({}), which is not here; {}",
                        printable(pool_.directory()), printable(header_.from.name),
                        printable(header_.from.id), remedy));
    }

    result<void> check_target() {
        UTHIN_TRY(check_volume_name(request_.name, std::nullopt));
        const volume_info* target = find_volume(volumes_, request_.name);
        if (target == nullptr) {
            return {};
        }
        if (!header_.is_incremental()) {
            return fail(error_code::already_exists,
                        fmt::format("{}: exists already, and the stream holds a whole volume; "
                                    "delete it or use another name",
                                    shown(request_.name)));
        }
        if (target->in_use) {
            return fail(error_code::busy, fmt::format("{}: in use; disconnect its clients first",
                                                      shown(request_.name)));
        }
        replaces_ = UTHIN_TRY(seen_unchanged());
        return {};
    }

    // The volume, which is still what the base says.
    result<seen_volume> seen_unchanged() {
        const volume_info target = UTHIN_TRY(pool_.show(request_.name));
        diff_request wanted;
        wanted.from = base_;
        wanted.to = request_.name;
        wanted.ranges_max = 1;
        const bool same_size = target.size_bytes == header_.from_size_bytes;
        if (!same_size || !UTHIN_TRY(pool_.diff(wanted)).ranges.empty()) {
            return fail(error_code::invalid_argument,
                        fmt::format("{}: was changed since '{}', the stream's base; undo that with "
                                    "'uthin volume rollback --to {}', or use another name",
                                    shown(request_.name), printable(base_), printable(base_)));
        }
        const device_identity identity{device_id(target.dev_id),
                                       static_cast<std::uint32_t>(target.creation_time),
                                       target.creation_transaction_id};
        return seen_volume{identity, target.size_bytes};
    }

    result<void> fill_and_publish(hidden_volume& hidden) {
        if (request_.begun) {
            request_.begun(header_.to_size_bytes);
        }
        while (true) {
            const stream_record record = UTHIN_TRY(reader_.next());
            if (record.kind == record_kind::end) {
                break;
            }
            UTHIN_TRY(record.kind == record_kind::data
                          ? hidden.data->write(record.offset_bytes, record.data)
                          : hidden.data->write_zeroes(record.offset_bytes, record.length_bytes));
            if (request_.progress) {
                request_.progress(record.offset_bytes + record.length_bytes);
            }
        }
        if (replaces_) {
            UTHIN_TRY(seen_unchanged());
        }
        publish_request wanted;
        wanted.name = request_.name;
        wanted.replaces = replaces_;
        wanted.snapshot = snapshot_;
        wanted.received_from = header_.to.id;
        return pool_.publish_hidden(hidden, wanted);
    }

    pool_directory& pool_;
    const receive_request& request_;
    stream_reader& reader_;
    const stream_header header_;
    std::vector<volume_info> volumes_;
    std::string snapshot_;
    std::string base_;
    std::optional<seen_volume> replaces_;
};

}  // namespace

result<receive_reply> receive_stream(pool_directory& pool, const receive_request& request,
                                     byte_source& source) {
    auto reader = UTHIN_TRY(stream_reader::open(source));
    return stream_receiver(pool, request, reader).receive();
}

}  // namespace uthin::replication
