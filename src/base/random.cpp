#include "base/random.h"

#include <bit>
#include <cstdio>
#include <random>

#include "base/assert.h"

namespace uthin {
namespace {

std::uint64_t splitmix64(std::uint64_t& state) noexcept {
    state += 0x9E3779B97F4A7C15;
    std::uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

}  // namespace

random_generator::random_generator(std::uint64_t seed) noexcept : state_{} {
    for (std::uint64_t& word : state_) {
        word = splitmix64(seed);
    }
}

std::uint64_t random_generator::next() noexcept {
    const std::uint64_t value = std::rotl(state_[1] * 5, 7) * 9;
    const std::uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return value;
}

std::uint64_t random_generator::below(std::uint64_t bound) noexcept {
    UTHIN_ASSERT(bound > 0);
    __extension__ using wide = unsigned __int128;
    return static_cast<std::uint64_t>(static_cast<wide>(next()) * bound >> 64);
}

std::uint64_t system_random_u64() {
    std::random_device device;
    return static_cast<std::uint64_t>(device()) << 32 | device();
}

std::string make_uuid() {
    const std::uint64_t high = (system_random_u64() & ~0xF000ULL) | 0x4000ULL;
    const std::uint64_t low = (system_random_u64() & ~(3ULL << 62)) | 1ULL << 63;
    char text[37];
    std::snprintf(text, sizeof text, "%08x-%04x-%04x-%04x-%012llx",
                  static_cast<unsigned>(high >> 32), static_cast<unsigned>(high >> 16 & 0xFFFF),
                  static_cast<unsigned>(high & 0xFFFF), static_cast<unsigned>(low >> 48),
                  static_cast<unsigned long long>(low & 0xFFFFFFFFFFFF));
    return text;
}

}  // namespace uthin
