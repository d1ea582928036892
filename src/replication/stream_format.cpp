#include "replication/stream_format.h"

#include <fmt/format.h>

#include <cstring>

#include "base/crc32c.h"
#include "base/result.h"
#include "pool/names.h"

namespace uthin::replication {

namespace {

// Fields are {tag, length, bytes}. One with the high bit set may be skipped by who does not know
// it.
enum class tag : std::uint16_t {
    pool_uuid = 1,
    volume_uuid = 2,
    volume_name = 3,
    to_id = 4,
    to_name = 5,
    from_id = 6,
    from_name = 7,
    to_size = 8,
    from_size = 9,
    block_size = 10,
    temporary = 11,
    relative_id = 12,    // each is followed by
    relative_name = 13,  // its name
    start = 14,
    transfer = 15,
    created = 0x8001,
};
constexpr std::uint16_t optional_bit = 0x8000;

struct disk_field {
    le16 tag;
    le16 length_bytes;
};
static_assert(sizeof(disk_field) == 4);

class field_writer {
public:
    void add(tag which, std::string_view text) {
        disk_field field;
        field.tag = static_cast<std::uint16_t>(which);
        field.length_bytes = static_cast<std::uint16_t>(std::min(text.size(), text_bytes_max));
        append(&field, sizeof field);
        append(text.data(), field.length_bytes);
    }
    void add(tag which, std::uint64_t number) {
        const le64 value = number;
        add(which, std::string_view(reinterpret_cast<const char*>(&value), sizeof value));
    }
    std::vector<std::byte> bytes;

private:
    void append(const void* from, std::size_t count) {
        const auto* first = static_cast<const std::byte*>(from);
        bytes.insert(bytes.end(), first, first + count);
    }
};

std::unexpected<error> bad_header(std::string_view what) {
    return fail(error_code::corrupt, fmt::format("stream: its header {}; send it again", what));
}

// An id comes to stand in the catalogue and in messages.
result<void> take_id(std::string& id, std::string_view bytes) {
    if (bytes.size() > id_bytes_max || !is_utf8(bytes) ||
        bytes.find('\0') != std::string_view::npos) {
        return bad_header("has an id that is none");
    }
    id = bytes;
    return {};
}

result<void> take_number(std::uint64_t& number, std::string_view bytes) {
    if (bytes.size() != sizeof number) {
        return bad_header("has a number of another length");
    }
    number = load_le<std::uint64_t>(reinterpret_cast<const std::byte*>(bytes.data()));
    return {};
}

result<void> take_relative(stream_header& header, std::string_view bytes) {
    if (header.relatives.size() == relatives_max) {
        return bad_header("names too many snapshots");
    }
    return take_id(header.relatives.emplace_back().id, bytes);
}

// Puts one field where it belongs.
result<void> take_field(stream_header& header, std::uint16_t which, std::string_view bytes) {
    std::uint64_t number = 0;
    switch (static_cast<tag>(which)) {
        case tag::pool_uuid: return take_id(header.pool_uuid, bytes);
        case tag::volume_uuid: return take_id(header.volume_uuid, bytes);
        case tag::volume_name: header.volume_name = bytes; return {};
        case tag::to_id: return take_id(header.to.id, bytes);
        case tag::to_name: header.to.name = bytes; return {};
        case tag::from_id: return take_id(header.from.id, bytes);
        case tag::from_name: header.from.name = bytes; return {};
        case tag::to_size: return take_number(header.to_size_bytes, bytes);
        case tag::from_size: return take_number(header.from_size_bytes, bytes);
        case tag::block_size: return take_number(header.block_size_bytes, bytes);
        case tag::temporary:
            UTHIN_TRY(take_number(number, bytes));
            header.temporary = number != 0;
            return {};
        case tag::created:
            UTHIN_TRY(take_number(number, bytes));
            header.created_unix_seconds = static_cast<std::int64_t>(number);
            return {};
        case tag::start: return take_number(header.start_bytes, bytes);
        case tag::transfer: return take_id(header.transfer_id, bytes);
        case tag::relative_id: return take_relative(header, bytes);
        case tag::relative_name:
            if (header.relatives.empty()) {
                return bad_header("names a snapshot without its id");
            }
            header.relatives.back().name = bytes;
            return {};
    }
    if ((which & optional_bit) != 0) {
        return {};
    }
    return fail(error_code::unsupported,
                fmt::format("stream: its header holds a field {} that this program does not know; "
                            "use a newer one",
                            which));
}

}  // namespace

std::vector<std::byte> encode_header(const stream_header& header) {
    field_writer fields;
    fields.add(tag::pool_uuid, header.pool_uuid);
    fields.add(tag::volume_uuid, header.volume_uuid);
    fields.add(tag::volume_name, header.volume_name);
    fields.add(tag::to_id, header.to.id);
    fields.add(tag::to_name, header.to.name);
    fields.add(tag::to_size, header.to_size_bytes);
    if (header.is_incremental()) {
        fields.add(tag::from_id, header.from.id);
        fields.add(tag::from_name, header.from.name);
        fields.add(tag::from_size, header.from_size_bytes);
    }
    fields.add(tag::block_size, header.block_size_bytes);
    fields.add(tag::created, static_cast<std::uint64_t>(header.created_unix_seconds));
    fields.add(tag::temporary, header.temporary ? 1 : 0);
    if (header.is_resumed()) {
        fields.add(tag::transfer, header.transfer_id);
        fields.add(tag::start, header.start_bytes);
    }
    constexpr std::size_t relative_bytes_max = 2 * (sizeof(disk_field) + text_bytes_max);
    for (std::size_t i = 0; i < header.relatives.size() && i < relatives_max; ++i) {
        if (fields.bytes.size() > begin_bytes_max - relative_bytes_max) {
            break;
        }
        fields.add(tag::relative_id, header.relatives[i].id);
        fields.add(tag::relative_name, header.relatives[i].name);
    }
    return std::move(fields.bytes);
}

result<stream_header> decode_header(std::span<const std::byte> bytes) {
    stream_header header;
    while (!bytes.empty()) {
        if (bytes.size() < sizeof(disk_field)) {
            return bad_header("ends inside a field");
        }
        disk_field field;
        std::memcpy(&field, bytes.data(), sizeof field);
        bytes = bytes.subspan(sizeof field);
        if (field.length_bytes > text_bytes_max || field.length_bytes > bytes.size()) {
            return bad_header("has a field that is too long");
        }
        UTHIN_TRY(take_field(header, field.tag,
                             {reinterpret_cast<const char*>(bytes.data()), field.length_bytes}));
        bytes = bytes.subspan(field.length_bytes);
    }
    const bool sane = !header.to.id.empty() && check_volume_size(header.to_size_bytes) &&
                      (!header.is_incremental() || check_volume_size(header.from_size_bytes));
    const bool starts_inside = header.start_bytes <= header.to_size_bytes &&
                               header.start_bytes % sector_size_bytes == 0 &&
                               (header.is_resumed() || header.start_bytes == 0);
    if (!starts_inside) {
        return bad_header("starts where no stream can");
    }
    if (!sane) {
        return bad_header("lacks the snapshot or its size");
    }
    if (!header.is_incremental()) {
        // The rest of a base without an id says nothing.
        header.from = {};
        header.from_size_bytes = 0;
    }
    return header;
}

std::uint32_t record_crc(const disk_record& record, std::span<const std::byte> payload) noexcept {
    disk_record blank = record;
    blank.crc = 0;
    const std::uint32_t of_header = crc32c_raw(~0U, std::as_bytes(std::span(&blank, 1)));
    return ~crc32c_raw(of_header, payload);
}

}  // namespace uthin::replication
