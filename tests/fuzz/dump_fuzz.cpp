// Dumps in every form; and a dump that can be restored gives the same dump again.
#include "fuzz/image_input.h"
#include "support/round_trip.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/xml_writer.h"

namespace uthin::fuzz {
namespace {

constexpr std::uint64_t copy_blocks = 4096;

template <class Writer>
result<std::string> dumped(block_device& device, thin_metadata::dump_dialect dialect,
                           const thin_metadata::dump_options& options) {
    const auto view = thin_metadata::open_offline(device, {});
    if (!view) {
        return std::unexpected(view.error());
    }
    std::string text;
    Writer writer(
        [&text](std::string_view piece) -> result<void> {
            text += piece;
            return {};
        },
        dialect);
    if (auto done = thin_metadata::dump_metadata(**view, writer, options); !done) {
        return std::unexpected(std::move(done).error());
    }
    return text;
}

void run(std::span<const std::byte> input) {
    using thin_metadata::dump_dialect;
    using thin_metadata::xml_writer;
    const image_input image = decode_image(input);
    decisions choose(image.parameters);
    const auto device = image.device();
    const auto expanded = dumped<xml_writer>(*device, dump_dialect::v0_9, {});
    const auto shared = test::xml_of(*device);
    require(expanded.has_value() == shared.has_value(), "both dumps see the same damage, or none");
    thin_metadata::dump_options some;
    some.devices = {device_id(choose.number()), device_id(choose.number())};
    some.skip_mappings = choose.below(2) == 1;
    (void)dumped<thin_metadata::human_readable_writer>(*device, dump_dialect::v1, some);
    if (!expanded) {
        return;
    }
    io::image_device copy("copy", io::sparse_image(copy_blocks * metadata_block_size_bytes));
    if (!test::restore_xml(*expanded, copy)) {
        return;  // the dump does not mind everything that a pool must not be
    }
    const auto once =
        require_ok(dumped<xml_writer>(copy, dump_dialect::v0_9, {}), "what was restored is dumped");
    io::image_device second("second", io::sparse_image(copy_blocks * metadata_block_size_bytes));
    require_ok(test::restore_xml(once, second), "the dump of what was restored is restored");
    require(
        require_ok(dumped<xml_writer>(second, dump_dialect::v0_9, {}), "the second dump") == once,
        "dump and restore change nothing the second time");
    require(require_ok(test::tables_of(*device), "the tables of the image") ==
                require_ok(test::tables_of(copy), "the tables of the copy"),
            "the copy maps what the image maps");
}

std::vector<bytes> seeds() {
    return image_seeds(std::vector<bytes>{{}, {std::byte{1}, std::byte{2}, std::byte{1}}});
}

const registration made({"dump", run, seeds, mutated_image, 120});

}  // namespace
}  // namespace uthin::fuzz
