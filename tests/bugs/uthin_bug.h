// Which deliberate bug is on: UTHIN_BUG=n of the environment, read once; 0 or nothing is none.
// Only the copies that bank.py makes of a few sources include this (README.md).
#pragma once

#include <cstdlib>

[[nodiscard]] inline bool uthin_bug(unsigned long number) noexcept {
    static const unsigned long chosen = [] {
        const char* text = std::getenv("UTHIN_BUG");
        return text != nullptr ? std::strtoul(text, nullptr, 10) : 0UL;
    }();
    return chosen == number;
}
