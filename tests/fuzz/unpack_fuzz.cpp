// Pack files: as they are, or as a header and the plain text of one chunk, so that what is inside
// the compression is met, too.
//
// First byte: 0 as it is, else header and plain text.
#include "fuzz/image_input.h"
#include "support/pack_parts.h"

namespace uthin::fuzz {
namespace {

constexpr std::uint64_t image_blocks = 256;

std::unique_ptr<io::image_device> blank() {
    return std::make_unique<io::image_device>(
        "image", io::sparse_image(image_blocks * metadata_block_size_bytes));
}

void run(std::span<const std::byte> input) {
    if (input.empty()) {
        return;
    }
    bytes pack(input.begin() + 1, input.end());
    if (input[0] != std::byte{0} && pack.size() > test::pack_header_bytes) {
        const auto end_of_header = pack.begin() + test::pack_header_bytes;
        pack = test::closed(
            {.header = {pack.begin(), end_of_header}, .plain = {end_of_header, pack.end()}});
    }
    const auto image = blank();
    const auto unpacked = test::unpack_into(pack, *image);
    require(unpacked || unpacked.error().code() != error_code::failed,
            "nothing is written outside of the image");
    if (!unpacked) {
        return;
    }
    const auto copy = blank();
    require_ok(
        test::unpack_into(require_ok(test::packed(*image), "packing what was unpacked"), *copy),
        "unpacking what was packed");
}

std::vector<bytes> seeds() {
    std::vector<bytes> made;
    for (const bytes& seed : image_seeds(std::vector<bytes>{{}})) {
        const auto device = decode_image(seed).device();
        const bytes pack = require_ok(test::packed(*device), "packing a seed");
        made.push_back(pack);
        made.back().insert(made.back().begin(), std::byte{0});
        const auto parts = test::opened(pack);
        require(parts.has_value(), "a pack file can be taken apart");
        bytes plain{std::byte{1}};
        plain.insert(plain.end(), parts->header.begin(), parts->header.end());
        plain.insert(plain.end(), parts->plain.begin(), parts->plain.end());
        made.push_back(std::move(plain));
    }
    return made;
}

bytes mutate(std::span<const std::byte> input, random_generator& random) {
    bytes made = mutated_bytes(input, random);
    if (random.one_in(3) && made.size() > test::pack_header_bytes + 1) {
        bytes plain(made.begin() + test::pack_header_bytes + 1, made.end());
        test::put_instructions(plain, random);
        made.resize(test::pack_header_bytes + 1);
        made.insert(made.end(), plain.begin(), plain.end());
    }
    return made;
}

const registration made({"unpack", run, seeds, mutate, 100});

}  // namespace
}  // namespace uthin::fuzz
