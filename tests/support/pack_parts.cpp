#include "support/pack_parts.h"

#include <zlib.h>

#include <algorithm>
#include <array>

#include "base/endian.h"
#include "base/result.h"
#include "thin_metadata/pack.h"
#include "uthin/units.h"

namespace uthin::test {

result<std::vector<std::byte>> packed(block_device& image) {
    std::vector<std::byte> pack;
    UTHIN_TRY(thin_metadata::pack_metadata(
        image, [&pack](std::span<const std::byte> piece) -> result<void> {
            pack.insert(pack.end(), piece.begin(), piece.end());
            return {};
        }));
    return pack;
}

result<void> unpack_into(std::span<const std::byte> pack, block_device& image) {
    const std::uint64_t image_blocks = UTHIN_TRY(image.size_bytes()) / metadata_block_size_bytes;
    const auto input = [&pack](std::span<std::byte> buffer) -> result<std::size_t> {
        const std::size_t got = std::min(buffer.size(), pack.size());
        std::copy_n(pack.begin(), got, buffer.begin());
        pack = pack.subspan(got);
        return got;
    };
    std::uint64_t allowed = 0;
    return thin_metadata::unpack_metadata(
        input,
        {.resize = [&](std::uint64_t blocks) -> result<void> {
             allowed = blocks;
             return {};
         },
         .write = [&](std::uint64_t block, std::span<const std::byte> content) -> result<void> {
             if (block >= allowed || content.size() != metadata_block_size_bytes) {
                 return fail(error_code::failed, "a block is written where none was asked for");
             }
             return block < image_blocks ? image.write(block * metadata_block_size_bytes, content)
                                         : result<void>();
         },
         .flush = []() -> result<void> { return {}; }});
}

std::optional<open_pack> opened(std::span<const std::byte> pack) {
    constexpr std::size_t length_bytes = 8;
    constexpr std::size_t plain_bytes_max = 8U << 20;
    if (pack.size() < pack_header_bytes + length_bytes) {
        return std::nullopt;
    }
    open_pack open{.header = {pack.begin(), pack.begin() + pack_header_bytes},
                   .plain = std::vector<std::byte>(plain_bytes_max)};
    const auto chunk = pack.subspan(pack_header_bytes + length_bytes);
    uLongf plain_bytes = open.plain.size();
    if (uncompress(reinterpret_cast<Bytef*>(open.plain.data()), &plain_bytes,
                   reinterpret_cast<const Bytef*>(chunk.data()), chunk.size()) != Z_OK) {
        return std::nullopt;
    }
    open.plain.resize(plain_bytes);
    return open;
}

std::vector<std::byte> closed(const open_pack& open) {
    uLongf chunk_bytes = compressBound(open.plain.size());
    std::vector<std::byte> chunk(chunk_bytes);
    (void)compress2(reinterpret_cast<Bytef*>(chunk.data()), &chunk_bytes,
                    reinterpret_cast<const Bytef*>(open.plain.data()), open.plain.size(), 1);
    std::vector<std::byte> pack = open.header;
    std::array<std::byte, 8> length{};
    store_le(length.data(), std::uint64_t{chunk_bytes});
    pack.insert(pack.end(), length.begin(), length.end());
    pack.insert(pack.end(), chunk.begin(),
                chunk.begin() + static_cast<std::ptrdiff_t>(chunk_bytes));
    return pack;
}

void put_instructions(std::vector<std::byte>& plain, random_generator& random) {
    const std::size_t at = random.below(plain.size());
    for (std::size_t index = 0; index < 64 && at + index < plain.size(); ++index) {
        plain[at + index] = static_cast<std::byte>(random.below(12) << 4 | random.below(16));
    }
}

}  // namespace uthin::test
