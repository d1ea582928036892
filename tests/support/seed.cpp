#include "support/seed.h"

#include <cstdlib>

namespace uthin::test {

std::uint64_t seed() {
    const char* text = std::getenv("UTHIN_SEED");
    return text != nullptr ? std::strtoull(text, nullptr, 0) : 20261122;
}

}  // namespace uthin::test
