// The seed of this run.
#pragma once

#include <cstdint>

namespace uthin::test {

// UTHIN_SEED if set, else a fixed default, so that a plain run is repeatable.
[[nodiscard]] std::uint64_t seed();

}  // namespace uthin::test
