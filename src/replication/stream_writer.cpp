#include "replication/stream_writer.h"

#include <zstd.h>

#include <algorithm>
#include <cstring>

#include "base/result.h"

namespace uthin::replication {

namespace {

constexpr int compression_level = 3;  // zstd's own default

}  // namespace

result<stream_writer> stream_writer::begin(byte_sink& sink, const stream_header& header,
                                           bool compress, std::uint64_t mark_interval_bytes) {
    stream_writer writer(sink, UTHIN_TRY(digest::begin()), compress, mark_interval_bytes);
    disk_preamble preamble;
    std::memcpy(preamble.magic, stream_magic.data(), stream_magic.size());
    preamble.version = stream_version;
    preamble.reserved = 0;
    UTHIN_TRY(writer.put(std::as_bytes(std::span(&preamble, 1))));
    UTHIN_TRY(writer.record(record_kind::begin, 0, 0, 0, encode_header(header)));
    writer.position_bytes_ = header.start_bytes;
    writer.told_bytes_ = header.start_bytes;
    return writer;
}

result<void> stream_writer::put(std::span<const std::byte> bytes) {
    UTHIN_TRY(digest_.add(bytes));
    return sink_.write(bytes);
}

result<void> stream_writer::record(record_kind kind, std::uint16_t flags,
                                   std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                   std::span<const std::byte> payload) {
    disk_record header;
    header.magic = record_magic;
    header.kind = static_cast<std::uint16_t>(kind);
    header.flags = flags;
    header.sequence = sequence_++;
    header.offset_bytes = offset_bytes;
    header.length_bytes = length_bytes;
    header.payload_bytes = static_cast<std::uint32_t>(payload.size());
    header.crc = record_crc(header, payload);
    told_bytes_ = position_bytes_;
    UTHIN_TRY(put(std::as_bytes(std::span(&header, 1))));
    return payload.empty() ? result<void>() : put(payload);
}

result<void> stream_writer::ascend(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    if (offset_bytes < position_bytes_) {
        return fail(error_code::invalid_argument, "stream: its ranges do not ascend");
    }
    position_bytes_ = offset_bytes + length_bytes;
    return {};
}

result<void> stream_writer::data(std::uint64_t offset_bytes, std::span<const std::byte> bytes) {
    UTHIN_TRY(flush_zeros());
    if (unmarked_bytes_ >= mark_interval_bytes_) {
        UTHIN_TRY(mark());
    }
    UTHIN_TRY(ascend(offset_bytes, bytes.size()));
    data_bytes_ += bytes.size();
    unmarked_bytes_ += bytes.size();
    if (compress_) {
        compressed_.resize(ZSTD_compressBound(bytes.size()));
        const std::size_t size = ZSTD_compress(compressed_.data(), compressed_.size(), bytes.data(),
                                               bytes.size(), compression_level);
        if (ZSTD_isError(size) == 0 && size < bytes.size()) {
            return record(record_kind::data, record_flag_zstd, offset_bytes, bytes.size(),
                          std::span(compressed_).first(size));
        }
    }
    return record(record_kind::data, 0, offset_bytes, bytes.size(), bytes);
}

result<void> stream_writer::zeros(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    UTHIN_TRY(ascend(offset_bytes, length_bytes));
    if (offset_bytes != zeros_end_) {
        UTHIN_TRY(flush_zeros());
        zeros_begin_ = offset_bytes;
    }
    zeros_end_ = offset_bytes + length_bytes;
    return {};
}

result<void> stream_writer::flush_zeros() {
    const std::uint64_t length_bytes = zeros_end_ - zeros_begin_;
    if (length_bytes == 0) {
        return {};
    }
    const std::uint64_t offset_bytes = std::exchange(zeros_begin_, zeros_end_);
    zero_bytes_ += length_bytes;
    return record(record_kind::zero, 0, offset_bytes, length_bytes, {});
}

result<void> stream_writer::reached(std::uint64_t offset_bytes) {
    if (offset_bytes < told_bytes_ + silent_bytes_max) {
        return {};
    }
    UTHIN_TRY(flush_zeros());
    position_bytes_ = std::max(position_bytes_, offset_bytes);
    return mark();
}

// Nothing between the last record and here has changed: whatever follows lies behind.
result<void> stream_writer::mark() {
    unmarked_bytes_ = 0;
    const digest_value sum = UTHIN_TRY(digest_.so_far());
    return record(record_kind::mark, 0, position_bytes_, 0, sum);
}

result<void> stream_writer::end() {
    UTHIN_TRY(flush_zeros());
    disk_end end;
    const digest_value sum = UTHIN_TRY(digest_.finish());
    std::memcpy(end.digest, sum.data(), sum.size());
    end.data_bytes = data_bytes_;
    end.zero_bytes = zero_bytes_;
    end.records = sequence_;
    const auto payload = std::as_bytes(std::span(&end, 1));
    disk_record header;
    header.magic = record_magic;
    header.kind = static_cast<std::uint16_t>(record_kind::end);
    header.flags = 0;
    header.sequence = sequence_;
    header.offset_bytes = 0;
    header.length_bytes = 0;
    header.payload_bytes = static_cast<std::uint32_t>(payload.size());
    header.crc = record_crc(header, payload);
    UTHIN_TRY(sink_.write(std::as_bytes(std::span(&header, 1))));
    return sink_.write(payload);
}

}  // namespace uthin::replication
