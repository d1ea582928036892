// Salvage, with and without help by hand: what it makes always passes the check.
#include "fuzz/image_input.h"
#include "support/round_trip.h"
#include "thin_metadata/salvage.h"

namespace uthin::fuzz {
namespace {

constexpr std::uint64_t output_blocks = 4096;

thin_metadata::salvage_options options_of(decisions& choose) {
    thin_metadata::salvage_options options;
    const std::uint64_t which = choose.number();
    if ((which & 1) != 0) {
        options.mapping_root = metadata_block(choose.number());
    }
    if ((which & 2) != 0) {
        options.details_root = metadata_block(choose.number());
    }
    if ((which & 4) != 0) {
        options.device_roots[choose.number()] = metadata_block(choose.number());
    }
    if ((which & 8) != 0) {
        options.transaction_id = choose.number();
        options.data_blocks = choose.below(1U << 20);
        options.overrides.data_block_size_sectors = 128;
    }
    options.search_always = (which & 16) != 0;
    options.correct_bits = (which & 32) == 0;
    options.losses_max = (which & 64) != 0 ? 3 : 1000;
    return options;
}

void run(std::span<const std::byte> input) {
    const image_input image = decode_image(input);
    decisions choose(image.parameters);
    const auto device = image.device();
    const thin_metadata::salvage_options options = options_of(choose);
    const auto plan = thin_metadata::salvage::plan(*device, options);
    if (!plan) {
        return;
    }
    require((*plan)->report().losses.size() <= options.losses_max, "losses are bounded");
    io::image_device output("output", io::sparse_image(output_blocks * metadata_block_size_bytes));
    thin_metadata::restorer restorer(output, {});
    const auto sent = (*plan)->send(restorer, {.shared_pieces = choose.below(2) == 0});
    if (!sent) {
        // The superblock may ask for more than any output has room for, and for sizes that no pool
        // has.
        require(sent.error().code() == error_code::no_metadata_space ||
                    sent.error().code() == error_code::invalid_argument,
                "what was planned can be sent: " + sent.error().to_string());
        return;
    }
    require(require_ok(test::is_accepted(output), "the output is checked"),
            "the output of a repair passes the check");
}

std::vector<bytes> seeds() {
    return image_seeds(std::vector<bytes>{{}, {std::byte{16}}, {std::byte{40}, std::byte{1}}});
}

const registration made({"repair", run, seeds, mutated_image, 100});

}  // namespace
}  // namespace uthin::fuzz
