// The labels of volumes that mean something to a pool.
//
//   lease-until  seconds since 1970: afterwards the volume is deleted by whoever has the pool
//   lease-owner  the process that the volume was made for: when it has ended, so has the lease
//   hold:WHO     the volume must not be deleted; the value says why
//   read-only    "true": no client may write to it
//   replica-of   uuid of the volume, in another pool, that it is kept equal to
//
// Threads   Plain functions.
// Failures  None: a lease that cannot be read is kept.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace uthin {

using label_map = std::map<std::string, std::string>;

inline constexpr std::string_view lease_until_label = "lease-until";
inline constexpr std::string_view lease_owner_label = "lease-owner";
inline constexpr std::string_view hold_label_prefix = "hold:";
inline constexpr std::string_view read_only_label = "read-only";
inline constexpr std::string_view replica_of_label = "replica-of";

// Names this process, on this machine and until it is started again.
[[nodiscard]] std::string this_process_tag();
// False only when the process has ended for certain.
[[nodiscard]] bool may_be_running(std::string_view process_tag);

// For this process.
[[nodiscard]] label_map make_lease(std::int64_t until_unix_seconds);
[[nodiscard]] bool lease_is_over(const label_map& labels, std::int64_t now_unix_seconds);

// No client may write to it.
[[nodiscard]] bool is_marked_read_only(const label_map& labels);

// Who holds the volume, and why.
[[nodiscard]] std::optional<std::string> holder_of(const label_map& labels);

}  // namespace uthin
