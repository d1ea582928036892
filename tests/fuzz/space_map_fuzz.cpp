// Both space maps: counts read, raised, lowered, blocks given out, the maps extended and stored.
#include "fuzz/image_input.h"
#include "persistent_data/space_map_disk.h"
#include "persistent_data/space_map_metadata.h"
#include "thin_metadata/superblock.h"

namespace uthin::fuzz {
namespace {

namespace pd = persistent_data;

// Of the map of the metadata, whose changes copy blocks that it counts itself.
class copies {
public:
    explicit copies(pd::transaction_manager& tm) : tm_(tm) {}
    void watch(pd::space_map_metadata& map) {
        map.set_allocation_hook([this](std::uint64_t) { ++made_; });
    }
    // How many copies a change can have made of `block`: a pointer that moves to a copy takes its
    // reference along. None of what the transaction has to itself, which is changed in place.
    void begin(std::uint64_t block) {
        possible_ = !tm_.is_exclusive_shadow(metadata_block(block));
        made_ = 0;
    }
    [[nodiscard]] std::uint64_t most() const noexcept { return possible_ ? made_ : 0; }

private:
    pd::transaction_manager& tm_;
    bool possible_ = false;
    std::uint64_t made_ = 0;
};

// False: the map is in a state that only an abort may follow.
bool change_count(pd::space_map& map, copies* own, std::uint64_t block, bool up) {
    if (own != nullptr) {
        own->begin(block);
    }
    const auto before = map.count(block);
    const auto changed = up ? map.inc(block, block + 1) : map.dec(block, block + 1);
    if (!before || !changed) {
        return false;
    }
    const std::uint64_t copied = own != nullptr ? own->most() : 0;
    const auto after = map.count(block);
    // A block with two owners may turn out to be what it is by the change itself.
    require(after || after.error().code() == error_code::corrupt,
            "a count that was just changed can be read, or damage is told");
    if (!after) {
        return false;
    }
    const std::uint64_t wanted = up ? std::uint64_t{*before} + 1 : std::uint64_t{*before} - 1;
    require(*after <= wanted && wanted <= *after + copied,
            "one more, or one less, but for pointers that moved to a copy");
    return true;
}

bool give_out(pd::space_map& map) {
    const auto block = map.new_block();
    if (!block) {
        // Full is no reason to abort. Where the metadata is, there may have been a block and none
        // for the copy of the bitmap that counts it: half of that is done.
        return block.error().code() == error_code::no_data_space;
    }
    require(*block < map.nr_blocks(), "a block that is given out exists");
    const auto count = map.count(*block);
    require(count && *count == 1, "a block that is given out has one owner");
    return true;
}

bool change_disk_only(pd::space_map_disk& map, decisions& choose) {
    const data_block begin(choose.number());
    const auto held = map.hold_free({begin, begin + choose.number()}, 1 + choose.below(100));
    if (!held) {
        return false;
    }
    map.release_held();
    const auto range = map.new_range(1 + choose.below(100));
    require(!range || (range->begin < range->end && range->end.value() <= map.nr_blocks()),
            "a range that is given out exists");
    return range || range.error().code() == error_code::no_data_space;
}

bool change(pd::space_map& map, pd::space_map_disk* disk, copies* own, decisions& choose) {
    switch (choose.below(8)) {
        case 0: return map.count(choose.number()).has_value();
        case 1: return change_count(map, own, choose.number(), true);
        case 2: return change_count(map, own, choose.number(), false);
        case 3: {
            const std::uint64_t begin = choose.number();
            return map.inc(begin, begin + choose.below(200)).has_value();
        }
        case 4: {
            const std::uint64_t begin = choose.number();
            return map.dec(begin, begin + choose.below(200)).has_value();
        }
        case 5: return disk == nullptr || change_disk_only(*disk, choose);
        case 6: {
            // More than the metadata has room for, at most.
            const auto extended = map.extend(map.nr_blocks() + choose.below(40'000));
            return extended.has_value();
        }
        default: return give_out(map);
    }
}

void run(std::span<const std::byte> input) {
    const image_input image = decode_image(input);
    decisions choose(image.parameters);
    const auto device = image.device();
    pd::block_manager blocks(*device, image.device_blocks, 32);
    bytes block(metadata_block_size_bytes);
    image.image.read(0, block);
    const auto superblock = thin_metadata::load_superblock(
        pd::const_block_bytes(block.data(), metadata_block_size_bytes));
    pd::transaction_manager tm(blocks);
    if (!tm.open_space_map(superblock.metadata_sm_root)) {
        return;
    }
    pd::space_map_disk disk(tm);
    disk.open(superblock.data_sm_root);
    copies metadata_copies(tm);
    metadata_copies.watch(tm.metadata_map());
    for (int left = 24; left != 0 && !choose.at_end(); --left) {
        const bool is_disk = choose.below(3) != 0;
        const bool goes_on = is_disk ? change(disk, &disk, nullptr, choose)
                                     : change(tm.metadata_map(), nullptr, &metadata_copies, choose);
        if (!goes_on) {
            return;
        }
    }
    if (disk.commit() && tm.metadata_map().commit()) {
        require(disk.root().nr_blocks == disk.nr_blocks(), "the root tells the size of the map");
    }
}

std::vector<bytes> seeds() {
    random_generator random(1);
    std::vector<bytes> parameters;
    for (int i = 0; i < 4; ++i) {
        bytes made;
        for (int count = 0; count < 60; ++count) {
            made.push_back(static_cast<std::byte>(random.below(40)));
        }
        parameters.push_back(std::move(made));
    }
    // A count of the metadata's map is raised first thing, and is in the bitmap that is copied for
    // it (docs/fuzzing.md, findings).
    for (std::uint8_t bitmap = 1; bitmap < 16; ++bitmap) {
        parameters.push_back({std::byte{0}, std::byte{1}, std::byte{bitmap}});
    }
    return image_seeds(parameters);
}

const registration made({"space_map", run, seeds, mutated_image});

}  // namespace
}  // namespace uthin::fuzz
