// The stream form of LINBIT's thin-send-recv, version 1.1, written and read for interoperation.
//
// It has no checksums, no identity and no size: who reads it must be told what it belongs to, and
// damage of the data goes unnoticed.
//
// Invariants
//   TS1  `end` is only returned when the counts of the end record match and nothing follows.
//   TS2  Data and zeros lie inside the volume, in whole sectors.
// Threads   One.
// Failures  corrupt, unsupported (another version); those of source and sink.
// Source    The published format: big-endian records of 28 bytes {u64 magic, u64 offset, u64
// length,
//           u32 command}; commands 0 data, 1 unmap, 2 begin, 3 end (three u64: all records, data,
//           unmap); bit 31 marks one that may be skipped, which is taken to have no payload.
#pragma once

#include <memory>

#include "replication/content_stream.h"

namespace uthin::replication {

// What such a stream does not tell.
struct thin_send_facts {
    std::uint64_t size_bytes = 0;  // of the volume
    snapshot_name from{};          // without id: the stream holds the whole content
    std::uint64_t from_size_bytes = 0;
};

[[nodiscard]] bool is_thin_send(std::span<const std::byte, 8> first_bytes) noexcept;
[[nodiscard]] result<std::unique_ptr<content_reader>> read_thin_send(byte_source& source,
                                                                     const thin_send_facts& facts);
[[nodiscard]] result<std::unique_ptr<content_writer>> write_thin_send(byte_sink& sink);

}  // namespace uthin::replication
