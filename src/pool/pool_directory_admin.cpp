// The pool as a whole: messages, growth, settings, checks, and handing it over.
#include <fmt/format.h>

#include <filesystem>
#include <set>
#include <system_error>

#include "base/result.h"
#include "io/durable_file.h"
#include "pool/names.h"
#include "pool/pool_directory.h"

namespace uthin {

namespace {

std::string_view name_of(thin_metadata::check_severity severity) {
    return thin_metadata::to_string(severity);
}

result<bool> parse_switch(std::string_view key, std::string_view value, std::string_view on,
                          std::string_view off) {
    if (value != on && value != off) {
        return fail(error_code::invalid_argument, fmt::format("{} '{}': not valid; use {} or {}",
                                                              key, printable(value), on, off));
    }
    return value == on;
}

}  // namespace

result<pool_report> pool_directory::report() {
    const pool_file file = this->file();
    pool_report report;
    report.uuid = file.uuid;
    report.directory = directory_;
    report.metadata_url = resolved_url(directory_, file.metadata);
    report.data_url = resolved_url(directory_, file.data);
    report.adopted = file.adopted;
    report.served = started_;
    report.opened_read_only = pool_options_.read_only;
    report.block_size_bytes = pool_->data_block_size_bytes();
    report.mode = to_string(pool_->mode());
    report.mode_cause = pool_->mode_cause();
    report.low_water_blocks = file.low_water_blocks;
    report.overcommit_percent = file.overcommit_percent;
    report.discard_rate_bytes_per_s = file.discard_bytes_per_s;
    report.zeroing = file.zero_new_blocks;
    report.cache = to_string(file.cache);
    report.discard = to_string(file.discard);
    report.no_space = file.error_if_no_space ? "error" : "queue";
    const auto status = pool_->status(purpose_ != open_purpose::inspect);
    if (!status && status.error().code() == error_code::failed) {
        return report;
    }
    if (!status) {
        return std::unexpected(status.error());
    }
    report.mode = to_string(status->mode);
    report.mode_cause = status->mode_cause;
    report.needs_check = status->needs_check;
    report.transaction_id = status->transaction_id;
    report.data_blocks = status->data_total_blocks;
    report.data_used_blocks = status->data_used_blocks;
    report.metadata_blocks = status->metadata_total_blocks;
    report.metadata_used_blocks = status->metadata_used_blocks;
    if (status->metadata_snap) {
        report.metadata_snapshot_block = status->metadata_snap->value();
    }
    report.data_promised_blocks = status->data_promised_blocks;
    const metadata_snapshot_reply snapshot = UTHIN_TRY(held_snapshot());
    report.metadata_snapshot_owner = snapshot.owner;
    report.metadata_snapshot_expires_unix_seconds = snapshot.expires_unix_seconds;
    report.discard = to_string(status->discard);
    report.no_space = status->error_if_no_space ? "error" : "queue";
    const catalogue::contents contents = UTHIN_TRY(names_->read_all());
    // An intent outlives its deletion until the next change of the catalogue.
    std::set<device_id> gone;
    for (const deletion_status& deletion : pool_->deletions()) {
        if (deletion.done && !deletion.failure) {
            gone.insert(deletion.id);
        }
    }
    for (const intent& what : contents.intents) {
        const bool deletion = what.kind == intent_kind::reap || what.kind == intent_kind::rollback;
        const bool running = deletion && !gone.contains(what.hidden.id);
        report.deletions_running += running ? 1U : 0U;
    }
    for (const volume_info& volume : UTHIN_TRY(gather())) {
        ++report.volume_count;
        report.virtual_bytes += volume.size_bytes;
    }
    return report;
}

events_reply pool_directory::events(const events_request& request) {
    const pool_events found = pool_->events(request.after, std::chrono::seconds(request.wait_s));
    events_reply reply;
    reply.last = found.last;
    reply.some_lost = found.some_lost;
    for (const pool_event_record& record : found.events) {
        reply.events.push_back({record.number, record.unix_seconds,
                                std::string(to_string(record.event)),
                                std::string(to_string(record.mode)), record.text});
    }
    return reply;
}

result<void> pool_directory::grow_device(block_device& device, std::string_view url,
                                         std::uint64_t size_bytes) {
    const std::uint64_t now_bytes = UTHIN_TRY(device.size_bytes());
    if (size_bytes <= now_bytes) {
        return {};
    }
    const std::string path = path_of_url(url);
    if (path.empty() || io::kind_of_file(path) != io::file_kind::regular) {
        return fail(error_code::out_of_range,
                    fmt::format("{}: has {} bytes, {} are wanted; grow the device first",
                                printable(url), now_bytes, size_bytes));
    }
    return device.grow(size_bytes);
}

// Without the lock: it takes long, and only the engine is asked.
result<std::uint64_t> pool_directory::trim() {
    const std::string shown = printable(directory_);
    {
        const lock_guard held(change_lock_);
        UTHIN_TRY(settle_deletions());
    }
    auto trimmed = pool_->trim();
    if (!trimmed && trimmed.error().code() == error_code::unsupported) {
        return fail(error_code::unsupported,
                    fmt::format("{}: {}; see 'uthin pool set DIR discard=passdown'", shown,
                                trimmed.error().message()));
    }
    return UTHIN_TRY_CTX(std::move(trimmed), shown);
}

result<void> pool_directory::grow(const grow_request& request) {
    const lock_guard held(change_lock_);
    const std::string shown = printable(directory_);
    UTHIN_TRY(pool_->mode() == pool_mode::out_of_metadata_space ? settle_deletions()
                                                                : prepare_change("grow"));
    const pool_status now = UTHIN_TRY(pool_->status());
    const auto blocks_of = [&](std::string_view what, std::optional<std::uint64_t> size_bytes,
                               std::uint64_t block_bytes,
                               std::uint64_t now_blocks) -> result<std::uint64_t> {
        if (!size_bytes) {
            return 0U;
        }
        const std::uint64_t blocks = *size_bytes / block_bytes;
        if (*size_bytes > volume_size_bytes_max || blocks < now_blocks) {
            return fail(error_code::invalid_argument,
                        fmt::format("{}: {} size {} is {}; the pool has {} bytes and can only "
                                    "grow",
                                    shown, what, *size_bytes,
                                    blocks < now_blocks ? "smaller than now" : "too large",
                                    now_blocks * block_bytes));
        }
        return blocks;
    };
    // Both are judged before either is touched.
    const std::uint64_t block_bytes = pool_->data_block_size_bytes();
    const std::uint64_t data_blocks =
        UTHIN_TRY(blocks_of("data", request.data_size_bytes, block_bytes, now.data_total_blocks));
    const std::uint64_t metadata_blocks =
        UTHIN_TRY(blocks_of("metadata", request.metadata_size_bytes, metadata_block_size_bytes,
                            now.metadata_total_blocks));
    if (metadata_blocks > metadata_blocks_max) {
        return fail(error_code::out_of_range,
                    fmt::format("{}: metadata of {} blocks; the format holds at most {} (15.875 "
                                "GiB)",
                                shown, metadata_blocks, metadata_blocks_max));
    }
    const pool_file file = this->file();
    const bool everything = !request.data_size_bytes && !request.metadata_size_bytes;
    // Metadata first: more data needs more of it.
    if (everything || request.metadata_size_bytes) {
        UTHIN_TRY(grow_device(*metadata_device_, resolved_url(directory_, file.metadata),
                              metadata_blocks * metadata_block_size_bytes));
        UTHIN_TRY_CTX(pool_->grow_metadata(metadata_blocks), shown);
    }
    if (everything || request.data_size_bytes) {
        UTHIN_TRY(grow_device(pool_->data_device(), resolved_url(directory_, file.data),
                              data_blocks * block_bytes));
        UTHIN_TRY_CTX(pool_->grow_data(data_blocks), shown);
    }
    return {};
}

result<pool_file> pool_directory::changed_file(const std::map<std::string, std::string>& settings) {
    pool_file wanted = file();
    for (const auto& [key, value] : settings) {
        if (key == "low-water") {
            const pool_status now = UTHIN_TRY(pool_->status());
            wanted.low_water_blocks = UTHIN_TRY(parse_low_water(value, now.data_total_blocks));
        } else if (key == "no-space") {
            wanted.error_if_no_space = UTHIN_TRY(parse_switch(key, value, "error", "queue"));
        } else if (key == "no-space-timeout") {
            const auto seconds = parse_decimal(value);
            constexpr std::uint64_t seconds_max = 365ULL * 24 * 3600;
            if (!seconds || *seconds > seconds_max) {
                return fail(error_code::invalid_argument,
                            fmt::format("no-space-timeout '{}': not valid; give seconds, 0 for "
                                        "ever",
                                        printable(value)));
            }
            wanted.no_space_timeout = std::chrono::seconds(*seconds);
        } else if (key == "discard") {
            wanted.discard = UTHIN_TRY(parse_discard_mode(value));
        } else if (key == "discard-rate") {
            wanted.discard_bytes_per_s =
                value == "off" ? 0 : UTHIN_TRY_CTX(parse_size_bytes(value), key);
        } else if (key == "overcommit") {
            wanted.overcommit_percent = UTHIN_TRY(parse_overcommit(value));
        } else if (key == "cache") {
            wanted.cache = UTHIN_TRY(parse_data_cache(value));
        } else if (key == "zeroing") {
            wanted.zero_new_blocks = UTHIN_TRY(parse_switch(key, value, "on", "off"));
        } else if (key == "read-only") {
            wanted.read_only = UTHIN_TRY(parse_switch(key, value, "on", "off"));
        } else {
            return fail(error_code::invalid_argument,
                        fmt::format("setting '{}': not known; use low-water, no-space, "
                                    "no-space-timeout, discard, discard-rate, overcommit, cache, "
                                    "zeroing or read-only",
                                    printable(key)));
        }
    }
    return wanted;
}

result<void> pool_directory::apply_file(const pool_file& wanted) {
    const pool_file now = file();
    const bool discard_switch =
        (now.discard == discard_mode::ignore) != (wanted.discard == discard_mode::ignore);
    const bool only_at_opening =
        discard_switch || now.read_only != wanted.read_only || now.cache != wanted.cache;
    if (started_ && only_at_opening) {
        return fail(error_code::busy,
                    fmt::format("{}: discard=ignore, cache and read-only take effect at opening; "
                                "stop the server first",
                                printable(directory_)));
    }
    UTHIN_TRY(store_pool_file(directory_, wanted));
    {
        const lock_guard held(file_lock_);
        file_ = wanted;
    }
    pool_->set_low_water(wanted.low_water_blocks);
    apply_zeroing();
    pool_->set_no_space_timeout(wanted.no_space_timeout);
    pool_->set_discard_rate(wanted.discard_bytes_per_s);
    if (!discard_switch) {
        return pool_->set_discard(wanted.discard);
    }
    return {};
}

result<void> pool_directory::set(const std::map<std::string, std::string>& settings) {
    const lock_guard held(change_lock_);
    const pool_file wanted = UTHIN_TRY(changed_file(settings));
    UTHIN_TRY(apply_file(wanted));
    // Only when it is named: it also ends the state after a timeout.
    if (settings.contains("no-space")) {
        pool_->set_error_if_no_space(wanted.error_if_no_space);
    }
    return {};
}

result<thin_metadata::check_report> pool_directory::check_metadata() {
    const auto view = UTHIN_TRY(pool_->create_view());
    thin_metadata::check_options options;
    options.data_device_blocks =
        UTHIN_TRY(pool_->data_device().size_bytes()) / pool_->data_block_size_bytes();
    return thin_metadata::check_metadata(*view, options);
}

result<check_reply> pool_directory::check(const check_request& request) {
    constexpr std::size_t findings_max = 100;
    const lock_guard held(change_lock_);
    const std::string shown = printable(directory_);
    if (purpose_ != open_purpose::inspect && pool_->mode() == pool_mode::write) {
        UTHIN_TRY_CTX(pool_->commit(), shown);
    }
    check_reply reply;
    thin_metadata::check_report report = UTHIN_TRY_CTX(check_metadata(), shown);
    const bool had_flag = report.needs_check;
    if (request.repair && report.has_only_leaks()) {
        UTHIN_TRY_CTX(pool_->repair_leaks(), shown);
        reply.leaks_mended = true;
        report = UTHIN_TRY_CTX(check_metadata(), shown);
    } else if (request.repair && report.is_clean() && had_flag) {
        UTHIN_TRY_CTX(pool_->clear_needs_check(), shown);
        report.needs_check = false;
    }
    reply.repaired = had_flag && !report.needs_check;
    reply.clean = report.is_clean();
    reply.fatal = report.fatal;
    reply.repairable = report.repairable;
    reply.cosmetic = report.cosmetic;
    for (const thin_metadata::check_finding& finding : report.findings) {
        if (reply.findings.size() < findings_max) {
            reply.findings.push_back(
                fmt::format("{}: {}", name_of(finding.severity), printable(finding.text)));
        }
    }
    reply.devices = report.devices;
    reply.mapped_blocks = report.mapped_blocks;
    reply.data_blocks_used = report.data_blocks_used;
    reply.metadata_blocks_used = report.metadata_blocks_used;
    reply.needs_check = report.needs_check;
    return reply;
}

}  // namespace uthin
