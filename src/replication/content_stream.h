// The content of a volume on its way, in whatever form: told in pieces by who has it, and in the
// same pieces by who reads it.
//
// Threads   One.
// Failures  Those of the form.
#pragma once

#include <cstdint>
#include <span>

#include "replication/stream_format.h"
#include "uthin/error.h"

namespace uthin::replication {

class byte_sink {
public:
    byte_sink() = default;
    byte_sink(const byte_sink&) = delete;
    byte_sink& operator=(const byte_sink&) = delete;
    virtual ~byte_sink() = default;
    [[nodiscard]] virtual result<void> write(std::span<const std::byte> bytes) = 0;
};

class byte_source {
public:
    byte_source() = default;
    byte_source(const byte_source&) = delete;
    byte_source& operator=(const byte_source&) = delete;
    virtual ~byte_source() = default;
    // How many bytes arrived: fewer than asked for only at the end.
    [[nodiscard]] virtual result<std::size_t> read(std::span<std::byte> buffer) = 0;
};

class content_writer {
public:
    virtual ~content_writer() = default;
    // Up to data_bytes_max.
    [[nodiscard]] virtual result<void> data(std::uint64_t offset_bytes,
                                            std::span<const std::byte> bytes) = 0;
    // The range reads as zeros.
    [[nodiscard]] virtual result<void> zeros(std::uint64_t offset_bytes,
                                             std::uint64_t length_bytes) = 0;
    // All in front of it was told of; what was not reads as in the base, or as zeros.
    [[nodiscard]] virtual result<void> reached(std::uint64_t /*offset_bytes*/) { return {}; }
    [[nodiscard]] virtual result<void> end() = 0;
};

struct stream_record {
    record_kind kind = record_kind::end;
    std::uint64_t offset_bytes = 0;
    std::uint64_t length_bytes = 0;
    std::span<const std::byte> data{};  // until the next call
};

class content_reader {
public:
    virtual ~content_reader() = default;
    [[nodiscard]] virtual const stream_header& header() const noexcept = 0;
    // Nothing may be asked for after `end` or a failure.
    [[nodiscard]] virtual result<stream_record> next() = 0;
};

}  // namespace uthin::replication
