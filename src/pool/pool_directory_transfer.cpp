// Transfers: hidden volumes that stay until they are published, dropped or forgotten.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/random.h"
#include "base/result.h"
#include "pool/labels.h"
#include "pool/names.h"
#include "pool/pool_directory.h"
#include "uthin/log.h"

namespace uthin {

namespace {

// Beside the notes of who fills the volume.
constexpr const char* noted_label = "@noted";
// How often that is renewed while somebody fills it.
constexpr std::int64_t transfer_note_seconds = 3600;

label_map with_time(label_map notes, std::int64_t unix_seconds) {
    notes.insert_or_assign(noted_label, fmt::format("{}", unix_seconds));
    return notes;
}

}  // namespace

transfer_info pool_directory::info_of(const intent& transfer,
                                      const std::map<device_id, device_details>& devices) {
    transfer_info info;
    info.id = transfer.volume.uuid;
    info.name = transfer.volume.name;
    info.size_bytes = transfer.volume.size_bytes;
    const auto device = devices.find(transfer.hidden.id);
    if (device != devices.end()) {
        info.mapped_bytes = device->second.mapped_blocks * pool_->data_block_size_bytes();
    }
    info.notes = transfer.volume.labels;
    const auto noted = info.notes.find(noted_label);
    if (noted != info.notes.end()) {
        info.noted_unix_seconds =
            static_cast<std::int64_t>(parse_decimal(noted->second).value_or(0));
        info.notes.erase(noted);
    }
    info.in_use = in_use(transfer.hidden.id);
    return info;
}

result<intent> pool_directory::must_find_transfer(std::string_view id) {
    for (const auto& [device, transfer] : transfers_) {
        if (transfer.volume.uuid == id) {
            return transfer;
        }
    }
    return fail(error_code::not_found,
                fmt::format("{}: no transfer '{}'; see 'uthin transfer list'",
                            printable(directory_), printable(id)));
}

result<transfer_info> pool_directory::begin_transfer(const begin_transfer_request& request) {
    const lock_guard held(change_lock_);
    UTHIN_TRY(check_volume_name(request.name, std::nullopt));
    hidden_volume hidden = UTHIN_TRY(make_hidden_locked(request.base, request.size_bytes));
    const device_id id = hidden.what.hidden.id;
    intent transfer = hidden.what;
    transfer.kind = intent_kind::transfer;
    transfer.volume.uuid = make_uuid();
    transfer.volume.name = request.name;
    transfer.volume.size_bytes = request.size_bytes;
    transfer.volume.labels = with_time(request.notes, time_.unix_seconds());
    // What was cut off the clone is gone for good (volume::set_size) before the catalogue
    // keeps it: an opening that finds the transfer takes the device for as large as it says.
    hidden.data.reset();
    making_.erase(id);
    result<void> kept = names_->keep(hidden.what.number, transfer.volume);
    if (!kept) {
        apply_zeroing();
        reap_unpublished(hidden.what);
        return std::unexpected(std::move(kept).error().with_context(printable(directory_)));
    }
    transfers_.emplace(id, transfer);
    apply_zeroing();
    return info_of(transfer, {});
}

result<std::vector<transfer_info>> pool_directory::list_transfers() {
    const lock_guard held(change_lock_);
    std::vector<device_id> ids;
    for (const auto& [id, transfer] : transfers_) {
        ids.push_back(id);
    }
    const probe_result found = UTHIN_TRY(probe(ids));
    std::vector<transfer_info> infos;
    for (const auto& [id, transfer] : transfers_) {
        infos.push_back(info_of(transfer, found.devices));
    }
    std::ranges::sort(infos, {}, &transfer_info::name);
    return infos;
}

result<std::shared_ptr<volume>> pool_directory::open_transfer(std::string_view id) {
    const lock_guard held(change_lock_);
    const intent transfer = UTHIN_TRY(must_find_transfer(id));
    const device_id device = transfer.hidden.id;
    if (in_use(device)) {
        return fail(error_code::busy,
                    fmt::format("{}: the transfer into '{}' is in use; wait for the other user",
                                printable(directory_), printable(transfer.volume.name)));
    }
    UTHIN_TRY(prepare_change("go on with a transfer"));
    auto open = UTHIN_TRY_CTX(pool_->open_volume(device, transfer.volume.size_bytes),
                              printable(directory_));
    UTHIN_TRY(note_transfer_locked(transfer, transfer.volume.labels));
    const lock_guard held_open(open_lock_);
    open_[device] = open;
    return open;
}

result<void> pool_directory::note_transfer(std::string_view id,
                                           const std::map<std::string, std::string>& notes) {
    const lock_guard held(change_lock_);
    return note_transfer_locked(UTHIN_TRY(must_find_transfer(id)), notes);
}

result<void> pool_directory::note_transfer_locked(intent transfer,
                                                  const std::map<std::string, std::string>& notes) {
    transfer.volume.labels = with_time(notes, time_.unix_seconds());
    UTHIN_TRY(names_->set_labels(transfer.volume.uuid, transfer.volume.labels));
    transfers_.insert_or_assign(transfer.hidden.id, std::move(transfer));
    return {};
}

result<void> pool_directory::publish_transfer(std::string_view id, const publish_request& request) {
    hidden_volume hidden;
    hidden.data = UTHIN_TRY(open_transfer(id));
    {
        const lock_guard held(change_lock_);
        hidden.what = UTHIN_TRY(must_find_transfer(id));
    }
    return publish_hidden(hidden, request);
}

result<void> pool_directory::drop_transfer(std::string_view id) {
    const lock_guard held(change_lock_);
    const intent transfer = UTHIN_TRY(must_find_transfer(id));
    return drop_transfer_locked(transfer);
}

result<void> pool_directory::drop_transfer_locked(const intent& transfer) {
    if (in_use(transfer.hidden.id)) {
        return fail(error_code::busy,
                    fmt::format("{}: the transfer into '{}' is in use; stop the program that fills "
                                "it first",
                                printable(directory_), printable(transfer.volume.name)));
    }
    intent reap = transfer;
    reap.kind = intent_kind::reap;
    UTHIN_TRY(names_->forget(transfer.number));
    transfers_.erase(reap.hidden.id);
    apply_zeroing();
    reap_unpublished(reap);
    return {};
}

result<void> pool_directory::drop_expired() {
    if (purpose_ == open_purpose::inspect || pool_->mode() != pool_mode::write) {
        return {};
    }
    const std::int64_t now = time_.unix_seconds();
    const auto volumes = UTHIN_TRY(names_->volumes());
    const lock_guard held(change_lock_);
    for (const volume_record& volume : volumes) {
        if (!lease_is_over(volume.labels, now) || in_use(volume.identity.id)) {
            continue;
        }
        // Judged again under the lock: the lease may have been renewed.
        const auto found = UTHIN_TRY(find(volume.name));
        if (!found || !lease_is_over(found->record.labels, now)) {
            continue;
        }
        log(log_level::info, "directory",
            fmt::format("'{}' is deleted: its lease is over", printable(volume.name)));
        UTHIN_TRY(remove_locked({.name = volume.name, .if_exists = true}));
    }
    for (const auto& [id, transfer] : std::map(transfers_)) {
        const transfer_info info = info_of(transfer, {});
        if (info.in_use && info.noted_unix_seconds + transfer_note_seconds < now) {
            // Whoever has it open may leave at any time, and comes back within a day.
            UTHIN_TRY(note_transfer_locked(transfer, transfer.volume.labels));
        } else if (!info.in_use && info.noted_unix_seconds + transfer_keep_seconds < now) {
            log(log_level::info, "directory",
                fmt::format("the transfer into '{}' is dropped: nobody came back to it",
                            printable(info.name)));
            UTHIN_TRY(drop_transfer_locked(transfer));
        }
    }
    return {};
}

}  // namespace uthin
