// Takes a stream into a pool that this process has open.
//
// Invariants
//   RC1  Until the whole stream has arrived, matched its digest and is durable, nothing of it is
//        visible; after any failure or crash the pool shows what it showed before.
//   RC2  The volume and its snapshot appear together.
//   RC3  A difference is applied to nothing but the content that it was made from: a snapshot with
//        the same content id, and a volume that was not written to since.
// Threads   One.
// Failures  invalid_argument (wrong base; the message names the newest common snapshot),
//           already_exists, busy (volume in use), those of the reader and of the pool.
#pragma once

#include "pool/pool_directory.h"
#include "replication/sender.h"
#include "replication/stream_reader.h"

namespace uthin::replication {

struct receive_request {
    std::string name{};
    // Of the snapshot that is kept as a base for the next stream; empty: as the sender's is called.
    std::string snapshot{};
    progress_function progress{};
    std::function<void(std::uint64_t size_bytes)> begun{};
};

struct receive_reply {
    stream_header header{};
    volume_info volume{};
    std::string snapshot{};  // empty: the stream had no lasting snapshot, and none was asked for
};

[[nodiscard]] result<receive_reply> receive_stream(pool_directory& pool,
                                                   const receive_request& request,
                                                   byte_source& source);

}  // namespace uthin::replication
