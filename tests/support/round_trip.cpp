#include "support/round_trip.h"

#include "base/result.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/restorer.h"
#include "thin_metadata/xml_reader.h"
#include "thin_metadata/xml_writer.h"

namespace uthin::test {

result<bool> is_accepted(block_device& image) {
    const auto view = UTHIN_TRY(thin_metadata::open_offline(image, {}));
    return UTHIN_TRY(thin_metadata::check_metadata(*view, {})).is_clean();
}

result<std::string> xml_of(block_device& image) {
    const auto view = UTHIN_TRY(thin_metadata::open_offline(image, {}));
    std::string text;
    thin_metadata::xml_writer writer(
        [&text](std::string_view piece) -> result<void> {
            text += piece;
            return {};
        },
        thin_metadata::dump_dialect::v1);
    UTHIN_TRY(thin_metadata::dump_metadata(*view, writer, {.shared_pieces = true}));
    return text;
}

result<void> read_xml_text(std::string_view text, thin_metadata::mapping_sink& sink) {
    const auto input = [&text](std::span<char> buffer) -> result<std::size_t> {
        const std::size_t got = text.copy(buffer.data(), buffer.size());
        text.remove_prefix(got);
        return got;
    };
    return thin_metadata::read_xml(input, sink, {});
}

result<void> restore_xml(std::string_view text, block_device& image) {
    thin_metadata::restorer restorer(image, {});
    return read_xml_text(text, restorer);
}

result<device_tables> tables_of(block_device& image) {
    const auto view = UTHIN_TRY(thin_metadata::open_offline(image, {}));
    mapping_recorder recorder;
    UTHIN_TRY(thin_metadata::dump_metadata(*view, recorder, {}));
    device_tables tables;
    for (auto& [id, device] : recorder.devices) {
        tables[id] = std::move(device.mappings);
    }
    return tables;
}

}  // namespace uthin::test
