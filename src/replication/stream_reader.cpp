#include "replication/stream_reader.h"

#include <fmt/format.h>
#include <zstd.h>

#include <cstring>

#include "base/result.h"
#include "uthin/units.h"

namespace uthin::replication {

namespace {

std::unexpected<error> damaged(std::uint64_t sequence, std::string_view what) {
    return fail(error_code::corrupt,
                fmt::format("stream: record {} {}; send it again", sequence, what));
}

std::size_t payload_bytes_max(record_kind kind) {
    switch (kind) {
        case record_kind::begin: return begin_bytes_max;
        case record_kind::data: return data_bytes_max;
        case record_kind::zero: return 0;
        case record_kind::end: return sizeof(disk_end);
        case record_kind::mark: return digest_bytes;
    }
    return 0;
}

}  // namespace

result<stream_reader> stream_reader::open(byte_source& source) {
    stream_reader reader(source, UTHIN_TRY(digest::begin()));
    disk_preamble preamble;
    UTHIN_TRY(reader.read_exactly(std::as_writable_bytes(std::span(&preamble, 1))));
    if (std::memcmp(preamble.magic, stream_magic.data(), stream_magic.size()) != 0) {
        return fail(error_code::corrupt,
                    "stream: does not begin like one; give what 'uthin send' wrote");
    }
    if (preamble.version != stream_version || preamble.reserved != 0) {
        return fail(error_code::unsupported,
                    fmt::format("stream: its version is {}, this program reads {}; use a newer one",
                                std::uint32_t{preamble.version}, stream_version));
    }
    UTHIN_TRY(reader.digest_.add(std::as_bytes(std::span(&preamble, 1))));
    const disk_record record = UTHIN_TRY(reader.read_record());
    if (static_cast<record_kind>(std::uint16_t{record.kind}) != record_kind::begin) {
        return damaged(0, "is not the first of a stream");
    }
    reader.header_ = UTHIN_TRY(decode_header(reader.payload_));
    reader.position_bytes_ = reader.header_.start_bytes;
    return reader;
}

result<void> stream_reader::read_exactly(std::span<std::byte> buffer) {
    if (UTHIN_TRY(source_.read(buffer)) != buffer.size()) {
        return damaged(sequence_, "is cut off: the stream ends early");
    }
    return {};
}

result<disk_record> stream_reader::read_record() {
    disk_record record;
    UTHIN_TRY(read_exactly(std::as_writable_bytes(std::span(&record, 1))));
    const auto kind = static_cast<record_kind>(std::uint16_t{record.kind});
    const bool known = kind >= record_kind::begin && kind <= record_kind::mark;
    if (record.magic != record_magic || !known || record.payload_bytes > payload_bytes_max(kind)) {
        return damaged(sequence_, "is none");
    }
    payload_.resize(record.payload_bytes);
    UTHIN_TRY(read_exactly(payload_));
    if (record.crc != record_crc(record, payload_)) {
        return damaged(sequence_, "has a wrong checksum");
    }
    if (record.sequence != sequence_) {
        return damaged(sequence_,
                       fmt::format("is missing, there is {}", std::uint64_t{record.sequence}));
    }
    const std::uint16_t flags_known = kind == record_kind::data ? record_flag_zstd : 0;
    if ((record.flags & ~flags_known) != 0) {
        return fail(error_code::unsupported,
                    fmt::format("stream: record {} has flags that this program does not know; use "
                                "a newer one",
                                sequence_));
    }
    ++sequence_;
    if (kind == record_kind::mark) {
        before_record_ = UTHIN_TRY(digest_.so_far());
    }
    if (kind != record_kind::end) {
        UTHIN_TRY(digest_.add(std::as_bytes(std::span(&record, 1))));
        UTHIN_TRY(digest_.add(payload_));
    }
    return record;
}

result<void> stream_reader::check_place(const disk_record& record) {
    const std::uint64_t begin = record.offset_bytes;
    const std::uint64_t length = record.length_bytes;
    const bool inside = begin <= header_.to_size_bytes && length <= header_.to_size_bytes - begin;
    if (!inside || length == 0 || begin < position_bytes_ || begin % sector_size_bytes != 0 ||
        length % sector_size_bytes != 0) {
        return damaged(record.sequence, "lies where none can lie");
    }
    position_bytes_ = begin + length;
    return {};
}

result<std::span<const std::byte>> stream_reader::data_of(const disk_record& record) {
    if (record.length_bytes > data_bytes_max) {
        return damaged(record.sequence, "is too long");
    }
    if ((record.flags & record_flag_zstd) == 0) {
        if (record.length_bytes != payload_.size()) {
            return damaged(record.sequence, "has another length than its data");
        }
        return payload_;
    }
    data_.resize(record.length_bytes);
    const std::size_t size =
        ZSTD_decompress(data_.data(), data_.size(), payload_.data(), payload_.size());
    if (ZSTD_isError(size) != 0 || size != data_.size()) {
        return damaged(record.sequence, "cannot be decompressed");
    }
    return data_;
}

result<void> stream_reader::check_end() {
    disk_end end;
    if (payload_.size() != sizeof end) {
        return damaged(sequence_ - 1, "is no end");
    }
    std::memcpy(&end, payload_.data(), sizeof end);
    const digest_value sum = UTHIN_TRY(digest_.finish());
    if (std::memcmp(end.digest, sum.data(), sum.size()) != 0 || end.records != sequence_ - 1 ||
        end.data_bytes != data_bytes_ || end.zero_bytes != zero_bytes_) {
        return fail(error_code::corrupt,
                    "stream: is not what was sent: its digest does not match; send it again");
    }
    std::byte more;
    if (UTHIN_TRY(source_.read(std::span(&more, 1))) != 0) {
        return fail(error_code::corrupt, "stream: something follows its end; send it again");
    }
    return {};
}

result<void> stream_reader::check_mark(const disk_record& record) {
    const bool matches = payload_.size() == before_record_.size() &&
                         std::memcmp(payload_.data(), before_record_.data(), digest_bytes) == 0;
    const bool in_place = record.offset_bytes >= position_bytes_ &&
                          record.offset_bytes <= header_.to_size_bytes &&
                          record.offset_bytes % sector_size_bytes == 0;
    if (!matches || record.length_bytes != 0 || !in_place) {
        return damaged(record.sequence, "is a mark of another stream");
    }
    position_bytes_ = record.offset_bytes;
    return {};
}

result<stream_record> stream_reader::next() {
    const disk_record record = UTHIN_TRY(read_record());
    stream_record found;
    found.kind = static_cast<record_kind>(std::uint16_t{record.kind});
    found.offset_bytes = record.offset_bytes;
    found.length_bytes = record.length_bytes;
    switch (found.kind) {
        case record_kind::data:
            UTHIN_TRY(check_place(record));
            found.data = UTHIN_TRY(data_of(record));
            data_bytes_ += found.length_bytes;
            return found;
        case record_kind::zero:
            UTHIN_TRY(check_place(record));
            zero_bytes_ += found.length_bytes;
            return found;
        case record_kind::end: UTHIN_TRY(check_end()); return found;
        case record_kind::mark: UTHIN_TRY(check_mark(record)); return found;
        case record_kind::begin: break;
    }
    return damaged(record.sequence, "begins another stream");
}

}  // namespace uthin::replication
