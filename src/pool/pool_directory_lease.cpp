// The metadata snapshot, who holds it, and until when.
#include <fmt/format.h>

#include <utility>

#include "base/out_of_memory.h"
#include "pool/names.h"
#include "pool/pool_directory.h"
#include "uthin/log.h"

namespace uthin {

namespace {

constexpr std::uint64_t lease_s_max = 365ULL * 24 * 3600;
constexpr std::size_t owner_bytes_max = 255;

}  // namespace

result<std::optional<std::uint64_t>> pool_directory::held_block() {
    const auto held_root = UTHIN_TRY_CTX(pool_->metadata_snap(), printable(directory_));
    return held_root ? std::optional(held_root->value()) : std::nullopt;
}

result<metadata_snapshot_reply> pool_directory::held_snapshot() {
    metadata_snapshot_reply reply;
    reply.block = UTHIN_TRY(held_block());
    const auto lease = UTHIN_TRY(names_->lease());
    if (reply.block && lease) {
        reply.owner = lease->owner;
        reply.expires_unix_seconds = lease->expires_unix_seconds;
    }
    return reply;
}

result<metadata_snapshot_lease> pool_directory::new_lease(
    const metadata_snapshot_request& request) const {
    const std::string shown = printable(directory_);
    if (!request.lease_s || *request.lease_s == 0 || *request.lease_s > lease_s_max) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: a lease lasts from a second to a year; give --lease", shown));
    }
    if (request.owner.empty() || request.owner.size() > owner_bytes_max ||
        !is_utf8(request.owner) || printable(request.owner) != request.owner) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: a lease has an owner of 1 to {} printable bytes; give --owner",
                                shown, owner_bytes_max));
    }
    return metadata_snapshot_lease{
        request.owner, time_.unix_seconds() + static_cast<std::int64_t>(*request.lease_s)};
}

result<void> pool_directory::reserve_snapshot(const metadata_snapshot_request& request) {
    std::optional<metadata_snapshot_lease> lease;
    if (request.lease_s || !request.owner.empty()) {
        lease = UTHIN_TRY(new_lease(request));
    }
    if (UTHIN_TRY(held_block())) {
        const metadata_snapshot_reply now = UTHIN_TRY(held_snapshot());
        return fail(error_code::busy,
                    fmt::format("{}: a metadata snapshot is held already{}; release it with "
                                "'uthin pool metadata-snapshot DIR release'",
                                printable(directory_),
                                now.owner.empty() ? "" : " by " + printable(now.owner)));
    }
    // ORDER: the lease is durable before what it is for. A crash in between leaves a lease of
    // nothing, which the next reservation replaces; the other way round it would leave a snapshot
    // that nobody releases.
    UTHIN_TRY(set_lease(lease));
    UTHIN_TRY_CTX(pool_->reserve_metadata_snap(), printable(directory_));
    return {};
}

result<void> pool_directory::check_owner(const metadata_snapshot_request& request) {
    const metadata_snapshot_reply now = UTHIN_TRY(held_snapshot());
    const std::string shown = printable(directory_);
    if (!now.block) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: no metadata snapshot is held; make one with 'uthin pool "
                                "metadata-snapshot DIR reserve'",
                                shown));
    }
    if (!request.owner.empty() && request.owner != now.owner) {
        return fail(error_code::busy,
                    fmt::format("{}: the metadata snapshot is {}; wait until it is released", shown,
                                now.owner.empty() ? "held without a lease"
                                                  : "held by " + printable(now.owner)));
    }
    return {};
}

// ORDER: the other way round a crash could leave a snapshot without the lease that ends it.
result<void> pool_directory::release_snapshot() {
    UTHIN_TRY_CTX(pool_->release_metadata_snap(), printable(directory_));
    return set_lease(std::nullopt);
}

result<metadata_snapshot_reply> pool_directory::metadata_snapshot(
    const metadata_snapshot_request& request) {
    const lock_guard held(change_lock_);
    switch (request.action) {
        case metadata_snapshot_action::show: break;
        case metadata_snapshot_action::reserve:
            UTHIN_TRY(prepare_change("change the metadata snapshot"));
            UTHIN_TRY(reserve_snapshot(request));
            break;
        case metadata_snapshot_action::renew: {
            UTHIN_TRY(prepare_change("change the metadata snapshot"));
            UTHIN_TRY(check_owner(request));
            UTHIN_TRY(set_lease(UTHIN_TRY(new_lease(request))));
            break;
        }
        case metadata_snapshot_action::release:
            UTHIN_TRY(prepare_change("change the metadata snapshot"));
            UTHIN_TRY(check_owner(request));
            UTHIN_TRY(release_snapshot());
            break;
    }
    return held_snapshot();
}

result<void> pool_directory::set_lease(const std::optional<metadata_snapshot_lease>& lease) {
    if (!lease && !UTHIN_TRY(names_->lease())) {
        return {};
    }
    UTHIN_TRY(names_->set_lease(lease));
    const lock_guard held(lease_lock_);
    lease_end_ = lease ? std::optional(lease->expires_unix_seconds) : std::nullopt;
    lease_changed_.notify_all();
    return {};
}

// A lease that is over ends what it was for. Its owner may be dead, so nobody is told.
result<void> pool_directory::settle_lease() {
    {
        const lock_guard held(lease_lock_);
        if (!lease_end_ || time_.unix_seconds() < *lease_end_) {
            return {};
        }
    }
    const metadata_snapshot_reply now = UTHIN_TRY(held_snapshot());
    if (!now.block) {
        return set_lease(std::nullopt);
    }
    UTHIN_TRY(release_snapshot());
    log(log_level::info, "directory",
        fmt::format("the metadata snapshot of {} was released: its lease is over",
                    printable(now.owner)));
    return {};
}

result<void> pool_directory::load_lease() {
    auto lease = UTHIN_TRY(names_->lease());
    if (lease && purpose_ != open_purpose::inspect && !UTHIN_TRY(held_block())) {
        // A crash came before the reservation, or after the release.
        UTHIN_TRY(names_->set_lease(std::nullopt));
        lease.reset();
    }
    const lock_guard held(lease_lock_);
    lease_end_ = lease ? std::optional(lease->expires_unix_seconds) : std::nullopt;
    return {};
}

void pool_directory::keep_leases() {
    // The clock of leases is people's, which may be set.
    constexpr std::chrono::nanoseconds look_again = std::chrono::milliseconds(500);
    for (;;) {
        bool is_over = false;
        {
            const lock_guard held(lease_lock_);
            while (!lease_stopping_ && !lease_end_) {
                lease_changed_.wait(lease_lock_);
            }
            if (!lease_stopping_ && time_.unix_seconds() < *lease_end_) {
                lease_changed_.wait_for(lease_lock_, look_again);
            }
            if (lease_stopping_) {
                return;
            }
            is_over = lease_end_ && time_.unix_seconds() >= *lease_end_;
        }
        if (!is_over) {
            continue;
        }
        result<void> settled;
        {
            const lock_guard held(change_lock_);
            settled =
                or_out_of_memory([this]() NO_THREAD_SAFETY_ANALYSIS { return settle_lease(); });
        }
        if (!settled) {
            if_memory_allows(
                [&] { log(log_level::warning, "directory", settled.error().to_string()); });
            const lock_guard held(lease_lock_);
            if (!lease_stopping_) {
                lease_changed_.wait_for(lease_lock_, std::chrono::seconds(10));
            }
        }
    }
}

void pool_directory::stop_leases() {
    {
        const lock_guard held(lease_lock_);
        lease_stopping_ = true;
        lease_changed_.notify_all();
    }
    lease_thread_.join();
}

}  // namespace uthin
