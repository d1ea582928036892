#include "thin_metadata/mending_source.h"

#include <bit>

#include "base/endian.h"

namespace uthin::thin_metadata {

using persistent_data::block_bytes;
using persistent_data::block_kind;
using persistent_data::block_ref;

namespace {

constexpr std::uint32_t crc32c_polynomial = 0x82F63B78;
constexpr std::size_t checksum_bits = 32;
constexpr std::size_t block_bits = std::size_t{8} * metadata_block_size_bytes;
constexpr std::size_t own_number_offset = 8;

void flip(block_bytes bytes, std::size_t bit) {
    bytes[bit / 8] ^= std::byte{1} << bit % 8;
}

}  // namespace

// The checksum is linear: a flipped bit changes it by a pattern that depends on nothing but the
// place of the bit, and all these patterns differ.
bool correct_single_bit(block_kind kind, metadata_block where, block_bytes bytes) {
    // Most blocks that fail are no block of this kind at all; that is told at once.
    const auto own_number = load_le<std::uint64_t>(bytes.data() + own_number_offset);
    if (std::popcount(own_number ^ where.value()) > 1) {
        return false;
    }
    const std::uint32_t difference =
        load_le<std::uint32_t>(bytes.data()) ^ persistent_data::block_checksum(kind, bytes);
    std::size_t wrong = block_bits;
    if (std::popcount(difference) == 1) {
        wrong = static_cast<std::size_t>(std::countr_zero(difference));
    }
    std::uint32_t pattern = crc32c_polynomial;
    for (std::size_t bit = block_bits; wrong == block_bits && bit-- > checksum_bits;) {
        if (pattern == difference) {
            wrong = bit;
        }
        pattern = pattern >> 1 ^ ((pattern & 1) != 0 ? crc32c_polynomial : 0);
    }
    if (wrong == block_bits) {
        return false;
    }
    flip(bytes, wrong);
    if (!persistent_data::check_block(kind, where, bytes)) {
        flip(bytes, wrong);
        return false;
    }
    return true;
}

mending_source::mending_source(block_device& device, std::uint64_t block_count,
                               std::uint64_t cache_blocks, bool correct_bits)
    : device_(device), blocks_(device, block_count, cache_blocks), correct_bits_(correct_bits) {
    blocks_.set_read_only(true);
}

result<block_ref> mending_source::read(metadata_block where, block_kind kind) {
    if (!replaced_.empty()) {
        if (const auto found = replaced_.find(where.value()); found != replaced_.end()) {
            return found->second;
        }
    }
    auto outcome = blocks_.read(where, kind);
    const bool may_be_a_bit = !outcome && (outcome.error().code() == error_code::corrupt ||
                                           outcome.error().code() == error_code::wrong_block);
    if (!may_be_a_bit || !correct_bits_ || where.value() >= block_count()) {
        return outcome;
    }
    auto* raw = new persistent_data::page(where, kind);
    block_ref held(raw);
    if (!device_.read(where.value() * metadata_block_size_bytes, raw->mutable_bytes()) ||
        !correct_single_bit(kind, where, raw->mutable_bytes())) {
        return outcome;
    }
    corrected_.insert(where.value());
    return held;
}

void mending_source::prefetch(std::span<const metadata_block> blocks, block_kind kind) {
    blocks_.prefetch(blocks, kind);
}

void mending_source::replace(metadata_block where, block_ref node) {
    replaced_.insert_or_assign(where.value(), std::move(node));
}

}  // namespace uthin::thin_metadata
