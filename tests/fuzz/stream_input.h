// A stream of replication as the input of a target: one byte that says what of it is put right
// before it is read, and the stream.
//
// Threads   Plain functions.
// Failures  None.
#pragma once

#include <cstdint>

#include "fuzz/target.h"
#include "replication/stream_format.h"

namespace uthin::fuzz {

inline constexpr std::uint8_t seal_records = 1;  // their numbers and checksums
inline constexpr std::uint8_t seal_digests = 2;  // of marks and the end, and what the end counts

// `stream` with what follows from the rest put right, as far as its records can be told.
[[nodiscard]] bytes sealed_stream(std::span<const std::byte> stream, std::uint8_t what);
// Records changed, taken out, put in, swapped.
[[nodiscard]] bytes mutated_stream(std::span<const std::byte> stream, random_generator& random);
// The same behind one byte, which changes less often.
[[nodiscard]] bytes mutated_tagged_stream(std::span<const std::byte> input,
                                          random_generator& random);

// A header that sends the whole of 1 MiB.
[[nodiscard]] replication::stream_header whole_header();
// The difference from that one.
[[nodiscard]] replication::stream_header difference_header();
// Pieces of data and zeros behind each other, depending on `shape`.
[[nodiscard]] bytes made_stream(const replication::stream_header& header, unsigned shape,
                                bool compress);
[[nodiscard]] bytes made_thin_send(unsigned shape);
// `stream` with its header replaced by what `header` is now; unchanged if it has none.
[[nodiscard]] bytes with_header(std::span<const std::byte> stream,
                                const replication::stream_header& header);

}  // namespace uthin::fuzz
