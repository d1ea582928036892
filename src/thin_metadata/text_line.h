// A line of text put together without a format string, for output of which there are millions.
//
// Invariants
//   TL1  The caller's words and numbers fit into 256 bytes: nothing of any length goes in here.
// Threads   One.
#pragma once

#include <array>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace uthin::thin_metadata {

class text_line {
public:
    text_line& add(std::string_view text) noexcept {
        std::memcpy(end_, text.data(), text.size());
        end_ += text.size();
        return *this;
    }
    text_line& add(std::uint64_t number) noexcept {
        end_ = std::to_chars(end_, text_.data() + text_.size(), number).ptr;
        return *this;
    }
    [[nodiscard]] std::string_view text() const noexcept {
        return {text_.data(), static_cast<std::size_t>(end_ - text_.data())};
    }

private:
    std::array<char, 256> text_;
    char* end_ = text_.data();
};

}  // namespace uthin::thin_metadata
