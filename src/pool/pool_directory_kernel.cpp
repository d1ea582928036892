// A pool in the words of the kernel's targets: messages, status and table lines, handing it over.
#include <fmt/format.h>

#include <filesystem>
#include <system_error>

#include "base/result.h"
#include "io/durable_file.h"
#include "pool/names.h"
#include "pool/pool_directory.h"
#include "pool/target_status.h"
#include "pool/target_table.h"

namespace uthin {

namespace {

std::string os_text(const error& cause) {
    return std::generic_category().message(cause.to_errno());
}

// As another program on this machine must name it.
std::string device_name(const std::string& directory, const std::string& url) {
    const std::string resolved = resolved_url(directory, url);
    const std::string path = path_of_url(resolved);
    return path.empty() ? resolved : io::absolute_path(path);
}

}  // namespace

result<void> pool_directory::message(std::string_view text) {
    const lock_guard held(change_lock_);
    const std::string shown =
        fmt::format("{}: message '{}'", printable(directory_), printable(text));
    const bool inspecting = purpose_ == open_purpose::inspect;
    UTHIN_TRY_CTX(takes_messages(inspecting ? pool_mode::read_only : pool_->mode()), shown);
    const target_message parsed = UTHIN_TRY_CTX(parse_target_message(text), shown);
    UTHIN_TRY(settle_deletions());
    auto done = apply_message(parsed);
    if (!done) {
        const error& cause = done.error();
        return fail(cause.code(),
                    fmt::format("{}: {} ({}); see 'uthin volume list' and 'uthin pool status'",
                                shown, cause.message(), os_text(cause)),
                    cause.os_errno());
    }
    return {};
}

result<void> pool_directory::apply_message(const target_message& message) {
    const device_id first(message.first);
    const auto make_room = [&]() REQUIRES(change_lock_) -> result<void> {
        if (is_hidden(first)) {
            return fail(error_code::already_exists,
                        fmt::format("device {} is being deleted", first.value()));
        }
        // A record whose device is gone must not name the new one.
        return names_->begin({}, UTHIN_TRY(stale_records({}, std::span(&first, 1))));
    };
    switch (message.verb) {
        case message_verb::create_thin:
        case message_verb::create_snap:
            UTHIN_TRY(make_room());
            return apply_target_message(*pool_, message);
        case message_verb::delete_thin: {
            if (in_use(first)) {
                return fail(error_code::busy, fmt::format("device {} is in use", first.value()));
            }
            UTHIN_TRY(apply_target_message(*pool_, message));
            UTHIN_TRY(names_->begin({}, UTHIN_TRY(stale_records({}, std::span(&first, 1)))));
            return apply_policies(nullptr, false);
        }
        case message_verb::set_transaction_id: return apply_target_message(*pool_, message);
        case message_verb::reserve_metadata_snap:
            if (!UTHIN_TRY(held_block())) {
                UTHIN_TRY(set_lease(std::nullopt));  // an old one is not its
            }
            return apply_target_message(*pool_, message);
        case message_verb::release_metadata_snap:
            UTHIN_TRY(apply_target_message(*pool_, message));
            return set_lease(std::nullopt);
    }
    return {};
}

// ---- lines

std::string pool_directory::pool_device_name() const {
    return std::filesystem::path(io::absolute_path(directory_)).filename().string();
}

std::string pool_directory::table_of_pool(const pool_status& status) const {
    const pool_file file = this->file();
    pool_table table;
    table.length_sectors = status.data_total_blocks * status.data_block_size_sectors;
    table.metadata_device = device_name(directory_, file.metadata);
    table.data_device = device_name(directory_, file.data);
    table.block_size_sectors = status.data_block_size_sectors;
    table.low_water_blocks = file.low_water_blocks;
    table.features.skip_block_zeroing = !file.zero_new_blocks;
    table.features.ignore_discard = file.discard == discard_mode::ignore;
    table.features.no_discard_passdown = file.discard == discard_mode::no_passdown;
    table.features.read_only = file.read_only;
    table.features.error_if_no_space = file.error_if_no_space;
    return format_table(table);
}

std::string pool_directory::table_of(const volume_info& volume) const {
    thin_table table;
    table.length_sectors = volume.size_bytes / sector_size_bytes;
    table.pool_device = "/dev/mapper/" + pool_device_name();
    table.id = device_id(volume.dev_id);
    if (!volume.external_origin.empty()) {
        table.external_origin = device_name(directory_, volume.external_origin);
    }
    return format_table(table);
}

result<target_lines> pool_directory::kernel_lines() {
    const auto status = pool_->status(true);
    if (!status) {
        // The kernel's words for a pool that cannot tell.
        return target_lines{status_line_of_failure(status.error()), ""};
    }
    return target_lines{pool_status_line(*status), table_of_pool(*status)};
}

result<std::string> pool_directory::thin_status(device_id id) {
    std::optional<virtual_block> highest;
    std::uint64_t mapped_blocks = 0;
    const auto read = pool_->with_metadata([&](metadata& from) -> result<void> {
        thin_device* device = UTHIN_TRY(from.open_device(id));
        const auto found = from.highest_mapped_block(*device);
        const auto count = from.mapped_count(*device);
        from.close_device(device);
        highest = UTHIN_TRY(found);
        mapped_blocks = UTHIN_TRY(count);
        return {};
    });
    if (!read) {
        return status_line_of_failure(read.error());
    }
    return thin_status_line(mapped_blocks, highest, pool_->data_block_size_sectors());
}

result<target_lines> pool_directory::kernel_lines(std::string_view volume_name) {
    if (pool_->mode() == pool_mode::fail) {
        return target_lines{"Fail", ""};
    }
    const volume_info volume = UTHIN_TRY(show(volume_name));
    return target_lines{UTHIN_TRY(thin_status(device_id(volume.dev_id))), table_of(volume)};
}

result<release_reply> pool_directory::release() {
    const lock_guard held(change_lock_);
    const std::string shown = printable(directory_);
    UTHIN_TRY(prepare_change("release the pool"));
    if (const std::size_t count = volumes_in_use(); count != 0) {
        return fail(error_code::busy, fmt::format("{}: {} volumes are in use; disconnect their "
                                                  "clients first",
                                                  shown, count));
    }
    // The kernel would show them as devices.
    for (const auto& [id, transfer] : std::map(transfers_)) {
        UTHIN_TRY(drop_transfer_locked(transfer));
    }
    UTHIN_TRY_CTX(finish_reaping(), shown);
    UTHIN_TRY_CTX(pool_->commit(), shown);
    const pool_status status = UTHIN_TRY(pool_->status());
    release_reply reply;
    reply.pool.name = pool_device_name();
    reply.pool.size_bytes = status.data_total_blocks * pool_->data_block_size_bytes();
    reply.pool.table = table_of_pool(status);
    for (const volume_info& volume : UTHIN_TRY(gather())) {
        reply.volumes.push_back({volume.name, volume.dev_id, volume.size_bytes, table_of(volume)});
    }
    return reply;
}

}  // namespace uthin
