// Which snapshots of different pools hold the same content.
//
// Invariants
//   CI1  A copy that receive made has the content id of its source, through any number of pools.
//   CI2  A snapshot gets another content id before its content changes (pool_directory).
//   CI3  What is copied under an id was durable at the source before it was read: after a power cut
//        the source does not hold less than its copy, nor than the part of one that broke off.
// Threads   Plain functions.
// Failures  None.
#pragma once

#include <algorithm>
#include <string_view>

#include "pool/pool_service.h"
#include "replication/stream_format.h"

namespace uthin::replication {

// Volumes change; a snapshot is what nobody is supposed to write to.
[[nodiscard]] inline bool is_snapshot(const volume_info& volume) {
    return !volume.uuid.empty() && !volume.parent_uuid.empty();
}

[[nodiscard]] inline const std::string& content_id(const volume_info& snapshot) {
    return snapshot.received_from.empty() ? snapshot.uuid : snapshot.received_from;
}

[[nodiscard]] inline bool holds(const volume_info& volume, std::string_view id) {
    return is_snapshot(volume) && content_id(volume) == id;
}

// "PREFIX-UUID", as snapshots are called that a command makes for itself.
[[nodiscard]] bool is_temporary_name(std::string_view name, std::string_view prefix);

// The pool is open in a way in which no content changes: read-only, or in this process alone and
// fallen to that mode. In a pool that is served and fell to it, clients write to what they had
// written before.
[[nodiscard]] inline bool is_still(const pool_report& report) {
    return report.mode == "read_only" && (report.opened_read_only || !report.served);
}

[[nodiscard]] inline bool is_same_device(const volume_info& a, const volume_info& b) {
    return a.dev_id == b.dev_id && a.creation_time == b.creation_time &&
           a.creation_transaction_id == b.creation_transaction_id;
}

// What has the name of `seen` now; not_found when that is another device or, where the content
// counts, a snapshot that has another content id by now.
[[nodiscard]] result<volume_info> show_again(pool_service& pool, const volume_info& seen);
[[nodiscard]] result<volume_info> show_device_again(pool_service& pool, const volume_info& seen);
// CI3. Whoever changes it from now on gives it another id.
[[nodiscard]] result<void> make_durable(volume_data& content, const volume_info& of);

[[nodiscard]] inline const volume_info* find_volume(const std::vector<volume_info>& volumes,
                                                    std::string_view name) {
    const auto at = std::ranges::find(volumes, name, &volume_info::name);
    return at == volumes.end() ? nullptr : &*at;
}

}  // namespace uthin::replication
