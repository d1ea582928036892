#include "support/block_changes.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "base/endian.h"
#include "base/result.h"
#include "base/zero.h"
#include "support/forwarding_device.h"
#include "thin_metadata/checker.h"

namespace uthin::test {

using persistent_data::block_bytes;
using persistent_data::block_kind;
using persistent_data::const_block_bytes;

namespace {

constexpr std::size_t block_size = metadata_block_size_bytes;
constexpr std::size_t checksum_bytes = 4;
constexpr std::size_t node_header_bytes = 32;

std::optional<block_kind> kind_of(std::uint64_t where, const std::vector<std::byte>& bytes) {
    const const_block_bytes block(bytes.data(), block_size);
    for (const block_kind kind :
         {block_kind::superblock, block_kind::btree_node, block_kind::bitmap, block_kind::index}) {
        if (persistent_data::check_block(kind, metadata_block(where), block)) {
            return kind;
        }
    }
    return std::nullopt;
}

// Notes which blocks are read.
class reading_device final : public forwarding_device {
public:
    reading_device(block_device& below, std::set<std::uint64_t>& seen)
        : forwarding_device(below), seen_(seen) {}
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                    std::span<std::byte> buffer) override {
        for (std::uint64_t at = 0; at < buffer.size(); at += block_size) {
            seen_.insert((offset_bytes + at) / block_size);
        }
        return below().read(offset_bytes, buffer);
    }

private:
    std::set<std::uint64_t>& seen_;
};

}  // namespace

result<std::vector<used_block>> blocks_in_use(block_device& image) {
    std::set<std::uint64_t> seen;
    reading_device device(image, seen);
    const auto view = UTHIN_TRY(thin_metadata::open_offline(device, {}));
    UTHIN_TRY(thin_metadata::check_metadata(*view, {}));
    std::vector<used_block> used;
    std::vector<std::byte> bytes(block_size);
    for (const std::uint64_t where : seen) {
        if (!image.read(where * block_size, bytes) || is_zero(bytes)) {
            continue;
        }
        if (const auto kind = kind_of(where, bytes)) {
            used.push_back({.where = where, .kind = *kind});
        }
    }
    return used;
}

block_changer::open_block block_changer::pick(const io::sparse_image& image,
                                              random_generator& random) const {
    // The few blocks of which much depends are taken more often than their number says.
    open_block open;
    const bool any = !random.one_in(3);
    do {
        open.block = used_[random.below(used_.size())];
    } while (!any && open.block.kind == block_kind::btree_node && !random.one_in(8));
    open.bytes.resize(block_size);
    image.read(open.block.where * block_size, open.bytes);
    return open;
}

std::uint64_t block_changer::strange_number(random_generator& random) const {
    switch (random.below(8)) {
        case 0: return 0;
        case 1: return UINT64_MAX - random.below(2);
        case 2: return 1ULL << random.below(64);
        case 3: return (1ULL << random.below(64)) - 1;
        case 4: return block_count_ - random.below(3);
        case 5: return random.next();
        default: return used_[random.below(used_.size())].where;
    }
}

std::string block_changer::change_word(open_block& open, random_generator& random) const {
    const std::uint64_t number = strange_number(random);
    const bool is_long = random.one_in(2);
    const std::size_t width = is_long ? 8 : 4;
    const std::size_t at = checksum_bytes + 4 * random.below((block_size - 16) / 4);
    std::array<std::byte, 8> raw{};
    store_le(raw.data(), number);
    std::memcpy(open.bytes.data() + at, raw.data(), width);
    return fmt::format("{} bytes at {} = {}", width, at, number);
}

std::string block_changer::change_superblock(open_block& open, random_generator& random) const {
    // Flags, magic, version, time, transaction, held root, space map roots, trees, sizes.
    constexpr std::array<std::size_t, 21> fields = {4,   16,  32,  40,  44,  48,  56,
                                                    64,  72,  80,  88,  192, 200, 208,
                                                    216, 320, 328, 336, 340, 344, 352};
    const std::size_t at = fields[random.below(fields.size())];
    const std::uint64_t number = strange_number(random);
    std::array<std::byte, 8> raw{};
    store_le(raw.data(), number);
    std::memcpy(open.bytes.data() + at, raw.data(), at == 340 || at % 8 != 0 ? 4 : 8);
    return fmt::format("superblock field at {} = {}", at, number);
}

std::string block_changer::change_node(open_block& open, random_generator& random) const {
    const auto entries = load_le<std::uint32_t>(open.bytes.data() + 16);
    const auto entries_max = load_le<std::uint32_t>(open.bytes.data() + 20);
    const auto value_size = load_le<std::uint32_t>(open.bytes.data() + 24);
    const std::uint64_t number = strange_number(random);
    if (random.one_in(3) || entries == 0 || value_size > 24) {
        // Flags, own number, entries, their limit, size of values.
        constexpr std::array<std::size_t, 5> fields = {4, 8, 16, 20, 24};
        const std::size_t at = fields[random.below(fields.size())];
        const std::uint64_t near =
            load_le<std::uint32_t>(open.bytes.data() + at) + random.below(3) - 1;
        store_le(open.bytes.data() + at,
                 static_cast<std::uint32_t>(random.one_in(2) ? near : number));
        return fmt::format("node field at {} = {}", at, random.one_in(2) ? near : number);
    }
    const std::size_t index = random.below(entries);
    const std::size_t key_at = node_header_bytes + 8 * index;
    const std::size_t value_at =
        node_header_bytes + 8 * std::size_t{entries_max} + value_size * index;
    const bool is_key = random.one_in(3);
    const std::size_t at = is_key ? key_at : value_at;
    if (at + 8 > block_size) {
        return change_word(open, random);
    }
    std::array<std::byte, 8> raw{};
    const auto old = load_le<std::uint64_t>(open.bytes.data() + at);
    const std::uint64_t made = random.one_in(3)   ? old + random.below(5) - 2
                               : random.one_in(2) ? number << 24 | (old & 0xffffff)
                                                  : number;
    store_le(raw.data(), made);
    std::memcpy(open.bytes.data() + at, raw.data(),
                std::min<std::size_t>(8, is_key ? 8 : value_size));
    return fmt::format("{} {} = {} (was {})", is_key ? "key" : "value", index, made, old);
}

std::string block_changer::change(open_block& open, io::sparse_image& image,
                                  random_generator& random) const {
    switch (random.below(8)) {
        case 0: {
            const std::size_t bit = random.below(8 * block_size);
            open.bytes[bit / 8] ^= std::byte{1} << (bit % 8);
            return fmt::format("bit {}", bit);
        }
        case 1: return change_word(open, random);
        case 2: {
            const open_block other = pick(image, random);
            open.bytes = other.bytes;
            return fmt::format("content of block {}", other.block.where);
        }
        case 3: {
            open_block other = pick(image, random);
            std::swap(open.bytes, other.bytes);
            persistent_data::prepare_block(other.block.kind, metadata_block(other.block.where),
                                           block_bytes(other.bytes.data(), block_size));
            image.write(other.block.where * block_size, other.bytes);
            return fmt::format("swapped with block {}", other.block.where);
        }
        default: break;
    }
    return open.block.kind == block_kind::superblock   ? change_superblock(open, random)
           : open.block.kind == block_kind::btree_node ? change_node(open, random)
                                                       : change_word(open, random);
}

}  // namespace uthin::test
