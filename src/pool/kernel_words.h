// The texts that the kernel's thin-pool target speaks: status line, messages, table lines.
//
// Invariants
//   KW1  For the same pool the status line is the kernel's, byte for byte.
//   KW2  A message is accepted exactly when the kernel accepts it.
// Threads   Plain functions.
// Failures  invalid_argument: to_errno() is what the kernel returns.
// Source    tests/kernel (recorded from 6.1 and 6.12); semantics of the thin-pool target.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "pool/pool_file.h"
#include "uthin/error.h"
#include "uthin/pool.h"
#include "uthin/units.h"

namespace uthin {

// Without start, length and target name; ends with a space. "Fail" in fail mode.
[[nodiscard]] std::string kernel_status_line(const pool_status& status);

enum class kernel_verb : std::uint8_t {
    create_thin,         // id
    create_snap,         // id, origin
    delete_thin,         // id
    set_transaction_id,  // current, next
    reserve_metadata_snap,
    release_metadata_snap,
};

struct kernel_message {
    kernel_verb verb = kernel_verb::create_thin;
    std::uint64_t first = 0;
    std::uint64_t second = 0;
    bool operator==(const kernel_message&) const = default;
};

[[nodiscard]] result<kernel_message> parse_kernel_message(std::string_view text);

// "0 LENGTH thin-pool METADATA DATA BLOCK LOW #FEATURES FEATURE...".
[[nodiscard]] std::string pool_table_line(const pool_status& status, const pool_file& file,
                                          std::string_view metadata_url, std::string_view data_url);
// "0 LENGTH thin POOL ID".
[[nodiscard]] std::string thin_table_line(std::uint64_t size_bytes, std::string_view pool_device,
                                          device_id id);

}  // namespace uthin
