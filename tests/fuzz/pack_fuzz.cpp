// Packing any metadata, sound or not: what is unpacked again is, in every block that verifies, what
// was packed.
#include <algorithm>

#include "fuzz/image_input.h"
#include "support/pack_parts.h"

namespace uthin::fuzz {
namespace {

using persistent_data::block_kind;

bool verifies(std::uint64_t where, const bytes& block) {
    const persistent_data::const_block_bytes raw(block.data(), metadata_block_size_bytes);
    return std::ranges::any_of(
        std::array{block_kind::superblock, block_kind::btree_node, block_kind::bitmap,
                   block_kind::index},
        [&](block_kind kind) {
            return persistent_data::check_block(kind, metadata_block(where), raw).has_value();
        });
}

void run(std::span<const std::byte> input) {
    const image_input image = decode_image(input);
    const auto device = image.device();
    const bytes pack = require_ok(test::packed(*device), "any image can be packed");
    io::image_device copy("copy",
                          io::sparse_image(image.device_blocks * metadata_block_size_bytes));
    require_ok(test::unpack_into(pack, copy), "what was packed can be unpacked");
    require(require_ok(test::packed(*device), "packing again") == pack,
            "the same blocks make the same bytes");
    bytes before(metadata_block_size_bytes);
    bytes after(metadata_block_size_bytes);
    for (const auto& [where, how] : image.blocks) {
        image.image.read(where * metadata_block_size_bytes, before);
        copy.image().read(where * metadata_block_size_bytes, after);
        require(before == after || !verifies(where, before), "a block that verifies is kept");
    }
}

std::vector<bytes> seeds() {
    return image_seeds(std::vector<bytes>{{}});
}

const registration made({"pack", run, seeds, mutated_image, 30});

}  // namespace
}  // namespace uthin::fuzz
