#include "thin_metadata/xml_scanner.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include <fmt/format.h>

namespace uthin::thin_metadata {
namespace {

constexpr std::size_t piece_bytes = std::size_t{256} << 10;
// No tag is that long; a comment may be no longer.
constexpr std::size_t text_bytes_max = std::size_t{1} << 20;
constexpr std::size_t depth_max = 16;
constexpr std::size_t attributes_max = 32;

// What match() looks at at most, and digits that no 64-bit number overflows with.
constexpr std::size_t matched_bytes_max = 1024;
constexpr std::ptrdiff_t matched_digits_max = 18;

constexpr bool is_blank(char c) noexcept {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

constexpr std::array<bool, 256> make_name_table() {
    std::array<bool, 256> table{};
    for (unsigned c = 0; c < 256; ++c) {
        table[c] = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                   c == '_' || c == '-' || c == '.' || c == ':' || c >= 0x80;
    }
    return table;
}
constexpr std::array<bool, 256> name_table = make_name_table();

std::unexpected<error> malformed(std::string message) {
    return fail(error_code::invalid_argument, std::move(message));
}

}  // namespace

std::string xml_scanner::position() const {
    return fmt::format("line {}, column {}", token_line_, token_column_);
}

// Keeps what has not been scanned, and adds to it.
result<void> xml_scanner::fill() {
    text_.erase(0, at_);
    dropped_ += at_;
    at_ = 0;
    const std::size_t kept = text_.size();
    if (kept >= text_bytes_max) {
        return malformed(fmt::format("more than {} bytes without an end", text_bytes_max));
    }
    result<std::size_t> got = std::size_t{0};
    text_.resize_and_overwrite(kept + piece_bytes, [&](char* all, std::size_t) {
        got = input_(std::span<char>(all + kept, piece_bytes));
        return kept + (got ? std::min(*got, piece_bytes) : 0);
    });
    input_over_ = UTHIN_TRY(std::move(got)) == 0;
    return {};
}

result<xml_scanner::token> xml_scanner::next() {
    if (end_is_due_) {
        end_is_due_ = false;
        open_.pop_back();
        return token::end;
    }
    while (true) {
        skip_blanks();
        token_line_ = line_;
        token_column_ = dropped_ + at_ - line_begin_ + 1;
        const std::size_t begin = at_;
        const std::uint64_t line = line_;
        const std::uint64_t line_begin = line_begin_;
        token found = token::over;
        const outcome ended = at_end() ? outcome::cut : UTHIN_TRY(scan(found));
        if (ended == outcome::done) {
            return found;
        }
        if (ended == outcome::nothing) {
            continue;
        }
        if (input_over_) {
            if (begin != text_.size() || !open_.empty()) {
                return malformed("the text ends before </superblock>");
            }
            return token::over;
        }
        at_ = begin;
        line_ = line;
        line_begin_ = line_begin;
        UTHIN_TRY(fill());
    }
}

std::size_t xml_scanner::match(std::span<const std::string_view> words,
                               std::span<std::uint64_t> numbers) {
    skip_blanks();
    if (end_is_due_ || text_.size() - at_ < matched_bytes_max) {
        return 0;
    }
    const char* const begin = text_.data() + at_;
    const char* at = begin;
    for (std::size_t index = 0;; ++index) {
        const std::string_view word = words[index];
        if (std::memcmp(at, word.data(), word.size()) != 0) {
            return 0;
        }
        at += word.size();
        if (index == numbers.size()) {
            break;
        }
        std::uint64_t number = 0;
        const char* const first = at;
        for (; *at >= '0' && *at <= '9'; ++at) {
            number = 10 * number + static_cast<std::uint64_t>(*at - '0');
        }
        if (at == first || at - first > matched_digits_max) {
            return 0;
        }
        numbers[index] = number;
    }
    token_line_ = line_;
    token_column_ = dropped_ + at_ - line_begin_ + 1;
    return static_cast<std::size_t>(at - begin);
}

void xml_scanner::skip_blanks() noexcept {
    while (at_ < text_.size() && is_blank(text_[at_])) {
        if (text_[at_] == '\n') {
            ++line_;
            line_begin_ = dropped_ + at_ + 1;
        }
        ++at_;
    }
}

std::string_view xml_scanner::scan_name() noexcept {
    const std::size_t begin = at_;
    while (at_ < text_.size() && name_table[static_cast<unsigned char>(text_[at_])]) {
        ++at_;
    }
    return std::string_view(text_).substr(begin, at_ - begin);
}

result<xml_scanner::outcome> xml_scanner::scan(token& found) {
    if (text_[at_] != '<') {
        return scan_text(found);
    }
    if (at_ + 1 == text_.size()) {
        return outcome::cut;
    }
    switch (text_[at_ + 1]) {
        case '/': return scan_end(found);
        case '!':
        case '?': return scan_other();
        default: return scan_start(found);
    }
}

xml_scanner::outcome xml_scanner::scan_text(token& found) {
    constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";
    if (dropped_ + at_ == 0) {
        if (text_.size() < byte_order_mark.size() && !input_over_) {
            return outcome::cut;
        }
        if (text_.starts_with(byte_order_mark)) {
            at_ += byte_order_mark.size();
            return outcome::nothing;
        }
    }
    const std::size_t end = std::min(text_.find('<', at_), text_.size());
    name_ = std::string_view(text_).substr(at_, end - at_);
    at_ = end;
    found = token::text;
    return outcome::done;
}

result<xml_scanner::outcome> xml_scanner::scan_start(token& found) {
    ++at_;
    name_ = scan_name();
    if (name_.empty() && !at_end()) {
        return malformed("not well-formed: '<' without a name");
    }
    attributes_.clear();
    decoded_.clear();
    while (true) {
        const std::size_t before = at_;
        skip_blanks();
        if (at_end()) {
            return outcome::cut;
        }
        const char c = text_[at_];
        if (c == '>' || c == '/') {
            break;
        }
        if (before == at_) {
            return malformed("not well-formed: no blank before an attribute");
        }
        if (UTHIN_TRY(scan_attribute()) == outcome::cut) {
            return outcome::cut;
        }
    }
    const bool is_empty = text_[at_] == '/';
    if (is_empty) {
        if (at_ + 1 == text_.size()) {
            return outcome::cut;
        }
        if (text_[++at_] != '>') {
            return malformed("not well-formed: '/' within a tag");
        }
    }
    ++at_;
    if (open_.size() >= depth_max) {
        return malformed("elements within elements within elements");
    }
    open_.emplace_back(name_);
    end_is_due_ = is_empty;
    found = token::start;
    return outcome::done;
}

result<xml_scanner::outcome> xml_scanner::scan_attribute() {
    const std::string_view name = scan_name();
    skip_blanks();
    if (at_end()) {
        return outcome::cut;
    }
    if (name.empty() || text_[at_] != '=') {
        return malformed("not well-formed: an attribute without a value");
    }
    ++at_;
    skip_blanks();
    if (at_end()) {
        return outcome::cut;
    }
    const char quote = text_[at_];
    if (quote != '"' && quote != '\'') {
        return malformed("not well-formed: a value without quotes");
    }
    const std::size_t begin = ++at_;
    bool has_reference = false;
    for (; at_ < text_.size() && text_[at_] != quote; ++at_) {
        const char c = text_[at_];
        has_reference = has_reference || c == '&';
        if (c == '<' || (static_cast<unsigned char>(c) < ' ' && !is_blank(c))) {
            return malformed("not well-formed: a character that no value may have");
        }
        if (c == '\n') {
            ++line_;
            line_begin_ = dropped_ + at_ + 1;
        }
    }
    if (at_end()) {
        return outcome::cut;
    }
    std::string_view value = std::string_view(text_).substr(begin, at_ - begin);
    ++at_;
    if (has_reference) {
        value = UTHIN_TRY(decoded(value));
    }
    if (attributes_.size() >= attributes_max ||
        std::ranges::any_of(attributes_,
                            [name](const attribute& known) { return known.first == name; })) {
        return malformed("not well-formed: too many attributes, or one given twice");
    }
    attributes_.emplace_back(name, value);
    return outcome::done;
}

// The five names that need no declaration, and numbers of characters below 128.
result<std::string_view> xml_scanner::decoded(std::string_view value) {
    static constexpr std::array<std::pair<std::string_view, char>, 5> known = {
        {{"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}}};
    std::string& out = decoded_.emplace_back();
    while (!value.empty()) {
        const std::size_t plain = std::min(value.find('&'), value.size());
        out += value.substr(0, plain);
        value.remove_prefix(plain);
        if (value.empty()) {
            break;
        }
        const std::size_t end = value.find(';');
        std::string_view word = end == std::string_view::npos ? "" : value.substr(1, end - 1);
        const auto entity =
            std::ranges::find(known, word, &std::pair<std::string_view, char>::first);
        unsigned number = 0;
        if (entity != known.end()) {
            number = static_cast<unsigned char>(entity->second);
        } else if (word.starts_with('#')) {
            word.remove_prefix(1);
            const int base = word.starts_with('x') ? 16 : 10;
            word.remove_prefix(base == 16 ? 1 : 0);
            const char* const last = word.data() + word.size();
            const auto [stop, failure] = std::from_chars(word.data(), last, number, base);
            number = failure == std::errc() && stop == last ? number : 0;
        }
        constexpr unsigned ascii_end = 128;
        if (number < ' ' || number >= ascii_end) {
            return malformed("an unknown reference to a character");
        }
        out += static_cast<char>(number);
        value.remove_prefix(end + 1);
    }
    return std::string_view(out);
}

result<xml_scanner::outcome> xml_scanner::scan_end(token& found) {
    at_ += 2;
    name_ = scan_name();
    skip_blanks();
    if (at_end()) {
        return outcome::cut;
    }
    if (text_[at_] != '>' || open_.empty() || open_.back() != name_) {
        return malformed("mismatched tag");
    }
    ++at_;
    open_.pop_back();
    found = token::end;
    return outcome::done;
}

// Comments and processing instructions.
result<xml_scanner::outcome> xml_scanner::scan_other() {
    const std::string_view rest = std::string_view(text_).substr(at_);
    constexpr std::string_view comment = "<!--";
    if (rest.starts_with("<?")) {
        at_ += 2;
        return skip_until("?>") ? outcome::nothing : outcome::cut;
    }
    if (rest.size() < comment.size() && comment.starts_with(rest)) {
        return outcome::cut;
    }
    if (rest.starts_with(comment)) {
        at_ += comment.size();
        return skip_until("-->") ? outcome::nothing : outcome::cut;
    }
    return malformed(rest.starts_with("<!D") ? "a document type is not allowed here"
                                             : "not well-formed: '<!' begins no comment");
}

bool xml_scanner::skip_until(std::string_view mark) {
    const std::size_t end = text_.find(mark, at_);
    if (end == std::string::npos) {
        at_ = text_.size();
        return false;
    }
    for (; at_ < end; ++at_) {
        if (text_[at_] == '\n') {
            ++line_;
            line_begin_ = dropped_ + at_ + 1;
        }
    }
    at_ += mark.size();
    return true;
}

}  // namespace uthin::thin_metadata
