// thin_check: is this metadata sound?
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/result.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/leak_repair.h"
#include "tools/thin_tool.h"

namespace uthin::tools {
namespace {

using thin_metadata::check_code;
using thin_metadata::check_report;
using thin_metadata::check_scope;
using thin_metadata::check_severity;

struct check_line {
    std::optional<std::string> input;
    bool quiet = false;
    bool superblock_only = false;
    bool skip_mappings = false;
    bool ignore_non_fatal = false;
    bool clear_needs_check = false;
    bool auto_repair = false;
    bool metadata_snapshot = false;
    bool json = false;
    bool cosmetic = false;
    std::optional<std::uint64_t> mapping_root;
    std::optional<std::uint64_t> details_root;

    [[nodiscard]] bool writes() const noexcept { return clear_needs_check || auto_repair; }
    [[nodiscard]] bool mends_leaks() const noexcept {
        return writes() && !superblock_only && !skip_mappings;
    }
};

void add_options(option_table& options, check_line& line) {
    options.operand("INPUT", line.input, "Metadata device, file or pool directory to check");
    options.flag("--auto-repair", line.auto_repair,
                 "Mend leaked blocks and clear the 'needs_check' flag");
    options.flag("--clear-needs-check-flag", line.clear_needs_check,
                 "The same; clears the flag in the superblock when the check passes");
    options.flag("--cosmetic", line.cosmetic, "Print harmless findings too");
    options.flag("--ignore-non-fatal-errors", line.ignore_non_fatal,
                 "Only fail when a fatal error is found");
    options.flag("--json", line.json, "Print the report as JSON");
    options.flag("-m,--metadata-snapshot,--metadata-snap", line.metadata_snapshot,
                 "Check the metadata snapshot of a live pool");
    options.number("--override-details-root", "BLOCKNR", line.details_root,
                   "Use this details tree");
    options.number("--override-mapping-root", "BLOCKNR", line.mapping_root,
                   "Use this mapping tree");
    options.flag("-q,--quiet", line.quiet, "Print nothing, only return the exit code");
    options.flag("--skip-mappings", line.skip_mappings, "Check the list of devices only");
    options.flag("--super-block-only", line.superblock_only, "Check the superblock only");
    options.conflict("--auto-repair",
                     "--metadata-snap,--override-mapping-root,--override-details-root,"
                     "--super-block-only,--skip-mappings,--ignore-non-fatal-errors");
    options.conflict("--clear-needs-check-flag",
                     "--metadata-snap,--override-mapping-root,--override-details-root");
}

result<input_metadata> open_input(const check_line& line) {
    input_metadata opened;
    opened.device = UTHIN_TRY(
        open_metadata_input(*line.input, line.writes()            ? access::exclusive_write
                                         : line.metadata_snapshot ? access::live_read
                                                                  : access::exclusive_read));
    opened.view = UTHIN_TRY(
        thin_metadata::open_offline(*opened.device, {.metadata_snapshot = line.metadata_snapshot,
                                                     .mapping_root = line.mapping_root,
                                                     .details_root = line.details_root}));
    return opened;
}

nlohmann::json to_json(const check_report& report, bool passed) {
    nlohmann::json findings = nlohmann::json::array();
    for (const auto& finding : report.findings) {
        nlohmann::json entry = {{"severity", to_string(finding.severity)},
                                {"code", to_string(finding.code)},
                                {"block", finding.block},
                                {"count", finding.count},
                                {"text", finding.text}};
        if (finding.device) {
            entry["device"] = finding.device->value();
        }
        findings.push_back(std::move(entry));
    }
    return {{"passed", passed},
            {"fatal", report.fatal},
            {"repairable", report.repairable},
            {"cosmetic", report.cosmetic},
            {"transaction_id", report.transaction_id},
            {"needs_check", report.needs_check},
            {"metadata_blocks", report.metadata_blocks},
            {"free_metadata_blocks", report.free_metadata_blocks},
            {"data_blocks", report.data_blocks},
            {"devices", report.devices},
            {"mapped_blocks", report.mapped_blocks},
            {"metadata_blocks_used", report.metadata_blocks_used},
            {"data_blocks_used", report.data_blocks_used},
            {"leaked_metadata_blocks", report.leaked_metadata_blocks},
            {"leaked_data_blocks", report.leaked_data_blocks},
            {"findings", std::move(findings)}};
}

void print_findings(const check_report& report, bool with_cosmetic) {
    for (const auto& finding : report.findings) {
        if (with_cosmetic || finding.severity != check_severity::cosmetic) {
            tell(fmt::format("{}: {}\n", to_string(finding.severity), finding.text));
        }
    }
    const std::uint64_t found = report.fatal + report.repairable + report.cosmetic;
    if (found > report.findings.size()) {
        tell(fmt::format("{} findings, of which {} are shown\n", found, report.findings.size()));
    }
}

// Returns whether the metadata passes now.
result<bool> mend(const check_line& line, input_metadata& opened, check_report& report) {
    if (!report.is_clean() && !(line.mends_leaks() && report.has_only_leaks())) {
        return false;
    }
    if (report.is_clean() && !report.needs_check) {
        return true;
    }
    const bool has_leaks = !report.is_clean();
    const bool had_flag = report.needs_check;
    opened.view.reset();
    bool in_doubt = false;
    auto mended = thin_metadata::repair_leaks(
        *opened.device, {.rebuild_space_maps = has_leaks, .clear_needs_check = report.needs_check},
        &in_doubt);
    UTHIN_TRY_CTX(std::move(mended), in_doubt ? "the metadata may be mended or not; check it again"
                                              : "the metadata is as it was");
    opened.view = UTHIN_TRY(thin_metadata::open_offline(*opened.device, {}));
    if (has_leaks) {
        report = UTHIN_TRY(thin_metadata::check_metadata(*opened.view, {}));
    }
    report.needs_check =
        (opened.view->superblock().flags & thin_metadata::superblock_flag_needs_check) != 0;
    if (!line.quiet) {
        if (has_leaks) {
            tell("Repaired leaked blocks\n");
        }
        if (had_flag && !report.needs_check) {
            tell("Cleared needs_check flag\n");
        }
    }
    return report.is_clean();
}

result<bool> check(const check_line& line) {
    input_metadata opened = UTHIN_TRY(open_input(line));
    const auto& superblock = opened.view->superblock();
    if (!line.quiet && !line.json) {
        UTHIN_TRY(print_result(fmt::format("TRANSACTION_ID={}\nMETADATA_FREE_BLOCKS={}\n",
                                           std::uint64_t{superblock.trans_id},
                                           thin_metadata::free_metadata_blocks(superblock))));
    }
    const thin_metadata::check_options how{.scope = line.superblock_only ? check_scope::superblock
                                                    : line.skip_mappings ? check_scope::devices
                                                                         : check_scope::all};
    check_report report = UTHIN_TRY(thin_metadata::check_metadata(*opened.view, how));
    if (!line.quiet && !line.json) {
        print_findings(report, line.cosmetic);
    }
    bool passed = report.is_clean();
    if (line.writes()) {
        passed = UTHIN_TRY(mend(line, opened, report));
    }
    passed = passed || (line.ignore_non_fatal && report.fatal == 0);
    if (line.json && !line.quiet) {
        UTHIN_TRY(print_result(to_json(report, passed).dump(2) + "\n"));
    }
    return passed;
}

}  // namespace

int thin_check_main(arguments given) {
    check_line line;
    option_table options("thin_check", "Validates thin provisioning metadata on a device or file");
    add_options(options, line);
    if (const auto status = options.parse(given)) {
        return *status;
    }
    const auto passed = check(line);
    if (!passed) {
        return report_failure("thin_check", passed.error(), line.quiet);
    }
    return *passed ? exit_ok : exit_failed;
}

}  // namespace uthin::tools
