// Where a pool's data device is free, as its data space map says.
//
// Invariants
//   FS1  Runs ascend, lie inside the pool and are as long as possible.
//   FS2  A block is named only when a bitmap that verifies says that nobody uses it.
// Threads   One.
// Failures  corrupt (also when a bitmap is missing), wrong_block, io_error; those of `each`.
// Source    docs/format.md 7.
#pragma once

#include <functional>

#include "thin_metadata/metadata_view.h"

namespace uthin::thin_metadata {

using data_range_function = std::function<result<void>(const range<data_block>& free)>;

// The pool's own state: a metadata snapshot has no space map (unsupported).
[[nodiscard]] result<void> list_free_data(metadata_view& view, const data_range_function& each);

}  // namespace uthin::thin_metadata
