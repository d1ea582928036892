// The other readers of metadata: usage, exclusive blocks, reverse map, free space, shrinking; and
// leaks are mended without losing anything.
#include "fuzz/image_input.h"
#include "support/round_trip.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/device_copy.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/exclusive_blocks.h"
#include "thin_metadata/free_space.h"
#include "thin_metadata/leak_repair.h"
#include "thin_metadata/pool_usage.h"
#include "thin_metadata/restorer.h"
#include "thin_metadata/reverse_map.h"
#include "thin_metadata/shrink.h"

namespace uthin::fuzz {
namespace {

using thin_metadata::metadata_view;

void measure(metadata_view& view, decisions& choose, bool is_accepted) {
    const auto usage = thin_metadata::measure_usage(
        view, {.walk_mappings = choose.below(4) != 0, .deleted = {device_id(choose.number())}});
    const auto exclusive = thin_metadata::measure_exclusive(view);
    require(!is_accepted || exclusive, "sound metadata is measured");
    require(!is_accepted || usage || usage.error().code() == error_code::not_found,
            "and used by those devices that there are");
    if (!is_accepted) {
        return;
    }
    for (const auto& device : *exclusive) {
        const std::vector<device_id> only = {device.id};
        require(require_ok(thin_metadata::blocks_freed_by_deleting(view, only), "what is freed") ==
                    device.exclusive_blocks,
                "what is exclusive is what deleting frees");
        require(device.exclusive_blocks <= device.mapped_blocks, "it is a part of what is mapped");
    }
}

void shrink(metadata_view& view, std::uint64_t data_blocks, bool is_accepted) {
    thin_metadata::shrink_survey survey;
    if (!thin_metadata::dump_metadata(view, survey, {.shared_pieces = true})) {
        return;
    }
    const auto plan = survey.plan(data_blocks);
    if (!plan) {
        return;
    }
    io::image_device small("small", io::sparse_image(4096 * metadata_block_size_bytes));
    thin_metadata::restorer restorer(small, {});
    thin_metadata::shrink_filter filter(restorer, *plan);
    const auto done = thin_metadata::dump_metadata(view, filter, {.shared_pieces = true});
    if (is_accepted) {
        require_ok(result<void>(done), "sound metadata is made smaller");
        require(require_ok(test::is_accepted(small), "it is checked"), "and it stays sound");
    }
}

void mend_leaks(io::image_device& device) {
    const auto report = [&device]() -> result<thin_metadata::check_report> {
        const auto view = thin_metadata::open_offline(device, {});
        if (!view) {
            return std::unexpected(view.error());
        }
        return thin_metadata::check_metadata(**view, {});
    }();
    if (!report || !report->has_only_leaks()) {
        return;
    }
    const auto before = require_ok(test::tables_of(device), "the tables");
    const auto mended = thin_metadata::repair_leaks(device, {});
    if (!mended) {
        require(mended.error().code() == error_code::no_metadata_space,
                "leaks can be mended: " + mended.error().to_string());
        return;
    }
    require(require_ok(test::is_accepted(device), "it is checked"), "mended leaks are gone");
    require(require_ok(test::tables_of(device), "the tables") == before,
            "mending leaks changes no mapping");
}

void run(std::span<const std::byte> input) {
    const image_input image = decode_image(input);
    decisions choose(image.parameters);
    const auto device = image.device();
    const bool is_accepted = test::is_accepted(*device).value_or(false);
    if (const auto view = thin_metadata::open_offline(*device, {})) {
        measure(**view, choose, is_accepted);
        shrink(**view, 1 + choose.below(1200), is_accepted);
        const data_block begin(choose.number());
        (void)thin_metadata::reverse_mappings(
            **view, {{begin, begin + choose.number()}},
            [](const thin_metadata::reverse_run&) { return result<void>(); });
        (void)thin_metadata::list_free_data(**view, [](const auto&) { return result<void>(); });
        (void)thin_metadata::mapped_end_bytes(**view, device_id(choose.number()));
    }
    mend_leaks(*device);
}

std::vector<bytes> seeds() {
    return image_seeds(std::vector<bytes>{
        {std::byte{1}, std::byte{1}, std::byte{200}, std::byte{2}, std::byte{90}, std::byte{1}}});
}

const registration made({"tools", run, seeds, mutated_image});

}  // namespace
}  // namespace uthin::fuzz
