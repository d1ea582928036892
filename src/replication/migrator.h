// Moves a volume with all its snapshots to another pool, names and sharing kept.
//
// Snapshots go first, the oldest first: each is a clone of the relative at the target from which it
// differs least, and the difference. Of a volume that is used a snapshot is copied in the same way,
// then another one, until little changes in between. When its clients have gone the volume gets
// another name at the source, the last difference is copied, and it appears at the target.
//
// Invariants
//   MI1  Until then nothing of the source changes but its temporary snapshots. The volume never has
//        its name in both pools; what stays at the source is called NAME.migrated.
//   MI2  What appears at the target is complete, durable and, unless that was not wanted, was read
//        again and compared.
//   MI3  After a failure or a crash the same call goes on: what has appeared at the target stays.
// Threads   One.
// Failures  not_found, already_exists (a name at the target), unsupported (external origins),
//           no_data_space (before anything was copied), busy (clients that stay), corrupt (what was
//           read back differs); those of the pools.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "pool/pool_directory.h"

namespace uthin::replication {

struct migrate_request {
    std::string name{};
    std::string target_name{};  // empty: the same; snapshots always keep theirs
    bool verify = true;
    // How long the clients have to leave when all but the last changes are copied.
    std::chrono::nanoseconds wait{0};
    // Called with the bytes copied so far and a guess of all.
    std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress{};
};

struct migrate_reply {
    std::vector<std::string> names{};  // at the target, in the order in which they appeared
    std::uint64_t copied_bytes = 0;
    std::uint64_t round_count = 0;
    // For which the volume had its name nowhere.
    std::chrono::nanoseconds barrier{0};
    // What the volume is called at the source now; empty: as before, the pool is read-only.
    std::string left_as{};
};

// `target` is open in this process; `source` may be a served pool.
[[nodiscard]] result<migrate_reply> migrate_volume(pool_service& source, pool_directory& target,
                                                   const migrate_request& request);

}  // namespace uthin::replication
