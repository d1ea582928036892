// Opening metadata: the superblock, the metadata snapshot, roots given by hand.
#include "fuzz/image_input.h"
#include "pool/pool_devices.h"
#include "thin_metadata/metadata_view.h"
#include "thin_metadata/pack.h"
#include "thin_metadata/superblock.h"
#include "uthin/metadata.h"

namespace uthin::fuzz {
namespace {

using persistent_data::const_block_bytes;
using thin_metadata::disk_superblock;

void read_block(const image_input& image) {
    bytes block(metadata_block_size_bytes);
    image.image.read(0, block);
    const const_block_bytes raw(block.data(), metadata_block_size_bytes);
    (void)thin_metadata::is_blank(raw);
    (void)thin_metadata::is_any_superblock(raw);
    const auto superblock = thin_metadata::check_superblock(metadata_block(0), raw);
    if (!superblock) {
        return;
    }
    (void)thin_metadata::check_features(*superblock, true);
    (void)thin_metadata::check_features(*superblock, false);
    bytes again = block;
    thin_metadata::store_superblock(
        *superblock, persistent_data::block_bytes(again.data(), metadata_block_size_bytes));
    require(again == block, "a superblock that is stored as it was read is the same");
}

void run(std::span<const std::byte> input) {
    const image_input image = decode_image(input);
    decisions choose(image.parameters);
    read_block(image);
    const auto device = image.device();
    for (const bool snapshot : {false, true}) {
        thin_metadata::offline_options options;
        options.metadata_snapshot = snapshot;
        if (!choose.at_end()) {
            options.mapping_root = choose.number();
            options.details_root = choose.number();
        }
        const auto view = thin_metadata::open_offline(*device, options);
        require(!view || !(*view)->expired(), "nobody revokes a view of a file");
    }
    (void)check_pool_devices({image.device(), image.device()});
    (void)check_devices_are_blank({image.device(), image.device()});
    const auto pool = metadata::open(*device, {.read_only = true});
    if (pool) {
        (void)(*pool)->list_devices();
        (void)(*pool)->data_space();
        (void)(*pool)->metadata_space();
        (void)(*pool)->metadata_snap();
        require(!(*pool)->create_thin(device_id(77)), "read-only metadata takes no thin");
    }
    bytes before(metadata_block_size_bytes);
    bytes after(metadata_block_size_bytes);
    image.image.read(0, before);
    device->image().read(0, after);
    require(before == after, "opening writes nothing");
}

std::vector<bytes> seeds() {
    return image_seeds(std::vector<bytes>{{}, {std::byte{9}, std::byte{4}}});
}

const registration made({"superblock", run, seeds, mutated_image});

}  // namespace
}  // namespace uthin::fuzz
