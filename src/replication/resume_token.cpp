#include "replication/resume_token.h"

#include <fmt/format.h>

#include <charconv>
#include <span>
#include <vector>

#include "base/crc32c.h"
#include "base/result.h"
#include "pool/names.h"

namespace uthin::replication {

namespace {

constexpr std::string_view version = "r1";
constexpr std::size_t parts_count = 6;
constexpr std::size_t text_bytes_max = 2048;

std::string quoted(std::string_view text) {
    std::string out;
    for (const char c : text) {
        const bool plain =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
        out += plain ? std::string(1, c) : fmt::format("%{:02x}", static_cast<unsigned char>(c));
    }
    return out;
}

std::string unquoted(std::string_view text) {
    std::string out;
    for (std::size_t at = 0; at < text.size(); ++at) {
        unsigned char value = 0;
        if (text[at] == '%' && at + 2 < text.size() &&
            std::from_chars(&text[at + 1], &text[at + 1] + 2, value, 16).ec == std::errc()) {
            out += static_cast<char>(value);
            at += 2;
        } else {
            out += text[at];
        }
    }
    return out;
}

std::string crc_of(std::string_view text) {
    return fmt::format("{:08x}", ~crc32c_raw(~0U, std::as_bytes(std::span(text))));
}

}  // namespace

std::string to_text(const resume_token& token) {
    const std::string body =
        fmt::format("{}.{}.{}.{}.{}", version, quoted(token.transfer_id), token.position_bytes,
                    quoted(token.to_id), quoted(token.from_id));
    return body + "." + crc_of(body);
}

result<resume_token> parse_resume_token(std::string_view text) {
    std::vector<std::string_view> parts;
    for (std::string_view rest = text; text.size() <= text_bytes_max;) {
        const std::size_t dot = rest.find('.');
        parts.push_back(rest.substr(0, dot));
        if (dot == std::string_view::npos) {
            break;
        }
        rest.remove_prefix(dot + 1);
    }
    const auto position = parts.size() == parts_count ? parse_decimal(parts[2]) : std::nullopt;
    if (!position || parts[0] != version ||
        crc_of(text.substr(0, text.rfind('.'))) != parts.back()) {
        return fail(error_code::invalid_argument,
                    fmt::format("token '{}': not one, or mistyped; give what 'uthin receive' "
                                "printed",
                                printable(text.substr(0, 60))));
    }
    return resume_token{unquoted(parts[1]), *position, unquoted(parts[3]), unquoted(parts[4])};
}

}  // namespace uthin::replication
