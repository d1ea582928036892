// Scenarios (support/scenario.h) run by uthin in this process, and compared with a kernel's
// outcome.
//
// Threads   One caller.
// Failures  std::runtime_error for a scenario that cannot be read.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "uthin/block_device.h"
#include "uthin/error.h"

namespace uthin::test {

// In memory, in the kernel's dialect of table lines.
[[nodiscard]] std::string run_scenario_by_uthin(const std::string& text);
// The same on existing images: they are /dev/disk0 and /dev/disk1.
[[nodiscard]] result<std::string> run_scenario_on(const std::string& text,
                                                  const std::filesystem::path& metadata,
                                                  const std::filesystem::path& data);

// What metadata says, as lines: devices and mappings, data blocks numbered in the order in which
// they appear, with the number of mappings that name them. Ends with what a full check complains
// about.
[[nodiscard]] std::string metadata_text(block_device& metadata);
// Puts the texts of dumped metadata (folder of block lists) where `outcome` refers to them.
[[nodiscard]] std::string with_dumps(const std::string& outcome,
                                     const std::filesystem::path& dumps);

// What is different, one line each; empty: nothing that `scenario` does not announce with "!Dn".
// Status lines may differ in the block of the held root; uthin's may show up to 10 % + 16 more
// metadata blocks in use.
[[nodiscard]] std::vector<std::string> compare_outcomes(const std::string& scenario,
                                                        const std::string& kernel,
                                                        const std::string& uthin);

}  // namespace uthin::test
