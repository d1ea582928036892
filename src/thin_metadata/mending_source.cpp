#include "thin_metadata/mending_source.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include <fmt/format.h>

#include "base/assert.h"
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
constexpr std::size_t buffer_blocks_max = 256;

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
    : device_(device),
      block_count_(block_count),
      cache_blocks_(cache_blocks),
      correct_bits_(correct_bits) {
}

result<block_ref> mending_source::read(metadata_block where, block_kind kind) {
    if (!replaced_.empty()) {
        if (const auto found = replaced_.find(where.value()); found != replaced_.end()) {
            return found->second;
        }
    }
    const auto found = cached_.find(where.value());
    if (found != cached_.end() && found->second.get()->kind() == kind) {
        return found->second;
    }
    if (where.value() >= block_count_) {
        return fail(error_code::corrupt,
                    fmt::format("{} {}: beyond the metadata device of {} blocks",
                                persistent_data::to_string(kind), where.value(), block_count_));
    }
    const auto failed = failed_.find(where.value());
    if (failed != failed_.end() && failed->second.kind == kind) {
        return std::unexpected(failed->second.what);
    }
    auto held = read_device(where, kind);
    if (!held) {
        failed_.insert_or_assign(where.value(), failure{.kind = kind, .what = held.error()});
    } else if (found == cached_.end()) {
        keep(*held);
    }
    return held;
}

result<block_ref> mending_source::read_device(metadata_block where, block_kind kind) {
    auto* made = persistent_data::page::make(where, kind);
    block_ref held(made);
    UTHIN_TRY(device_.read(where.value() * metadata_block_size_bytes, made->mutable_bytes()));
    if (auto outcome = persistent_data::check_block(kind, where, made->bytes()); !outcome) {
        if (!correct_bits_ || !correct_single_bit(kind, where, made->mutable_bytes())) {
            return std::unexpected(std::move(outcome).error());
        }
        corrected_.insert(where.value());
    }
    return held;
}

void mending_source::keep(const block_ref& page) {
    while (cached_order_.size() >= cache_blocks_) {
        cached_.erase(cached_order_.front());
        cached_order_.pop_front();
    }
    cached_.emplace(page.where().value(), page);
    cached_order_.push_back(page.where().value());
}

// Of those that are not there yet; a small hole costs less than another read.
std::vector<mending_source::run> mending_source::runs_of(
    std::span<const metadata_block> blocks) const {
    std::vector<std::uint64_t> missing;
    for (const metadata_block block : blocks) {
        if (block.value() < block_count_ && !cached_.contains(block.value()) &&
            !failed_.contains(block.value())) {
            missing.push_back(block.value());
        }
    }
    std::sort(missing.begin(), missing.end());
    constexpr std::uint64_t hole_max = 8;
    std::vector<run> runs;
    for (const std::uint64_t block : missing) {
        if (!runs.empty() && block - runs.back().end < hole_max &&
            block - runs.back().begin < buffer_blocks_max) {
            runs.back().end = block + 1;
        } else {
            runs.push_back({.begin = block, .end = block + 1});
        }
    }
    return runs;
}

// Small metadata does not touch a whole MiB.
void mending_source::make_buffer(std::span<const run> runs) {
    std::uint64_t blocks = 0;
    for (const run& one : runs) {
        blocks += one.end - one.begin;
    }
    const std::size_t wanted_bytes =
        std::min<std::uint64_t>(blocks, buffer_blocks_max) * metadata_block_size_bytes;
    if (wanted_bytes > buffer_.size()) {
        buffer_ = aligned_buffer(wanted_bytes);
    }
}

void mending_source::prefetch(std::span<const metadata_block> blocks, block_kind kind) {
    const std::vector<run> runs = runs_of(blocks);
    std::vector<std::uint64_t> wanted;
    for (const metadata_block block : blocks) {
        wanted.push_back(block.value());
    }
    std::sort(wanted.begin(), wanted.end());
    make_buffer(runs);
    std::size_t next = 0;
    while (next < runs.size()) {
        std::vector<io_op> ops;
        std::size_t used = 0;
        const std::size_t first = next;
        for (; next < runs.size(); ++next) {
            const std::size_t size =
                (runs[next].end - runs[next].begin) * metadata_block_size_bytes;
            if (used + size > buffer_.size()) {
                break;
            }
            ops.push_back({io_kind::read, runs[next].begin * metadata_block_size_bytes,
                           buffer_.span().subspan(used, size)});
            used += size;
        }
        UTHIN_ASSERT(next != first);
        // What cannot be read is read again, one by one, when it is asked for.
        if (device_.run(ops)) {
            for (std::size_t index = first; index < next; ++index) {
                take_run(runs[index], ops[index - first].buffer_bytes, wanted, kind);
            }
        }
    }
}

void mending_source::take_run(const run& read, std::span<const std::byte> bytes,
                              std::span<const std::uint64_t> wanted, block_kind kind) {
    for (std::uint64_t block = read.begin; block < read.end; ++block) {
        const auto one = bytes.subspan((block - read.begin) * metadata_block_size_bytes)
                             .first<metadata_block_size_bytes>();
        if (std::binary_search(wanted.begin(), wanted.end(), block) && !cached_.contains(block) &&
            persistent_data::check_block(kind, metadata_block(block), one)) {
            auto* made = persistent_data::page::make(metadata_block(block), kind);
            const block_ref held(made);
            std::memcpy(made->mutable_bytes().data(), one.data(), one.size());
            keep(held);
        }
    }
}

void mending_source::replace(metadata_block where, block_ref node) {
    replaced_.insert_or_assign(where.value(), std::move(node));
}

}  // namespace uthin::thin_metadata
