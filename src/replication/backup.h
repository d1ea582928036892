// Backups of volumes in a repository: made, restored, verified and thinned out.
//
// Invariants
//   BU1  A backup is a snapshot's content. The newest snapshot that was backed up stays in the
//   pool,
//        held, as the base of the next backup; a crash leaves the old base or the new one.
//   BU2  A volume is restored whole or not at all.
//   BU3  Pruning keeps everything that the points that stay need: when their base goes, the oldest
//        of them becomes a whole stream first.
// Threads   One.
// Failures  Those of the pool, the streams and the repository.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "pool/pool_service.h"
#include "replication/repository.h"
#include "replication/sender.h"

namespace uthin::replication {

struct backup_request {
    std::string name{};
    bool full = false;
    bool compress = false;
    std::uint64_t rate_bytes_per_second = 0;  // 0: no limit
    progress_function progress{};
    std::function<void(std::uint64_t size_bytes)> begun{};
};

[[nodiscard]] result<backup_point> make_backup(pool_service& pool, repository& to,
                                               const backup_request& request);

struct restore_request {
    std::string name{};  // of the volume that is made
    backup_point point{};
    progress_function progress{};
    std::function<void(std::uint64_t size_bytes)> begun{};
};

[[nodiscard]] result<volume_info> restore_backup(pool_service& pool, const repository& from,
                                                 const restore_request& request);

// One line for each thing that is wrong; every stream is read.
[[nodiscard]] result<std::vector<std::string>> verify_backups(
    const repository& stored, const std::function<void(const backup_point&)>& verified);

// Of each volume the newest `keep_last` points stay. The points that went.
[[nodiscard]] result<std::vector<backup_point>> prune_backups(repository& stored,
                                                              std::uint64_t keep_last);

}  // namespace uthin::replication
