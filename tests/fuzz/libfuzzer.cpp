// The one target that is linked beside this file, for libFuzzer.
//
// UTHIN_FUZZ_SEEDS=FOLDER in the environment: its seeds are written there, and nothing is run.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>

#include "fuzz/target.h"

namespace {

using uthin::fuzz::bytes;

const uthin::fuzz::target& the_target() {
    return uthin::fuzz::targets().front();
}

std::span<const std::byte> as_input(const std::uint8_t* data, std::size_t size) {
    return std::as_bytes(std::span(data, size));
}

void write_seeds(const std::filesystem::path& folder) {
    std::filesystem::create_directories(folder);
    std::size_t number = 0;
    for (const bytes& seed : the_target().seeds()) {
        std::ofstream file(folder / fmt::format("seed-{}", number++), std::ios::binary);
        file << uthin::fuzz::text_of(seed);
        uthin::fuzz::require(file.flush().good(), "a seed is written");
    }
}

}  // namespace

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t size_max);

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
    if (const char* const folder = std::getenv("UTHIN_FUZZ_SEEDS")) {
        write_seeds(folder);
        std::exit(0);
    }
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    the_target().run(as_input(data, size));
    return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t size_max, unsigned int seed) {
    uthin::random_generator random(seed);
    // Its dictionary, what it learns from comparisons, and crossing over are in libFuzzer's own.
    if (random.one_in(3)) {
        return LLVMFuzzerMutate(data, size, size_max);
    }
    const bytes made = the_target().mutate(as_input(data, size), random);
    const std::size_t count = std::min(made.size(), size_max);
    std::transform(made.begin(), made.begin() + static_cast<std::ptrdiff_t>(count), data,
                   [](std::byte byte) { return std::to_integer<std::uint8_t>(byte); });
    return count;
}
