#include "pool/names.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "base/result.h"

namespace uthin {

namespace {

// Length of the well-formed UTF-8 sequence at the start of `text`; 0 when there is none. No
// surrogates, no overlong forms, nothing above U+10FFFF (RFC 3629).
std::size_t utf8_sequence_bytes(std::string_view text) noexcept {
    const auto at = [&](std::size_t index) {
        return index < text.size() ? static_cast<unsigned char>(text[index]) : 0U;
    };
    const auto tail = [&](std::size_t index, unsigned low = 0x80, unsigned high = 0xbf) {
        return at(index) >= low && at(index) <= high;
    };
    const unsigned first = at(0);
    if (text.empty()) {
        return 0;
    }
    if (first < 0x80) {
        return 1;
    }
    if (first >= 0xc2 && first <= 0xdf) {
        return tail(1) ? 2 : 0;
    }
    if (first >= 0xe0 && first <= 0xef) {
        const unsigned low = first == 0xe0 ? 0xa0 : 0x80;
        const unsigned high = first == 0xed ? 0x9f : 0xbf;
        return tail(1, low, high) && tail(2) ? 3 : 0;
    }
    if (first >= 0xf0 && first <= 0xf4) {
        const unsigned low = first == 0xf0 ? 0x90 : 0x80;
        const unsigned high = first == 0xf4 ? 0x8f : 0xbf;
        return tail(1, low, high) && tail(2) && tail(3) ? 4 : 0;
    }
    return 0;
}

// C0, DEL and C1 controls, and the line and paragraph separators.
bool is_control(std::string_view sequence) noexcept {
    const auto first = static_cast<unsigned char>(sequence[0]);
    if (sequence.size() == 1) {
        return first < 0x20 || first == 0x7f;
    }
    const auto second = static_cast<unsigned char>(sequence[1]);
    if (sequence.size() == 2) {
        return first == 0xc2 && second < 0xa0;
    }
    return sequence == "\xe2\x80\xa8" || sequence == "\xe2\x80\xa9";
}

}  // namespace

std::string_view cut_text(std::string_view text, std::size_t bytes_max) noexcept {
    if (text.size() <= bytes_max) {
        return text;
    }
    const auto continues = [](char byte) {
        return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
    };
    while (bytes_max != 0 && continues(text[bytes_max])) {
        --bytes_max;
    }
    return text.substr(0, bytes_max);
}

bool is_utf8(std::string_view text) noexcept {
    while (!text.empty()) {
        const std::size_t count = utf8_sequence_bytes(text);
        if (count == 0) {
            return false;
        }
        text.remove_prefix(count);
    }
    return true;
}

std::string printable(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const std::size_t count = utf8_sequence_bytes(text);
        if (count == 0 || is_control(text.substr(0, count))) {
            out += '?';
        } else {
            out += text.substr(0, count);
        }
        text.remove_prefix(count == 0 ? 1 : count);
    }
    return out;
}

result<void> check_volume_name(std::string_view name, std::optional<device_id> id) {
    const auto refuse = [&](std::string_view cause, std::string_view remedy) {
        constexpr std::size_t shown_bytes_max = 60;
        const bool cut = name.size() > shown_bytes_max;
        return fail(
            error_code::invalid_argument,
            fmt::format("volume name '{}{}': {}; {}", printable(name.substr(0, shown_bytes_max)),
                        cut ? "..." : "", cause, remedy));
    };
    if (name.empty()) {
        return refuse("empty", "give a name after the last slash of DIR/NAME");
    }
    if (name.size() > volume_name_bytes_max) {
        return refuse(fmt::format("{} bytes long", name.size()), "use at most 255 bytes");
    }
    if (name == "." || name == "..") {
        return refuse("means a directory", "use another name");
    }
    for (std::string_view rest = name; !rest.empty();) {
        const std::size_t count = utf8_sequence_bytes(rest);
        if (count == 0) {
            return refuse("not UTF-8", "use a name in UTF-8");
        }
        if (rest[0] == '/') {
            return refuse("holds a slash", "use a name without '/'");
        }
        if (is_control(rest.substr(0, count))) {
            return refuse("holds a control character", "use printable characters");
        }
        rest.remove_prefix(count);
    }
    const std::optional<device_id> named = id_of_default_name(name);
    if (named && (!id || *id != *named)) {
        return refuse(fmt::format("reserved for the device {}", named->value()),
                      "use another name, or that device id");
    }
    return {};
}

std::string default_volume_name(device_id id) {
    return fmt::format("thin-{}", id.value());
}

std::optional<device_id> id_of_default_name(std::string_view name) {
    constexpr std::string_view prefix = "thin-";
    if (!name.starts_with(prefix)) {
        return std::nullopt;
    }
    const auto value = parse_decimal(name.substr(prefix.size()));
    if (!value || *value > device_id_max || default_volume_name(device_id(*value)) != name) {
        return std::nullopt;
    }
    return device_id(*value);
}

std::optional<std::uint64_t> parse_decimal(std::string_view text) noexcept {
    if (text.starts_with('+')) {
        text.remove_prefix(1);
    }
    std::uint64_t value = 0;
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, value);
    if (text.empty() || parsed.ec != std::errc() || parsed.ptr != end) {
        return std::nullopt;
    }
    return value;
}

result<std::uint64_t> parse_size_bytes(std::string_view text) {
    const auto refuse = [&](error_code code, std::string_view cause) {
        return fail(code, fmt::format("size '{}': {}; give a byte count or a number with K, M, G "
                                      "or T, such as 10G",
                                      printable(text), cause));
    };
    std::uint64_t value = 0;
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, value);
    if (parsed.ec == std::errc::result_out_of_range) {
        return refuse(error_code::out_of_range, "too large");
    }
    if (parsed.ec != std::errc()) {
        return refuse(error_code::invalid_argument, "not a size");
    }
    std::string suffix(parsed.ptr, end);
    for (char& c : suffix) {
        c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    }
    constexpr std::string_view letters = "KMGT";
    unsigned shift = 0;
    if (!suffix.empty() && suffix != "B") {
        const std::size_t at = letters.find(suffix[0]);
        const std::string_view tail = std::string_view(suffix).substr(1);
        if (at == std::string_view::npos || (!tail.empty() && tail != "B" && tail != "IB")) {
            return refuse(error_code::invalid_argument, "not a size");
        }
        shift = 10 * (static_cast<unsigned>(at) + 1);
    }
    if (value > UINT64_MAX >> shift) {
        return refuse(error_code::out_of_range, "too large");
    }
    return value << shift;
}

result<void> check_volume_size(std::uint64_t size_bytes) {
    const auto refuse = [&](error_code code, std::string_view cause, std::string_view remedy) {
        return fail(code, fmt::format("volume size {}: {}; {}", size_bytes, cause, remedy));
    };
    if (size_bytes == 0) {
        return refuse(error_code::invalid_argument, "empty", "give at least 512 bytes");
    }
    if (size_bytes % sector_size_bytes != 0) {
        return refuse(error_code::invalid_argument, "not a multiple of 512 bytes", "round it up");
    }
    if (size_bytes > volume_size_bytes_max) {
        return refuse(error_code::out_of_range, "larger than 8 EiB", "use a smaller size");
    }
    return {};
}

std::string readable_size(std::uint64_t size_bytes) {
    constexpr std::array<std::string_view, 7> units = {"B",   "KiB", "MiB", "GiB",
                                                       "TiB", "PiB", "EiB"};
    if (size_bytes < 1024) {
        return fmt::format("{} B", size_bytes);
    }
    double value = static_cast<double>(size_bytes);
    std::size_t unit = 0;
    // 1023.95 would print as 1024.0.
    while (value >= 1023.95 && unit + 1 < units.size()) {
        value /= 1024;
        ++unit;
    }
    return fmt::format("{:.1f} {}", value, units[unit]);
}

result<volume_path> split_volume_path(std::string_view path) {
    if (path.find('\0') != std::string_view::npos || path.empty()) {
        return fail(error_code::invalid_argument,
                    fmt::format("'{}': not a volume; name it as DIR/NAME", printable(path)));
    }
    const std::size_t slash = path.rfind('/');
    if (slash == std::string_view::npos) {
        return volume_path{".", std::string(path)};
    }
    const std::string_view directory = slash == 0 ? "/" : path.substr(0, slash);
    return volume_path{std::string(directory), std::string(path.substr(slash + 1))};
}

}  // namespace uthin
