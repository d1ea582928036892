#include "support/text_changes.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace uthin::test {

namespace {

std::string changed_number(const std::string& text, random_generator& random) {
    const std::size_t from = random.below(text.size());
    const std::size_t at = text.find_first_of("0123456789", from);
    if (at == std::string::npos) {
        return text;
    }
    const std::size_t end = std::min(text.find_first_not_of("0123456789", at), text.size());
    constexpr std::array numbers = {"0",
                                    "1",
                                    "4294967295",
                                    "4294967296",
                                    "16777216",
                                    "16777215",
                                    "18446744073709551615",
                                    "18446744073709551616",
                                    "1099511627776",
                                    "9223372036854775807",
                                    "-1",
                                    "",
                                    "99999999999999999999999"};
    const std::string made = !random.one_in(3) ? std::to_string(random.below(2000))
                                               : numbers[random.below(numbers.size())];
    return text.substr(0, at) + made + text.substr(end);
}

std::string changed_lines(const std::string& text, random_generator& random) {
    std::vector<std::string> lines;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
        lines.push_back(text.substr(at, end - at));
        at = end;
    }
    const std::size_t one = random.below(lines.size());
    const std::size_t other = random.below(lines.size());
    switch (random.below(3)) {
        case 0: lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(one)); break;
        case 1: std::swap(lines[one], lines[other]); break;
        default:
            lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(one), lines[other]);
            break;
    }
    std::string made;
    for (const std::string& line : lines) {
        made += line;
    }
    return made;
}

}  // namespace

std::string mutated_text(std::string text, random_generator& random) {
    for (std::uint64_t left = 1 + random.below(3); left != 0 && !text.empty(); --left) {
        switch (random.below(8)) {
            case 0: text[random.below(text.size())] = static_cast<char>(random.below(256)); break;
            case 1: text.resize(random.below(text.size())); break;
            case 2: {
                const std::size_t at = random.below(text.size());
                text.erase(at, 1 + random.below(40));
                break;
            }
            case 3:
            case 4: text = changed_lines(text, random); break;
            default: text = changed_number(text, random); break;
        }
    }
    return text;
}

}  // namespace uthin::test
