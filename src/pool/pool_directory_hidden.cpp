// Volumes in the making: filled unseen, then published by one transaction of the catalogue.
#include <fmt/format.h>

#include <utility>

#include "base/random.h"
#include "base/result.h"
#include "pool/names.h"
#include "pool/pool_directory.h"
#include "uthin/log.h"

namespace uthin {

result<intent> pool_directory::make_unpublished(device_id id, std::optional<device_id> origin) {
    const auto stale = UTHIN_TRY(stale_records({}, std::span(&id, 1)));
    const probe_result now = UTHIN_TRY(advance_transaction_id());
    intent what;
    what.kind = intent_kind::reap;
    // A snapshot moves the pool's time on by one.
    what.hidden = {id, now.time + (origin ? 1 : 0), now.transaction_id};
    // ORDER: DI1. The intent is durable before the device can be: a crash leaves nothing behind.
    UTHIN_TRY(names_->begin(std::span(&what, 1), stale));
    result<void> made;
    if (origin) {
        const snapshot_request wanted{*origin, id};
        made = pool_->create_snapshots(std::span(&wanted, 1));
    } else {
        made = pool_->create_thin(id);
    }
    if (!made) {
        reap_unpublished(what);  // finds out what became of it
        return std::unexpected(std::move(made).error());
    }
    return what;
}

void pool_directory::reap_unpublished(const intent& what) {
    reaping_.emplace(what.hidden.id, what);
    begin_reaping(what.hidden.id);
    if (!started_) {
        const auto settled = settle_deletions();
        if (!settled) {
            log(log_level::warning, "directory", settled.error().to_string());
        }
    }
}

result<hidden_volume> pool_directory::make_hidden(std::string_view base, std::uint64_t size_bytes) {
    const lock_guard held(change_lock_);
    return make_hidden_locked(base, size_bytes);
}

result<hidden_volume> pool_directory::make_hidden_locked(std::string_view base,
                                                         std::uint64_t size_bytes) {
    UTHIN_TRY_CTX(check_volume_size(size_bytes), printable(directory_));
    std::optional<found_volume> origin;
    if (!base.empty()) {
        origin = UTHIN_TRY(must_find(base));
        if (!origin->record.external_origin.empty()) {
            return fail(error_code::unsupported,
                        fmt::format("{}/{}: stands on an external origin, which a copy would need "
                                    "too; use a volume without one",
                                    printable(directory_), printable(base)));
        }
    }
    UTHIN_TRY(prepare_change("make a volume"));
    const device_id id = UTHIN_TRY(unused_id(true));
    hidden_volume hidden;
    hidden.what = UTHIN_TRY(
        make_unpublished(id, origin ? std::optional(origin->record.identity.id) : std::nullopt));
    const std::uint64_t old_bytes = origin ? origin->record.size_bytes : size_bytes;
    auto opened = pool_->open_volume(id, std::max(old_bytes, size_bytes));
    result<void> sized;
    if (opened && size_bytes < old_bytes) {
        sized = (*opened)->set_size(size_bytes);
    }
    if (!opened || !sized) {
        error cause = opened ? std::move(sized).error() : std::move(opened).error();
        if (opened) {
            opened->reset();
        }
        reap_unpublished(hidden.what);
        return std::unexpected(std::move(cause).with_context(printable(directory_)));
    }
    hidden.data = std::move(*opened);
    making_.insert(id);
    apply_zeroing();
    const lock_guard held_open(open_lock_);
    open_[id] = hidden.data;
    return hidden;
}

void pool_directory::drop_hidden(hidden_volume& hidden) {
    if (!hidden.data) {
        return;
    }
    hidden.data.reset();
    const lock_guard held(change_lock_);
    making_.erase(hidden.what.hidden.id);
    apply_zeroing();
    reap_unpublished(hidden.what);
}

void pool_directory::apply_zeroing() {
    const bool filling = !making_.empty() || !transfers_.empty();
    pool_->set_zero_new_blocks(file().zero_new_blocks || filling);
}

result<std::optional<pool_directory::found_volume>> pool_directory::find_replaced(
    const publish_request& request) {
    const auto refuse = [&](error_code code, std::string_view cause) {
        return fail(
            code, fmt::format("{}/{}: {}", printable(directory_), printable(request.name), cause));
    };
    auto found = UTHIN_TRY(find(request.name));
    if (!found && request.replaces) {
        return refuse(error_code::not_found, "was deleted or renamed meanwhile; try again");
    }
    if (!found) {
        return std::nullopt;
    }
    if (!request.replaces) {
        return refuse(error_code::already_exists, "exists already; use another name");
    }
    const device_identity& identity = found->record.identity;
    const seen_volume now{identity.id.value(), identity.creation_time,
                          identity.creation_transaction_id, found->record.size_bytes};
    if (now != *request.replaces) {
        return refuse(error_code::busy, "was changed meanwhile; try again");
    }
    if (in_use(found->record.identity.id)) {
        return refuse(error_code::busy, "in use; disconnect its clients first");
    }
    return found;
}

// The record that `name` will have.
result<volume_record> pool_directory::published_record(const hidden_volume& hidden,
                                                       const publish_request& request) {
    UTHIN_TRY(check_volume_name(request.name, hidden.what.hidden.id));
    volume_record record;
    if (request.replaces) {
        record = UTHIN_TRY(must_have_record(request.name));
        // It is a copy now, and what it was a snapshot of says nothing about its content.
        record.parent_uuid.clear();
    } else {
        record.uuid = make_uuid();
        record.name = request.name;
        record.created_unix_seconds = time_.unix_seconds();
    }
    record.identity = hidden.what.hidden;
    record.size_bytes = hidden.data->size_bytes();
    record.external_origin.clear();
    record.received_from = request.received_from;
    for (const auto& [key, value] : request.labels) {
        record.labels.insert_or_assign(key, value);
    }
    return record;
}

result<void> pool_directory::publish_records(hidden_volume& hidden,
                                             std::span<const std::int64_t> numbers,
                                             std::span<const volume_record> records,
                                             std::span<intent> reaps) {
    std::vector<std::string> names;
    for (const volume_record& record : records) {
        names.push_back(record.name);
    }
    const auto stale = UTHIN_TRY(stale_records(names, {}));
    // ORDER: DI1. The devices are durable; this one transaction makes them volumes, or nothing.
    result<void> published = names_->publish(numbers, records, reaps, stale);
    if (!published && published.error().code() != error_code::already_exists) {
        // The file may hold it: the devices stay as they are until the next opening.
        hidden.data.reset();
    }
    return published;
}

result<void> pool_directory::publish_hidden(hidden_volume& hidden, const publish_request& request) {
    // ORDER: what was written is durable, data and mappings, before anybody can see it.
    UTHIN_TRY_CTX(hidden.data->flush(), printable(directory_));
    const lock_guard held(change_lock_);
    UTHIN_TRY(prepare_change("publish a volume"));
    std::vector<intent> reaps;
    if (const auto old = UTHIN_TRY(find_replaced(request))) {
        intent what;
        what.kind = intent_kind::reap;
        what.volume.name = request.name;
        what.hidden = old->record.identity;
        reaps.push_back(what);
    }
    std::vector<volume_record> records = {UTHIN_TRY(published_record(hidden, request))};
    const std::uint64_t size_bytes = records.front().size_bytes;
    const std::uint64_t old_bytes = request.replaces ? request.replaces->size_bytes : 0;
    UTHIN_TRY(check_overcommit((size_bytes > old_bytes ? size_bytes - old_bytes : 0) +
                                   (request.snapshot.empty() ? 0 : size_bytes),
                               printable(request.name)));
    std::vector<std::int64_t> numbers = {hidden.what.number};
    std::optional<intent> snapshot;
    if (!request.snapshot.empty()) {
        UTHIN_TRY(check_volume_name(request.snapshot, std::nullopt));
        if (UTHIN_TRY(find(request.snapshot))) {
            return fail(error_code::already_exists,
                        fmt::format("{}/{}: exists already; use another name",
                                    printable(directory_), printable(request.snapshot)));
        }
        snapshot = UTHIN_TRY(make_unpublished(UTHIN_TRY(unused_id(true)), hidden.what.hidden.id));
        numbers.push_back(snapshot->number);
        volume_record record = records.front();
        record.uuid = make_uuid();
        record.identity = snapshot->hidden;
        record.name = request.snapshot;
        record.parent_uuid = records.front().uuid;
        record.created_unix_seconds = time_.unix_seconds();
        record.labels = request.snapshot_labels;
        record.reserved_bytes = 0;
        record.limit_bytes = 0;
        records.push_back(std::move(record));
    }
    auto published = publish_records(hidden, numbers, records, reaps);
    if (!published) {
        if (snapshot && hidden.data) {
            reap_unpublished(*snapshot);
        }
        return published;
    }
    making_.erase(hidden.what.hidden.id);
    transfers_.erase(hidden.what.hidden.id);
    apply_zeroing();
    renew_policies();  // they are another device's now
    hidden.data.reset();
    for (const intent& what : reaps) {
        reap_unpublished(what);
    }
    return {};
}

}  // namespace uthin
