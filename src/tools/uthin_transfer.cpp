// diff, send, receive: what changed between volumes, and moving it to another pool.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <optional>

#include "base/result.h"
#include "frontends/control/codec.h"
#include "replication/receiver.h"
#include "replication/sender.h"
#include "tools/progress_bar.h"
#include "tools/uthin_command.h"

namespace uthin::tools {

namespace {

struct diff_arguments {
    std::string from;
    std::string to;
};

void print_ranges(const command_line& line, const diff_reply& reply, bool first) {
    for (const changed_range& range : reply.ranges) {
        const std::string json = frontends::to_text(frontends::encode(range));
        if (line.json) {
            fmt::print("{}\n{}", first ? "" : ",", json);
        } else {
            print_line(fmt::format("{:<8} {:>16} {:>16}",
                                   frontends::encode(range)["kind"].get<std::string>(),
                                   range.offset_bytes, range.length_bytes));
        }
        first = false;
    }
}

// Printed while it is found: the list may be longer than memory.
result<void> print_diff(const command_line& line, pool_service& pool, diff_request request) {
    diff_reply reply = UTHIN_TRY(pool.diff(request));
    if (line.json) {
        fmt::print(
            "{{\"from\":{},\"to\":{},\"from_size\":{},\"to_size\":{},\"block_size\":{},"
            "\"ranges\":[",
            frontends::to_text(request.from), frontends::to_text(request.to), reply.from_size_bytes,
            reply.to_size_bytes, reply.block_size_bytes);
    } else {
        print_line(fmt::format("{:<8} {:>16} {:>16}", "CHANGE", "OFFSET", "LENGTH"));
    }
    bool first = true;
    while (true) {
        print_ranges(line, reply, first);
        first = first && reply.ranges.empty();
        if (!reply.next_offset_bytes) {
            break;
        }
        request.offset_bytes = *reply.next_offset_bytes;
        reply = UTHIN_TRY(pool.diff(request));
    }
    if (line.json) {
        print_line("\n]}");
    }
    return {};
}

void add_diff(CLI::App& app, command_line& line) {
    CLI::App* command = app.add_subcommand(
        "diff", "the ranges that are mapped otherwise in one volume than in another");
    const auto given = std::make_shared<diff_arguments>();
    command->add_option("DIR/FROM", given->from, "the older volume or snapshot")->required();
    command->add_option("DIR/TO", given->to, "the newer one, of the same pool")->required();
    command->callback([&line, given] {
        line.action = [&line, given] {
            const auto parts = split_volume_path(given->from);
            return with_volume(line, given->from, session_kind::inspect,
                               [&](pool_service& pool, const std::string& name) -> result<void> {
                                   diff_request request;
                                   request.from = name;
                                   request.to =
                                       UTHIN_TRY(name_in_pool(parts->directory, given->to));
                                   return print_diff(line, pool, std::move(request));
                               });
        };
    });
}

std::unexpected<error> stream_failed(std::string_view stream) {
    return fail(error_code::io_error, fmt::format("{}: cannot be used; is the pipe open?", stream),
                errno);
}

class standard_output final : public replication::byte_sink {
public:
    result<void> write(std::span<const std::byte> bytes) override {
        return std::fwrite(bytes.data(), 1, bytes.size(), stdout) == bytes.size()
                   ? result<void>()
                   : stream_failed("standard output");
    }
};

class standard_input final : public replication::byte_source {
public:
    result<std::size_t> read(std::span<std::byte> buffer) override {
        const std::size_t count = std::fread(buffer.data(), 1, buffer.size(), stdin);
        return std::ferror(stdin) == 0 ? result<std::size_t>(count)
                                       : stream_failed("standard input");
    }
};

struct send_arguments {
    std::string path;
    std::string from;
    std::string compression;
};

result<void> send(pool_service& pool, const std::string& directory, const std::string& name,
                  const send_arguments& given) {
    std::optional<progress_bar> progress;
    replication::send_request request;
    request.name = name;
    if (!given.from.empty()) {
        request.from = UTHIN_TRY(name_in_pool(directory, given.from));
    }
    request.compress = !given.compression.empty();
    request.begun = [&](std::uint64_t size_bytes) { progress.emplace("sending", size_bytes); };
    request.progress = [&](std::uint64_t position_bytes) { progress->show(position_bytes); };
    standard_output out;
    UTHIN_TRY(replication::send_snapshot(pool, request, out));
    return std::fflush(stdout) == 0 ? result<void>{} : stream_failed("standard output");
}

void add_send(CLI::App& app, command_line& line) {
    CLI::App* command = app.add_subcommand(
        "send", "a snapshot, or what changed since another one, as a stream to standard output");
    const auto given = std::make_shared<send_arguments>();
    command->add_option("DIR/SNAPSHOT", given->path, "of a volume a snapshot is made for a moment")
        ->required();
    command->add_option("--from", given->from, "a snapshot that the receiver has");
    command->add_option("--compress", given->compression, "how to compress")
        ->check(CLI::IsMember({"zstd"}));
    command->callback([&line, given] {
        line.action = [&line, given] {
            if (::isatty(STDOUT_FILENO) != 0) {
                return report_usage("send: standard output is a terminal; write to a file or pipe");
            }
            const auto parts = split_volume_path(given->path);
            return with_volume(line, given->path, session_kind::reading,
                               [&](pool_service& pool, const std::string& name) {
                                   return send(pool, parts->directory, name, *given);
                               });
        };
    });
}

struct receive_arguments {
    std::string path;
    std::string snapshot;
};

result<void> receive(const command_line& line, session& opened, const volume_path& parts,
                     const receive_arguments& given) {
    pool_directory* const pool = opened.local();
    if (pool == nullptr) {
        return fail(error_code::busy,
                    fmt::format("{}: another process has the pool, and cannot receive; stop it "
                                "first",
                                printable(parts.directory)));
    }
    std::optional<progress_bar> progress;
    replication::receive_request request;
    request.name = parts.name;
    if (!given.snapshot.empty()) {
        request.snapshot = UTHIN_TRY(name_in_pool(parts.directory, given.snapshot));
    }
    request.begun = [&](std::uint64_t size_bytes) { progress.emplace("receiving", size_bytes); };
    request.progress = [&](std::uint64_t position_bytes) { progress->show(position_bytes); };
    standard_input in;
    auto received = replication::receive_stream(*pool, request, in);
    progress.reset();
    const replication::receive_reply reply = UTHIN_TRY(std::move(received));
    if (line.json) {
        nlohmann::json value = frontends::encode(reply.volume);
        value["snapshot"] = reply.snapshot;
        print_json(value);
        return {};
    }
    print_line(fmt::format("received {}: {}{}{}", printable(given.path), summary(reply.volume),
                           reply.snapshot.empty() ? "" : ", kept as ", printable(reply.snapshot)));
    return {};
}

void add_receive(CLI::App& app, command_line& line) {
    CLI::App* command = app.add_subcommand(
        "receive", "a stream from standard input into a volume, all of it or nothing");
    const auto given = std::make_shared<receive_arguments>();
    command
        ->add_option("DIR/NAME", given->path,
                     "the volume; it is made, or moved on from the stream's base")
        ->required();
    command->add_option("--snapshot", given->snapshot,
                        "name of the snapshot that is kept; default: the sender's");
    command->callback([&line, given] {
        line.action = [&line, given] {
            const auto parts = split_volume_path(given->path);
            if (!parts) {
                return report_usage(parts.error().message());
            }
            if (parts->name.empty()) {
                return report_usage(
                    fmt::format("{}: no volume named; write DIR/NAME", printable(given->path)));
            }
            return with_session(line, parts->directory, session_kind::work, [&](session& opened) {
                return receive(line, opened, *parts, *given);
            });
        };
    });
}

}  // namespace

void add_transfer_commands(CLI::App& app, command_line& line) {
    add_diff(app, line);
    add_send(app, line);
    add_receive(app, line);
}

}  // namespace uthin::tools
