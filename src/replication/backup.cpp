#include "replication/backup.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "base/clock.h"
#include "base/random.h"
#include "base/result.h"
#include "io/durable_file.h"
#include "io/stream_file.h"
#include "pool/labels.h"
#include "pool/names.h"
#include "replication/content_id.h"
#include "replication/patience.h"
#include "replication/rate_limit.h"
#include "replication/receiver.h"
#include "replication/sender.h"
#include "replication/stream_merge.h"

namespace uthin::replication {

namespace {

// Of the snapshots that backups keep as bases: hold:backup=REPOSITORY.
constexpr const char* hold_label = "hold:backup";

std::string hex(const digest_value& value) {
    std::string text;
    for (const std::byte byte : value) {
        text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
    }
    return text;
}

// Into a new file, with its length and digest.
class stored_stream final : public byte_sink {
public:
    static result<stored_stream> create(const std::string& path) {
        return stored_stream(UTHIN_TRY(io::new_file::create(path)), UTHIN_TRY(digest::begin()));
    }
    stored_stream(stored_stream&& other) noexcept
        : file_(std::move(other.file_)), digest_(std::move(other.digest_)) {}

    result<void> write(std::span<const std::byte> bytes) override {
        size_bytes_ += bytes.size();
        UTHIN_TRY(digest_.add(bytes));
        return file_.write(bytes);
    }
    result<void> publish(backup_point& point) {
        UTHIN_TRY(file_.publish());
        point.file_bytes = size_bytes_;
        point.sha256 = hex(UTHIN_TRY(digest_.finish()));
        return {};
    }

private:
    stored_stream(io::new_file file, digest sum)
        : file_(std::move(file)), digest_(std::move(sum)) {}
    io::new_file file_;
    digest digest_;
    std::uint64_t size_bytes_ = 0;
};

class read_stream final : public byte_source {
public:
    static result<std::unique_ptr<read_stream>> open(const std::string& path) {
        return std::unique_ptr<read_stream>(
            new read_stream(UTHIN_TRY(io::file_reader::open(path)), UTHIN_TRY(digest::begin())));
    }
    result<std::size_t> read(std::span<std::byte> buffer) override {
        const std::size_t count = UTHIN_TRY(file_.read(buffer));
        UTHIN_TRY(digest_.add(buffer.first(count)));
        size_bytes_ += count;
        return count;
    }
    [[nodiscard]] std::uint64_t size_bytes() const { return size_bytes_; }
    [[nodiscard]] result<digest_value> sum() { return digest_.finish(); }

private:
    read_stream(io::file_reader file, digest sum)
        : file_(std::move(file)), digest_(std::move(sum)) {}
    io::file_reader file_;
    digest digest_;
    std::uint64_t size_bytes_ = 0;
};

std::string file_name(const backup_point& point, std::string_view kind) {
    return fmt::format("streams/{:06}-{}.uthin", point.number, kind);
}

// Makes one backup, step by step.
class backup_maker {
public:
    backup_maker(pool_service& pool, repository& to, const backup_request& request)
        : pool_(pool), to_(to), request_(request) {}

    result<backup_point> run() {
        const auto volumes = UTHIN_TRY(pool_.list_volumes());
        const volume_info* named = find_volume(volumes, request_.name);
        if (named == nullptr) {
            return fail(error_code::not_found,
                        fmt::format("{}: no such volume; see 'uthin volume list'",
                                    printable(request_.name)));
        }
        const bool own_snapshot = !is_snapshot(*named);
        const std::string volume_uuid = own_snapshot ? named->uuid : named->parent_uuid;
        UTHIN_TRY(check_has_size(*named));
        UTHIN_TRY(remove_strays(volumes, volume_uuid));
        const std::string base = choose_base(volumes, volume_uuid, named->external_origin);
        const volume_info snapshot = own_snapshot ? UTHIN_TRY(make_snapshot(named->name)) : *named;
        auto stored = store(snapshot, base);
        if (!stored) {
            if (own_snapshot) {
                (void)let_go(snapshot.name);
            }
            return stored;
        }
        // ORDER: BU1. The new base is in the manifest before the old one goes.
        if (own_snapshot) {
            UTHIN_TRY(remove_strays(UTHIN_TRY(pool_.list_volumes()), stored->volume_uuid));
        }
        return stored;
    }

private:
    [[nodiscard]] bool is_ours(const volume_info& volume, const std::string& volume_uuid) const {
        const auto hold = volume.labels.find(hold_label);
        return hold != volume.labels.end() && hold->second == to_.manifest().id &&
               volume.parent_uuid == volume_uuid;
    }
    [[nodiscard]] const backup_point* newest(const std::string& volume_uuid) const {
        const auto& points = to_.manifest().points;
        const auto at = std::find_if(points.rbegin(), points.rend(), [&](const auto& point) {
            return point.volume_uuid == volume_uuid;
        });
        return at == points.rend() ? nullptr : &*at;
    }
    // Snapshots of ours that are no base: left by a crash, or the bases of earlier backups.
    result<void> remove_strays(const std::vector<volume_info>& volumes,
                               const std::string& volume_uuid) {
        const backup_point* last = newest(volume_uuid);
        for (const volume_info& volume : volumes) {
            if (is_ours(volume, volume_uuid) &&
                (last == nullptr || content_id(volume) != last->id)) {
                UTHIN_TRY(let_go(volume.name));
            }
        }
        return {};
    }
    result<void> let_go(const std::string& name) {
        UTHIN_TRY(while_busy(
            [&] { return pool_.delete_volume({.name = name, .if_exists = true, .force = true}); }));
        return {};
    }
    // The snapshot of the newest point; empty: it is not here, so that everything is stored.
    [[nodiscard]] std::string choose_base(const std::vector<volume_info>& volumes,
                                          const std::string& volume_uuid,
                                          const std::string& external_origin) const {
        const backup_point* last = request_.full ? nullptr : newest(volume_uuid);
        if (last == nullptr) {
            return {};
        }
        const auto base = std::ranges::find_if(volumes, [&](const volume_info& volume) {
            // Since a flatten there are no differences from what it was before.
            return is_snapshot(volume) && content_id(volume) == last->id &&
                   volume.external_origin == external_origin && volume.size_bytes != 0;
        });
        return base == volumes.end() ? std::string() : base->name;
    }
    result<volume_info> make_snapshot(const std::string& of) {
        create_snapshots_request wanted;
        wanted.snapshots = {
            {of,
             fmt::format("{}-backup-{}-{}", cut_text(of, 200), to_.manifest().next_number,
                         make_uuid().substr(0, 8)),
             {{hold_label, to_.manifest().id}, {std::string(read_only_label), "true"}}}};
        return UTHIN_TRY(pool_.create_snapshots(wanted)).front();
    }
    result<backup_point> store(const volume_info& snapshot, const std::string& base) {
        repository_manifest manifest = to_.manifest();
        backup_point point;
        point.number = manifest.next_number++;
        point.file = file_name(point, base.empty() ? "full" : "difference");
        if (std::ranges::find(manifest.points, content_id(snapshot), &backup_point::id) !=
            manifest.points.end()) {
            return fail(error_code::already_exists,
                        fmt::format("{}: the snapshot is in the repository already",
                                    printable(snapshot.name)));
        }
        auto file = UTHIN_TRY(stored_stream::create(to_.path_of(point)));
        rate_limit limited(file, request_.rate_bytes_per_second, system_clock());
        send_request wanted;
        wanted.name = snapshot.name;
        wanted.from = base;
        wanted.compress = request_.compress;
        wanted.progress = request_.progress;
        wanted.begun = request_.begun;
        const send_reply sent = UTHIN_TRY(send_snapshot(
            pool_, wanted,
            request_.rate_bytes_per_second == 0 ? static_cast<byte_sink&>(file) : limited));
        UTHIN_TRY(file.publish(point));
        // Of a snapshot in use another one was sent, whose parent it is.
        point.volume = snapshot.parent;
        point.volume_uuid = snapshot.parent_uuid;
        point.id = sent.header.to.id;
        point.base = sent.header.from.id;
        point.size_bytes = sent.header.to_size_bytes;
        point.created_unix_seconds = sent.header.created_unix_seconds;
        manifest.points.push_back(point);
        UTHIN_TRY(to_.store(std::move(manifest)));
        return point;
    }

    pool_service& pool_;
    repository& to_;
    const backup_request& request_;
};

// What is wrong with one point; empty: nothing.
result<std::string> complaint_of(const repository& stored, const backup_point& point) {
    auto source = read_stream::open(stored.path_of(point));
    if (!source) {
        return source.error().message();
    }
    auto reader = stream_reader::open(**source);
    result<stream_record> record;
    if (reader) {
        do {
            record = reader->next();
        } while (record && record->kind != record_kind::end);
    }
    if (!reader || !record) {
        return (reader ? record.error() : reader.error()).message();
    }
    const stream_header& header = reader->header();
    if (header.to.id != point.id || header.from.id != point.base ||
        header.to_size_bytes != point.size_bytes) {
        return std::string("holds another stream than the manifest says");
    }
    if ((*source)->size_bytes() != point.file_bytes ||
        hex(UTHIN_TRY((*source)->sum())) != point.sha256) {
        return std::string("is not the file that the manifest tells of");
    }
    return std::string();
}

}  // namespace

result<backup_point> make_backup(pool_service& pool, repository& to,
                                 const backup_request& request) {
    return backup_maker(pool, to, request).run();
}

result<volume_info> restore_backup(pool_service& pool, const repository& from,
                                   const restore_request& request) {
    UTHIN_TRY(check_volume_name(request.name, std::nullopt));
    if (pool.show_volume(request.name)) {
        return fail(error_code::already_exists,
                    fmt::format("{}: exists already; delete it or use another name",
                                printable(request.name)));
    }
    // BU2: under a name of its own, with a lease, until the chain is complete.
    const std::string working = "restoring-" + make_uuid();
    constexpr std::int64_t lease_seconds = 7LL * 24 * 3600;  // it ends with this process, too
    const auto lease = make_lease(system_clock().unix_seconds() + lease_seconds);
    std::vector<std::string> bases;
    result<void> received;
    for (const backup_point& point : UTHIN_TRY(from.chain_of(request.point))) {
        const auto source = UTHIN_TRY(read_stream::open(from.path_of(point)));
        receive_request wanted;
        wanted.name = working;
        wanted.snapshot = fmt::format("{}-{}", working, point.number);
        wanted.labels = lease;
        wanted.snapshot_labels = lease;
        wanted.progress = request.progress;
        wanted.begun = request.begun;
        auto done = receive_stream(pool, wanted, *source);
        if (!done) {
            received = std::unexpected(
                std::move(done).error().with_context(fmt::format("backup {}", point.number)));
            break;
        }
        bases.push_back(wanted.snapshot);
    }
    for (const std::string& base : bases) {
        UTHIN_TRY(pool.delete_volume({.name = base, .if_exists = true}));
    }
    if (!received) {
        (void)pool.delete_volume({.name = working, .if_exists = true});
        return std::unexpected(std::move(received).error());
    }
    // ORDER: the name first: with it and the lease a crash may still delete the volume, but a
    // volume without a lease must not keep a name that nobody knows.
    UTHIN_TRY(pool.rename_volume(working, request.name));
    label_request plain;
    plain.name = request.name;
    plain.remove = {std::string(lease_until_label), std::string(lease_owner_label)};
    return pool.label_volume(plain);
}

result<std::vector<std::string>> verify_backups(
    const repository& stored, const std::function<void(const backup_point&)>& verified) {
    std::vector<std::string> complaints;
    for (const backup_point& point : stored.manifest().points) {
        const std::string complaint = UTHIN_TRY(complaint_of(stored, point));
        if (!complaint.empty()) {
            complaints.push_back(
                fmt::format("backup {} ({}): {}", point.number, point.file, complaint));
        } else if (verified) {
            verified(point);
        }
    }
    return complaints;
}

result<std::vector<backup_point>> prune_backups(repository& stored, std::uint64_t keep_last) {
    repository_manifest manifest = stored.manifest();
    std::map<std::string, std::uint64_t> left;
    for (const backup_point& point : manifest.points) {
        ++left[point.volume_uuid];
    }
    std::vector<backup_point> gone;
    std::vector<backup_point> kept;
    for (const backup_point& point : manifest.points) {
        const bool goes = left[point.volume_uuid]-- > keep_last;
        (goes ? gone : kept).push_back(point);
    }
    std::set<std::string> kept_ids;
    for (backup_point& point : kept) {
        if (!point.base.empty() && !kept_ids.contains(point.base)) {
            std::vector<std::unique_ptr<read_stream>> sources;
            std::vector<byte_source*> chain;
            for (const backup_point& part : UTHIN_TRY(stored.chain_of(point))) {
                sources.push_back(UTHIN_TRY(read_stream::open(stored.path_of(part))));
                chain.push_back(sources.back().get());
            }
            point.base.clear();
            point.file = file_name(point, "merged");
            auto file = UTHIN_TRY(stored_stream::create(stored.path_of(point)));
            UTHIN_TRY(merge_streams(chain, file, /*compress=*/true));
            UTHIN_TRY(file.publish(point));
        }
        kept_ids.insert(point.id);
    }
    manifest.points = std::move(kept);
    // ORDER: BU3. The manifest does without the old streams before they go.
    UTHIN_TRY(stored.store(std::move(manifest)));
    UTHIN_TRY(stored.remove_strays());
    return gone;
}

}  // namespace uthin::replication
