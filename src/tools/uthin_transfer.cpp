// diff: what changed between volumes.
#include <fmt/format.h>

#include <memory>

#include "base/result.h"
#include "frontends/control/codec.h"
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

}  // namespace

void add_transfer_commands(CLI::App& app, command_line& line) {
    add_diff(app, line);
}

}  // namespace uthin::tools
