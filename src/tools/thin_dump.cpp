// thin_dump: the mappings as text.
#include "base/result.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/restorer.h"
#include "tools/snapshot_option.h"
#include "tools/thin_salvage.h"
#include "tools/thin_tool.h"

namespace uthin::tools {
namespace {

using thin_metadata::dump_dialect;
using thin_metadata::mapping_sink;
using thin_metadata::pool_header;

struct dump_line {
    std::optional<std::string> input;
    std::optional<std::string> output;
    bool quiet = false;
    bool human_readable = false;
    snapshot_choice snapshot;
    bool no_sharing = false;
    bool skip_mappings = false;
    std::optional<std::vector<device_id>> devices;
    bool repair = false;
    bool verbose = false;
    salvage_line salvage;
};

// Passes everything on, the header with what the user knows better.
class overriding_sink final : public mapping_sink {
public:
    overriding_sink(mapping_sink& next, const salvage_line& given) : next_(next), given_(given) {}
    result<void> begin_pool(const pool_header& pool) override {
        const pool_header raised = UTHIN_TRY(thin_metadata::overridden(pool, given_.overrides()));
        return next_.begin_pool(given_.replaced(raised));
    }
    result<void> begin_shared(std::string_view name) override { return next_.begin_shared(name); }
    result<void> end_shared() override { return next_.end_shared(); }
    result<void> begin_device(const thin_device_info& device) override {
        return next_.begin_device(device);
    }
    result<void> run(const mapping_run& run) override { return next_.run(run); }
    result<void> reference(std::string_view name) override { return next_.reference(name); }
    result<void> end_device() override { return next_.end_device(); }
    result<void> end_pool() override { return next_.end_pool(); }

private:
    mapping_sink& next_;
    const salvage_line& given_;
};

result<void> take_format(std::string_view name, dump_line& line) {
    if (name != "xml" && name != "human_readable") {
        return fail(error_code::invalid_argument, "choose xml or human_readable");
    }
    line.human_readable = name == "human_readable";
    return {};
}

result<void> take_device(std::string_view text, dump_line& line) {
    const std::uint64_t id = UTHIN_TRY(parse_number(text));
    if (!line.devices) {
        line.devices.emplace();
    }
    line.devices->emplace_back(id);
    return {};
}

void add_options(option_table& options, dump_line& line) {
    options.operand("INPUT", line.input, "Metadata device, file or pool directory to dump");
    options.number("--data-block-size", "SECTORS", line.salvage.data_block_size,
                   "Say this data block size", UINT32_MAX);
    options.value(
        "--dev-id", "THIN_ID", [&line](std::string_view text) { return take_device(text, line); },
        "Dump this device only; may be given several times");
    options.value(
        "-f,--format", "TYPE", [&line](std::string_view name) { return take_format(name, line); },
        "xml (default) or human_readable");
    add_snapshot_option(options, line.snapshot, "Dump the metadata snapshot of a live pool");
    options.flag("--no-sharing", line.no_sharing,
                 "No <def> and <ref>: the XML that thin_restore 0.9 reads");
    options.number("--nr-data-blocks", "NUM", line.salvage.data_blocks,
                   "Say this number of data blocks, if it is higher");
    options.text("-o,--output", "FILE", line.output, "Write to this file");
    add_override_options(options, line.salvage);
    options.flag("-q,--quiet", line.quiet, "Print no messages");
    options.flag("-r,--repair", line.repair,
                 "Dump what can be kept of damaged metadata; tell what is lost on stderr");
    options.flag("--skip-mappings", line.skip_mappings, "Dump devices without mappings");
    options.number("--transaction-id", "NUM", line.salvage.transaction_id,
                   "Say this transaction id, if it is higher");
    options.conflict("--repair", "--metadata-snap");
}

result<input_metadata> open_input(const dump_line& line) {
    input_metadata opened =
        UTHIN_TRY(open_metadata_view(*line.input, {.metadata_snapshot = line.snapshot.chosen,
                                                   .mapping_root = line.salvage.mapping_root,
                                                   .details_root = line.salvage.details_root}));
    UTHIN_TRY(expect_snapshot(line.snapshot, *opened.view));
    return opened;
}

result<void> dump_what_is_left(const dump_line& line, mapping_sink& sink,
                               const thin_metadata::dump_options& how) {
    const auto input = UTHIN_TRY(open_metadata_input(*line.input, access::exclusive_read));
    thin_metadata::salvage_options options = line.salvage.options();
    options.search_always = line.verbose;
    const auto plan = UTHIN_TRY(thin_metadata::salvage::plan(*input, options));
    if (!line.quiet) {
        if (line.verbose) {
            print_candidates(plan->report());
        }
        print_report("thin_dump", plan->report(), line.verbose);
    }
    return plan->send(sink, how);
}

result<void> dump_metadata_to(const dump_line& line, mapping_sink& text,
                              const thin_metadata::dump_options& how) {
    if (line.repair) {
        return dump_what_is_left(line, text, how);
    }
    const input_metadata opened = UTHIN_TRY(open_input(line));
    const salvage_line& given = line.salvage;
    const bool changes_header = given.data_blocks || given.transaction_id ||
                                given.data_block_size || given.exact_data_blocks ||
                                given.exact_transaction_id || given.exact_block_size;
    overriding_sink sink(text, given);
    return thin_metadata::dump_metadata(
        *opened.view, changes_header ? static_cast<mapping_sink&>(sink) : text, how);
}

result<void> dump(const dump_line& line) {
    if (line.output) {
        UTHIN_TRY(refuse_same_file(*line.input, *line.output));
    }
    text_file target(line.output);
    const auto dialect = line.no_sharing ? dump_dialect::v0_9 : dump_dialect::v1;
    thin_metadata::xml_writer xml(target.output(), dialect);
    thin_metadata::human_readable_writer readable(target.output(), dialect);
    mapping_sink& text = line.human_readable ? static_cast<mapping_sink&>(readable) : xml;
    UTHIN_TRY(dump_metadata_to(line, text,
                               {.devices = line.devices,
                                .skip_mappings = line.skip_mappings,
                                .shared_pieces = !line.no_sharing}));
    if (!line.no_sharing) {
        UTHIN_TRY(target.write("\n"));
    }
    return target.close();
}

}  // namespace

int thin_dump_main(arguments given) {
    dump_line line;
    option_table options("thin_dump", "Dump thin-provisioning metadata to stdout in XML format");
    add_options(options, line);
    if (const auto status = options.parse(given)) {
        return *status;
    }
    if (!line.repair && !line.salvage.device_roots.empty()) {
        return options.usage_error("the argument '--override-device-root' needs '--repair'");
    }
    line.verbose = options.seen("-v");
    return finish("thin_dump", dump(line), line.quiet);
}

}  // namespace uthin::tools
