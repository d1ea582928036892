#include <algorithm>
#include <array>

#include "thin_metadata/checker_state.h"

namespace uthin::thin_metadata {

std::string_view to_string(check_severity severity) noexcept {
    switch (severity) {
        case check_severity::cosmetic: return "cosmetic";
        case check_severity::repairable: return "repairable";
        case check_severity::fatal: return "fatal";
    }
    return "unknown";
}

std::string_view to_string(check_code code) noexcept {
    static constexpr std::array<std::string_view, check_code_count> names = {
        "device_error",
        "wrong_block_number",
        "bad_block",
        "block_out_of_range",
        "conflicting_use",
        "loop",
        "tree_too_deep",
        "wrong_value_size",
        "keys_out_of_order",
        "key_out_of_bounds",
        "uneven_depth",
        "empty_internal_node",
        "shared_damage",
        "underfull_node",
        "odd_max_entries",
        "nonzero_padding",
        "bad_magic",
        "bad_version",
        "unknown_flags",
        "unknown_features",
        "bad_data_block_size",
        "bad_metadata_block_size",
        "stale_metadata_size",
        "time_limit_reached",
        "bad_held_root",
        "missing_details",
        "missing_mapping_tree",
        "wrong_mapped_blocks",
        "mapping_beyond_data",
        "mapping_from_future",
        "device_from_future",
        "device_id_too_large",
        "bad_space_map_size",
        "missing_index_entry",
        "extra_index_entry",
        "unused_index_entry",
        "count_too_low",
        "count_too_high",
        "count_beyond_end",
        "missing_overflow_entry",
        "stale_overflow_entry",
        "small_overflow_entry",
        "wrong_nr_allocated",
        "wrong_nr_free",
        "wrong_none_free_before",
    };
    const auto index = static_cast<std::size_t>(code);
    return index < names.size() ? names[index] : "unknown";
}

std::string_view to_string(block_use use) noexcept {
    switch (use) {
        case block_use::none: return "nothing";
        case block_use::superblock: return "superblock";
        case block_use::details_node: return "node of the details tree";
        case block_use::top_node: return "node of the top mapping tree";
        case block_use::bottom_node: return "node of a mapping tree";
        case block_use::data_index_node: return "node of the data space map's index";
        case block_use::data_overflow_node: return "node of the data space map's overflow tree";
        case block_use::metadata_overflow_node:
            return "node of the metadata space map's overflow tree";
        case block_use::data_bitmap: return "bitmap of the data space map";
        case block_use::metadata_bitmap: return "bitmap of the metadata space map";
        case block_use::metadata_index: return "index of the metadata space map";
    }
    return "unknown";
}

bool check_report::has_only_leaks() const noexcept {
    return fatal == 0 && repairable != 0 && too_high == repairable;
}

}  // namespace uthin::thin_metadata
