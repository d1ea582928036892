// thin_repair: sound metadata from what is left of damaged metadata.
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "base/result.h"
#include "io/memory_device.h"
#include "thin_metadata/restorer.h"
#include "thin_metadata/salvage.h"
#include "tools/thin_salvage.h"
#include "tools/thin_tool.h"

namespace uthin::tools {
namespace {

using thin_metadata::salvage;
using thin_metadata::salvage_report;

struct repair_line {
    std::optional<std::string> input;
    std::optional<std::string> output;
    bool quiet = false;
    bool explain = false;
    bool json = false;
    bool no_loss = false;
    bool verbose = false;
    salvage_line salvage;
};

void add_options(option_table& options, repair_line& line) {
    options.number("--data-block-size", "SECTORS", line.salvage.data_block_size,
                   "Use this data block size", UINT32_MAX);
    options.flag("--explain", line.explain,
                 "Only tell what would be kept and lost; no output is needed");
    options.text("-i,--input", "FILE", line.input,
                 "Metadata device, file or pool directory to read");
    options.flag("--json", line.json, "Print the report as JSON on stdout");
    options.flag("--no-bit-correction", line.salvage.no_bit_correction,
                 "Give up blocks of which one flipped bit could be put right");
    options.flag("--no-loss", line.no_loss, "Write nothing if something would be lost");
    options.number("--nr-data-blocks", "NUM", line.salvage.data_blocks,
                   "Use this number of data blocks, if it is higher");
    options.text("-o,--output", "FILE", line.output, "Device or file to write to");
    add_override_options(options, line.salvage);
    options.flag("-q,--quiet", line.quiet, "Print no messages");
    options.number("--transaction-id", "NUM", line.salvage.transaction_id,
                   "Use this transaction id, if it is higher");
    options.require("--input");
    options.conflict("--explain", "--no-loss");
    options.ignore_operand();
}

// Nothing is written if it does not fit. Where that is close it is tried out in memory; an output
// too large for this, and just too small for what is to be written, is noticed too late.
result<void> check_room(salvage& plan, block_device& output) {
    const salvage_report& report = plan.report();
    const std::uint64_t blocks = UTHIN_TRY(output.size_bytes()) / metadata_block_size_bytes;
    constexpr std::uint64_t data_blocks_per_block = 16320;
    constexpr std::uint64_t mappings_per_block = 252;
    constexpr std::uint64_t fixed_blocks = 8;
    const std::uint64_t needed = fixed_blocks + report.header.data_blocks / data_blocks_per_block +
                                 report.distinct_mappings / mappings_per_block;
    if (needed > blocks) {
        return fail(error_code::no_metadata_space,
                    fmt::format("out of metadata space: at least {} blocks are needed, the output "
                                "has {}",
                                needed, blocks));
    }
    // Leaves beside shared ones, and nodes, may be a third full only; counts of 3 and more.
    const std::uint64_t ample = 3 * needed + needed / 3 + 64 + 4 * report.devices.size();
    constexpr std::uint64_t tried_out_max = (256ULL << 20) / metadata_block_size_bytes;
    if (blocks >= ample || blocks > tried_out_max) {
        return {};
    }
    io::memory_device attempt(blocks * metadata_block_size_bytes);
    thin_metadata::restorer target(attempt, {});
    return plan.send(target, {.shared_pieces = true});
}

result<void> report_on(const repair_line& line, const salvage_report& report, bool written) {
    if (line.quiet) {
        return {};
    }
    if (line.verbose || line.explain) {
        print_candidates(report);
    }
    print_report("thin_repair", report, line.verbose || line.explain);
    if (line.json) {
        return print_result(json_of(report, written) + "\n");
    }
    return {};
}

result<void> repair(const repair_line& line) {
    const auto input = UTHIN_TRY(open_metadata_input(*line.input, access::exclusive_read));
    std::unique_ptr<block_device> output;
    if (!line.explain) {
        UTHIN_TRY(refuse_same_file(*line.input, *line.output));
        output = UTHIN_TRY(open_metadata_output(*line.output));
    }
    thin_metadata::salvage_options how = line.salvage.options();
    how.search_always = line.verbose;
    const auto plan = UTHIN_TRY(salvage::plan(*input, how));
    const salvage_report& report = plan->report();
    if (line.explain) {
        return report_on(line, report, false);
    }
    if (line.no_loss && report.has_loss()) {
        UTHIN_TRY(report_on(line, report, false));
        return fail(error_code::corrupt, "something would be lost; nothing was written");
    }
    UTHIN_TRY(check_room(*plan, *output));
    thin_metadata::restorer target(*output, {});
    UTHIN_TRY(plan->send(target, {.shared_pieces = true}));
    return report_on(line, report, true);
}

}  // namespace

int thin_repair_main(arguments given) {
    repair_line line;
    option_table options("thin_repair",
                         "Repair thin-provisioning metadata, and write it to "
                         "another device or file");
    add_options(options, line);
    if (const auto status = options.parse(given)) {
        return *status;
    }
    if (!line.output && !line.explain) {
        return options.usage_error(
            "No output file provided: the argument '--output <FILE>' is "
            "required");
    }
    line.verbose = options.seen("-v");
    return finish("thin_repair", repair(line), line.quiet);
}

}  // namespace uthin::tools
