// Takes a stream into a pool, whether this process has it open or another one serves it.
//
// Invariants
//   RC1  Until the whole stream has arrived, matched its digest and is durable, nothing of it is
//        visible; after any failure or crash the pool shows what it showed before. What arrived
//        stays as a transfer if that was asked for, and the stream can go on from its last mark.
//   RC2  The volume and its snapshot appear together.
//   RC3  A difference is applied to nothing but the content that it was made from: a snapshot with
//        the same content id, and a volume that was not written to since.
//   RC4  The notes of a transfer never tell of more than is durable and was covered by a mark.
// Threads   One.
// Failures  invalid_argument (wrong base; the message names the newest common snapshot),
//           already_exists, busy (volume in use), those of the reader and of the pool.
#pragma once

#include "pool/pool_service.h"
#include "replication/sender.h"
#include "replication/stream_reader.h"

namespace uthin::replication {

struct receive_request {
    std::string name{};
    // Of the snapshot that is kept as a base for the next stream; empty: as the sender's is called.
    std::string snapshot{};
    // Of the volume and its snapshot.
    std::map<std::string, std::string> labels{};
    std::map<std::string, std::string> snapshot_labels{};
    // The volume must not be there, or be a replica of this one; it is one afterwards. Empty: any.
    std::string replica_of{};
    // For a stream in thin_send's form: the size of the volume, 0: that of the base; and the
    // snapshot that it is the difference to, empty: none.
    std::uint64_t thin_send_size_bytes = 0;
    std::string thin_send_base{};
    // What has arrived when the stream breaks off is kept, to be gone on with.
    bool resumable = false;
    // Called with the token when it was kept.
    std::function<void(const std::string& token)> broke_off{};
    progress_function progress{};
    std::function<void(std::uint64_t size_bytes)> begun{};
};

struct receive_reply {
    stream_header header{};
    volume_info volume{};
    std::string snapshot{};  // empty: the stream had no lasting snapshot, and none was asked for
};

[[nodiscard]] result<receive_reply> receive_stream(pool_service& pool,
                                                   const receive_request& request,
                                                   byte_source& source);

}  // namespace uthin::replication
