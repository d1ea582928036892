// What the kernel's targets say of themselves: the status lines of pools and thins.
//
// Invariants
//   TG2  For the same pool the lines are the kernel's, byte for byte; without start, length and
//        target name, which device-mapper puts before them.
// Threads   Plain functions.
// Failures  None.
// Source    tests/kernel (recorded from 6.1 and 6.12); semantics of the thin-pool target.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "uthin/pool.h"
#include "uthin/units.h"

namespace uthin {

// Ends with a space. "Fail" in fail mode.
[[nodiscard]] std::string pool_status_line(const pool_status& status);
// For a pool that could not tell: "Fail" or "Error".
[[nodiscard]] std::string status_line_of_failure(const error& why);
// "MAPPED HIGHEST" in sectors; '-' instead of HIGHEST when nothing is mapped. Mappings beyond the
// thin's end are counted, and a last block in part counts whole.
[[nodiscard]] std::string thin_status_line(std::uint64_t mapped_blocks,
                                           std::optional<virtual_block> highest,
                                           std::uint32_t block_size_sectors);

}  // namespace uthin
