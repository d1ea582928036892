// Reads a stream and believes nothing: every record is checked before it is handed out, and the
// whole of them when the end is.
//
// Invariants
//   SR1  Data and zeros lie inside the volume, in whole sectors, ascending and without overlap.
//   SR2  `end` is only returned when all records arrived as they were sent, in their order, and
//        nothing follows; `mark` only when that is so up to there.
// Threads   One.
// Failures  corrupt: damaged, cut off, reordered; unsupported: of a newer version; those of the
//           source.
#pragma once

#include "replication/content_stream.h"
#include "replication/digest.h"

namespace uthin::replication {

class stream_reader final : public content_reader {
public:
    // Reads up to the first record of content. `source` outlives it.
    [[nodiscard]] static result<stream_reader> open(byte_source& source);
    [[nodiscard]] const stream_header& header() const noexcept override { return header_; }
    [[nodiscard]] result<stream_record> next() override;

private:
    stream_reader(byte_source& source, digest sum) : source_(source), digest_(std::move(sum)) {}
    [[nodiscard]] result<void> read_exactly(std::span<std::byte> buffer);
    // Checks all that can be said of a record alone; its payload is in payload_ afterwards.
    [[nodiscard]] result<disk_record> read_record();
    [[nodiscard]] result<void> check_place(const disk_record& record);
    [[nodiscard]] result<std::span<const std::byte>> data_of(const disk_record& record);
    [[nodiscard]] result<void> check_end();
    [[nodiscard]] result<void> check_mark(const disk_record& record);

    byte_source& source_;
    digest digest_;
    stream_header header_;
    std::vector<std::byte> payload_;
    std::vector<std::byte> data_;
    std::uint64_t sequence_ = 0;
    std::uint64_t position_bytes_ = 0;
    digest_value before_record_{};  // digest of what came before a mark
    std::uint64_t data_bytes_ = 0;
    std::uint64_t zero_bytes_ = 0;
};

}  // namespace uthin::replication
