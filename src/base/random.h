// Seeded pseudo-random numbers (xoshiro256**, D. Blackman and S. Vigna, public domain algorithm),
// and the one place that asks the system for real randomness.
//
// Threads   A generator belongs to one thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace uthin {

class random_generator {
public:
    explicit random_generator(std::uint64_t seed) noexcept;

    [[nodiscard]] std::uint64_t next() noexcept;
    // Uniform in [0, bound); bound > 0.
    [[nodiscard]] std::uint64_t below(std::uint64_t bound) noexcept;
    // True once in `n` times on average.
    [[nodiscard]] bool one_in(std::uint64_t n) noexcept { return below(n) == 0; }

private:
    std::array<std::uint64_t, 4> state_;
};

[[nodiscard]] std::uint64_t system_random_u64();
// A random (version 4) UUID in the usual text form.
[[nodiscard]] std::string make_uuid();

}  // namespace uthin
