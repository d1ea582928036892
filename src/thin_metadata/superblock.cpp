#include "thin_metadata/superblock.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

namespace uthin::thin_metadata {

using persistent_data::block_checksum;
using persistent_data::block_kind;

disk_superblock load_superblock(persistent_data::const_block_bytes bytes) noexcept {
    disk_superblock superblock;
    std::memcpy(&superblock, bytes.data(), sizeof superblock);
    return superblock;
}

void store_superblock(const disk_superblock& from, persistent_data::block_bytes bytes) noexcept {
    std::memcpy(bytes.data(), &from, sizeof from);
}

result<disk_superblock> check_superblock(metadata_block where,
                                         persistent_data::const_block_bytes bytes) {
    const disk_superblock superblock = load_superblock(bytes);
    if (superblock.blocknr != where.value()) {
        return fail(error_code::wrong_block,
                    fmt::format("superblock {}: it carries the number {}", where.value(),
                                std::uint64_t{superblock.blocknr}));
    }
    if (superblock.magic != superblock_magic) {
        return fail(error_code::corrupt,
                    fmt::format("superblock {}: magic {} instead of {}; this is no thin pool "
                                "metadata",
                                where.value(), std::uint64_t{superblock.magic}, superblock_magic));
    }
    const std::uint32_t expected = block_checksum(block_kind::superblock, bytes);
    if (superblock.csum != expected) {
        return fail(error_code::corrupt,
                    fmt::format("superblock {}: checksum {:#010x} instead of {:#010x}",
                                where.value(), std::uint32_t{superblock.csum}, expected));
    }
    return superblock;
}

result<void> check_features(const disk_superblock& superblock, bool read_only) {
    if (superblock.incompat_flags != 0) {
        return fail(error_code::invalid_argument,
                    fmt::format("unknown incompatible features {:#x}: this pool needs a newer "
                                "version",
                                std::uint32_t{superblock.incompat_flags}));
    }
    if (superblock.compat_ro_flags != 0 && !read_only) {
        return fail(error_code::unsupported,
                    fmt::format("unknown features {:#x}: this pool can only be opened read-only",
                                std::uint32_t{superblock.compat_ro_flags}));
    }
    return {};
}

result<void> check_data_block_size(std::uint64_t sectors) {
    if (sectors < data_block_size_sectors_min || sectors > data_block_size_sectors_max ||
        sectors % data_block_size_sectors_min != 0) {
        return fail(error_code::invalid_argument,
                    fmt::format("data block size of {} sectors: it must be a multiple of {} from "
                                "{} to {}",
                                sectors, data_block_size_sectors_min, data_block_size_sectors_min,
                                data_block_size_sectors_max));
    }
    return {};
}

std::uint64_t free_metadata_blocks(const disk_superblock& superblock) noexcept {
    const std::uint64_t total = superblock.metadata_sm_root.nr_blocks;
    return total - std::min<std::uint64_t>(total, superblock.metadata_sm_root.nr_allocated);
}

bool is_blank(persistent_data::const_block_bytes bytes) noexcept {
    return std::all_of(bytes.begin(), bytes.end(),
                       [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace uthin::thin_metadata
