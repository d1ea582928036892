#include "thin_metadata/pack.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/aligned_buffer.h"
#include "base/crc32c.h"
#include "base/endian.h"
#include "base/out_of_memory.h"
#include "thin_metadata/pack_encoder.h"
#include "uthin/units.h"

namespace uthin::thin_metadata {
namespace {

constexpr std::uint64_t pack_magic = 0xa537a0aa6309ef77;
constexpr std::uint64_t pack_version = 3;
constexpr std::size_t blocks_per_stream = 1024;
constexpr std::size_t block_bytes = metadata_block_size_bytes;
// Chunks as 1.x writes them are far smaller; this bounds what a damaged length can ask for.
constexpr std::uint64_t stream_bytes_max = 64ULL << 20;

constexpr std::array<std::uint32_t, 3> superblock_salts = {160774, 9031977, 146538381};
constexpr std::uint32_t node_salt = 121107;
constexpr std::array<std::uint32_t, 4> other_salts = {node_salt, 240779, 160478, 595846735};

// The kind of block that its checksum fits.
std::uint32_t salt_of(std::span<const std::byte> block) {
    const auto stored = load_le<std::uint32_t>(block.data());
    return crc32c_raw(~0U, block.subspan(sizeof stored, block_bytes - sizeof stored)) ^ stored;
}

bool is_among(std::uint32_t salt, std::span<const std::uint32_t> salts) {
    return std::find(salts.begin(), salts.end(), salt) != salts.end();
}

result<void> write_stream(std::vector<std::byte>& plain, const byte_output& output) {
    if (plain.empty()) {
        return {};
    }
    uLongf packed_bytes = compressBound(plain.size());
    std::vector<std::byte> packed(sizeof(std::uint64_t) + packed_bytes);
    const int status =
        compress2(reinterpret_cast<Bytef*>(packed.data() + sizeof(std::uint64_t)), &packed_bytes,
                  reinterpret_cast<const Bytef*>(plain.data()), plain.size(), Z_BEST_COMPRESSION);
    if (status != Z_OK) {
        return fail(error_code::out_of_memory, "the blocks cannot be compressed");
    }
    store_le(packed.data(), std::uint64_t{packed_bytes});
    plain.clear();
    return output(std::span(packed).first(sizeof(std::uint64_t) + packed_bytes));
}

// Unpacked bytes of one zlib stream, as they are asked for.
class stream_reader {
public:
    stream_reader() = default;
    stream_reader(const stream_reader&) = delete;
    stream_reader& operator=(const stream_reader&) = delete;
    ~stream_reader() { inflateEnd(&state_); }

    result<void> open(std::span<std::byte> packed) {
        state_.next_in = reinterpret_cast<Bytef*>(packed.data());
        state_.avail_in = static_cast<uInt>(packed.size());
        return inflateInit(&state_) == Z_OK
                   ? result<void>()
                   : fail(error_code::out_of_memory, "the blocks cannot be unpacked");
    }
    // False: the stream has ended before the first byte.
    result<bool> read(std::span<std::byte> into) {
        state_.next_out = reinterpret_cast<Bytef*>(into.data());
        state_.avail_out = static_cast<uInt>(into.size());
        while (state_.avail_out != 0) {
            const int status = inflate(&state_, Z_NO_FLUSH);
            if (status == Z_STREAM_END && state_.avail_out == into.size()) {
                return false;
            }
            if ((status != Z_OK && status != Z_STREAM_END) ||
                (status == Z_STREAM_END && state_.avail_out != 0)) {
                return fail(error_code::corrupt, "damaged pack file: a chunk cannot be unpacked");
            }
        }
        return true;
    }
    result<std::uint64_t> number(std::size_t bytes) {
        std::array<std::byte, 8> raw{};
        if (bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8) {
            return fail(error_code::corrupt, "damaged pack file: an operand of unknown size");
        }
        if (!UTHIN_TRY(read(std::span(raw).first(bytes)))) {
            return fail(error_code::corrupt, "damaged pack file: a block is cut off");
        }
        return load_le<std::uint64_t>(raw.data());
    }

private:
    z_stream state_{};
};

// Runs the instructions that make one block.
class block_decoder {
public:
    block_decoder(stream_reader& in, std::span<std::byte> out) : in_(in), out_(out) {}

    result<void> run() {
        while (!out_.empty()) {
            UTHIN_TRY(step());
        }
        return {};
    }

private:
    static std::unexpected<error> damaged() {
        return fail(error_code::corrupt, "damaged pack file: instructions that make no block");
    }

    result<void> emit(std::uint64_t times) {
        if (times * sizeof base_ > out_.size()) {
            return damaged();
        }
        for (; times != 0; --times) {
            store_le(out_.data(), base_);
            out_ = out_.subspan(sizeof base_);
        }
        return {};
    }

    result<void> step() {
        const std::uint64_t code = UTHIN_TRY(in_.number(1));
        const std::uint64_t nibble = code & 0xf;
        switch (static_cast<pack_opcode>(code >> 4)) {
            case pack_opcode::set: base_ = UTHIN_TRY(in_.number(nibble)); return emit(1);
            case pack_opcode::forward:
            case pack_opcode::forward_wide:
            case pack_opcode::backward:
            case pack_opcode::backward_wide: base_ += UTHIN_TRY(delta(code)); return emit(1);
            case pack_opcode::repeat: return emit(nibble);
            case pack_opcode::repeat_long: return emit(nibble << 8 | UTHIN_TRY(in_.number(1)));
            case pack_opcode::count: return repeat_next(nibble);
            case pack_opcode::count_long:
                return repeat_next(nibble << 8 | UTHIN_TRY(in_.number(1)));
            case pack_opcode::literal: return copy(nibble);
            case pack_opcode::literal_wide: return copy(UTHIN_TRY(in_.number(nibble)));
            case pack_opcode::shifted_run: return shifted(nibble << 8 | UTHIN_TRY(in_.number(1)));
        }
        return damaged();
    }

    // What the instruction `code` adds to the base.
    result<std::uint64_t> delta(std::uint64_t code) {
        const auto which = static_cast<pack_opcode>(code >> 4);
        const bool wide = which == pack_opcode::forward_wide || which == pack_opcode::backward_wide;
        const std::uint64_t step = wide ? UTHIN_TRY(in_.number(code & 0xf)) : code & 0xf;
        return which == pack_opcode::forward || which == pack_opcode::forward_wide ? step
                                                                                   : 0 - step;
    }

    result<void> repeat_next(std::uint64_t times) {
        const std::uint64_t code = UTHIN_TRY(in_.number(1));
        const std::uint64_t tag = code >> 4;
        if (tag < 1 || tag > 4) {
            return damaged();
        }
        const std::uint64_t step = UTHIN_TRY(delta(code));
        for (; times != 0; --times) {
            base_ += step;
            UTHIN_TRY(emit(1));
        }
        return {};
    }

    result<void> copy(std::uint64_t bytes) {
        if (bytes > out_.size()) {
            return damaged();
        }
        if (bytes != 0 && !UTHIN_TRY(in_.read(out_.first(bytes)))) {
            return damaged();
        }
        out_ = out_.subspan(bytes);
        return {};
    }

    // Numbers as their high parts, then their low 24 bits.
    result<void> shifted(std::uint64_t count) {
        constexpr std::uint64_t low_mask = (1ULL << pack_shift_bits) - 1;
        if (count * 8 > out_.size() || is_shifted_) {
            return damaged();
        }
        is_shifted_ = true;
        const std::span<std::byte> place = out_.first(count * 8);
        const std::span<std::byte> rest = out_.subspan(count * 8);
        std::vector<std::byte> parts[2];
        for (std::vector<std::byte>& part : parts) {
            part.resize(count * 8);
            out_ = part;
            UTHIN_TRY(run());
        }
        for (std::size_t index = 0; index < count; ++index) {
            const auto high = load_le<std::uint64_t>(parts[0].data() + 8 * index);
            const auto low = load_le<std::uint64_t>(parts[1].data() + 8 * index);
            store_le(place.data() + 8 * index, high << pack_shift_bits | (low & low_mask));
        }
        out_ = rest;
        is_shifted_ = false;
        return {};
    }

    stream_reader& in_;
    std::span<std::byte> out_;
    std::uint64_t base_ = 0;
    bool is_shifted_ = false;
};

// Block 0 is kept in `first`.
result<void> unpack_stream(std::span<std::byte> packed, std::uint64_t block_count,
                           const unpack_target& target, std::span<std::byte> first) {
    stream_reader in;
    UTHIN_TRY(in.open(packed));
    aligned_buffer block(block_bytes);
    for (;;) {
        std::array<std::byte, 8> raw{};
        if (!UTHIN_TRY(in.read(raw))) {
            return {};
        }
        const auto number = load_le<std::uint64_t>(raw.data());
        if (number >= block_count) {
            return fail(error_code::corrupt,
                        fmt::format("damaged pack file: block {} of {}", number, block_count));
        }
        UTHIN_TRY(block_decoder(in, block.span()).run());
        if (number == 0) {
            std::copy(block.span().begin(), block.span().end(), first.begin());
        } else {
            UTHIN_TRY(target.write(number, block.span()));
        }
    }
}

result<void> write_unfinished_mark(const unpack_target& target) {
    // Not zeros: the kernel would take the device for new and format it.
    aligned_buffer block(block_bytes);
    constexpr std::string_view mark = "unpacking of metadata was not finished";
    std::memcpy(block.data() + sizeof(std::uint32_t), mark.data(), mark.size());
    // ORDER: no block of an old pool is written over before its superblock is gone for good.
    UTHIN_TRY(target.write(0, block.span()));
    return target.flush();
}

result<void> unpack_all(const byte_input& input, std::uint64_t blocks, const unpack_target& target,
                        std::span<std::byte> first) {
    std::vector<std::byte> packed;
    for (;;) {
        std::array<std::byte, 8> raw{};
        const std::size_t got = UTHIN_TRY(input(raw));
        if (got == 0) {
            return {};
        }
        const auto length = load_le<std::uint64_t>(raw.data());
        if (got != raw.size() || length > stream_bytes_max) {
            return fail(error_code::corrupt, "damaged pack file: a chunk has no proper length");
        }
        packed.resize(length);
        if (UTHIN_TRY(input(packed)) != length) {
            return fail(error_code::corrupt, "damaged pack file: it is cut off");
        }
        UTHIN_TRY(unpack_stream(packed, blocks, target, first));
    }
}

}  // namespace

bool is_any_superblock(std::span<const std::byte> block) {
    return is_among(salt_of(block), superblock_salts);
}

result<void> pack_metadata(block_device& device, const byte_output& output) {
    return or_out_of_memory([&]() -> result<void> {
        const std::uint64_t blocks = UTHIN_TRY(device.size_bytes()) / block_bytes;
        std::array<std::byte, 32> head{};
        store_le(head.data(), pack_magic);
        store_le(head.data() + 8, pack_version);
        store_le(head.data() + 16, std::uint64_t{block_bytes});
        store_le(head.data() + 24, blocks);
        UTHIN_TRY(output(head));
        aligned_buffer chunk(blocks_per_stream * block_bytes);
        std::vector<std::byte> plain;
        std::size_t in_stream = 0;
        for (std::uint64_t first = 0; first < blocks; first += blocks_per_stream) {
            const std::uint64_t count = std::min<std::uint64_t>(blocks_per_stream, blocks - first);
            UTHIN_TRY(device.read(first * block_bytes, chunk.span().first(count * block_bytes)));
            for (std::size_t index = 0; index < count; ++index) {
                const auto block = chunk.span().subspan(index * block_bytes, block_bytes);
                const std::uint32_t salt = salt_of(block);
                if (is_among(salt, superblock_salts) || is_among(salt, other_salts)) {
                    append_packed_block(plain, first + index, block, salt == node_salt);
                    if (++in_stream == blocks_per_stream) {
                        UTHIN_TRY(write_stream(plain, output));
                        in_stream = 0;
                    }
                }
            }
        }
        return write_stream(plain, output);
    });
}

result<void> unpack_metadata(const byte_input& input, const unpack_target& target) {
    return or_out_of_memory([&]() -> result<void> {
        std::array<std::byte, 32> head{};
        if (UTHIN_TRY(input(head)) != head.size() ||
            load_le<std::uint64_t>(head.data()) != pack_magic) {
            return fail(error_code::invalid_argument, "Not a pack file");
        }
        const auto version = load_le<std::uint64_t>(head.data() + 8);
        const auto blocks = load_le<std::uint64_t>(head.data() + 24);
        if (version != pack_version || load_le<std::uint64_t>(head.data() + 16) != block_bytes) {
            return fail(error_code::invalid_argument,
                        fmt::format("unsupported pack file version ({}).", version));
        }
        // Metadata is smaller; cache and era devices have no limit of their own.
        constexpr std::uint64_t blocks_max = 1ULL << 32;
        if (blocks > blocks_max) {
            return fail(error_code::corrupt, fmt::format("damaged pack file: {} blocks", blocks));
        }
        UTHIN_TRY(target.resize(blocks));
        if (blocks == 0) {
            return unpack_all(input, blocks, target, {});
        }
        UTHIN_TRY(write_unfinished_mark(target));
        aligned_buffer first(block_bytes);
        UTHIN_TRY(unpack_all(input, blocks, target, first.span()));
        // ORDER: everything that the superblock points to is durable before it is written.
        UTHIN_TRY(target.flush());
        UTHIN_TRY(target.write(0, first.span()));
        return target.flush();
    });
}

}  // namespace uthin::thin_metadata
