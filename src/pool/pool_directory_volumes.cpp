// Changes of volumes: each is an intent, a metadata commit and a resolution.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/random.h"
#include "base/result.h"
#include "io/shared_device.h"
#include "pool/labels.h"
#include "pool/names.h"
#include "pool/pool_directory.h"
#include "pool/pool_file.h"
#include "uthin/log.h"

namespace uthin {

namespace {

// Hidden devices get random ids in the upper half: ids that a volume manager, which counts from 0,
// will not give to something else while a deletion is pending.
constexpr std::uint64_t hidden_ids_begin = 1ULL << 23;
constexpr std::size_t snapshots_max = 10000;

// Nothing of the change was made; anything else leaves that open.
bool is_refusal(const error& cause) {
    switch (cause.code()) {
        case error_code::already_exists:
        case error_code::not_found:
        case error_code::busy:
        case error_code::invalid_argument:
        case error_code::out_of_range:
        case error_code::read_only:
        case error_code::unsupported: return true;
        default: return false;
    }
}

}  // namespace

result<void> pool_directory::prepare_change(std::string_view what) {
    const std::string shown = printable(directory_);
    if (purpose_ == open_purpose::inspect) {
        return fail(error_code::not_permitted,
                    fmt::format("{}: opened for reading only, cannot {}; open it for writing",
                                shown, what));
    }
    const pool_mode mode = pool_->mode();
    if (mode == pool_mode::write || mode == pool_mode::out_of_data_space) {
        if (auto settled = settle_lease(); !settled) {
            log(log_level::warning, "directory", settled.error().to_string());
        }
        return settle_deletions();
    }
    const std::string cause = pool_->mode_cause();
    std::string_view remedy = "see 'uthin pool status'";
    switch (mode) {
        case pool_mode::out_of_metadata_space:
            remedy = "grow the metadata with 'uthin pool grow --metadata-size'";
            break;
        case pool_mode::read_only:
            remedy = file().read_only ? "make it writable with 'uthin pool set DIR read-only=off'"
                                      : "run 'uthin pool check --repair'";
            break;
        case pool_mode::fail: remedy = "close it and run 'uthin pool check'"; break;
        default: break;
    }
    return fail(mode == pool_mode::fail ? error_code::failed : error_code::read_only,
                fmt::format("{}: cannot {}, the pool is in mode {}{}{}; {}", shown, what,
                            to_string(mode), cause.empty() ? "" : ": ", printable(cause), remedy));
}

result<bool> pool_directory::id_is_free(device_id id) {
    return !reaping_.contains(id) && !UTHIN_TRY(probe(std::span(&id, 1))).devices.contains(id);
}

result<device_id> pool_directory::unused_id(bool hidden) {
    constexpr int attempts_max = 64;
    if (hidden) {
        for (int attempt = 0; attempt < attempts_max; ++attempt) {
            const device_id id(hidden_ids_begin +
                               system_random_u64() % (device_id_max + 1 - hidden_ids_begin));
            if (UTHIN_TRY(id_is_free(id))) {
                return id;
            }
        }
    } else {
        while (next_id_ < hidden_ids_begin) {
            const device_id id(next_id_);
            ++next_id_;
            if (UTHIN_TRY(id_is_free(id))) {
                return id;
            }
        }
    }
    // Crowded: the lowest one that is free.
    const details_map devices = UTHIN_TRY(list_devices());
    for (std::uint64_t value = 0; value <= device_id_max; ++value) {
        const device_id id(value);
        if (!devices.contains(id) && !reaping_.contains(id)) {
            return id;
        }
    }
    return fail(error_code::out_of_range,
                fmt::format("{}: all 16777216 device ids are in use; delete volumes",
                            printable(directory_)));
}

// The new id becomes durable with the commit of the creation itself; a device that is made under
// it cannot be mistaken for an older one with the same device id.
result<pool_directory::probe_result> pool_directory::advance_transaction_id() {
    if (!file().adopted) {
        UTHIN_TRY(pool_->with_metadata([](metadata& stored) -> result<void> {
            const std::uint64_t current = UTHIN_TRY(stored.transaction_id());
            return stored.set_transaction_id(current, current + 1);
        }));
    }
    return probe({});
}

result<void> pool_directory::make_devices(std::span<intent> intents,
                                          std::span<const std::string> stale,
                                          const std::function<result<void>()>& make) {
    // ORDER: DI1. Intent, durable; then the metadata's commit; then the resolution.
    UTHIN_TRY(names_->begin(intents, stale));
    const result<void> made = make();
    if (!made && !is_refusal(made.error())) {
        return made;  // what the disk holds is not known: the next opening will look
    }
    std::vector<intent_outcome> outcomes;
    for (const intent& what : intents) {
        outcomes.push_back({what, made.has_value()});
    }
    // Durable as it may be, the change is not over: what proves that it happened, a rollback's old
    // root among it, has to stay for the next opening.
    result<void> resolved = names_->resolve(outcomes);
    return made ? std::move(resolved) : made;
}

result<volume_info> pool_directory::create_volume(const create_volume_request& request) {
    const lock_guard held(change_lock_);
    const std::string shown = fmt::format("{}/{}", printable(directory_), printable(request.name));
    std::optional<device_id> id;
    if (request.dev_id) {
        if (*request.dev_id > device_id_max) {
            return fail(error_code::invalid_argument,
                        fmt::format("{}: device id {} has more than 24 bits; use 0 to 16777215",
                                    shown, *request.dev_id));
        }
        id = device_id(*request.dev_id);
    }
    UTHIN_TRY(check_volume_name(request.name, id));
    std::uint64_t size_bytes = request.size_bytes;
    const std::string origin_url = absolute_url(request.external_origin);
    if (!origin_url.empty()) {
        UTHIN_TRY(refuse_merging(origin_url, request.name));
        const auto origin = UTHIN_TRY_CTX(origin_device(origin_url, false), shown);
        if (size_bytes == 0) {
            const std::uint64_t origin_bytes = UTHIN_TRY_CTX(origin->size_bytes(), shown);
            size_bytes =
                (origin_bytes + sector_size_bytes - 1) / sector_size_bytes * sector_size_bytes;
        }
    }
    UTHIN_TRY_CTX(check_volume_size(size_bytes), shown);
    if (const auto found = UTHIN_TRY(find(request.name))) {
        if (!request.if_not_exists || found->record.size_bytes != size_bytes) {
            return fail(error_code::already_exists,
                        fmt::format("{}: exists already with {} bytes; use another name, or "
                                    "'uthin volume resize'",
                                    shown, found->record.size_bytes));
        }
        return describe(request.name);
    }
    UTHIN_TRY(prepare_change("create a volume"));
    if (id && !UTHIN_TRY(id_is_free(*id))) {
        return fail(error_code::already_exists,
                    fmt::format("{}: device id {} is taken; use another id", shown, id->value()));
    }
    UTHIN_TRY(check_overcommit(size_bytes, shown));
    const device_id chosen = id ? *id : UTHIN_TRY(unused_id(false));
    const auto stale = UTHIN_TRY(stale_records(std::span(&request.name, 1), std::span(&chosen, 1)));
    const probe_result now = UTHIN_TRY(advance_transaction_id());
    intent what;
    what.kind = intent_kind::create;
    what.volume.uuid = make_uuid();
    what.volume.identity = {chosen, now.time, now.transaction_id};
    what.volume.name = request.name;
    what.volume.size_bytes = size_bytes;
    what.volume.external_origin = origin_url;
    what.volume.created_unix_seconds = time_.unix_seconds();
    what.volume.reserved_bytes = request.reserved_bytes;
    what.volume.limit_bytes = request.limit_bytes;
    UTHIN_TRY(check_limits(what.volume));
    UTHIN_TRY(apply_limits(what.volume));
    auto made =
        make_devices(std::span(&what, 1), stale, [&] { return pool_->create_thin(chosen); });
    if (!made) {
        renew_policies();
        return std::unexpected(std::move(made).error().with_context(shown));
    }
    return describe(request.name);
}

// Absent: at least one is to be made, and none is in the way.
result<std::optional<std::vector<volume_info>>> pool_directory::existing_snapshots(
    const create_snapshots_request& request) {
    std::vector<volume_info> existing;
    for (const snapshot_pair& pair : request.snapshots) {
        const auto found = UTHIN_TRY(find(pair.name));
        if (!found) {
            continue;
        }
        const auto source = UTHIN_TRY(find(pair.source));
        const bool same =
            source && source->recorded() && found->record.parent_uuid == source->record.uuid;
        if (!request.if_not_exists || !same) {
            return fail(error_code::already_exists,
                        fmt::format("{}/{}: exists already{}; use another name",
                                    printable(directory_), printable(pair.name),
                                    request.if_not_exists ? " and is no snapshot of it" : ""));
        }
        existing.push_back(UTHIN_TRY(describe(pair.name)));
    }
    if (existing.empty()) {
        return std::nullopt;
    }
    if (existing.size() != request.snapshots.size()) {
        return fail(error_code::already_exists,
                    fmt::format("{}/{}: exists already, others of the list do not, and a list is "
                                "made at one instant; delete it or leave it out",
                                printable(directory_), printable(existing.front().name)));
    }
    return existing;
}

result<std::vector<volume_info>> pool_directory::create_snapshots(
    const create_snapshots_request& request) {
    const lock_guard held(change_lock_);
    if (request.snapshots.empty() || request.snapshots.size() > snapshots_max) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: {} snapshots in one call; give 1 to {} pairs",
                                printable(directory_), request.snapshots.size(), snapshots_max));
    }
    for (const snapshot_pair& pair : request.snapshots) {
        UTHIN_TRY(check_volume_name(pair.name, std::nullopt));
    }
    if (auto existing = UTHIN_TRY(existing_snapshots(request))) {
        return std::move(*existing);
    }
    UTHIN_TRY(prepare_change("create a snapshot"));
    std::map<std::string, volume_record> made;
    std::vector<std::string> new_names;
    std::vector<device_id> new_ids;
    std::vector<intent> intents;
    std::vector<snapshot_request> devices;
    std::uint64_t added_bytes = 0;
    for (const snapshot_pair& pair : request.snapshots) {
        const auto earlier = made.find(pair.source);
        const volume_record source =
            earlier != made.end() ? earlier->second : UTHIN_TRY(must_have_record(pair.source));
        UTHIN_TRY(refuse_merging(source.external_origin, pair.name));
        intent what;
        what.kind = intent_kind::create;
        what.volume = source;
        what.volume.uuid = make_uuid();
        what.volume.name = pair.name;
        what.volume.parent_uuid = source.uuid;
        what.volume.created_unix_seconds = time_.unix_seconds();
        what.volume.received_from.clear();
        what.volume.labels = pair.labels;
        // What the origin was promised, its snapshot was not.
        what.volume.reserved_bytes = 0;
        what.volume.limit_bytes = 0;
        added_bytes += source.size_bytes;
        what.volume.identity.id = UTHIN_TRY(unused_id(false));
        if (!made.emplace(pair.name, what.volume).second) {
            return fail(error_code::invalid_argument,
                        fmt::format("{}/{}: named twice; use different names",
                                    printable(directory_), printable(pair.name)));
        }
        devices.push_back({source.identity.id, what.volume.identity.id});
        new_names.push_back(pair.name);
        new_ids.push_back(what.volume.identity.id);
        intents.push_back(std::move(what));
    }
    UTHIN_TRY(check_overcommit(
        added_bytes, fmt::format("snapshot {}", printable(request.snapshots.front().name))));
    const auto stale = UTHIN_TRY(stale_records(new_names, new_ids));
    const probe_result now = UTHIN_TRY(advance_transaction_id());
    // Each snapshot moves the pool's time on by one.
    std::uint32_t creation_time = now.time;
    for (intent& what : intents) {
        what.volume.identity.creation_time = ++creation_time;
        what.volume.identity.creation_transaction_id = now.transaction_id;
    }
    UTHIN_TRY_CTX(make_devices(intents, stale, [&] { return pool_->create_snapshots(devices); }),
                  printable(directory_));
    std::vector<volume_info> infos;
    for (const std::string& name : new_names) {
        infos.push_back(UTHIN_TRY(describe(name)));
    }
    return infos;
}

result<volume_record> pool_directory::must_have_record(std::string_view name) {
    found_volume found = UTHIN_TRY(must_find(name));
    if (!found.recorded()) {
        const device_id id = found.record.identity.id;
        found.record.uuid = make_uuid();
        const std::string own_name(name);
        const auto stale = UTHIN_TRY(stale_records(std::span(&own_name, 1), std::span(&id, 1)));
        UTHIN_TRY(names_->adopt(found.record, stale));
    }
    return std::move(found.record);
}

result<volume_info> pool_directory::rename(std::string_view name, std::string_view new_name) {
    const lock_guard held(change_lock_);
    const found_volume found = UTHIN_TRY(must_find(name));
    UTHIN_TRY(check_volume_name(new_name, found.record.identity.id));
    if (new_name == name) {
        return describe(name);
    }
    if (UTHIN_TRY(find(new_name))) {
        return fail(error_code::already_exists,
                    fmt::format("{}/{}: exists already; use another name", printable(directory_),
                                printable(new_name)));
    }
    UTHIN_TRY(prepare_change("rename a volume"));
    const volume_record record = UTHIN_TRY(must_have_record(name));
    const std::string wanted(new_name);
    const auto stale = UTHIN_TRY(stale_records(std::span(&wanted, 1), {}));
    UTHIN_TRY(names_->begin({}, stale));
    UTHIN_TRY(names_->rename(record.uuid, wanted));
    return describe(wanted);
}

result<volume_info> pool_directory::resize(std::string_view name, std::uint64_t size_bytes) {
    const lock_guard held(change_lock_);
    UTHIN_TRY_CTX(check_volume_size(size_bytes),
                  fmt::format("{}/{}", printable(directory_), printable(name)));
    const found_volume found = UTHIN_TRY(must_find(name));
    if (found.recorded() && found.record.size_bytes == size_bytes) {
        return describe(name);
    }
    UTHIN_TRY(prepare_change("resize a volume"));
    UTHIN_TRY(refuse_moving(found.record.identity.id, name));
    const volume_record record = UTHIN_TRY(must_have_record(name));
    const device_id id = record.identity.id;
    if (size_bytes < record.reserved_bytes) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}/{}: {} bytes are reserved for it; lower that first with 'uthin "
                                "volume set --reserve'",
                                printable(directory_), printable(name), record.reserved_bytes));
    }
    if (size_bytes > record.size_bytes) {
        UTHIN_TRY(check_overcommit(size_bytes - record.size_bytes, printable(name)));
    }
    UTHIN_TRY(renew_content(record));
    if (size_bytes < record.size_bytes) {
        // ORDER: what lies beyond the new end is gone before the size says so: a part that is
        // grown again must read as zeros.
        const auto open = UTHIN_TRY(pool_->open_volume(id, record.size_bytes));
        UTHIN_TRY(open->set_size(size_bytes));
        UTHIN_TRY(names_->resize(record.uuid, size_bytes));
        return describe(name);
    }
    UTHIN_TRY(names_->resize(record.uuid, size_bytes));
    UTHIN_TRY(resize_live(id, record.size_bytes, size_bytes));
    return describe(name);
}

// The object that clients have open has a size of its own.
result<void> pool_directory::resize_live(device_id id, std::uint64_t old_bytes,
                                         std::uint64_t new_bytes) {
    if (old_bytes == new_bytes || !in_use(id)) {
        return {};
    }
    // Writable for the change of size; what a client may do, its front end decides.
    const auto open = UTHIN_TRY(pool_->open_volume(id, old_bytes));
    return open->set_size(new_bytes);
}

result<bool> pool_directory::remove(const delete_volume_request& request) {
    const lock_guard held(change_lock_);
    return remove_locked(request);
}

result<bool> pool_directory::remove_locked(const delete_volume_request& request) {
    const auto found = UTHIN_TRY(find(request.name));
    if (!found && request.if_exists) {
        return false;
    }
    if (!found) {
        UTHIN_TRY(must_find(request.name));
    }
    if (pool_->mode() != pool_mode::out_of_metadata_space) {
        UTHIN_TRY(prepare_change("delete a volume"));
    }
    const device_id id = found->record.identity.id;
    UTHIN_TRY(refuse_moving(id, request.name));
    if (in_use(id)) {
        return fail(error_code::busy, fmt::format("{}/{}: in use; disconnect its clients first",
                                                  printable(directory_), printable(request.name)));
    }
    if (const auto holder = holder_of(found->record.labels); holder && !request.force) {
        return fail(
            error_code::busy,
            fmt::format("{}/{}: held by {}; let it go there, or use --force", printable(directory_),
                        printable(request.name), printable(*holder)));
    }
    intent what;
    what.kind = intent_kind::reap;
    what.volume.name = request.name;
    what.hidden = found->record.identity;
    UTHIN_TRY(names_->begin(std::span(&what, 1)));
    reaping_.emplace(id, what);
    renew_policies();  // what was promised to it is free at once
    begin_reaping(id);
    if (!started_) {
        UTHIN_TRY(settle_deletions());
    }
    return true;
}

result<void> pool_directory::change_labels(const std::string& uuid, const label_request& request) {
    const lock_guard held(labels_lock_);
    auto record = UTHIN_TRY(names_->find_uuid(uuid));
    if (!record) {
        return fail(error_code::not_found,
                    fmt::format("{}/{}: gone", printable(directory_), printable(request.name)));
    }
    const auto before = record->labels;
    for (const std::string& key : request.remove) {
        record->labels.erase(key);
    }
    for (const auto& [key, value] : request.set) {
        record->labels.insert_or_assign(key, value);
    }
    return record->labels == before ? result<void>() : names_->set_labels(uuid, record->labels);
}

result<volume_info> pool_directory::label(const label_request& request) {
    const lock_guard held(change_lock_);
    UTHIN_TRY(must_find(request.name));
    // Not a change of the pool: also where it is full.
    if (pool_->mode() != pool_mode::out_of_metadata_space) {
        UTHIN_TRY(prepare_change("label a volume"));
    }
    const volume_record record = UTHIN_TRY(must_have_record(request.name));
    UTHIN_TRY(change_labels(record.uuid, request));
    return describe(request.name);
}

result<void> pool_directory::check_rollback(const rollback_request& request,
                                            const found_volume& target,
                                            const found_volume& source) {
    const auto refuse = [&](error_code code, std::string_view cause, std::string_view remedy) {
        return fail(code, fmt::format("{}/{}: {}; {}", printable(directory_),
                                      printable(request.name), cause, remedy));
    };
    if (target.record.identity == source.record.identity) {
        return refuse(error_code::invalid_argument, "cannot be rolled back to itself",
                      "name one of its snapshots");
    }
    const bool live = in_use(target.record.identity.id);
    if (live && source.record.external_origin != target.record.external_origin) {
        return refuse(error_code::busy, "in use, and its external origin would change",
                      "disconnect its clients first");
    }
    if (request.force) {
        return {};
    }
    if (live) {
        return refuse(error_code::busy, "in use, and its clients would see other data",
                      "disconnect them first, or use --force");
    }
    if (!target.recorded() || source.record.parent_uuid != target.record.uuid) {
        return refuse(error_code::invalid_argument,
                      fmt::format("'{}' is no snapshot of it", printable(request.to)),
                      "name one of its snapshots, or use --force");
    }
    return {};
}

result<void> pool_directory::renew_content(const volume_record& record) {
    if (record.parent_uuid.empty()) {
        return {};  // no snapshot, no base
    }
    // ORDER: durable before the change of the content. If that fails, a base too few is no harm.
    return names_->set_content(record.uuid, make_uuid());
}

result<volume_info> pool_directory::rollback(const rollback_request& request) {
    const lock_guard held(change_lock_);
    const found_volume target = UTHIN_TRY(must_find(request.name));
    const found_volume source = UTHIN_TRY(must_find(request.to));
    UTHIN_TRY(check_rollback(request, target, source));
    UTHIN_TRY(refuse_moving(target.record.identity.id, request.name));
    UTHIN_TRY(refuse_merging(source.record.external_origin, request.name));
    UTHIN_TRY(prepare_change("roll a volume back"));
    const volume_record record = UTHIN_TRY(must_have_record(request.name));
    const device_id id = record.identity.id;
    const device_id graveyard = UTHIN_TRY(unused_id(true));
    const auto stale = UTHIN_TRY(stale_records({}, std::span(&graveyard, 1)));
    const probe_result now = UTHIN_TRY(advance_transaction_id());
    intent what;
    what.kind = intent_kind::rollback;
    what.volume = record;
    what.volume.size_bytes = source.record.size_bytes;
    what.volume.external_origin = source.record.external_origin;
    // The swap moves the pool's time on by one and buries the old root under the new time.
    what.hidden = {graveyard, now.time + 1, now.transaction_id};
    UTHIN_TRY(renew_content(record));
    UTHIN_TRY_CTX(
        make_devices(std::span(&what, 1), stale,
                     [&] { return pool_->rollback(id, source.record.identity.id, graveyard); }),
        fmt::format("{}/{}", printable(directory_), printable(request.name)));
    what.kind = intent_kind::reap;
    reaping_.emplace(graveyard, what);
    UTHIN_TRY(resize_live(id, record.size_bytes, source.record.size_bytes));
    begin_reaping(graveyard);
    if (!started_) {
        UTHIN_TRY(settle_deletions());
    }
    return describe(request.name);
}

result<std::shared_ptr<volume>> pool_directory::open_volume(std::string_view name, bool read_only) {
    const lock_guard held(change_lock_);
    const found_volume found = UTHIN_TRY(must_find(name));
    const std::string shown = fmt::format("{}/{}", printable(directory_), printable(name));
    // Overwriting and discarding need no new metadata.
    if (!read_only && pool_->mode() != pool_mode::out_of_metadata_space) {
        UTHIN_TRY(prepare_change("write to a volume"));
    }
    const device_id id = found.record.identity.id;
    std::unique_ptr<block_device> origin;
    if (!found.record.external_origin.empty()) {
        origin = std::make_unique<io::shared_device>(
            UTHIN_TRY_CTX(origin_device(found.record.external_origin, false), shown));
    }
    auto open = UTHIN_TRY_CTX(
        pool_->open_volume(id, found.record.size_bytes, read_only, std::move(origin)), shown);
    if (!read_only && !found.record.parent_uuid.empty()) {
        open->set_before_first_change(
            [this, record = found.record] { return renew_content(record); });
    }
    const lock_guard held_open(open_lock_);
    open_[id] = open;
    return open;
}

}  // namespace uthin
