#include "tools/uthin_command.h"

#include <fmt/format.h>

#include <cstdio>
#include <system_error>

#include "base/result.h"
#include "frontends/control/codec.h"
#include "io/durable_file.h"
#include "tools/standard_streams.h"

namespace uthin::tools {

namespace {

std::string_view remedy_for(error_code code) {
    switch (code) {
        case error_code::io_error: return "look at the device and at the kernel's log";
        case error_code::corrupt:
        case error_code::wrong_block: return "run 'uthin pool check', or restore a backup";
        case error_code::no_data_space: return "grow the pool with 'uthin pool grow --data-size'";
        case error_code::no_metadata_space:
            return "grow the metadata with 'uthin pool grow --metadata-size'";
        case error_code::not_found: return "check the name";
        case error_code::already_exists: return "use another name";
        case error_code::invalid_argument:
        case error_code::out_of_range: return "see 'uthin --help'";
        case error_code::read_only:
        case error_code::needs_check:
        case error_code::failed: return "see 'uthin pool status'";
        case error_code::busy: return "wait for the other user, or give a longer --wait";
        case error_code::not_permitted: return "check the permissions";
        default: return "see 'uthin --help'";
    }
}

// Where that cannot be written nobody listens, and nothing else changes.
void complain(const std::string& text) {
    const std::string line = fmt::format("uthin: {}\n", text);
    static_cast<void>(std::fwrite(line.data(), 1, line.size(), stderr));
}

}  // namespace

int report_failure(const error& failure, const std::string& object) {
    std::string message = failure.message();
    if (failure.os_errno() != 0) {
        const std::string text = std::generic_category().message(failure.os_errno());
        if (message.find(text) == std::string::npos) {
            message += ": " + text;
        }
    }
    const std::string shown = printable(object);
    message = printable(message);
    if (!shown.empty() && message.find(shown) == std::string::npos) {
        message = shown + ": " + message;
    }
    if (message.find("; ") == std::string::npos) {
        message += "; ";
        message += remedy_for(failure.code());
    }
    complain(message);
    return exit_failed;
}

int report_usage(const std::string& what) {
    complain(printable(what));
    return exit_usage;
}

void print_line(const std::string& text) {
    print(text + '\n');
}

void print_json(const nlohmann::json& value) {
    print_line(frontends::to_text(value));
}

int with_session(const command_line& line, const std::string& directory, session_kind kind,
                 const std::function<result<void>(session&)>& body) {
    auto opened = session::connect(directory, kind, line.wait);
    if (!opened) {
        return report_failure(opened.error(), directory);
    }
    const result<void> done = body(**opened);
    const result<void> closed = (*opened)->close();
    if (!done) {
        return report_failure(done.error(), directory);
    }
    if (!closed) {
        return report_failure(closed.error(), directory);
    }
    return exit_ok;
}

int with_pool(const command_line& line, const std::string& directory, session_kind kind,
              const std::function<result<void>(pool_service&)>& body) {
    return with_session(line, directory, kind,
                        [&](session& opened) { return body(opened.service()); });
}

int with_volume(const command_line& line, const std::string& path, session_kind kind,
                const std::function<result<void>(pool_service&, const std::string& name)>& body) {
    const auto parts = split_volume_path(path);
    if (!parts) {
        return report_usage(parts.error().message());
    }
    if (parts->name.empty()) {
        return report_usage(fmt::format("{}: no volume named; write DIR/NAME", printable(path)));
    }
    return with_pool(line, parts->directory, kind,
                     [&](pool_service& pool) { return body(pool, parts->name); });
}

result<std::string> name_in_pool(const std::string& directory, const std::string& text) {
    if (text.find('/') == std::string::npos) {
        return text;
    }
    const volume_path parts = UTHIN_TRY(split_volume_path(text));
    if (parts.directory != directory && !io::is_same_file(parts.directory, directory)) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: not in the pool {}; name volumes of one pool", printable(text),
                                printable(directory)));
    }
    return parts.name;
}

result<std::chrono::nanoseconds> parse_duration(const std::string& text) {
    const std::size_t digits = text.find_first_not_of("0123456789");
    const auto number = parse_decimal(text.substr(0, digits));
    const std::string unit = digits == std::string::npos ? "s" : text.substr(digits);
    constexpr std::uint64_t seconds_max = 365ULL * 24 * 3600;
    const std::uint64_t ms_each =
        unit == "ms" ? 1U : (unit == "s" ? 1000U : (unit == "m" ? 60'000U : 0U));
    if (!number || ms_each == 0 || *number > seconds_max * 1000 / ms_each) {
        return fail(error_code::invalid_argument,
                    fmt::format("duration '{}': not valid; write for instance 10s, 500ms or 2m",
                                printable(text)));
    }
    return std::chrono::milliseconds(*number * ms_each);
}

CLI::Validator as_size() {
    return CLI::Validator(
        [](std::string& text) -> std::string {
            const auto size_bytes = parse_size_bytes(text);
            if (!size_bytes) {
                return size_bytes.error().message();
            }
            text = std::to_string(*size_bytes);
            return {};
        },
        "SIZE");
}

void add_kernel_flags(CLI::App& command, kernel_flags& flags) {
    command.add_flag("--kernel", flags.status, "the device-mapper's status line");
    command.add_flag("--table", flags.table, "its table line, as dmsetup create takes it");
}

void print_kernel_lines(const command_line& line, const kernel_flags& flags,
                        const target_lines& lines) {
    if (line.json) {
        print_json(frontends::encode(lines));
        return;
    }
    if (flags.status) {
        print_line(lines.status);
    }
    if (flags.table) {
        print_line(lines.table);
    }
}

std::string summary(const volume_info& volume) {
    return fmt::format("{}, device {}{}", readable_size(volume.size_bytes), volume.dev_id,
                       volume.parent.empty() ? "" : ", snapshot of " + volume.parent);
}

void print_volume(const command_line& line, const std::string& directory, std::string_view verb,
                  const volume_info& volume) {
    if (line.json) {
        print_json(frontends::encode(volume));
        return;
    }
    print_line(fmt::format("{} {}/{}: {}", verb, printable(directory), printable(volume.name),
                           summary(volume)));
}

}  // namespace uthin::tools
