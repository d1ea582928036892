// Differences of two devices: together with one side they tell the other.
#include "fuzz/image_input.h"
#include "support/round_trip.h"
#include "thin_metadata/difference.h"

namespace uthin::fuzz {
namespace {

using thin_metadata::difference_kind;
using thin_metadata::difference_run;
using block_table = std::map<std::uint64_t, std::uint64_t>;

constexpr std::uint64_t blocks_max = 50'000;

block_table blocks_of(const test::mapping_recorder::mapping_table& from) {
    block_table blocks;
    for (const auto& [where, to] : from) {
        blocks[where] = to.first;
    }
    return blocks;
}

struct sides {
    block_table left;
    block_table right;
    std::uint64_t end = 0;
    std::uint64_t blocks = 0;

    result<void> add(const difference_run& run) {
        require(run.begin.value() >= end && run.count != 0, "runs ascend and are not empty");
        end = run.begin.value() + run.count;
        blocks += run.count;
        require(run.kind != difference_kind::same || run.left == run.right,
                "the same is the same on both sides");
        for (std::uint64_t i = 0; i < run.count && blocks <= blocks_max; ++i) {
            if (run.kind != difference_kind::right_only) {
                left[run.begin.value() + i] = run.left.value() + i;
            }
            if (run.kind != difference_kind::left_only) {
                right[run.begin.value() + i] = run.right.value() + i;
            }
        }
        return {};
    }
};

void compare(thin_metadata::metadata_view& view, std::uint64_t left, std::uint64_t right,
             const result<test::device_tables>& tables) {
    const auto left_root = thin_metadata::mapping_root_of(view, device_id(left));
    const auto right_root = thin_metadata::mapping_root_of(view, device_id(right));
    if (!left_root || !right_root) {
        return;
    }
    sides found;
    const auto done = thin_metadata::find_differences(
        view, *left_root, *right_root, [&](const difference_run& run) { return found.add(run); });
    if (!done || !tables || found.blocks > blocks_max) {
        return;
    }
    require(found.left == blocks_of(tables->at(left)), "the left side is that of the dump");
    require(found.right == blocks_of(tables->at(right)), "the right side is that of the dump");
}

void run(std::span<const std::byte> input) {
    const image_input image = decode_image(input);
    decisions choose(image.parameters);
    const auto device = image.device();
    const auto view = thin_metadata::open_offline(*device, {});
    if (!view) {
        return;
    }
    const auto tables = test::tables_of(*device);
    compare(**view, choose.number(), choose.number(), tables);
    compare(**view, 1, 2, tables);
    compare(**view, 3, 1, tables);
}

std::vector<bytes> seeds() {
    return image_seeds(std::vector<bytes>{{}, {std::byte{1}, std::byte{0}}});
}

const registration made({"delta", run, seeds, mutated_image});

}  // namespace
}  // namespace uthin::fuzz
