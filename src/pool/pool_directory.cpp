// Opening, the state that joins metadata and catalogue, and reading it.
#include "pool/pool_directory.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/result.h"
#include "pool/names.h"
#include "pool/origin_job.h"
#include "uthin/log.h"

namespace uthin {

namespace {

constexpr std::string_view component = "directory";

device_identity identity_of(device_id id, const device_details& details) {
    return {id, details.creation_time, details.transaction_id};
}

bool can_delete_in(pool_mode mode) {
    return mode == pool_mode::write || mode == pool_mode::out_of_data_space ||
           mode == pool_mode::out_of_metadata_space;
}

pool_options options_for(const pool_file& file, pool_options options) {
    options.zero_new_blocks = file.zero_new_blocks;
    options.discard = file.discard;
    options.error_if_no_space = file.error_if_no_space;
    options.no_space_timeout = file.no_space_timeout;
    options.low_water_blocks = file.low_water_blocks;
    options.discard_bytes_per_s = file.discard_bytes_per_s;
    options.format = false;
    return options;
}

bool refused_for_writing(const error& cause) {
    return cause.code() == error_code::read_only || cause.code() == error_code::not_permitted;
}

}  // namespace

bool pool_directory::probe_result::has(const device_identity& identity) const {
    const auto at = devices.find(identity.id);
    return at != devices.end() && identity_of(at->first, at->second) == identity;
}

pool_directory::pool_directory(directory_parts parts, const directory_options& options, clock& time)
    : directory_(std::move(parts.directory)),
      time_(time),
      purpose_(options.purpose),
      open_origin_(options.open_origin),
      pool_options_(options_for(parts.file, options.pool)),
      devices_(std::move(parts.devices)),
      names_(std::move(parts.names)),
      file_(std::move(parts.file)) {
}

pool_directory::~pool_directory() {
    stop_leases();
}

result<std::unique_ptr<pool_directory>> pool_directory::open(const std::string& directory,
                                                             const directory_options& options,
                                                             clock& time) {
    directory_parts parts;
    parts.directory = directory;
    parts.file = UTHIN_TRY(load_pool_file(directory));
    pool_devices_request request;
    request.metadata_url = resolved_url(directory, parts.file.metadata);
    request.data_url = resolved_url(directory, parts.file.data);
    request.read_only = parts.file.read_only || options.pool.read_only;
    request.cache = parts.file.cache;
    request.wait = options.wait;
    directory_options effective = options;
    effective.pool.read_only = request.read_only;
    auto devices = open_pool_devices(request, time);
    if (!devices && options.purpose == open_purpose::inspect && !request.read_only &&
        refused_for_writing(devices.error())) {
        // Looking at a pool needs no right to change it.
        request.read_only = true;
        effective.pool.read_only = true;
        devices = open_pool_devices(request, time);
    }
    parts.devices = UTHIN_TRY(std::move(devices));
    UTHIN_TRY(check_pool_devices(parts.devices));
    // ORDER: the catalogue is opened under the locks of the devices.
    parts.names =
        UTHIN_TRY(catalogue::open(directory + "/catalog.db", parts.file.uuid,
                                  {.read_only = false, .vfs_name = options.catalogue_vfs}));
    return assemble(std::move(parts), effective, time);
}

result<std::unique_ptr<pool_directory>> pool_directory::assemble(directory_parts parts,
                                                                 const directory_options& options,
                                                                 clock& time) {
    std::unique_ptr<pool_directory> made(new pool_directory(std::move(parts), options, time));
    made->metadata_device_ = made->devices_.metadata.get();
    made->pool_ =
        UTHIN_TRY_CTX(pool::open(std::move(made->devices_.metadata), std::move(made->devices_.data),
                                 made->pool_options_, time),
                      printable(made->directory_));
    UTHIN_TRY(made->resolve_pending());
    if (auto dropped = made->drop_expired(); !dropped) {
        // No reason to keep the pool closed.
        log(log_level::warning, component, dropped.error().to_string());
    }
    const lock_guard held(made->change_lock_);
    UTHIN_TRY(made->apply_policies(nullptr, false));
    UTHIN_TRY(made->load_lease());
    return made;
}

result<void> pool_directory::start() {
    UTHIN_TRY(pool_->start());
    const lock_guard held(change_lock_);
    started_ = true;
    if (purpose_ == open_purpose::inspect) {
        return {};
    }
    for (const auto& [id, what] : std::map(reaping_)) {
        begin_reaping(id);
    }
    UTHIN_TRY(lease_thread_.start([this] { keep_leases(); }));
    return purpose_ == open_purpose::serve ? resume_origin_jobs() : result<void>();
}

result<void> pool_directory::close() {
    stop_origin_jobs();
    stop_leases();
    const lock_guard held(change_lock_);
    result<void> settled;
    if (purpose_ != open_purpose::inspect && pool_->mode() != pool_mode::fail) {
        settled = settle_deletions();
    }
    result<void> closed = pool_->close();
    if (!closed) {
        return closed;
    }
    // A deletion that ended while the pool was closing is found out by the next opening.
    if (!settled) {
        log(log_level::warning, component, settled.error().to_string());
    }
    return {};
}

pool_file pool_directory::file() const {
    const lock_guard held(file_lock_);
    return file_;
}

// The metadata is as its last commit left it: what it does not hold did not happen.
result<void> pool_directory::resolve_pending() {
    const lock_guard held(change_lock_);
    const std::vector<intent> pending = UTHIN_TRY(names_->intents());
    if (pending.empty()) {
        return {};
    }
    std::vector<device_id> ids;
    for (const intent& what : pending) {
        ids.push_back(what.hidden.id);
    }
    const probe_result found = UTHIN_TRY(probe(ids));
    std::vector<intent_outcome> outcomes;
    for (const intent& what : pending) {
        const bool exists = found.has(what.hidden);
        const bool gone_is_done =
            what.kind == intent_kind::reap || what.kind == intent_kind::transfer;
        outcomes.push_back({what, gone_is_done ? !exists : exists});
        if (what.kind == intent_kind::transfer) {
            if (exists) {
                transfers_.emplace(what.hidden.id, what);
            }
            continue;
        }
        if (what.kind != intent_kind::create && exists) {
            intent reap = what;
            reap.kind = intent_kind::reap;
            reaping_.emplace(what.hidden.id, std::move(reap));
        }
    }
    if (purpose_ == open_purpose::inspect) {
        return {};
    }
    UTHIN_TRY(names_->resolve(outcomes));
    apply_zeroing();
    if (purpose_ == open_purpose::change) {
        for (const auto& [id, what] : std::map(reaping_)) {
            begin_reaping(id);
        }
        return settle_deletions();
    }
    return {};
}

void pool_directory::begin_reaping(device_id id) {
    if (!can_delete_in(pool_->mode())) {
        return;  // goes on when the pool is opened for writing again
    }
    auto begun = pool_->delete_in_background(id);
    if (!begun && begun.error().code() != error_code::not_found) {
        log(log_level::warning, component,
            fmt::format("device {} will be deleted later: {}", id.value(),
                        begun.error().to_string()));
    }
}

result<void> pool_directory::settle_deletions() {
    if (reaping_.empty()) {
        return {};
    }
    std::vector<device_id> ids;
    for (const auto& [id, what] : reaping_) {
        ids.push_back(id);
    }
    const probe_result found = UTHIN_TRY(probe(ids));
    std::vector<intent_outcome> outcomes;
    for (const auto& [id, what] : reaping_) {
        if (!found.has(what.hidden)) {
            outcomes.push_back({what, true});
        } else {
            begin_reaping(id);  // no effect if it runs; it was refused while a client was leaving
        }
    }
    if (outcomes.empty()) {
        return {};
    }
    // ORDER: CT3. The intent may go only when the deletion cannot come back.
    UTHIN_TRY(pool_->commit());
    UTHIN_TRY(names_->resolve(outcomes));
    for (const intent_outcome& outcome : outcomes) {
        reaping_.erase(outcome.what.hidden.id);
    }
    return {};
}

result<void> pool_directory::finish_reaping() {
    for (const auto& [id, what] : std::map(reaping_)) {
        begin_reaping(id);
        auto ended = pool_->wait_for_deletion(id);
        if (!ended && ended.error().code() != error_code::not_found) {
            return ended;
        }
    }
    return settle_deletions();
}

result<void> pool_directory::wait_for_deletions() {
    // Not all of the time under the lock: others may want the pool while a large volume goes.
    std::vector<device_id> ids;
    {
        const lock_guard held(change_lock_);
        for (const auto& [id, what] : reaping_) {
            ids.push_back(id);
        }
    }
    for (const device_id id : ids) {
        auto ended = pool_->wait_for_deletion(id);
        if (!ended && ended.error().code() != error_code::not_found) {
            return ended;
        }
    }
    const lock_guard held(change_lock_);
    return settle_deletions();
}

result<pool_directory::probe_result> pool_directory::probe(std::span<const device_id> ids) {
    probe_result found;
    // Errors of reading are kept from with_metadata: they are no reason to abort.
    result<void> read;
    UTHIN_TRY(pool_->with_metadata([&](metadata& stored) -> result<void> {
        read = [&]() -> result<void> {
            found.time = UTHIN_TRY(stored.time());
            found.transaction_id = UTHIN_TRY(stored.transaction_id());
            for (const device_id id : ids) {
                auto details = stored.get_details(id);
                if (details) {
                    found.devices.emplace(id, *details);
                } else if (details.error().code() != error_code::not_found) {
                    return std::unexpected(std::move(details).error());
                }
            }
            return {};
        }();
        return {};
    }));
    UTHIN_TRY(std::move(read));
    return found;
}

result<std::uint64_t> pool_directory::mapped_end_bytes(device_id id) {
    std::uint64_t blocks = 0;
    result<void> read;
    UTHIN_TRY(pool_->with_metadata([&](metadata& stored) -> result<void> {
        read = [&]() -> result<void> {
            thin_device* device = UTHIN_TRY(stored.open_device(id));
            const auto highest = stored.highest_mapped_block(*device);
            stored.close_device(device);
            if (!highest) {
                return std::unexpected(highest.error());
            }
            blocks = *highest ? (*highest)->value() + 1 : 0;
            return {};
        }();
        return {};
    }));
    UTHIN_TRY(std::move(read));
    const std::uint64_t block_bytes = pool_->data_block_size_bytes();
    if (blocks > volume_size_bytes_max / block_bytes) {
        return volume_size_bytes_max / block_bytes * block_bytes;
    }
    return blocks * block_bytes;
}

result<pool_directory::details_map> pool_directory::list_devices() {
    details_map devices;
    for (const thin_device_info& device : UTHIN_TRY(pool_->list_devices())) {
        devices.emplace(device.id, device.details);
    }
    return devices;
}

result<std::optional<pool_directory::found_volume>> pool_directory::find(std::string_view name) {
    std::optional<volume_record> record = UTHIN_TRY(names_->find_name(name));
    if (!record && purpose_ == open_purpose::inspect) {
        for (const intent& what : UTHIN_TRY(names_->intents())) {
            if (what.kind == intent_kind::create && what.volume.name == name) {
                record = what.volume;
            }
        }
    }
    if (record) {
        const device_id id = record->identity.id;
        const probe_result found = UTHIN_TRY(probe(std::span(&id, 1)));
        if (found.has(record->identity)) {
            return found_volume{std::move(*record), found.devices.at(id)};
        }
    }
    const std::optional<device_id> id = id_of_default_name(name);
    if (!id || is_hidden(*id)) {
        return std::nullopt;
    }
    const probe_result found = UTHIN_TRY(probe(std::span(&*id, 1)));
    const auto at = found.devices.find(*id);
    if (at == found.devices.end()) {
        return std::nullopt;
    }
    found_volume bare;
    bare.record.identity = identity_of(*id, at->second);
    bare.details = at->second;
    const auto other = UTHIN_TRY(names_->find_device(*id));
    if (other && other->identity == bare.record.identity) {
        return std::nullopt;  // it has another name
    }
    bare.record.name = name;
    bare.record.size_bytes = UTHIN_TRY(mapped_end_bytes(*id));
    return bare;
}

result<pool_directory::found_volume> pool_directory::must_find(std::string_view name) {
    auto found = UTHIN_TRY(find(name));
    if (!found) {
        return fail(error_code::not_found,
                    fmt::format("{}/{}: no such volume; see 'uthin volume list {}'",
                                printable(directory_), printable(name), printable(directory_)));
    }
    return std::move(*found);
}

result<std::vector<std::string>> pool_directory::stale_records(std::span<const std::string> names,
                                                               std::span<const device_id> ids) {
    std::vector<volume_record> records;
    for (const std::string& name : names) {
        if (auto record = UTHIN_TRY(names_->find_name(name))) {
            records.push_back(std::move(*record));
        }
    }
    for (const device_id id : ids) {
        if (auto record = UTHIN_TRY(names_->find_device(id))) {
            records.push_back(std::move(*record));
        }
    }
    std::vector<std::string> stale;
    for (const volume_record& record : records) {
        const device_id id = record.identity.id;
        if (!UTHIN_TRY(probe(std::span(&id, 1))).has(record.identity)) {
            stale.push_back(record.uuid);
        }
    }
    return stale;
}

volume_info pool_directory::info_of(const volume_record& record, const device_details& details,
                                    const std::map<std::string, std::string>& names) const {
    volume_info info;
    info.name = record.name;
    info.uuid = record.uuid;
    info.dev_id = record.identity.id.value();
    info.size_bytes = record.size_bytes;
    info.mapped_bytes = details.mapped_blocks * pool_->data_block_size_bytes();
    const auto parent = names.find(record.parent_uuid);
    info.parent = parent == names.end() ? std::string() : parent->second;
    info.parent_uuid = record.parent_uuid;
    info.created_unix_seconds = record.created_unix_seconds;
    info.creation_time = record.identity.creation_time;
    info.creation_transaction_id = record.identity.creation_transaction_id;
    info.external_origin = record.external_origin;
    info.received_from = record.received_from;
    info.labels = record.labels;
    info.reserved_bytes = record.reserved_bytes;
    info.limit_bytes = record.limit_bytes;
    return info;
}

// Without the change lock, so that a long change holds up nobody who only looks. The catalogue is
// read before and after the devices: what is hidden in either reading is hidden.
result<std::vector<volume_info>> pool_directory::gather() {
    const catalogue::contents before = UTHIN_TRY(names_->read_all());
    const details_map devices = UTHIN_TRY(list_devices());
    catalogue::contents now = UTHIN_TRY(names_->read_all());
    const auto exists = [&](const device_identity& identity) {
        const auto at = devices.find(identity.id);
        return at != devices.end() && identity_of(at->first, at->second) == identity;
    };
    std::set<device_id> hidden;
    std::map<std::string, std::uint64_t> rolled_back_bytes;
    for (const auto* contents : {&before, &std::as_const(now)}) {
        for (const intent& what : contents->intents) {
            const bool happened = exists(what.hidden);
            if (what.kind != intent_kind::create && happened) {
                hidden.insert(what.hidden.id);
            }
            if (what.kind == intent_kind::rollback && happened) {
                rolled_back_bytes[what.volume.uuid] = what.volume.size_bytes;
            }
        }
    }
    for (intent& what : now.intents) {
        if (what.kind == intent_kind::create) {
            now.volumes.push_back(std::move(what.volume));
        }
    }
    std::map<std::string, std::string> names;
    details_map unnamed = devices;
    std::erase_if(now.volumes, [&](const volume_record& record) {
        return !exists(record.identity) || hidden.contains(record.identity.id);
    });
    for (volume_record& record : now.volumes) {
        const auto rolled_back = rolled_back_bytes.find(record.uuid);
        if (rolled_back != rolled_back_bytes.end()) {
            record.size_bytes = rolled_back->second;
        }
        names.emplace(record.uuid, record.name);
        unnamed.erase(record.identity.id);
    }
    for (const auto& [id, details] : unnamed) {
        if (!hidden.contains(id)) {
            volume_record bare;
            bare.identity = identity_of(id, details);
            bare.name = default_volume_name(id);
            auto size_bytes = mapped_end_bytes(id);
            if (!size_bytes && size_bytes.error().code() == error_code::not_found) {
                continue;  // deleted meanwhile
            }
            bare.size_bytes = UTHIN_TRY(std::move(size_bytes));
            now.volumes.push_back(std::move(bare));
        }
    }
    std::vector<volume_info> infos;
    for (const volume_record& record : now.volumes) {
        infos.push_back(info_of(record, devices.at(record.identity.id), names));
        infos.back().in_use = in_use(record.identity.id);
    }
    std::ranges::sort(infos, {}, &volume_info::name);
    return infos;
}

result<std::vector<volume_info>> pool_directory::list() {
    return gather();
}

result<volume_info> pool_directory::show(std::string_view name) {
    const lock_guard held(change_lock_);
    return describe(name);
}

result<volume_info> pool_directory::describe(std::string_view name) {
    const found_volume found = UTHIN_TRY(must_find(name));
    std::map<std::string, std::string> names;
    if (!found.record.parent_uuid.empty()) {
        if (const auto parent = UTHIN_TRY(names_->find_uuid(found.record.parent_uuid))) {
            const device_id id = parent->identity.id;
            if (UTHIN_TRY(probe(std::span(&id, 1))).has(parent->identity)) {
                names.emplace(parent->uuid, parent->name);
            }
        }
    }
    volume_info info = info_of(found.record, found.details, names);
    info.in_use = in_use(found.record.identity.id);
    return info;
}

bool pool_directory::in_use(device_id id) {
    const lock_guard held(open_lock_);
    const auto at = open_.find(id);
    return at != open_.end() && !at->second.expired();
}

std::size_t pool_directory::volumes_in_use() {
    const lock_guard held(open_lock_);
    std::erase_if(open_, [](const auto& entry) { return entry.second.expired(); });
    return open_.size();
}

}  // namespace uthin
