// One round of replication: a snapshot of a volume, what changed since the last one that the other
// side has, and the other side's word that it has it.
//
// The other side is reached by running `uthin` there: here for a directory, through ssh for
// ssh://[USER@]HOST[:PORT]/DIR.
//
// Invariants
//   RE1  The newest snapshot that both sides have is held at both, until a newer one is.
//   RE2  The other side always shows one snapshot of the source, whole.
//   RE3  At most the common snapshot and the one under way are kept at the source, however long the
//        other side does not answer.
// Threads   One.
// Failures  Those of the pool, the stream and the other side; the next round goes on from whatever
//           was reached.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "pool/pool_service.h"

namespace uthin::frontends {

// Where a replica is.
struct replica_target {
    std::string host;       // empty: this machine; with its user, if one is given
    std::string port;       // empty: the shell's own
    std::string directory;  // of the pool there
    std::string volume;
    std::string text;  // as it was given
    // Names it in labels and snapshots: the same text gives the same tag.
    [[nodiscard]] std::string tag() const;
};

// DIR, or ssh://[USER@]HOST[:PORT]/DIR; `volume` is its name there.
[[nodiscard]] result<replica_target> parse_replica_target(const std::string& text,
                                                          const std::string& volume);

struct replicate_options {
    replica_target target{};
    std::string own_program{};              // path of uthin here
    std::vector<std::string> shell{"ssh"};  // followed by the host and the command line
    std::string remote_program{"uthin"};    // there
    bool compress = false;
    std::uint64_t rate_bytes_per_second = 0;  // 0: no limit
    // The other side's volume is rolled back to the common snapshot and becomes the replica.
    bool take_over = false;
    std::chrono::milliseconds stall_timeout{60'000};
};

// What is known of one replica, from a label of the source volume.
struct replica_state {
    std::string target{};
    std::int64_t replicated_unix_seconds = 0;  // the newest state that is there; 0: none
    std::string snapshot{};                    // of that state, here
    std::string pending{};                     // a snapshot whose stream broke off
    std::string token{};                       // to go on with it
    std::uint64_t rounds = 0;
    std::uint64_t failures = 0;  // since the last success
    std::string error{};
    bool operator==(const replica_state&) const = default;
};

inline constexpr const char* replica_label_prefix = "replica:";

[[nodiscard]] std::string to_text(const replica_state& state);
[[nodiscard]] result<replica_state> parse_replica_state(const std::string& text);
// All replicas of a volume.
[[nodiscard]] std::vector<replica_state> replicas_of(const volume_info& volume);

struct round_report {
    std::string snapshot{};
    bool whole = false;  // there was nothing to build on
    bool resumed = false;
    std::uint64_t data_bytes = 0;
};

[[nodiscard]] result<round_report> replicate_once(pool_service& pool, const std::string& volume,
                                                  const replicate_options& options);

}  // namespace uthin::frontends
