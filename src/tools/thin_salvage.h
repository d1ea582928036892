// What thin_repair and thin_dump --repair share: the options by which a user knows better, and how
// it is told what is kept and what is lost.
//
// Threads   One.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "thin_metadata/salvage.h"
#include "tools/thin_tool.h"

namespace uthin::tools {

// As they were given; salvage_options are made of them after the command line was read.
struct salvage_line {
    std::optional<std::uint64_t> data_block_size;
    std::optional<std::uint64_t> transaction_id;
    std::optional<std::uint64_t> data_blocks;
    std::optional<std::uint64_t> exact_block_size;
    std::optional<std::uint64_t> exact_transaction_id;
    std::optional<std::uint64_t> exact_data_blocks;
    std::optional<std::uint64_t> mapping_root;
    std::optional<std::uint64_t> details_root;
    std::map<std::uint64_t, metadata_block> device_roots;
    bool no_bit_correction = false;

    [[nodiscard]] thin_metadata::restore_overrides overrides() const;
    [[nodiscard]] thin_metadata::salvage_options options() const;
    // The header with what is taken as it is.
    [[nodiscard]] thin_metadata::pool_header replaced(
        const thin_metadata::pool_header& given) const;
};

// In alphabetical order with those of the tool: each adds one.
void add_override_options(option_table& options, salvage_line& line);

// One line for each loss and each thing to know. Nothing when all is well, unless `verbose`.
void print_report(std::string_view tool, const thin_metadata::salvage_report& report, bool verbose);
void print_candidates(const thin_metadata::salvage_report& report);
[[nodiscard]] std::string json_of(const thin_metadata::salvage_report& report, bool written);

}  // namespace uthin::tools
