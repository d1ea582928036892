// The export "B@since-A": the bytes of B, with everything that did not change since A told to be a
// hole. Whoever has A copies only what changed.
//
// Invariants
//   SX1  Whatever may differ from A is told as data, also where it reads as zeros: a copier that
//        skips holes and zeros must not skip it.
// Threads   Any.
// Failures  Those of pool_service::diff.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "pool/pool_service.h"

namespace uthin::frontends {

struct since_name {
    std::string to;
    std::string from;
};

// How `name` can be read as "TO@since-FROM"; both may hold the word themselves.
[[nodiscard]] std::vector<since_name> since_names(const std::string& name);

// What is to be copied within the range, and what is not; at most `extents_max`, from its begin
// without gaps. `sides` tells of what, not of where.
[[nodiscard]] result<std::vector<volume_extent>> extents_since(
    const std::function<result<diff_reply>(const diff_request&)>& diff, diff_request sides,
    std::uint64_t offset_bytes, std::uint64_t length_bytes, std::size_t extents_max);

}  // namespace uthin::frontends
