// -m, of the tools that 0.9 lets name the snapshot's block too.
//
// Threads   One.
// Failures  invalid_argument.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "thin_metadata/metadata_view.h"
#include "tools/thin_options.h"

namespace uthin::tools {

struct snapshot_choice {
    bool chosen = false;
    std::optional<std::uint64_t> block;
};

void add_snapshot_option(option_table& options, snapshot_choice& choice, std::string_view help);
// Fails when the view is not of the block that was named.
[[nodiscard]] result<void> expect_snapshot(const snapshot_choice& choice,
                                           const thin_metadata::metadata_view& view);

}  // namespace uthin::tools
