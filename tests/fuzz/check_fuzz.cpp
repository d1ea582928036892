// The full check; and what it accepts can be dumped, restored and checked again, with the same
// mappings.
#include "fuzz/image_input.h"
#include "support/round_trip.h"
#include "thin_metadata/checker.h"

namespace uthin::fuzz {
namespace {

constexpr std::uint64_t copy_blocks = 4096;

void check_in_parts(block_device& device, decisions& choose) {
    const auto view =
        thin_metadata::open_offline(device, {.metadata_snapshot = choose.below(2) == 1});
    if (!view) {
        return;
    }
    thin_metadata::check_options options;
    options.scope = static_cast<thin_metadata::check_scope>(choose.below(3));
    options.findings_max = choose.below(20);
    options.data_device_blocks = choose.number();
    std::uint64_t leaked = 0;
    options.on_leak = [&](const thin_metadata::leaked_range& range) { leaked += range.count; };
    const auto report = thin_metadata::check_metadata(**view, options);
    if (report) {
        require(report->findings.size() <= options.findings_max, "findings are bounded");
        require(leaked == report->leaked_data_blocks + report->leaked_metadata_blocks,
                "leaks are told as they are counted");
    }
}

void run(std::span<const std::byte> input) {
    const image_input image = decode_image(input);
    decisions choose(image.parameters);
    const auto device = image.device();
    check_in_parts(*device, choose);
    const auto verdict = test::is_accepted(*device);
    if (!verdict || !*verdict) {
        return;
    }
    const std::string text = require_ok(test::xml_of(*device), "accepted metadata is dumped");
    io::image_device copy("copy", io::sparse_image(copy_blocks * metadata_block_size_bytes));
    require_ok(test::restore_xml(text, copy), "accepted metadata is restored");
    require(require_ok(test::is_accepted(copy), "the copy is checked"), "the copy is accepted");
    require(require_ok(test::tables_of(*device), "the tables of the image") ==
                require_ok(test::tables_of(copy), "the tables of the copy"),
            "the copy maps what the image maps");
}

std::vector<bytes> seeds() {
    return image_seeds(std::vector<bytes>{{}, {std::byte{1}, std::byte{2}, std::byte{9}}});
}

const registration made({"check", run, seeds, mutated_image});

}  // namespace
}  // namespace uthin::fuzz
