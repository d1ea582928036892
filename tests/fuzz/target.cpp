#include "fuzz/target.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>

#include "support/text_changes.h"

namespace uthin::fuzz {

namespace {

std::vector<target>& registered() {
    static std::vector<target> all;
    return all;
}

constexpr std::array<unsigned char, 12> strange_bytes = {0,    1,   2,   9,    10,   '"',
                                                         0x7f, '/', ':', 0x80, 0xfe, 0xff};

std::ptrdiff_t position(random_generator& random, const bytes& in) {
    return static_cast<std::ptrdiff_t>(random.below(in.size()));
}

void change_bytes(bytes& made, random_generator& random) {
    const std::size_t at = random.below(made.size());
    switch (random.below(7)) {
        case 0: made[at] ^= std::byte{1} << random.below(8); break;
        case 1: made[at] = static_cast<std::byte>(random.below(256)); break;
        case 2: made[at] = std::byte{strange_bytes[random.below(strange_bytes.size())]}; break;
        case 3:
            made.insert(made.begin() + position(random, made), 1 + random.below(8),
                        std::byte{strange_bytes[random.below(strange_bytes.size())]});
            break;
        case 4: {
            const std::size_t count = std::min(made.size() - at, 1 + random.below(16));
            made.erase(made.begin() + static_cast<std::ptrdiff_t>(at),
                       made.begin() + static_cast<std::ptrdiff_t>(at + count));
            break;
        }
        case 5: {
            const std::size_t count = std::min(made.size() - at, 1 + random.below(64));
            const bytes piece(made.begin() + static_cast<std::ptrdiff_t>(at),
                              made.begin() + static_cast<std::ptrdiff_t>(at + count));
            made.insert(made.begin() + position(random, made), piece.begin(), piece.end());
            break;
        }
        default:
            if (random.one_in(4)) {
                made.resize(at);
            } else {
                std::swap(made[at], made[random.below(made.size())]);
            }
            break;
    }
}

}  // namespace

registration::registration(const target& made) {
    registered().push_back(made);
}

const std::vector<target>& targets() {
    return registered();
}

void violated(std::string_view promise) {
    std::fprintf(stderr, "fuzz: broken promise: %.*s\n", static_cast<int>(promise.size()),
                 promise.data());
    std::abort();
}

std::uint64_t decisions::byte() {
    if (rest_.empty()) {
        return 0;
    }
    const auto first = std::to_integer<std::uint64_t>(rest_.front());
    rest_ = rest_.subspan(1);
    return first;
}

std::uint64_t decisions::number() {
    const std::uint64_t first = byte();
    constexpr std::uint64_t small_max = 247;
    if (first <= small_max) {
        return first;
    }
    std::uint64_t number = 0;
    for (std::uint64_t left = first - small_max; left != 0; --left) {
        number = number << 8 | byte();
    }
    return number;
}

bytes bytes_of(std::string_view text) {
    const auto from = std::as_bytes(std::span(text));
    return {from.begin(), from.end()};
}

std::string text_of(std::span<const std::byte> input) {
    std::string text(input.size(), '\0');
    std::ranges::transform(input, text.begin(),
                           [](std::byte byte) { return static_cast<char>(byte); });
    return text;
}

bytes mutated_bytes(std::span<const std::byte> input, random_generator& random) {
    bytes made(input.begin(), input.end());
    for (std::uint64_t left = 1 + random.below(4); left != 0; --left) {
        if (made.empty()) {
            made.push_back(std::byte{0});
        }
        change_bytes(made, random);
    }
    return made;
}

bytes mutated_text(std::span<const std::byte> input, random_generator& random) {
    return random.one_in(3) ? mutated_bytes(input, random)
                            : bytes_of(test::mutated_text(text_of(input), random));
}

bytes mutated_tagged_text(std::span<const std::byte> input, random_generator& random) {
    if (input.empty() || random.one_in(8)) {
        return mutated_bytes(input, random);
    }
    bytes made = mutated_text(input.subspan(1), random);
    made.insert(made.begin(), input.front());
    return made;
}

}  // namespace uthin::fuzz
