// thin_rmap: who maps these data blocks?
#include <fmt/format.h>

#include "base/result.h"
#include "thin_metadata/reverse_map.h"
#include "thin_metadata/text_line.h"
#include "tools/thin_tool.h"

namespace uthin::tools {
namespace {

using region_list = std::vector<range<data_block>>;

result<void> take_region(std::string_view text, region_list& regions) {
    const std::size_t dots = text.find("..");
    if (dots == std::string_view::npos) {
        return fail(error_code::invalid_argument, "badly formed region");
    }
    const auto begin = parse_number(text.substr(0, dots));
    const auto end = parse_number(text.substr(dots + 2));
    if (!begin || !end) {
        return fail(error_code::invalid_argument, "badly formed region");
    }
    if (*end <= *begin) {
        return fail(error_code::invalid_argument, "end <= begin");
    }
    regions.push_back({data_block(*begin), data_block(*end)});
    return {};
}

// Most lines of a pool with snapshots differ from the one before in the device only.
class line_printer {
public:
    result<void> print(const thin_metadata::reverse_run& run) {
        if (run.count != last_.count || run.data_begin != last_.data_begin) {
            thin_metadata::text_line line;
            line.add("data ").add(run.data_begin.value()).add("..");
            front_ = line.add((run.data_begin + run.count).value()).add(" -> thin(").text();
        }
        if (run.count != last_.count || run.begin != last_.begin) {
            thin_metadata::text_line line;
            line.add(") ").add(run.begin.value()).add("..");
            back_ = line.add((run.begin + run.count).value()).add("\n").text();
        }
        last_ = run;
        thin_metadata::text_line device;
        lines_.append(front_).append(device.add(run.device.value()).text()).append(back_);
        return lines_.size() < lines_bytes ? result<void>() : flush();
    }
    result<void> close() {
        UTHIN_TRY(flush());
        return target_.close();
    }

private:
    static constexpr std::size_t lines_bytes = 64 << 10;

    result<void> flush() {
        UTHIN_TRY(target_.write(lines_));
        lines_.clear();
        return {};
    }

    text_file target_;
    thin_metadata::reverse_run last_;
    std::string front_;
    std::string back_;
    std::string lines_;
};

result<void> print_reverse_map(const std::string& input, const region_list& regions) {
    const input_metadata opened = UTHIN_TRY(open_metadata_view(input, {}));
    line_printer lines;
    UTHIN_TRY(thin_metadata::reverse_mappings(
        *opened.view, regions,
        [&lines](const thin_metadata::reverse_run& run) { return lines.print(run); }));
    return lines.close();
}

}  // namespace

int thin_rmap_main(arguments given) {
    std::optional<std::string> input;
    region_list regions;
    bool quiet = false;
    option_table options("thin_rmap", "Output reverse map of a thin provisioned region of blocks");
    options.operand("INPUT", input, "Metadata device, file or pool directory");
    options.value(
        "--region", "BLOCK_RANGE",
        [&regions](std::string_view text) { return take_region(text, regions); },
        "Data blocks BEGIN..END, the end not included; may be given several times");
    options.require("--region");
    options.hidden_flag("-q,--quiet", quiet);
    if (const auto status = options.parse(given)) {
        return *status;
    }
    return finish("thin_rmap", print_reverse_map(*input, regions), quiet);
}

}  // namespace uthin::tools
