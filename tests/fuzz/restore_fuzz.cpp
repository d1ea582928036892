// XML into metadata: what is made passes the check, and its dump makes the same again.
#include "fuzz/image_input.h"
#include "support/round_trip.h"

namespace uthin::fuzz {
namespace {

constexpr std::uint64_t image_blocks = 128;
// More mappings than this are not compared one by one.
constexpr std::size_t text_bytes_max = 64U << 10;

std::unique_ptr<io::image_device> blank() {
    return std::make_unique<io::image_device>(
        "image", io::sparse_image(image_blocks * metadata_block_size_bytes));
}

void run(std::span<const std::byte> input) {
    const std::string text = text_of(input);
    const auto image = blank();
    if (!test::restore_xml(text, *image)) {
        require(!test::is_accepted(*image).value_or(false),
                "after a failure there is no pool on a blank device");
        return;
    }
    require(require_ok(test::is_accepted(*image), "the image is checked"),
            "what was restored passes the check");
    const std::string dump = require_ok(test::xml_of(*image), "what was restored is dumped");
    if (dump.size() > text_bytes_max) {
        return;
    }
    const auto copy = std::make_unique<io::image_device>(
        "copy", io::sparse_image(2 * image_blocks * metadata_block_size_bytes));
    require_ok(test::restore_xml(dump, *copy), "the dump is restored");
    require(require_ok(test::is_accepted(*copy), "the copy is checked"), "the copy is accepted");
    require(require_ok(test::tables_of(*image), "the tables of the image") ==
                require_ok(test::tables_of(*copy), "the tables of the copy"),
            "the copy maps what the image maps");
}

std::vector<bytes> seeds() {
    std::vector<bytes> made;
    for (const bytes& seed : image_seeds(std::vector<bytes>{{}})) {
        const auto device = decode_image(seed).device();
        made.push_back(bytes_of(require_ok(test::xml_of(*device), "dumping a seed")));
    }
    return made;
}

const registration made({"restore", run, seeds, mutated_text});

}  // namespace
}  // namespace uthin::fuzz
