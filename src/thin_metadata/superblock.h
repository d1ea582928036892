// The first block of the metadata device: where everything else is.
//
// Invariants
//   R1  Bytes 512..4095 are zero and never change after the format: a write is atomic on any device
//   with atomic
//       512-byte sectors.
//   R2  What a commit does not set (uuid, version, sizes, feature words, unknown flag bits) is kept
//   as found.
// Threads   Plain values.
// Source    docs/format.md 3.
#pragma once

#include <array>
#include <cstddef>

#include "persistent_data/space_map.h"
#include "persistent_data/validator.h"

namespace uthin::thin_metadata {

inline constexpr std::uint64_t superblock_magic = 27022010;
inline constexpr std::uint32_t superblock_version = 2;
inline constexpr std::uint32_t superblock_flag_needs_check = 1;
// Mapping values hold 24 bits of time.
inline constexpr std::uint32_t time_limit = 1U << 24;

struct disk_superblock {
    le32 csum;
    le32 flags;
    le64 blocknr;
    std::array<std::byte, 16> uuid;
    le64 magic;
    le32 version;
    le32 time;
    le64 trans_id;
    le64 held_root;
    persistent_data::disk_space_map_root data_sm_root;
    std::array<std::byte, 96> data_sm_root_tail;  // don't-care
    persistent_data::disk_space_map_root metadata_sm_root;
    std::array<std::byte, 96> metadata_sm_root_tail;  // don't-care
    le64 data_mapping_root;
    le64 device_details_root;
    le32 data_block_size_sectors;
    le32 metadata_block_size_sectors;
    le64 metadata_nr_blocks;  // at format time only
    le32 compat_flags;
    le32 compat_ro_flags;
    le32 incompat_flags;
};
static_assert(sizeof(disk_superblock) == 364);
static_assert(offsetof(disk_superblock, data_sm_root) == 64);
static_assert(offsetof(disk_superblock, data_mapping_root) == 320);
static_assert(offsetof(disk_superblock, incompat_flags) == 360);

struct disk_device_details {
    le64 mapped_blocks;
    le64 transaction_id;
    le32 creation_time;
    le32 snapshotted_time;
};
static_assert(sizeof(disk_device_details) == 24);

// Mapping value: data block << 24 | time.
[[nodiscard]] constexpr std::uint64_t pack_mapping(data_block block, std::uint32_t time) noexcept {
    return block.value() << 24 | time;
}
[[nodiscard]] constexpr data_block mapping_block(std::uint64_t packed) noexcept {
    return data_block(packed >> 24);
}
[[nodiscard]] constexpr std::uint32_t mapping_time(std::uint64_t packed) noexcept {
    return static_cast<std::uint32_t>(packed & (time_limit - 1));
}
inline constexpr std::uint64_t data_blocks_max = 1ULL << 40;

[[nodiscard]] disk_superblock load_superblock(persistent_data::const_block_bytes bytes) noexcept;
void store_superblock(const disk_superblock& from, persistent_data::block_bytes bytes) noexcept;

// In the kernel's order: own number (wrong_block), magic, checksum (corrupt).
[[nodiscard]] result<disk_superblock> check_superblock(metadata_block where,
                                                       persistent_data::const_block_bytes bytes);
// Feature words and block size. invalid_argument, unsupported.
[[nodiscard]] result<void> check_features(const disk_superblock& superblock, bool read_only);
[[nodiscard]] result<void> check_data_block_size(std::uint64_t sectors);
// By its own counters, of which old tools leave one too high.
[[nodiscard]] std::uint64_t free_metadata_blocks(const disk_superblock& superblock) noexcept;
[[nodiscard]] bool is_blank(persistent_data::const_block_bytes bytes) noexcept;

}  // namespace uthin::thin_metadata
