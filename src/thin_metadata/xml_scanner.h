// The markup of an XML text, one tag at a time: just what pool metadata is written in. Comments,
// processing instructions and the XML declaration are passed over; document types and CDATA are
// refused, so nothing can expand.
//
// Invariants
//   XS1  End tags match; the text is over only when every element is closed.
//   XS2  Memory: one piece of the text, at most 1 MiB, and the names of the open elements.
// Threads   One.
// Failures  invalid_argument without a position: position() has it. Those of the input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace uthin::thin_metadata {

// Fills the buffer, in part or whole; 0 bytes: the end.
using text_input = std::function<result<std::size_t>(std::span<char> buffer)>;

class xml_scanner {
public:
    enum class token : std::uint8_t { start, end, text, over };
    using attribute = std::pair<std::string_view, std::string_view>;

    explicit xml_scanner(const text_input& input) : input_(input) {}

    // An element without content is a start and an end. Text is only told of when it is more than
    // blanks.
    [[nodiscard]] result<token> next();

    // For the elements of which there are millions: the length of the next one, if it is written
    // just so, words and decimal numbers in turns. 0 when it is not, or may be cut off: next() will
    // tell.
    [[nodiscard]] std::size_t match(std::span<const std::string_view> words,
                                    std::span<std::uint64_t> numbers);
    // The element that was matched is done with.
    void pass(std::size_t length) noexcept { at_ += length; }

    // Of the token; valid until the next call.
    [[nodiscard]] std::string_view name() const noexcept { return name_; }
    [[nodiscard]] std::span<const attribute> attributes() const noexcept { return attributes_; }
    // "line L, column C" of the token.
    [[nodiscard]] std::string position() const;

private:
    // What a piece of markup came to: `cut` when the buffer ends within it.
    enum class outcome : std::uint8_t { done, nothing, cut };

    [[nodiscard]] result<void> fill();
    [[nodiscard]] result<outcome> scan(token& found);
    [[nodiscard]] result<outcome> scan_start(token& found);
    [[nodiscard]] result<outcome> scan_attribute();
    [[nodiscard]] result<outcome> scan_end(token& found);
    [[nodiscard]] result<outcome> scan_other();
    [[nodiscard]] outcome scan_text(token& found);
    [[nodiscard]] result<std::string_view> decoded(std::string_view value);
    [[nodiscard]] bool skip_until(std::string_view mark);
    void skip_blanks() noexcept;
    [[nodiscard]] std::string_view scan_name() noexcept;
    [[nodiscard]] bool at_end() const noexcept { return at_ == text_.size(); }

    const text_input& input_;
    std::string text_;
    std::size_t at_ = 0;
    bool input_over_ = false;
    bool end_is_due_ = false;  // of an element without content
    std::uint64_t line_ = 1;
    std::uint64_t token_line_ = 1;
    // Places in the whole text are counted from what was dropped before.
    std::uint64_t dropped_ = 0;
    std::uint64_t line_begin_ = 0;
    std::uint64_t token_column_ = 1;
    std::string_view name_;
    std::vector<attribute> attributes_;
    std::vector<std::string> open_;
    std::deque<std::string> decoded_;
};

}  // namespace uthin::thin_metadata
