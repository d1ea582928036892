// thin_ls: the thin devices of a pool, what each maps, and what deleting some would free.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/result.h"
#include "thin_metadata/pool_usage.h"
#include "tools/snapshot_option.h"
#include "tools/thin_tool.h"

namespace uthin::tools {
namespace {

using thin_metadata::device_usage;
using thin_metadata::pool_usage;

struct field {
    std::string_view name;
    bool needs_mappings;
    std::string (*text)(const device_usage& device, std::uint64_t block_bytes);
};

// A number of at most 8192 with the unit that allows it, rounded.
std::string pretty(std::uint64_t bytes) {
    static constexpr std::array<std::string_view, 7> units = {"b",   "KiB", "MiB", "GiB",
                                                              "TiB", "PiB", "EiB"};
    constexpr std::uint64_t shown_max = 8192;
    std::size_t unit = 0;
    std::uint64_t scale = 1;
    while (bytes / scale > shown_max || (bytes / scale == shown_max && bytes % scale != 0)) {
        scale *= 1024;
        ++unit;
    }
    return fmt::format("{}{}", bytes / scale + (bytes % scale >= (scale + 1) / 2 && scale > 1),
                       units[unit]);
}

template <class Count>
constexpr auto blocks_of(Count count) {
    (void)count;
    return [](const device_usage& device, std::uint64_t) {
        return fmt::format("{}", Count{}(device));
    };
}
template <class Count>
constexpr auto sectors_of(Count) {
    return [](const device_usage& device, std::uint64_t block_bytes) {
        return fmt::format("{}", Count{}(device) * (block_bytes / sector_size_bytes));
    };
}
template <class Count>
constexpr auto bytes_of(Count) {
    return [](const device_usage& device, std::uint64_t block_bytes) {
        return fmt::format("{}", Count{}(device)*block_bytes);
    };
}
template <class Count>
constexpr auto pretty_of(Count) {
    return [](const device_usage& device, std::uint64_t block_bytes) {
        return pretty(Count{}(device)*block_bytes);
    };
}

constexpr auto mapped = [](const device_usage& device) { return device.mapped_blocks; };
constexpr auto shared = [](const device_usage& device) { return device.shared_blocks; };
constexpr auto exclusive = [](const device_usage& device) {
    return device.mapped_blocks - device.shared_blocks;
};
constexpr auto end_block = [](const device_usage& device) {
    return device.highest_block ? *device.highest_block + 1 : 0;
};

// The last unit of the highest mapped block.
std::string highest(const device_usage& device, std::uint64_t units_per_block) {
    return device.highest_block
               ? fmt::format("{}", (*device.highest_block + 1) * units_per_block - 1)
               : "-";
}

constexpr std::array fields = {
    field{"DEV", false,
          [](const device_usage& device, std::uint64_t) {
              return fmt::format("{}", device.info.id.value());
          }},
    field{"MAPPED_BLOCKS", true, blocks_of(mapped)},
    field{"EXCLUSIVE_BLOCKS", true, blocks_of(exclusive)},
    field{"SHARED_BLOCKS", true, blocks_of(shared)},
    field{"HIGHEST_BLOCK", true,
          [](const device_usage& device, std::uint64_t) { return highest(device, 1); }},
    field{"MAPPED_SECTORS", true, sectors_of(mapped)},
    field{"EXCLUSIVE_SECTORS", true, sectors_of(exclusive)},
    field{"SHARED_SECTORS", true, sectors_of(shared)},
    field{"HIGHEST_SECTOR", true,
          [](const device_usage& device, std::uint64_t block_bytes) {
              return highest(device, block_bytes / sector_size_bytes);
          }},
    field{"MAPPED_BYTES", true, bytes_of(mapped)},
    field{"EXCLUSIVE_BYTES", true, bytes_of(exclusive)},
    field{"SHARED_BYTES", true, bytes_of(shared)},
    field{"HIGHEST_BYTE", true,
          [](const device_usage& device, std::uint64_t block_bytes) {
              return highest(device, block_bytes);
          }},
    field{"MAPPED", true, pretty_of(mapped)},
    field{"EXCLUSIVE", true, pretty_of(exclusive)},
    field{"SHARED", true, pretty_of(shared)},
    field{"HIGHEST_MAPPED", true, pretty_of(end_block)},
    field{"TRANSACTION", false,
          [](const device_usage& device, std::uint64_t) {
              return fmt::format("{}", device.info.details.transaction_id);
          }},
    field{"CREATE_TIME", false,
          [](const device_usage& device, std::uint64_t) {
              return fmt::format("{}", device.info.details.creation_time);
          }},
    field{"SNAP_TIME", false,
          [](const device_usage& device, std::uint64_t) {
              return fmt::format("{}", device.info.details.snapshotted_time);
          }},
};

struct ls_line {
    std::optional<std::string> input;
    std::vector<const field*> columns;
    bool no_headers = false;
    snapshot_choice snapshot;
    bool quiet = false;
    std::vector<device_id> deleted;
};

result<void> take_columns(std::string_view list, ls_line& line) {
    line.columns.clear();
    while (!list.empty()) {
        const std::size_t comma = std::min(list.find(','), list.size());
        const std::string_view name = list.substr(0, comma);
        const auto found = std::find_if(fields.begin(), fields.end(),
                                        [&](const field& known) { return known.name == name; });
        if (found == fields.end()) {
            return fail(error_code::invalid_argument, "Unknown field");
        }
        line.columns.push_back(&*found);
        list.remove_prefix(std::min(comma + 1, list.size()));
    }
    return {};
}

result<void> take_deleted(std::string_view list, ls_line& line) {
    while (!list.empty()) {
        const std::size_t comma = std::min(list.find(','), list.size());
        line.deleted.emplace_back(UTHIN_TRY(parse_number(list.substr(0, comma))));
        list.remove_prefix(std::min(comma + 1, list.size()));
    }
    return {};
}

// Cells flush right, a blank behind each column.
std::string table_of(const ls_line& line, const pool_usage& usage, std::uint64_t block_bytes) {
    std::vector<std::vector<std::string>> rows;
    if (!line.no_headers) {
        rows.emplace_back();
        for (const field* column : line.columns) {
            rows.back().emplace_back(column->name);
        }
    }
    for (const device_usage& device : usage.devices) {
        rows.emplace_back();
        for (const field* column : line.columns) {
            rows.back().push_back(column->text(device, block_bytes));
        }
    }
    std::string text;
    std::vector<std::size_t> widths(line.columns.size());
    for (const auto& row : rows) {
        for (std::size_t index = 0; index < row.size(); ++index) {
            widths[index] = std::max(widths[index], row[index].size());
        }
    }
    for (const auto& row : rows) {
        for (std::size_t index = 0; index < row.size(); ++index) {
            text += fmt::format("{:>{}} ", row[index], widths[index]);
        }
        text += '\n';
    }
    return text;
}

result<void> list(const ls_line& line) {
    const input_metadata opened =
        UTHIN_TRY(open_metadata_view(*line.input, {.metadata_snapshot = line.snapshot.chosen}));
    UTHIN_TRY(expect_snapshot(line.snapshot, *opened.view));
    const std::uint64_t block_bytes =
        std::uint64_t{opened.view->superblock().data_block_size_sectors} * sector_size_bytes;
    const bool needs_mappings =
        !line.deleted.empty() ||
        std::any_of(line.columns.begin(), line.columns.end(),
                    [](const field* column) { return column->needs_mappings; });
    const pool_usage usage = UTHIN_TRY(thin_metadata::measure_usage(
        *opened.view, {.walk_mappings = needs_mappings, .deleted = line.deleted}));
    text_file target;
    UTHIN_TRY(target.write(table_of(line, usage, block_bytes)));
    if (!line.deleted.empty()) {
        UTHIN_TRY(
            target.write(fmt::format("\nDeleting {} of {} devices frees {} data blocks ({} "
                                     "bytes)\n",
                                     line.deleted.size(), usage.devices.size(), usage.freed_blocks,
                                     usage.freed_blocks * block_bytes)));
    }
    return target.close();
}

}  // namespace

int thin_ls_main(arguments given) {
    ls_line line;
    (void)take_columns("DEV,MAPPED,CREATE_TIME,SNAP_TIME", line);
    option_table options("thin_ls", "List thin volumes within a pool");
    options.operand("INPUT", line.input, "Metadata device, file or pool directory");
    options.value(
        "--delete-simulation", "ID[,ID...]",
        [&line](std::string_view text) { return take_deleted(text, line); },
        "Say what deleting these devices together would free");
    options.value(
        "-o,--format", "FIELDS",
        [&line](std::string_view text) { return take_columns(text, line); },
        "The columns, separated by commas");
    add_snapshot_option(options, line.snapshot, "List the metadata snapshot of a live pool");
    options.flag("--no-headers", line.no_headers, "No line of headers");
    options.hidden_flag("-q,--quiet", line.quiet);
    if (const auto status = options.parse(given)) {
        return *status;
    }
    return finish("thin_ls", list(line), line.quiet);
}

}  // namespace uthin::tools
