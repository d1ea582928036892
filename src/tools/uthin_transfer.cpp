// diff, send, receive, transfer: what changed between volumes, and moving it to another pool.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "base/result.h"
#include "frontends/control/codec.h"
#include "io/stream_file.h"
#include "pool/pool_file.h"
#include "replication/rate_limit.h"
#include "replication/receiver.h"
#include "replication/sender.h"
#include "tools/progress_bar.h"
#include "tools/standard_streams.h"
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
            print(fmt::format("{}\n{}", first ? "" : ",", json));
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
        print(
            fmt::format("{{\"from\":{},\"to\":{},\"from_size\":{},\"to_size\":{},\"block_size\":{},"
                        "\"ranges\":[",
                        frontends::to_text(request.from), frontends::to_text(request.to),
                        reply.from_size_bytes, reply.to_size_bytes, reply.block_size_bytes));
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
        request.from_device = reply.from_device;
        request.to_device = reply.to_device;
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
    explicit standard_input(std::chrono::milliseconds stall_timeout)
        : pipe_(STDIN_FILENO, "standard input", stall_timeout) {}
    result<std::size_t> read(std::span<std::byte> buffer) override { return pipe_.read(buffer); }

private:
    io::pipe_reader pipe_;
};

struct send_arguments {
    std::string path;
    std::string from;
    std::string compression;
    std::string token;
    std::string format;
    std::uint64_t rate_bytes_per_second = 0;  // 0: no limit
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
    request.token = given.token;
    request.thin_send_form = given.format == "thin-send";
    request.begun = [&](std::uint64_t size_bytes) { progress.emplace("sending", size_bytes); };
    request.progress = [&](std::uint64_t position_bytes) { progress->show(position_bytes); };
    standard_output out;
    replication::rate_limit limited(out, given.rate_bytes_per_second, system_clock());
    const bool limit = given.rate_bytes_per_second != 0;
    UTHIN_TRY(replication::send_snapshot(
        pool, request, limit ? static_cast<replication::byte_sink&>(limited) : out));
    return std::fflush(stdout) == 0 ? result<void>{} : stream_failed("standard output");
}

void add_send(CLI::App& app, command_line& line) {
    CLI::App* command = app.add_subcommand(
        "send", "a snapshot, or what changed since another one, as a stream to standard output");
    const auto given = std::make_shared<send_arguments>();
    command
        ->add_option("DIR/SNAPSHOT", given->path,
                     "of a volume a snapshot is made for a moment; with --resume DIR is enough")
        ->required();
    command->add_option("--from", given->from, "a snapshot that the receiver has");
    command->add_option("--compress", given->compression, "how to compress")
        ->check(CLI::IsMember({"zstd"}));
    command->add_option("--resume", given->token,
                        "the token of a receiver whose stream broke off: only the rest is sent");
    command->add_option("--rate-limit", given->rate_bytes_per_second, "bytes in a second, as 10M")
        ->transform(as_size());
    command->add_option("--format", given->format, "thin-send: for LINBIT's thin_recv 1.1")
        ->check(CLI::IsMember({"thin-send"}));
    command->callback([&line, given] {
        line.action = [&line, given] {
            if (::isatty(STDOUT_FILENO) != 0) {
                return report_usage("send: standard output is a terminal; write to a file or pipe");
            }
            if (!given->format.empty() && (!given->token.empty() || !given->compression.empty())) {
                return report_usage(
                    "send: a stream of thin_send is not compressed and cannot go on");
            }
            if (!given->token.empty() && is_pool_directory(given->path)) {
                return with_pool(line, given->path, session_kind::reading, [&](pool_service& pool) {
                    return send(pool, given->path, {}, *given);
                });
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
    bool discard_partial = false;
    std::string stall_timeout = "0s";
    std::string replica_of;
    std::string base;
    std::uint64_t size_bytes = 0;
    std::vector<std::string> labels;
    std::vector<std::string> snapshot_labels;
};

result<std::map<std::string, std::string>> labels_of(const std::vector<std::string>& words) {
    std::map<std::string, std::string> labels;
    for (const std::string& word : words) {
        const std::size_t equals = word.find('=');
        if (equals == std::string::npos) {
            return fail(error_code::invalid_argument,
                        fmt::format("label '{}': no value; write KEY=VALUE", printable(word)));
        }
        labels[word.substr(0, equals)] = word.substr(equals + 1);
    }
    return labels;
}

result<void> receive(const command_line& line, pool_service& pool, const volume_path& parts,
                     const receive_arguments& given, std::string& token) {
    std::optional<progress_bar> progress;
    replication::receive_request request;
    request.name = parts.name;
    if (!given.snapshot.empty()) {
        request.snapshot = UTHIN_TRY(name_in_pool(parts.directory, given.snapshot));
    }
    request.resumable = !given.discard_partial;
    request.replica_of = given.replica_of;
    request.thin_send_size_bytes = given.size_bytes;
    if (!given.base.empty()) {
        request.thin_send_base = UTHIN_TRY(name_in_pool(parts.directory, given.base));
    }
    request.labels = UTHIN_TRY(labels_of(given.labels));
    request.snapshot_labels = UTHIN_TRY(labels_of(given.snapshot_labels));
    request.broke_off = [&](const std::string& text) { token = text; };
    request.begun = [&](std::uint64_t size_bytes) { progress.emplace("receiving", size_bytes); };
    request.progress = [&](std::uint64_t position_bytes) { progress->show(position_bytes); };
    standard_input in(std::chrono::duration_cast<std::chrono::milliseconds>(
        UTHIN_TRY(parse_duration(given.stall_timeout))));
    auto received = replication::receive_stream(pool, request, in);
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

int run_receive(const command_line& line, const receive_arguments& given) {
    const auto parts = split_volume_path(given.path);
    if (!parts) {
        return report_usage(parts.error().message());
    }
    if (parts->name.empty()) {
        return report_usage(
            fmt::format("{}: no volume named; write DIR/NAME", printable(given.path)));
    }
    std::string token;
    const int status =
        with_pool(line, parts->directory, session_kind::work,
                  [&](pool_service& pool) { return receive(line, pool, *parts, given, token); });
    if (!token.empty()) {
        // The last line, behind the failure.
        std::fflush(stderr);
        print_line("token " + token);
        std::fflush(stdout);
    }
    return status;
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
    command->add_option("--replica-of", given->replica_of,
                        "uuid of a volume: what is there must be its replica");
    command->add_option("--label", given->labels, "KEY=VALUE for the volume; repeated")
        ->allow_extra_args(false);
    command
        ->add_option("--snapshot-label", given->snapshot_labels,
                     "KEY=VALUE for the snapshot; repeated")
        ->allow_extra_args(false);
    command->add_option("--base", given->base,
                        "for a stream of thin_send: the snapshot that it is the difference to");
    command
        ->add_option("--size", given->size_bytes,
                     "for a stream of thin_send: the size of the volume")
        ->transform(as_size());
    command->add_flag("--discard-partial", given->discard_partial,
                      "keep nothing of a stream that breaks off, and print no token");
    command
        ->add_option("--stall-timeout", given->stall_timeout,
                     "how long nothing may come before the stream counts as broken off; 0s: always")
        ->capture_default_str();
    command->callback(
        [&line, given] { line.action = [&line, given] { return run_receive(line, *given); }; });
}

void print_transfers(const std::vector<transfer_info>& transfers) {
    print_line(fmt::format("{:<36}  {:>10}  {:>10}  {:<6}  {}", "TRANSFER", "SIZE", "MAPPED",
                           "IN USE", "INTO"));
    for (const transfer_info& transfer : transfers) {
        print_line(fmt::format("{:<36}  {:>10}  {:>10}  {:<6}  {}", transfer.id,
                               readable_size(transfer.size_bytes),
                               readable_size(transfer.mapped_bytes), transfer.in_use ? "yes" : "no",
                               printable(transfer.name)));
    }
}

void add_transfer(CLI::App& app, command_line& line) {
    CLI::App* transfer =
        app.add_subcommand("transfer", "what has arrived of streams that broke off");
    transfer->require_subcommand(1);
    CLI::App* list = transfer->add_subcommand("list", "all of a pool");
    const auto directory = std::make_shared<std::string>();
    list->add_option("DIR", *directory, "the pool")->required();
    list->callback([&line, directory] {
        line.action = [&line, directory] {
            return with_pool(line, *directory, session_kind::inspect,
                             [&](pool_service& pool) -> result<void> {
                                 const auto transfers = UTHIN_TRY(pool.list_transfers());
                                 if (line.json) {
                                     print_json(frontends::encode(transfers));
                                 } else {
                                     print_transfers(transfers);
                                 }
                                 return {};
                             });
        };
    });
    CLI::App* drop = transfer->add_subcommand("drop", "one; it cannot be gone on with then");
    const auto path = std::make_shared<std::string>();
    drop->add_option("DIR/TRANSFER", *path, "the pool and the transfer's id")->required();
    drop->callback([&line, path] {
        line.action = [&line, path] {
            return with_volume(line, *path, session_kind::work,
                               [&](pool_service& pool, const std::string& id) -> result<void> {
                                   UTHIN_TRY(pool.drop_transfer(id));
                                   print_line("dropped " + printable(*path));
                                   return {};
                               });
        };
    });
}

}  // namespace

void add_transfer_commands(CLI::App& app, command_line& line) {
    add_diff(app, line);
    add_send(app, line);
    add_receive(app, line);
    add_transfer(app, line);
}

}  // namespace uthin::tools
