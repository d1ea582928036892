// The XML of thin_dump, either dialect, as a stream of mappings.
//
// Invariants
//   XR1  What reaches the sink obeys mapping_stream.h, and every number is in its range: runs
//        ascend, data blocks lie below nr_data_blocks, times fit 24 bits, device ids are unique.
//   XR2  The end of the pool is sent when the input has ended: a text that is refused made none.
//   XR3  Memory: a few words for each device and each shared piece.
// Threads   One at a time.
// Failures  invalid_argument with one line that names the position. Errors of the input and of the
//           sink come back as they are. What was read before the error has been sent already.
// Source    Output of thin_dump 0.9.0 and 1.1.0.
#pragma once

#include <cstdint>
#include <optional>

#include "thin_metadata/mapping_stream.h"
#include "thin_metadata/xml_scanner.h"

namespace uthin::thin_metadata {

struct xml_read_options {
    // In place of the superblock's nr_data_blocks, which is 0 in the dump of a metadata snapshot.
    std::optional<std::uint64_t> data_blocks = std::nullopt;
};

[[nodiscard]] result<void> read_xml(const text_input& input, mapping_sink& sink,
                                    const xml_read_options& options);

}  // namespace uthin::thin_metadata
