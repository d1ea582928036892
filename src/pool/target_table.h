// Table lines of the kernel's thin-pool and thin targets, parsed and printed.
//
// Invariants
//   TG3  With table_dialect::strict_kernel a line is accepted exactly when the kernel accepts it.
//   TG4  Parsing what was printed gives the same table.
// Threads   Plain functions and values.
// Failures  invalid_argument: one line with the word that is wrong. Whether the devices exist, fit
//           and are free is for the caller.
// Source    tests/data/kernel-badinput-6.1.tsv; semantics of the targets;
// docs/kernel-differences.md.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "uthin/error.h"
#include "uthin/units.h"

namespace uthin {

enum class table_dialect : std::uint8_t {
    uthin,  // all five features together; nothing after the last word; no change of block size
    strict_kernel,
};

// "START LENGTH TARGET WORD...", the words not looked at.
struct target_line {
    std::uint64_t start_sector = 0;
    std::uint64_t length_sectors = 0;
    std::string target;
    std::vector<std::string> words;
};
[[nodiscard]] result<target_line> parse_target_line(std::string_view text);

struct pool_features {
    bool skip_block_zeroing = false;
    bool ignore_discard = false;
    bool no_discard_passdown = false;
    bool read_only = false;
    bool error_if_no_space = false;
    bool operator==(const pool_features&) const = default;
};

struct pool_table {
    std::uint64_t length_sectors = 0;
    std::string metadata_device;
    std::string data_device;
    std::uint32_t block_size_sectors = 0;
    std::uint64_t low_water_blocks = 0;
    pool_features features;

    // What does not fill a block at the end is not used.
    [[nodiscard]] std::uint64_t data_blocks() const { return length_sectors / block_size_sectors; }
    bool operator==(const pool_table&) const = default;
};
[[nodiscard]] result<pool_table> parse_pool_table(const target_line& line, table_dialect dialect);
// A live pool takes `next` instead of `live`: the devices must be the same ones, and discards
// cannot be switched on or off. busy: other data device; invalid_argument: everything else.
[[nodiscard]] result<void> check_pool_reload(const pool_table& live, const pool_table& next,
                                             table_dialect dialect);
// "0 LENGTH thin-pool METADATA DATA BLOCK LOW #FEATURES FEATURE...".
[[nodiscard]] std::string format_table(const pool_table& table);
// What `dmsetup table` shows after the target's name: the same words, and a space.
[[nodiscard]] std::string table_status_line(const pool_table& table);

struct thin_table {
    std::uint64_t length_sectors = 0;
    std::string pool_device;
    device_id id;
    std::string external_origin;  // empty: none
    bool operator==(const thin_table&) const = default;
};
[[nodiscard]] result<thin_table> parse_thin_table(const target_line& line);
// "0 LENGTH thin POOL ID [ORIGIN]".
[[nodiscard]] std::string format_table(const thin_table& table);
// "POOL ID [ORIGIN]".
[[nodiscard]] std::string table_status_line(const thin_table& table);

}  // namespace uthin
