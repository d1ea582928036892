// Reads a stream and believes nothing: every record is checked before it is handed out, and the
// whole of them when the end is.
//
// Invariants
//   SR1  Data and zeros lie inside the volume, in whole sectors, ascending and without overlap.
//   SR2  `end` is only returned when all records arrived as they were sent, in their order, and
//        nothing follows.
// Threads   One.
// Failures  corrupt: damaged, cut off, reordered; unsupported: of a newer version; those of the
//           source.
#pragma once

#include "replication/digest.h"
#include "replication/stream_format.h"

namespace uthin::replication {

class byte_source {
public:
    byte_source() = default;
    byte_source(const byte_source&) = delete;
    byte_source& operator=(const byte_source&) = delete;
    virtual ~byte_source() = default;
    // How many bytes arrived: fewer than asked for only at the end.
    [[nodiscard]] virtual result<std::size_t> read(std::span<std::byte> buffer) = 0;
};

struct stream_record {
    record_kind kind = record_kind::end;
    std::uint64_t offset_bytes = 0;
    std::uint64_t length_bytes = 0;
    std::span<const std::byte> data{};  // until the next call
};

class stream_reader {
public:
    // Reads up to the first record of content. `source` outlives it.
    [[nodiscard]] static result<stream_reader> open(byte_source& source);
    [[nodiscard]] const stream_header& header() const noexcept { return header_; }
    // Nothing may be asked for after `end` or a failure.
    [[nodiscard]] result<stream_record> next();

private:
    stream_reader(byte_source& source, digest sum) : source_(source), digest_(std::move(sum)) {}
    [[nodiscard]] result<void> read_exactly(std::span<std::byte> buffer);
    // Checks all that can be said of a record alone; its payload is in payload_ afterwards.
    [[nodiscard]] result<disk_record> read_record();
    [[nodiscard]] result<void> check_place(const disk_record& record);
    [[nodiscard]] result<std::span<const std::byte>> data_of(const disk_record& record);
    [[nodiscard]] result<void> check_end();

    byte_source& source_;
    digest digest_;
    stream_header header_;
    std::vector<std::byte> payload_;
    std::vector<std::byte> data_;
    std::uint64_t sequence_ = 0;
    std::uint64_t position_bytes_ = 0;
    std::uint64_t data_bytes_ = 0;
    std::uint64_t zero_bytes_ = 0;
};

}  // namespace uthin::replication
