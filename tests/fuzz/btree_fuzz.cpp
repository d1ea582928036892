// Trees from any root: walked, searched, counted; what these say agrees. Then changed.
#include <algorithm>
#include <optional>

#include "fuzz/image_input.h"
#include "persistent_data/btree.h"
#include "persistent_data/space_map_metadata.h"
#include "thin_metadata/superblock.h"

namespace uthin::fuzz {
namespace {

namespace pd = persistent_data;

constexpr std::uint64_t entries_max = 20'000;

struct walked {
    bool whole = false;
    std::vector<std::uint64_t> keys;
};

walked walk(pd::block_source& source, metadata_block root, std::uint32_t value_size_bytes) {
    walked found;
    pd::btree_cursor cursor(source, root, value_size_bytes);
    if (!cursor.seek(0)) {
        return found;
    }
    while (!cursor.at_end()) {
        require(found.keys.empty() || found.keys.back() < cursor.key(), "keys ascend");
        found.keys.push_back(cursor.key());
        if (found.keys.size() > entries_max || !cursor.next()) {
            return found;
        }
    }
    found.whole = true;
    return found;
}

void search(pd::block_source& source, metadata_block root, std::uint32_t value_size_bytes,
            decisions& choose) {
    const walked tree = walk(source, root, value_size_bytes);
    bytes value(value_size_bytes);
    const std::uint64_t key = choose.number();
    const auto found = pd::btree_lookup(source, root, key, value);
    const auto highest = pd::btree_highest_key(source, root);
    (void)pd::btree_key_at_or_below(source, root, key);
    const std::uint64_t end = key + choose.number();
    (void)pd::btree_count_range(source, root, key, end);
    if (!tree.whole) {
        return;
    }
    // Every node of the tree is sound, so nothing can be in the way.
    require(found && *found == std::ranges::binary_search(tree.keys, key),
            "a lookup finds what the walk saw, and nothing else");
    require(highest && highest->has_value() != tree.keys.empty(), "the highest key is told");
    require(tree.keys.empty() || **highest == tree.keys.back(), "it is the last of the walk");
    const auto all = pd::btree_count_range(source, root, 0, UINT64_MAX);
    const std::uint64_t last = !tree.keys.empty() && tree.keys.back() == UINT64_MAX ? 1U : 0U;
    require(all && *all + last == tree.keys.size(), "a count is that of the walk");
}

void change(pd::block_manager& blocks, const pd::disk_space_map_root& map, metadata_block root,
            std::uint32_t value_size_bytes, decisions& choose) {
    pd::transaction_manager tm(blocks);
    if (!tm.open_space_map(map)) {
        return;
    }
    pd::value_rule rule;
    pd::btree tree(tm, value_size_bytes, rule);
    const bytes value(value_size_bytes, std::byte{0x5a});
    for (int left = 12; left != 0 && !choose.at_end(); --left) {
        const std::uint64_t key = choose.number();
        std::optional<error> failure;
        switch (choose.below(4)) {
            case 0: {
                const auto removed =
                    tree.remove_range(root, key, key + choose.number(), 1 + choose.below(8));
                removed ? void(root = removed->root) : void(failure = removed.error());
                break;
            }
            case 1: {
                const auto same = [](std::byte*) { return result<void>(); };
                const auto updated = tree.update(root, key, same);
                updated                                           ? void(root = *updated)
                : updated.error().code() == error_code::not_found ? void()
                                                                  : void(failure = updated.error());
                break;
            }
            default: {
                const auto inserted = tree.insert(root, key, value.data());
                inserted ? void(root = inserted->root) : void(failure = inserted.error());
                break;
            }
        }
        if (failure) {
            return;
        }
    }
    (void)tree.destroy(root);
    (void)tm.metadata_map().commit();
}

void run(std::span<const std::byte> input) {
    const image_input image = decode_image(input);
    decisions choose(image.parameters);
    const auto device = image.device();
    const std::uint32_t value_size_bytes = choose.below(2) == 0 ? 8 : 24;
    pd::block_manager blocks(*device, image.device_blocks, 32);
    bytes block(metadata_block_size_bytes);
    image.image.read(0, block);
    const auto superblock = thin_metadata::load_superblock(
        pd::const_block_bytes(block.data(), metadata_block_size_bytes));
    const std::uint64_t which = choose.number();
    const metadata_block root(which == 0   ? std::uint64_t{superblock.data_mapping_root}
                              : which == 1 ? std::uint64_t{superblock.device_details_root}
                                           : which - 2);
    search(blocks, root, value_size_bytes, choose);
    change(blocks, superblock.metadata_sm_root, root, value_size_bytes, choose);
}

std::vector<bytes> seeds() {
    const auto numbers = [](std::initializer_list<unsigned char> from) {
        bytes made;
        for (const unsigned char byte : from) {
            made.push_back(std::byte{byte});
        }
        return made;
    };
    return image_seeds(std::vector<bytes>{
        numbers({0, 0, 1, 10, 5, 2, 0, 0, 2, 3, 2, 9, 9, 2}),
        numbers({1, 1, 1, 200, 1, 1, 3, 2, 4, 2, 1, 0, 3}),
        numbers({0, 8, 6, 40, 3, 2, 4, 2, 7, 3, 60, 0, 30, 9, 2}),
        numbers({0, 12, 6, 249, 1, 1, 3, 2, 4, 2, 7, 3, 60, 0, 250, 1, 1, 1, 30}),
    });
}

const registration made({"btree", run, seeds, mutated_image});

}  // namespace
}  // namespace uthin::fuzz
