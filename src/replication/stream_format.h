// The bytes of a stream that carries a snapshot, or the difference of two; docs/stream.md.
//
// Invariants
//   SF1  A stream is the preamble, a begin record, data and zero records with ascending offsets and
//        marks between them, an end record, and nothing behind it.
//   SF2  Each record carries its place in the stream and a CRC-32C of itself; the end record a
//        SHA-256 of everything before it, and so does each mark.
// Threads   Plain data.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/endian.h"
#include "uthin/error.h"

namespace uthin::replication {

inline constexpr std::array<char, 8> stream_magic = {'u', 't', 'h', 'n', 's', 'e', 'n', 'd'};
inline constexpr std::uint32_t stream_version = 1;
inline constexpr std::uint32_t record_magic = 0x52545455;  // "UTTR"
inline constexpr std::uint16_t record_flag_zstd = 1;
inline constexpr std::size_t data_bytes_max = 1U << 20;
inline constexpr std::size_t begin_bytes_max = 1U << 20;
inline constexpr std::size_t text_bytes_max = 4096;
inline constexpr std::size_t id_bytes_max = 64;
inline constexpr std::size_t relatives_max = 1024;
inline constexpr std::size_t digest_bytes = 32;

struct disk_preamble {
    char magic[8];
    le32 version;
    le32 reserved;  // 0
};
static_assert(sizeof(disk_preamble) == 16);

// mark: all of the volume up to its offset has been told of; a stream that broke off behind it can
// go on there. Its payload is the SHA-256 of all bytes before it.
enum class record_kind : std::uint16_t { begin = 1, data = 2, zero = 3, end = 4, mark = 5 };

struct disk_record {
    le32 magic;
    le16 kind;
    le16 flags;
    le64 sequence;  // of the record in the stream, from 0
    le64 offset_bytes;
    le64 length_bytes;  // in the volume
    le32 payload_bytes;
    le32 crc;  // CRC-32C of this header with 0 here, and of the payload
};
static_assert(sizeof(disk_record) == 40);

// The end record's payload.
struct disk_end {
    std::byte digest[digest_bytes];
    le64 data_bytes;
    le64 zero_bytes;
    le64 records;  // without this one
};
static_assert(sizeof(disk_end) == 56);

struct snapshot_name {
    std::string id;  // of the content: the same wherever the snapshot was copied to
    std::string name;
    bool operator==(const snapshot_name&) const = default;
};

// What a stream carries.
struct stream_header {
    std::string pool_uuid{};
    std::string volume_uuid{};
    std::string volume_name{};
    snapshot_name to{};
    snapshot_name from{};  // without id: the whole content is sent
    std::uint64_t to_size_bytes = 0;
    std::uint64_t from_size_bytes = 0;
    std::uint64_t block_size_bytes = 0;
    std::int64_t created_unix_seconds = 0;
    // `to` was made for this stream and is gone by now, so that nothing can build on it.
    bool temporary = false;
    // Not the first part of what is sent: who receives it has everything before, in this transfer.
    std::uint64_t start_bytes = 0;
    std::string transfer_id{};
    // Other snapshots of the volume at the sender, newest first: possible bases.
    std::vector<snapshot_name> relatives{};

    [[nodiscard]] bool is_resumed() const noexcept { return !transfer_id.empty(); }
    [[nodiscard]] bool is_incremental() const noexcept { return !from.id.empty(); }
    bool operator==(const stream_header&) const = default;
};

[[nodiscard]] std::vector<std::byte> encode_header(const stream_header& header);
// corrupt: not what encode_header could have written; unsupported: it holds something that must be
// understood and is not.
[[nodiscard]] result<stream_header> decode_header(std::span<const std::byte> bytes);

// CRC-32C of a record; its field `crc` counts as 0.
[[nodiscard]] std::uint32_t record_crc(const disk_record& record,
                                       std::span<const std::byte> payload) noexcept;

}  // namespace uthin::replication
