#include "io/open.h"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <string>

#include "base/result.h"
#include "io/file_device.h"
#include "io/memory_device.h"
#include "io/nbd_device.h"

namespace uthin::io {
namespace {

// The scheme of a URL, or nothing for a path. "./a:b" and "/a:b" are paths.
std::string_view scheme_of(std::string_view url) {
    const std::size_t length =
        url.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");
    if (length == std::string_view::npos || length == 0 || url[length] != ':') {
        return {};
    }
    return url.substr(0, length);
}

// Digits and an optional K, M, G or T.
result<std::uint64_t> parse_memory_size(std::string_view text) {
    constexpr std::string_view suffixes = "KMGT";
    std::uint64_t number = 0;
    const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number);
    std::string_view rest(end, static_cast<std::size_t>(text.data() + text.size() - end));
    unsigned shift = 0;
    if (rest.size() == 1 && suffixes.find(rest[0]) != std::string_view::npos) {
        shift = 10 * (static_cast<unsigned>(suffixes.find(rest[0])) + 1);
        rest = {};
    }
    if (status != std::errc() || !rest.empty() || number == 0 ||
        number > static_cast<std::uint64_t>(INT64_MAX) >> shift) {
        return fail(
            error_code::invalid_argument,
            fmt::format("memory:{} has no valid size; write for instance memory:64M", text));
    }
    return number << shift;
}

result<std::unique_ptr<block_device>> open_memory(std::string_view url, std::string_view text,
                                                  const open_options& options) {
    const std::uint64_t size_bytes = UTHIN_TRY(parse_memory_size(text));
    if (size_bytes < options.size_bytes_min) {
        return fail(error_code::invalid_argument,
                    fmt::format("{} has only {} bytes; at least {} are needed", url, size_bytes,
                                options.size_bytes_min));
    }
    return std::make_unique<memory_device>(size_bytes, std::string(url));
}

result<std::unique_ptr<block_device>> open_file(std::string_view path,
                                                const open_options& options) {
    if (path.empty() || path.find('\0') != std::string_view::npos) {
        return fail(error_code::invalid_argument,
                    "the path of a device is empty or holds a zero byte");
    }
    return UTHIN_TRY(file_device::open(std::string(path), options));
}

result<std::unique_ptr<block_device>> open_nbd(std::string_view uri, const open_options& options) {
    return UTHIN_TRY(nbd_device::open(std::string(uri), options));
}

}  // namespace

result<std::unique_ptr<block_device>> open_device(std::string_view url,
                                                  const open_options& options) {
    const std::string_view scheme = scheme_of(url);
    if (scheme.empty()) {
        return open_file(url, options);
    }
    const std::string_view rest = url.substr(scheme.size() + 1);
    if (scheme == "file") {
        return open_file(rest, options);
    }
    if (scheme == "memory") {
        return open_memory(url, rest, options);
    }
    if (scheme == "nbd" && !rest.starts_with("//")) {
        return open_nbd(rest, options);
    }
    for (const std::string_view known : {"nbd", "nbds", "nbd+unix", "nbds+unix", "nbd+vsock"}) {
        if (scheme == known) {
            return open_nbd(url, options);
        }
    }
    const std::string path(url);
    if (path.find('\0') == std::string::npos && ::access(path.c_str(), F_OK) == 0) {
        return open_file(url, options);  // a file name with a colon in it
    }
    return fail(error_code::unsupported,
                fmt::format("{}: there is no scheme {}; use a path, file:PATH, memory:SIZE, "
                            "nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH",
                            url, scheme));
}

}  // namespace uthin::io
