#include "fuzz/image_input.h"

#include <algorithm>
#include <array>
#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"
#include "support/block_changes.h"
#include "support/round_trip.h"
#include "uthin/metadata.h"

namespace uthin::fuzz {

using persistent_data::block_bytes;
using persistent_data::block_kind;

namespace {

constexpr std::size_t block_size = metadata_block_size_bytes;
constexpr std::size_t blocks_max = 256;
constexpr std::size_t checksum_bytes = 4;
constexpr std::size_t number_at = 8;
// Shorter runs of zeros are written down as they are.
constexpr std::size_t zeros_min = 5;

class input_reader {
public:
    explicit input_reader(std::span<const std::byte> from) : rest_(from) {}
    [[nodiscard]] bool at_end() const { return rest_.empty(); }
    std::uint8_t u8() {
        const auto piece = take(1);
        return piece.empty() ? std::uint8_t{0} : std::to_integer<std::uint8_t>(piece[0]);
    }
    std::uint16_t u16() {
        const auto low = u8();
        return static_cast<std::uint16_t>(low | u8() << 8);
    }
    std::span<const std::byte> take(std::size_t count) {
        const auto piece = rest_.first(std::min(count, rest_.size()));
        rest_ = rest_.subspan(piece.size());
        return piece;
    }

private:
    std::span<const std::byte> rest_;
};

void put_u16(bytes& to, std::size_t value) {
    to.push_back(static_cast<std::byte>(value & 0xff));
    to.push_back(static_cast<std::byte>(value >> 8 & 0xff));
}

void read_pieces(input_reader& from, std::span<std::byte> block) {
    std::size_t at = 0;
    for (std::uint8_t left = from.u8(); left != 0 && !from.at_end(); --left) {
        at = std::min(at + from.u16(), block.size());
        const std::size_t length = from.u16();
        const auto piece = from.take(std::min(length, block.size() - at));
        std::ranges::copy(piece, block.begin() + static_cast<std::ptrdiff_t>(at));
        at += piece.size();
    }
}

struct piece {
    std::size_t begin = 0;
    std::size_t end = 0;
};

std::vector<piece> pieces_of(std::span<const std::byte> block) {
    std::vector<piece> found;
    for (std::size_t at = 0; at < block.size(); ++at) {
        if (block[at] == std::byte{0}) {
            continue;
        }
        if (!found.empty() && (at < found.back().end + zeros_min || found.size() == UINT8_MAX)) {
            found.back().end = at + 1;
        } else {
            found.push_back({at, at + 1});
        }
    }
    return found;
}

void apply_seal(seal how, std::uint64_t where, std::span<std::byte> block) {
    if (!how.has_kind()) {
        return;
    }
    const block_bytes bytes(block.data(), block_size);
    if ((how.value & seal::keeps_number) == 0) {
        persistent_data::prepare_block(how.kind(), metadata_block(where), bytes);
        return;
    }
    const auto number = load_le<std::uint64_t>(block.data() + number_at);
    persistent_data::prepare_block(how.kind(), metadata_block(number), bytes);
}

void remove_seal(seal how, std::span<std::byte> block) {
    if (how.has_kind()) {
        std::ranges::fill(block.first(checksum_bytes), std::byte{0});
        if ((how.value & seal::keeps_number) == 0) {
            std::ranges::fill(block.subspan(number_at, 8), std::byte{0});
        }
    }
}

}  // namespace

image_input decode_image(std::span<const std::byte> input) {
    input_reader from(input);
    image_input made;
    made.device_blocks = 1 + from.u16() % image_input::device_blocks_max;
    made.image = io::sparse_image(made.device_blocks * block_size);
    const auto parameters = from.take(from.u8());
    made.parameters.assign(parameters.begin(), parameters.end());
    bytes block(block_size);
    while (!from.at_end() && made.blocks.size() < blocks_max) {
        std::ranges::fill(block, std::byte{0});
        const std::uint64_t where = from.u16() % made.device_blocks;
        const seal how{from.u8()};
        read_pieces(from, block);
        apply_seal(how, where, block);
        made.image.write(where * block_size, block);
        made.blocks[where] = how;
    }
    return made;
}

bytes encode_image(const image_input& image) {
    bytes made;
    put_u16(made, image.device_blocks - 1);
    const std::size_t parameters = std::min<std::size_t>(image.parameters.size(), UINT8_MAX);
    made.push_back(static_cast<std::byte>(parameters));
    made.insert(made.end(), image.parameters.begin(),
                image.parameters.begin() + static_cast<std::ptrdiff_t>(parameters));
    bytes block(block_size);
    for (const auto& [where, how] : image.blocks) {
        image.image.read(where * block_size, block);
        remove_seal(how, block);
        const std::vector<piece> pieces = pieces_of(block);
        put_u16(made, where);
        made.push_back(static_cast<std::byte>(how.value));
        made.push_back(static_cast<std::byte>(pieces.size()));
        std::size_t at = 0;
        for (const piece& one : pieces) {
            put_u16(made, one.begin - at);
            put_u16(made, one.end - one.begin);
            made.insert(made.end(), block.begin() + static_cast<std::ptrdiff_t>(one.begin),
                        block.begin() + static_cast<std::ptrdiff_t>(one.end));
            at = one.end;
        }
    }
    return made;
}

// ---- seeds

bytes encode_device(block_device& device, std::span<const std::byte> parameters) {
    image_input made;
    made.device_blocks = *device.size_bytes() / block_size;
    made.parameters.assign(parameters.begin(), parameters.end());
    made.image = io::sparse_image(made.device_blocks * block_size);
    bytes block(block_size);
    for (const test::used_block& used :
         require_ok(test::blocks_in_use(device), "the blocks of a seed")) {
        require_ok(device.read(used.where * block_size, block), "reading a seed");
        made.image.write(used.where * block_size, block);
        made.blocks[used.where] = seal::of(used.kind);
    }
    return encode_image(made);
}

namespace {

constexpr std::uint64_t seed_blocks = 64;

std::unique_ptr<io::image_device> blank_device() {
    return std::make_unique<io::image_device>("seed", io::sparse_image(seed_blocks * block_size));
}

class pool_maker {
public:
    explicit pool_maker(block_device& device)
        : pool_(require_ok(metadata::open(device, {.data_block_size_sectors = 128, .format = true}),
                           "formatting a seed")) {
        require_ok(pool_->resize_data(1000), "the data of a seed");
    }
    void thin(std::uint64_t id) { require_ok(pool_->create_thin(device_id(id)), "a thin"); }
    void snap(std::uint64_t id, std::uint64_t origin) {
        require_ok(pool_->create_snap(device_id(id), device_id(origin)), "a snapshot");
    }
    void map(std::uint64_t id, std::uint64_t begin, std::uint64_t count, std::uint64_t step = 1) {
        thin_device* device = require_ok(pool_->open_device(device_id(id)), "opening a thin");
        for (std::uint64_t i = 0; i < count; ++i) {
            const auto block = require_ok(pool_->alloc_data_block(), "a data block");
            require_ok(pool_->insert_block(*device, virtual_block(begin + i * step), block),
                       "a mapping");
        }
        pool_->close_device(device);
    }
    void commit() { require_ok(pool_->commit(), "committing a seed"); }
    void hold() { require_ok(pool_->reserve_metadata_snap(), "a metadata snapshot"); }
    void close() { require_ok(pool_->close(), "closing a seed"); }

private:
    std::unique_ptr<metadata> pool_;
};

// Five thins that map the same blocks, each in its own leaf: counts that do not fit in two bits.
std::string widely_shared_xml() {
    std::string text =
        "<superblock uuid=\"\" time=\"3\" transaction=\"7\" version=\"2\" data_block_size=\"128\" "
        "nr_data_blocks=\"40\">\n";
    for (int id = 1; id <= 5; ++id) {
        text += fmt::format(
            "<device dev_id=\"{0}\" mapped_blocks=\"11\" transaction=\"{0}\" "
            "creation_time=\"{1}\" snap_time=\"{1}\">\n"
            "<range_mapping origin_begin=\"0\" data_begin=\"3\" length=\"10\" time=\"1\"/>\n"
            "<single_mapping origin_block=\"{2}\" data_block=\"{3}\" time=\"0\"/>\n</device>\n",
            id, id / 2, 20 * id, 20 + id);
    }
    return text + "</superblock>\n";
}

std::vector<std::unique_ptr<io::image_device>> seed_devices() {
    std::vector<std::unique_ptr<io::image_device>> made;
    {
        made.push_back(blank_device());
        pool_maker pool(*made.back());
        pool.close();
    }
    for (const bool holds : {false, true}) {
        made.push_back(blank_device());
        pool_maker pool(*made.back());
        pool.thin(1);
        pool.map(1, 0, 12);
        pool.snap(2, 1);
        pool.commit();
        pool.map(1, 3, 2);
        pool.snap(3, 1);
        if (holds) {
            pool.hold();
        }
        pool.commit();
        pool.map(2, 100, 5, 7);
        pool.close();
    }
    {
        made.push_back(blank_device());
        pool_maker pool(*made.back());
        pool.thin(0);
        pool.map(0, 0, 280, 3);
        pool.snap(1, 0);
        pool.close();
    }
    made.push_back(blank_device());
    require_ok(test::restore_xml(widely_shared_xml(), *made.back()), "restoring a seed");
    return made;
}

}  // namespace

std::vector<bytes> image_seeds(std::span<const bytes> parameters) {
    static const auto devices = seed_devices();
    std::vector<bytes> seeds;
    for (const bytes& with : parameters) {
        for (const auto& device : devices) {
            seeds.push_back(encode_device(*device, with));
        }
    }
    return seeds;
}

// ---- mutation

namespace {

void change_block(image_input& image, random_generator& random) {
    std::vector<test::used_block> sealed;
    for (const auto& [where, how] : image.blocks) {
        if (how.has_kind()) {
            sealed.push_back({where, how.kind()});
        }
    }
    if (sealed.empty()) {
        return;
    }
    const test::block_changer changer(std::move(sealed), image.device_blocks);
    auto open = changer.pick(image.image, random);
    (void)changer.change(open, image.image, random);
    image.image.write(open.block.where * block_size, open.bytes);
}

std::uint64_t any_block(const image_input& image, random_generator& random) {
    auto at = image.blocks.begin();
    std::advance(at, random.below(image.blocks.size()));
    return at->first;
}

void change_seal(image_input& image, random_generator& random) {
    const std::uint64_t where = any_block(image, random);
    seal& how = image.blocks[where];
    switch (random.below(4)) {
        case 0: how.value = static_cast<std::uint8_t>(random.below(seal::kinds_end)); break;
        case 1:
        case 2: {
            // The number of another block, and a checksum that is right.
            how.value |= seal::keeps_number;
            std::array<std::byte, 8> number{};
            store_le(number.data(), random.one_in(2) ? random.below(image.device_blocks)
                                                     : any_block(image, random));
            image.image.write(where * block_size + number_at, number);
            break;
        }
        default: how.value = seal::none; break;
    }
}

// A reference count of a bitmap: 0 to 3.
void change_count(image_input& image, random_generator& random) {
    for (const auto& [where, how] : image.blocks) {
        if (how.has_kind() && how.kind() == block_kind::bitmap && random.one_in(2)) {
            constexpr std::size_t header_bytes = 16;
            std::byte four{};
            const std::uint64_t at = where * block_size + header_bytes + random.below(24);
            image.image.read(at, std::span(&four, 1));
            four ^= std::byte{static_cast<unsigned char>(1 + random.below(3))}
                    << 2 * random.below(4);
            image.image.write(at, std::span(&four, 1));
            return;
        }
    }
}

void move_or_copy(image_input& image, random_generator& random) {
    const std::uint64_t from = any_block(image, random);
    const std::uint64_t to = random.below(image.device_blocks);
    bytes block(block_size);
    image.image.read(from * block_size, block);
    image.image.write(to * block_size, block);
    image.blocks[to] = image.blocks[from];
    if (random.one_in(2) && from != to) {
        image.image.zero(from * block_size, block_size);
        image.blocks.erase(from);
    }
}

void resize(image_input& image, random_generator& random) {
    image.device_blocks = random.one_in(2) ? 1 + random.below(image_input::device_blocks_max)
                                           : 1 + random.below(2 * seed_blocks);
    image.image.resize(image.device_blocks * block_size);
    image.blocks.erase(image.blocks.lower_bound(image.device_blocks), image.blocks.end());
}

}  // namespace

bytes mutated_image(std::span<const std::byte> input, random_generator& random) {
    image_input image = decode_image(input);
    for (std::uint64_t left = 1 + random.below(3); left != 0; --left) {
        if (image.blocks.empty()) {
            return mutated_bytes(input, random);
        }
        switch (random.below(16)) {
            case 0: change_seal(image, random); break;
            case 1: change_count(image, random); break;
            case 2: move_or_copy(image, random); break;
            case 3:
                if (random.one_in(4)) {
                    resize(image, random);
                }
                break;
            case 4:
            case 5:
            case 6: image.parameters = mutated_bytes(image.parameters, random); break;
            default: change_block(image, random); break;
        }
    }
    return encode_image(image);
}

}  // namespace uthin::fuzz
