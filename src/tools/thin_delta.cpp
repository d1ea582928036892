// thin_delta: what differs between two devices.
#include <fmt/format.h>

#include <array>

#include "base/result.h"
#include "thin_metadata/difference.h"
#include "tools/snapshot_option.h"
#include "tools/thin_tool.h"

namespace uthin::tools {
namespace {

using thin_metadata::difference_kind;
using thin_metadata::difference_run;

struct side {
    std::optional<std::uint64_t> device;
    std::optional<std::uint64_t> root;
};

struct delta_line {
    std::optional<std::string> input;
    side left;
    side right;
    bool verbose = false;
    snapshot_choice snapshot;
    bool quiet = false;
};

std::string_view name_of(difference_kind kind) {
    static constexpr std::array<std::string_view, 4> names = {"same", "different", "left_only",
                                                              "right_only"};
    return names[static_cast<std::size_t>(kind)];
}

// One element for each stretch of one kind.
class plain_printer {
public:
    explicit plain_printer(text_file& target) : target_(target) {}
    result<void> add(const difference_run& run) {
        if (open_.count != 0 && open_.kind == run.kind && open_.begin + open_.count == run.begin) {
            open_.count += run.count;
            return {};
        }
        UTHIN_TRY(flush());
        open_ = run;
        return {};
    }
    result<void> flush() {
        if (open_.count == 0) {
            return {};
        }
        return target_.write(fmt::format("    <{} begin=\"{}\" length=\"{}\"/>\n",
                                         name_of(open_.kind), open_.begin.value(), open_.count));
    }

private:
    text_file& target_;
    difference_run open_;
};

// The runs with their data blocks, in groups of one kind.
class verbose_printer {
public:
    explicit verbose_printer(text_file& target) : target_(target) {}
    result<void> add(const difference_run& run) {
        if (kind_ != run.kind) {
            UTHIN_TRY(flush());
            kind_ = run.kind;
            UTHIN_TRY(target_.write(fmt::format("    <{}>\n", name_of(run.kind))));
        }
        if (run.kind == difference_kind::different) {
            return target_.write(fmt::format(
                "      <range begin=\"{}\" left_data_begin=\"{}\" right_data_begin=\"{}\" "
                "length=\"{}\"/>\n",
                run.begin.value(), run.left.value(), run.right.value(), run.count));
        }
        const data_block data = run.kind == difference_kind::right_only ? run.right : run.left;
        return target_.write(
            fmt::format("      <range begin=\"{}\" data_begin=\"{}\" length=\"{}\"/>\n",
                        run.begin.value(), data.value(), run.count));
    }
    result<void> flush() {
        return kind_ ? target_.write(fmt::format("    </{}>\n", name_of(*kind_))) : result<void>();
    }

private:
    text_file& target_;
    std::optional<difference_kind> kind_;
};

result<metadata_block> root_of(thin_metadata::metadata_view& view, const side& which,
                               std::string_view name) {
    if (which.root) {
        return metadata_block(*which.root);
    }
    const auto root = thin_metadata::mapping_root_of(view, device_id(*which.device));
    if (!root && root.error().code() == error_code::not_found) {
        return fail(error_code::not_found,
                    fmt::format("Unable to find mapping tree for {} ({})", name, *which.device));
    }
    return root;
}

std::string header_of(const thin_metadata::metadata_view& view, const delta_line& line) {
    const auto& superblock = view.superblock();
    const auto attribute = [](std::string_view name, const side& which) {
        return which.root ? fmt::format("{}_root=\"{}\"", name, *which.root)
                          : fmt::format("{}=\"{}\"", name, *which.device);
    };
    return fmt::format(
        "<superblock uuid=\"\" time=\"{}\" transaction=\"{}\"{} data_block_size=\"{}\" "
        "nr_data_blocks=\"{}\">\n  <diff {} {}>\n",
        std::uint32_t{superblock.time}, std::uint64_t{superblock.trans_id},
        superblock.flags == 0 ? "" : fmt::format(" flags=\"{}\"", std::uint32_t{superblock.flags}),
        std::uint32_t{superblock.data_block_size_sectors},
        std::uint64_t{superblock.data_sm_root.nr_blocks}, attribute("left", line.left),
        attribute("right", line.right));
}

template <class Printer>
result<void> print_differences(thin_metadata::metadata_view& view, metadata_block left,
                               metadata_block right, text_file& target) {
    Printer printer(target);
    UTHIN_TRY(thin_metadata::find_differences(
        view, left, right, [&printer](const difference_run& run) { return printer.add(run); }));
    return printer.flush();
}

result<void> print_delta(const delta_line& line) {
    const input_metadata opened =
        UTHIN_TRY(open_metadata_view(*line.input, {.metadata_snapshot = line.snapshot.chosen}));
    UTHIN_TRY(expect_snapshot(line.snapshot, *opened.view));
    const metadata_block left = UTHIN_TRY(root_of(*opened.view, line.left, "snap1"));
    const metadata_block right = UTHIN_TRY(root_of(*opened.view, line.right, "snap2"));
    text_file target;
    UTHIN_TRY(target.write(header_of(*opened.view, line)));
    UTHIN_TRY(line.verbose ? print_differences<verbose_printer>(*opened.view, left, right, target)
                           : print_differences<plain_printer>(*opened.view, left, right, target));
    UTHIN_TRY(target.write("  </diff>\n</superblock>\n"));
    return target.close();
}

}  // namespace

int thin_delta_main(arguments given) {
    delta_line line;
    option_table options("thin_delta",
                         "Print the differences in the mappings between two thin devices");
    options.operand("INPUT", line.input, "Metadata device, file or pool directory");
    add_snapshot_option(options, line.snapshot, "Use the metadata snapshot of a live pool");
    options.number("--root1", "BLOCKNR", line.left.root, "The first tree by its root block");
    options.number("--root2", "BLOCKNR", line.right.root, "The second tree by its root block");
    options.number("--snap1,--thin1", "DEV_ID", line.left.device, "The first device");
    options.number("--snap2,--thin2", "DEV_ID", line.right.device, "The second device");
    options.flag("--verbose", line.verbose, "Print data blocks too");
    options.hidden_flag("-q,--quiet", line.quiet);
    options.conflict("--thin1", "--root1");
    options.conflict("--thin2", "--root2");
    if (const auto status = options.parse(given)) {
        return *status;
    }
    if (!line.left.device && !line.left.root) {
        return options.usage_error("--snap1 or --root1 not specified.");
    }
    if (!line.right.device && !line.right.root) {
        return options.usage_error("--snap2 or --root2 not specified.");
    }
    return finish("thin_delta", print_delta(line), line.quiet);
}

}  // namespace uthin::tools
