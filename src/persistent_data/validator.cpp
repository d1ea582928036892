#include "persistent_data/validator.h"

#include <fmt/format.h>

#include "base/crc32c.h"
#include "base/endian.h"
#include "persistent_data/btree_node.h"

namespace uthin::persistent_data {
namespace {

constexpr std::size_t blocknr_offset = 8;

result<void> check_node_header(metadata_block where, const_block_bytes bytes) {
    const node_view node(bytes);
    const auto flags = load_le<std::uint32_t>(bytes.data() + 4);
    const bool internal = (flags & node_flag_internal) != 0;
    const bool leaf = (flags & node_flag_leaf) != 0;
    if (internal == leaf) {
        return fail(
            error_code::corrupt,
            fmt::format("btree node {}: flags {:#x} name neither or both of internal and leaf",
                        where.value(), flags));
    }
    const std::uint64_t entry_bytes = 8 + std::uint64_t{node.value_size_bytes()};
    if (node_header_bytes + entry_bytes * node.max_entries() > metadata_block_size_bytes) {
        return fail(error_code::corrupt,
                    fmt::format("btree node {}: {} entries of {} bytes do not fit a block",
                                where.value(), node.max_entries(), node.value_size_bytes()));
    }
    if (node.nr_entries() > node.max_entries()) {
        return fail(error_code::corrupt,
                    fmt::format("btree node {}: {} entries where {} fit", where.value(),
                                node.nr_entries(), node.max_entries()));
    }
    if (internal && node.value_size_bytes() != 8) {
        return fail(error_code::corrupt,
                    fmt::format("btree node {}: internal with values of {} bytes", where.value(),
                                node.value_size_bytes()));
    }
    return {};
}

}  // namespace

std::string_view to_string(block_kind kind) noexcept {
    switch (kind) {
        case block_kind::superblock: return "superblock";
        case block_kind::btree_node: return "btree node";
        case block_kind::bitmap: return "bitmap";
        case block_kind::index: return "metadata index";
    }
    return "block";
}

std::uint32_t checksum_salt(block_kind kind) noexcept {
    switch (kind) {
        case block_kind::superblock: return 160774;
        case block_kind::btree_node: return 121107;
        case block_kind::bitmap: return 240779;
        case block_kind::index: return 160478;
    }
    return 0;
}

std::uint32_t block_checksum(block_kind kind, const_block_bytes bytes) noexcept {
    return crc32c_raw(0xFFFFFFFF, bytes.subspan(4)) ^ checksum_salt(kind);
}

result<void> check_block(block_kind kind, metadata_block where, const_block_bytes bytes) {
    const auto blocknr = load_le<std::uint64_t>(bytes.data() + blocknr_offset);
    if (blocknr != where.value()) {
        return fail(error_code::wrong_block, fmt::format("{} {}: carries the number of block {}",
                                                         to_string(kind), where.value(), blocknr));
    }
    const auto stored = load_le<std::uint32_t>(bytes.data());
    if (const std::uint32_t expected = block_checksum(kind, bytes); stored != expected) {
        return fail(error_code::corrupt,
                    fmt::format("{} {}: checksum {:#010x}, expected {:#010x}", to_string(kind),
                                where.value(), stored, expected));
    }
    if (kind == block_kind::btree_node) {
        return check_node_header(where, bytes);
    }
    return {};
}

void prepare_block(block_kind kind, metadata_block where, block_bytes bytes) noexcept {
    store_le(bytes.data() + blocknr_offset, where.value());
    store_le(bytes.data(), block_checksum(kind, bytes));
}

}  // namespace uthin::persistent_data
