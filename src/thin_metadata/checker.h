// A full consistency check of pool metadata: every reachable block, every mapping, every reference
// count.
//
// Invariants
//   CK1  Any bytes give a report or an error: each block is visited at most once, each pointer is
//        bounded first, and memory stays below 64 MiB plus four times the metadata.
//   CK2  A pool that any released kernel or tool left in good health has no fatal or repairable
//        finding.
//   CK3  A damaged subtree is reported with what is lost under it; everything else is still
//        checked.
//   CK4  Nothing is written.
// Threads   Any one; the view may be read by others meanwhile.
// Failures  What is wrong in the metadata is a finding, unreadable blocks too. Errors: view_expired
//           (throw the report away), cancelled (by `progress`), out_of_memory.
// Source    docs/format.md 3 to 7, 16 and 17.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "thin_metadata/metadata_view.h"

namespace uthin::thin_metadata {

enum class check_severity : std::uint8_t {
    cosmetic,    // harmless: left by healthy kernels and tools, or read by nobody
    repairable,  // wrong, but put right from what the trees say, without losing anything
    fatal,       // something is lost, or writing to the pool would lose something
};

enum class check_code : std::uint8_t {
    // Any block.
    device_error,
    wrong_block_number,
    bad_block,  // checksum or node header
    block_out_of_range,
    conflicting_use,  // reached as two kinds of block
    // Nodes.
    loop,
    tree_too_deep,
    wrong_value_size,
    keys_out_of_order,
    key_out_of_bounds,  // outside what the parent says
    uneven_depth,
    empty_internal_node,
    shared_damage,  // a damaged subtree, met again under another parent
    underfull_node,
    odd_max_entries,
    nonzero_padding,
    // Superblock.
    bad_magic,
    bad_version,
    unknown_flags,
    unknown_features,
    bad_data_block_size,
    bad_metadata_block_size,
    stale_metadata_size,
    time_limit_reached,
    bad_held_root,
    // Devices.
    missing_details,
    missing_mapping_tree,
    wrong_mapped_blocks,
    mapping_beyond_data,
    mapping_from_future,
    device_from_future,  // times or transaction id of a device above the pool's
    device_id_too_large,
    // Space maps.
    bad_space_map_size,
    missing_index_entry,
    extra_index_entry,
    unused_index_entry,
    count_too_low,
    count_too_high,
    count_beyond_end,
    missing_overflow_entry,
    stale_overflow_entry,
    small_overflow_entry,
    wrong_nr_allocated,
    wrong_nr_free,
    wrong_none_free_before,
};
inline constexpr std::size_t check_code_count =
    static_cast<std::size_t>(check_code::wrong_none_free_before) + 1;

[[nodiscard]] std::string_view to_string(check_severity severity) noexcept;
[[nodiscard]] std::string_view to_string(check_code code) noexcept;

enum class block_space : std::uint8_t { none, metadata, data };

struct check_finding {
    check_severity severity = check_severity::cosmetic;
    check_code code = check_code::bad_block;
    block_space space = block_space::none;  // which device `block` is an index of
    std::uint64_t block = 0;
    std::uint64_t count = 1;  // blocks (or entries) that the finding speaks of
    std::optional<device_id> device = std::nullopt;
    std::string text;  // one line, complete in itself
};

enum class space_map_check : std::uint8_t {
    absent,    // a metadata snapshot has none
    skipped,   // not asked for
    partial,   // parts of the trees or of the map could not be read: only counts that are too low
               // show
    compared,  // block by block
};

// Blocks whose stored count is higher than what the trees say, exactly as many as are reported.
struct leaked_range {
    block_space space = block_space::none;
    std::uint64_t begin = 0;
    std::uint64_t count = 0;
    std::uint32_t stored = 0;
    std::uint32_t expected = 0;
};

struct check_report {
    std::uint64_t fatal = 0;
    std::uint64_t repairable = 0;
    std::uint64_t cosmetic = 0;
    std::uint64_t too_high = 0;  // of the repairable ones: counts of more than is there
    // The first ones; the counts above include those that did not fit.
    std::vector<check_finding> findings;

    std::uint64_t transaction_id = 0;
    bool needs_check = false;
    std::uint64_t metadata_blocks = 0;       // of the space map; of the device without one
    std::uint64_t free_metadata_blocks = 0;  // as the superblock says
    std::uint64_t data_blocks = 0;
    std::uint64_t devices = 0;
    std::uint64_t mapped_blocks = 0;         // over all devices
    std::uint64_t metadata_blocks_used = 0;  // reachable
    std::uint64_t data_blocks_used = 0;      // reachable, shared ones once; 0 without space maps
    std::uint64_t leaked_metadata_blocks = 0;
    std::uint64_t leaked_data_blocks = 0;
    space_map_check metadata_space_map = space_map_check::skipped;
    space_map_check data_space_map = space_map_check::skipped;

    [[nodiscard]] bool is_clean() const noexcept { return fatal == 0 && repairable == 0; }
    // Counts that are too high, and nothing else: the trees are right, and repair_leaks() helps.
    [[nodiscard]] bool has_only_leaks() const noexcept;
};

enum class check_scope : std::uint8_t {
    superblock,  // its fields only
    devices,     // and the details tree, the top mapping tree, and that both name the same devices
    all,
};

struct check_options {
    check_scope scope = check_scope::all;
    std::size_t findings_max = 1000;
    // Size of the data device, if known.
    std::optional<std::uint64_t> data_device_blocks = std::nullopt;
    // Called now and then with the number of blocks read so far; false cancels the check.
    std::function<bool(std::uint64_t blocks_read)> progress = nullptr;
    // Called for every leaked range, in ascending order within each space.
    std::function<void(const leaked_range&)> on_leak = nullptr;
};

[[nodiscard]] result<check_report> check_metadata(metadata_view& view,
                                                  const check_options& options);

}  // namespace uthin::thin_metadata
