#include "tools/thin_salvage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "base/result.h"

namespace uthin::tools {

using thin_metadata::details_match;
using thin_metadata::key_span;
using thin_metadata::lost_mappings;
using thin_metadata::root_origin;
using thin_metadata::salvage_report;
using thin_metadata::salvaged_device;

thin_metadata::restore_overrides salvage_line::overrides() const {
    thin_metadata::restore_overrides made;
    made.transaction_id = transaction_id;
    made.data_blocks = data_blocks;
    if (const auto sectors = exact_block_size ? exact_block_size : data_block_size) {
        made.data_block_size_sectors = static_cast<std::uint32_t>(*sectors);
    }
    return made;
}

thin_metadata::salvage_options salvage_line::options() const {
    thin_metadata::salvage_options made;
    if (mapping_root) {
        made.mapping_root = metadata_block(*mapping_root);
    }
    if (details_root) {
        made.details_root = metadata_block(*details_root);
    }
    made.device_roots = device_roots;
    made.overrides = overrides();
    made.transaction_id = exact_transaction_id;
    made.data_blocks = exact_data_blocks;
    made.correct_bits = !no_bit_correction;
    return made;
}

thin_metadata::pool_header salvage_line::replaced(const thin_metadata::pool_header& given) const {
    thin_metadata::pool_header made = given;
    made.transaction_id = exact_transaction_id.value_or(made.transaction_id);
    made.data_blocks = exact_data_blocks.value_or(made.data_blocks);
    return made;
}

namespace {

result<void> take_device_root(std::string_view text, salvage_line& line) {
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos) {
        return fail(error_code::invalid_argument, "give a device and a block, as in 5=1234");
    }
    const std::uint64_t id = UTHIN_TRY(parse_number(text.substr(0, equals), device_id_max));
    line.device_roots[id] = metadata_block(UTHIN_TRY(parse_number(text.substr(equals + 1))));
    return {};
}

}  // namespace

void add_override_options(option_table& options, salvage_line& line) {
    options.number("--override-data-block-size", "SECTORS", line.exact_block_size,
                   "The same as --data-block-size", UINT32_MAX);
    options.number("--override-details-root", "BLOCKNR", line.details_root,
                   "Use this details tree");
    options.value(
        "--override-device-root", "THIN_ID=BLOCKNR",
        [&line](std::string_view text) { return take_device_root(text, line); },
        "Use this mapping tree for the device; may be given several times");
    options.number("--override-mapping-root", "BLOCKNR", line.mapping_root,
                   "Use this mapping tree");
    options.number("--override-nr-data-blocks", "NUM", line.exact_data_blocks,
                   "Use exactly this number of data blocks");
    options.number("--override-transaction-id", "NUM", line.exact_transaction_id,
                   "Use exactly this transaction id");
}

namespace {

std::string text_of(key_span keys) {
    return keys.last == UINT64_MAX   ? fmt::format("from {} on", keys.first)
           : keys.first == keys.last ? fmt::format("{}", keys.first)
                                     : fmt::format("{} to {}", keys.first, keys.last);
}

std::string_view to_string(details_match match) {
    switch (match) {
        case details_match::exact: return "exact";
        case details_match::same_devices: return "same devices";
        case details_match::none: return "none";
    }
    return "none";
}

void print_devices(const salvage_report& report) {
    for (const salvaged_device& device : report.devices) {
        if (device.details_rebuilt) {
            tell(fmt::format("device {}: its details were lost and are made up\n",
                             device.id.value()));
        }
        if (!device.has_loss) {
            continue;
        }
        if (device.stated_mappings) {
            tell(fmt::format("device {}: {} mappings lost, {} kept\n", device.id.value(),
                             device.lost_mappings(), device.mappings));
        } else {
            tell(fmt::format("device {}: {} mappings kept, nobody knows how many there were\n",
                             device.id.value(), device.mappings));
        }
    }
}

void print_undecided(const salvage_report& report) {
    const auto number = [](const auto& item) {
        if constexpr (requires { item.value(); }) {
            return item.value();
        } else {
            return item;
        }
    };
    const auto list = [&number](const auto& items) {
        constexpr std::size_t shown_max = 20;
        std::string text;
        for (std::size_t at = 0; at < std::min(items.size(), shown_max); ++at) {
            text += fmt::format("{}{}", at == 0 ? "" : ", ", number(items[at]));
        }
        return items.size() > shown_max ? text + ", ..." : text;
    };
    for (const auto& undecided : report.undecided) {
        tell(
            fmt::format("undecided: the blocks {} are roots of {} mappings, of the devices {}; "
                        "--override-device-root chooses\n",
                        list(undecided.roots), undecided.mappings, list(undecided.devices)));
    }
}

nlohmann::json undecided_json(const salvage_report& report) {
    nlohmann::json all = nlohmann::json::array();
    for (const auto& undecided : report.undecided) {
        nlohmann::json roots = nlohmann::json::array();
        for (const metadata_block root : undecided.roots) {
            roots.push_back(root.value());
        }
        all.push_back({{"mappings", undecided.mappings},
                       {"roots", std::move(roots)},
                       {"devices", undecided.devices}});
    }
    return all;
}

nlohmann::json to_json(const lost_mappings& loss) {
    nlohmann::json entry = {{"device", loss.device.value()},
                            {"begin", loss.blocks.first},
                            {"metadata_block", loss.metadata.value()},
                            {"reason", loss.text}};
    // Absent: to the end of the device, wherever it is.
    if (loss.blocks.last != UINT64_MAX) {
        entry["end"] = loss.blocks.last + 1;
    }
    return entry;
}

nlohmann::json to_json(const salvaged_device& device) {
    nlohmann::json entry = {{"device", device.id.value()},
                            {"mappings_kept", device.mappings},
                            {"has_loss", device.has_loss},
                            {"details_rebuilt", device.details_rebuilt}};
    if (device.stated_mappings) {
        entry["mappings_lost"] = device.lost_mappings();
    }
    return entry;
}

nlohmann::json candidates_json(const salvage_report& report) {
    nlohmann::json list = nlohmann::json::array();
    for (const auto& candidate : report.candidates) {
        nlohmann::json entry = {{"mapping_root", candidate.mapping_root.value()},
                                {"match", to_string(candidate.match)},
                                {"devices", candidate.devices},
                                {"lost_devices", candidate.lost_devices},
                                {"overwritten_devices", candidate.overwritten_devices},
                                {"mappings", candidate.mappings.mappings},
                                {"time", candidate.mappings.time_max}};
        if (candidate.details_root) {
            entry["details_root"] = candidate.details_root->value();
        }
        list.push_back(std::move(entry));
    }
    return list;
}

}  // namespace

void print_candidates(const salvage_report& report) {
    for (const auto& candidate : report.candidates) {
        const std::string details =
            candidate.details_root ? fmt::format("{}", candidate.details_root->value()) : "none";
        tell(fmt::format(
            "candidate: mapping root {}, details root {} (match: {}): devices {}, "
            "unreadable {}, overwritten {}, mappings {}, highest data block {}, time {}\n",
            candidate.mapping_root.value(), details, to_string(candidate.match), candidate.devices,
            candidate.lost_devices, candidate.overwritten_devices, candidate.mappings.mappings,
            candidate.mappings.highest_data_block, candidate.mappings.time_max));
    }
}

void print_report(std::string_view tool, const salvage_report& report, bool verbose) {
    if (report.superblock_failure) {
        tell(fmt::format("{}\n", *report.superblock_failure));
    }
    if (verbose || report.mapping_origin != root_origin::superblock ||
        report.details_origin != root_origin::superblock) {
        tell(fmt::format(
            "mapping root: {} ({}), details root: {} ({})\n", report.mapping_root.value(),
            thin_metadata::to_string(report.mapping_origin), report.details_root.value(),
            thin_metadata::to_string(report.details_origin)));
    }
    for (const std::string& note : report.notes) {
        tell(fmt::format("{}\n", note));
    }
    for (const std::uint64_t block : report.corrected_blocks) {
        tell(fmt::format("block {}: one flipped bit was put right\n", block));
    }
    for (const metadata_block node : report.rebuilt_nodes) {
        tell(fmt::format("btree node {}: was lost, and is worked out from its children\n",
                         node.value()));
    }
    print_undecided(report);
    std::set<std::uint64_t> devices;
    for (const lost_mappings& loss : report.losses) {
        devices.insert(loss.device.value());
        tell(fmt::format("device {}: lost blocks {}: {}\n", loss.device.value(),
                         text_of(loss.blocks), loss.text));
    }
    if (report.loss_count > report.losses.size()) {
        tell(fmt::format("{} lost ranges, of which {} are shown\n", report.loss_count,
                         report.losses.size()));
    }
    print_devices(report);
    if (verbose || report.has_loss()) {
        tell(fmt::format("{}: {} devices and {} mappings are kept; {} lost ranges in {} devices\n",
                         tool, report.devices.size(), report.mappings, report.loss_count,
                         devices.size()));
    }
}

std::string json_of(const salvage_report& report, bool written) {
    nlohmann::json losses = nlohmann::json::array();
    for (const lost_mappings& loss : report.losses) {
        losses.push_back(to_json(loss));
    }
    nlohmann::json devices = nlohmann::json::array();
    for (const salvaged_device& device : report.devices) {
        devices.push_back(to_json(device));
    }
    nlohmann::json rebuilt = nlohmann::json::array();
    for (const metadata_block node : report.rebuilt_nodes) {
        rebuilt.push_back(node.value());
    }
    nlohmann::json made = {{"written", written},
                           {"has_loss", report.has_loss()},
                           {"mapping_root", report.mapping_root.value()},
                           {"mapping_root_from", thin_metadata::to_string(report.mapping_origin)},
                           {"details_root", report.details_root.value()},
                           {"details_root_from", thin_metadata::to_string(report.details_origin)},
                           {"transaction_id", report.header.transaction_id},
                           {"time", report.header.time},
                           {"data_block_size_sectors", report.header.data_block_size_sectors},
                           {"data_blocks", report.header.data_blocks},
                           {"mappings_kept", report.mappings},
                           {"devices", std::move(devices)},
                           {"lost_ranges", report.loss_count},
                           {"losses", std::move(losses)},
                           {"corrected_blocks", report.corrected_blocks},
                           {"rebuilt_nodes", std::move(rebuilt)},
                           {"candidates", candidates_json(report)},
                           {"undecided", undecided_json(report)},
                           {"notes", report.notes}};
    if (report.superblock_failure) {
        made["superblock"] = *report.superblock_failure;
    }
    return made.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace uthin::tools
