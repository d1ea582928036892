// A whole stream and a chain of differences to it, as one whole stream.
//
// Invariants
//   SM1  Receiving the merged stream gives what receiving the chain one after the other gives.
//   SM2  Each stream is read once, front to back; at most one record of each is in memory.
// Threads   One.
// Failures  invalid_argument (no such chain); those of the readers and the sink.
#pragma once

#include <span>

#include "replication/stream_reader.h"
#include "replication/stream_writer.h"

namespace uthin::replication {

// The oldest one first. The sources are read to their ends.
[[nodiscard]] result<void> merge_streams(std::span<byte_source* const> chain, byte_sink& sink,
                                         bool compress);

}  // namespace uthin::replication
