#include "thin_metadata/xml_writer.h"

#include <fmt/format.h>

#include "thin_metadata/text_line.h"

namespace uthin::thin_metadata {

namespace {

constexpr std::size_t buffer_bytes = 64 << 10;

std::string escaped(std::string_view text) {
    std::string out;
    for (const char c : text) {
        switch (c) {
            case '&': out += "&amp;"; break;
            case '<': out += "&lt;"; break;
            case '>': out += "&gt;"; break;
            case '"': out += "&quot;"; break;
            default: out += c;
        }
    }
    return out;
}

}  // namespace

result<void> text_writer::write(std::string_view text) {
    buffer_ += text;
    return buffer_.size() < buffer_bytes ? result<void>() : flush();
}

result<void> text_writer::flush() {
    if (buffer_.empty()) {
        return {};
    }
    result<void> outcome = output_(buffer_);
    buffer_.clear();
    return outcome;
}

result<void> text_writer::check_shared_allowed() const {
    if (dialect_ == dump_dialect::v0_9) {
        return fail(error_code::unsupported, "the 0.9 dialect has no shared mappings");
    }
    return {};
}

// ---- XML
// ---------------------------------------------------------------------------------------

result<void> xml_writer::begin_pool(const pool_header& pool) {
    std::string text = fmt::format(R"(<superblock uuid="" time="{}" transaction="{}")", pool.time,
                                   pool.transaction_id);
    if (dialect() == dump_dialect::v0_9 || pool.flags != 0) {
        text += fmt::format(R"( flags="{}")", pool.flags);
    }
    if (pool.version) {
        text += fmt::format(R"( version="{}")", *pool.version);
    }
    text += fmt::format(R"( data_block_size="{}" nr_data_blocks="{}">)"
                        "\n",
                        pool.data_block_size_sectors, pool.data_blocks);
    return write(text);
}

result<void> xml_writer::begin_shared(std::string_view name) {
    UTHIN_TRY(check_shared_allowed());
    return write(fmt::format("  <def name=\"{}\">\n", escaped(name)));
}

result<void> xml_writer::end_shared() {
    return write("  </def>\n");
}

result<void> xml_writer::begin_device(const thin_device_info& device) {
    return write(fmt::format(R"(  <device dev_id="{}" mapped_blocks="{}" transaction="{}" )"
                             R"(creation_time="{}" snap_time="{}">)"
                             "\n",
                             device.id.value(), device.details.mapped_blocks,
                             device.details.transaction_id, device.details.creation_time,
                             device.details.snapshotted_time));
}

result<void> xml_writer::run(const mapping_run& run) {
    text_line text;
    if (run.count == 1) {
        text.add("    <single_mapping origin_block=\"").add(run.begin.value());
        text.add("\" data_block=\"").add(run.data_begin.value());
    } else {
        text.add("    <range_mapping origin_begin=\"").add(run.begin.value());
        text.add("\" data_begin=\"").add(run.data_begin.value());
        text.add("\" length=\"").add(run.count);
    }
    return write(text.add("\" time=\"").add(run.time).add("\"/>\n").text());
}

result<void> xml_writer::reference(std::string_view name) {
    UTHIN_TRY(check_shared_allowed());
    return write(fmt::format("    <ref name=\"{}\"/>\n", escaped(name)));
}

result<void> xml_writer::end_device() {
    return write("  </device>\n");
}

result<void> xml_writer::end_pool() {
    UTHIN_TRY(write(dialect() == dump_dialect::v0_9 ? "</superblock>\n" : "</superblock>"));
    return flush();
}

// ---- for people
// --------------------------------------------------------------------------------

result<void> human_readable_writer::begin_pool(const pool_header& pool) {
    std::string text = fmt::format("begin superblock: \"\", {}, {}, {}, {}, {}, {}", pool.time,
                                   pool.transaction_id, pool.flags, pool.version.value_or(1),
                                   pool.data_block_size_sectors, pool.data_blocks);
    return write(text + "\n");
}

result<void> human_readable_writer::begin_shared(std::string_view name) {
    UTHIN_TRY(check_shared_allowed());
    return write(fmt::format("def: {}\n", name));
}

result<void> human_readable_writer::end_shared() {
    return write("\n");
}

result<void> human_readable_writer::begin_device(const thin_device_info& device) {
    return write(
        fmt::format("device: {}\nmapped_blocks: {}\ntransaction: {}\ncreation time: {}\n"
                    "snap time: {}\n",
                    device.id.value(), device.details.mapped_blocks, device.details.transaction_id,
                    device.details.creation_time, device.details.snapshotted_time));
}

result<void> human_readable_writer::run(const mapping_run& run) {
    const std::uint64_t begin = run.begin.value();
    const std::uint64_t data = run.data_begin.value();
    if (run.count == 1 && dialect() == dump_dialect::v0_9) {
        return write(fmt::format("    {} -> {}, {}\n", begin, data, run.time));
    }
    return write(fmt::format("    ({}..{}) -> ({}..{}), {}\n", begin, begin + run.count - 1, data,
                             data + run.count - 1, run.time));
}

result<void> human_readable_writer::reference(std::string_view name) {
    UTHIN_TRY(check_shared_allowed());
    return write(fmt::format("    ref: {}\n", name));
}

result<void> human_readable_writer::end_device() {
    return write("\n");
}

result<void> human_readable_writer::end_pool() {
    UTHIN_TRY(write("end superblock\n"));
    return flush();
}

}  // namespace uthin::thin_metadata
