// Writes a stream: records in order, numbered, checked, the last one with the digest of all.
//
// Invariants
//   SW1  Offsets ascend; a range of zeros is one record however many calls it was told in.
// Threads   One.
// Failures  Those of the sink; the stream is worthless then. invalid_argument: offsets that do not
//           ascend.
#pragma once

#include <optional>

#include "replication/content_stream.h"
#include "replication/digest.h"

namespace uthin::replication {

class stream_writer final : public content_writer {
public:
    // `sink` outlives it. Marks are set by itself. Data is compressed where that makes it smaller.
    [[nodiscard]] static result<stream_writer> begin(byte_sink& sink, const stream_header& header,
                                                     bool compress,
                                                     std::uint64_t mark_interval_bytes);
    [[nodiscard]] result<void> data(std::uint64_t offset_bytes,
                                    std::span<const std::byte> bytes) override;
    [[nodiscard]] result<void> zeros(std::uint64_t offset_bytes,
                                     std::uint64_t length_bytes) override;
    // Puts a mark after a long way without a record: a reader that hears nothing gives the line up,
    // and a stream that breaks off later need not begin before it.
    [[nodiscard]] result<void> reached(std::uint64_t offset_bytes) override;
    [[nodiscard]] result<void> end() override;

    static constexpr std::uint64_t silent_bytes_max = 64U << 20;

private:
    stream_writer(byte_sink& sink, digest sum, bool compress, std::uint64_t mark_interval_bytes)
        : sink_(sink),
          digest_(std::move(sum)),
          compress_(compress),
          mark_interval_bytes_(mark_interval_bytes) {}
    [[nodiscard]] result<void> ascend(std::uint64_t offset_bytes, std::uint64_t length_bytes);
    [[nodiscard]] result<void> put(std::span<const std::byte> bytes);
    [[nodiscard]] result<void> record(record_kind kind, std::uint16_t flags,
                                      std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                      std::span<const std::byte> payload);
    [[nodiscard]] result<void> flush_zeros();
    [[nodiscard]] result<void> mark();

    byte_sink& sink_;
    digest digest_;
    bool compress_;
    std::uint64_t mark_interval_bytes_;
    std::vector<std::byte> compressed_;
    std::uint64_t sequence_ = 0;
    std::uint64_t position_bytes_ = 0;
    std::uint64_t unmarked_bytes_ = 0;
    std::uint64_t told_bytes_ = 0;  // where the last record was written
    std::uint64_t zeros_begin_ = 0;
    std::uint64_t zeros_end_ = 0;
    std::uint64_t data_bytes_ = 0;
    std::uint64_t zero_bytes_ = 0;
};

}  // namespace uthin::replication
