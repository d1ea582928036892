// Scenarios made from a seed: devices, snapshots, writes, discards, messages, reloads and restarts.
//
// Threads   Plain function.
#pragma once

#include <cstdint>
#include <string>

namespace uthin::test {

// The same text for the same seed. Every fourth one fills its pool.
[[nodiscard]] std::string generated_scenario(std::uint64_t seed);

}  // namespace uthin::test
