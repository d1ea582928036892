#include "pool/target_words.h"

namespace uthin {

std::vector<std::string> split_target_words(std::string_view text) {
    std::vector<std::string> words;
    bool inside = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        const bool space = c == ' ' || (c >= '\t' && c <= '\r');
        if (space) {
            inside = false;
            continue;
        }
        if (!inside) {
            words.emplace_back();
            inside = true;
        }
        if (c == '\\' && i + 1 < text.size()) {
            ++i;
        }
        words.back() += text[i];
    }
    return words;
}

std::string lower_case(std::string text) {
    for (char& c : text) {
        c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
    return text;
}

}  // namespace uthin
