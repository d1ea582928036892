// Sends a snapshot, or what changed since another one, as a stream.
//
// Invariants
//   SE1  Data is read from snapshots only: of a volume one is made for the stream, and deleted
//        afterwards. It has a lease, so that it also goes when this process cannot delete it; when
//        the stream breaks off it stays for temporary_keep_seconds, to be resumed.
//   SE2  The price is that of what changed (or is mapped, without a base), not of the size.
// Threads   One.
// Failures  not_found, invalid_argument (the base is no snapshot), unsupported (different external
//           origins); those of the pool and of the sink. The stream is worthless then, and has no
//           end, so that no receiver takes it.
#pragma once

#include <functional>

#include "pool/pool_service.h"
#include "replication/stream_writer.h"

namespace uthin::replication {

// How long a snapshot stays that was made for a stream that broke off.
inline constexpr std::int64_t temporary_keep_seconds = 3600;

// How far in the volume the work has come.
using progress_function = std::function<void(std::uint64_t position_bytes)>;

struct send_request {
    std::string name{};
    std::string from{};  // empty: the whole content
    bool compress = false;
    bool thin_send_form = false;  // thin_send.h; neither compressed nor resumed
    // Of a receiver whose stream broke off: only what follows is sent. `name` is then a snapshot,
    // its volume, or empty.
    std::string token{};
    // Between two marks there is at least so much data of the volume.
    std::uint64_t mark_interval_bytes = 1U << 20;
    progress_function progress{};
    std::function<void(std::uint64_t size_bytes)> begun{};
};

struct send_reply {
    stream_header header{};
    std::uint64_t data_bytes = 0;  // of the volume, before compression
    std::uint64_t zero_bytes = 0;
};

// invalid_argument for a device of the kernel's, or of a message, that maps nothing and was given
// no size: no stream tells of such.
[[nodiscard]] result<void> check_has_size(const volume_info& volume);
// Works on an idle pool and on a served one.
[[nodiscard]] result<send_reply> send_snapshot(pool_service& pool, const send_request& request,
                                               byte_sink& sink);

}  // namespace uthin::replication
