// migrate: a volume with its snapshots to another pool.
#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <optional>

#include "base/result.h"
#include "io/durable_file.h"
#include "replication/migrator.h"
#include "tools/progress_bar.h"
#include "tools/uthin_command.h"

namespace uthin::tools {

namespace {

struct migrate_arguments {
    std::string from;
    std::string to;
    bool no_verify = false;
};

void print_reply(const command_line& line, const migrate_arguments& given,
                 const replication::migrate_reply& reply) {
    const auto barrier_ms = std::chrono::duration_cast<std::chrono::milliseconds>(reply.barrier);
    if (line.json) {
        print_json({{"volumes", reply.names},
                    {"copied", reply.copied_bytes},
                    {"rounds", reply.round_count},
                    {"barrier_ms", static_cast<std::uint64_t>(barrier_ms.count())},
                    {"left_as", reply.left_as}});
        return;
    }
    print_line(fmt::format(
        "migrated {} to {}: {} volumes, {} copied{}", printable(given.from), printable(given.to),
        reply.names.size(), readable_size(reply.copied_bytes),
        reply.left_as.empty() ? std::string()
                              : fmt::format("; the source is called {} now, delete it when all is "
                                            "well",
                                            printable(reply.left_as))));
}

result<void> migrate(const command_line& line, pool_service& source, const volume_path& from,
                     const volume_path& to, const migrate_arguments& given) {
    if (io::is_same_file(from.directory, to.directory)) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: is the pool of the volume; name another one",
                                printable(to.directory)));
    }
    const auto target = UTHIN_TRY(session::connect(to.directory, session_kind::work, line.wait));
    if (target->local() == nullptr) {
        return fail(error_code::busy,
                    fmt::format("{}: another process has the pool, and cannot receive; stop it "
                                "first",
                                printable(to.directory)));
    }
    replication::migrate_request request;
    request.name = from.name;
    request.target_name = to.name;
    request.verify = !given.no_verify;
    request.wait = line.wait;
    std::optional<progress_bar> progress;
    request.progress = [&](std::uint64_t done_bytes, std::uint64_t total_bytes) {
        if (!progress) {
            progress.emplace("migrating", total_bytes);
        }
        progress->show(done_bytes);
    };
    auto done = replication::migrate_volume(source, *target->local(), request);
    progress.reset();
    const result<void> closed = target->close();
    print_reply(line, given, UTHIN_TRY(std::move(done)));
    return closed;
}

}  // namespace

void add_migrate_command(CLI::App& app, command_line& line) {
    CLI::App* command = app.add_subcommand(
        "migrate", "a volume and its snapshots to another pool, while it is used; also goes on");
    const auto given = std::make_shared<migrate_arguments>();
    command->add_option("DIR/NAME", given->from, "the volume")->required();
    command->add_option("DIR2/NAME", given->to, "where to; snapshots keep their names")->required();
    command->add_flag("--no-verify", given->no_verify, "do not read again what was copied");
    command->callback([&line, given] {
        line.action = [&line, given] {
            const auto from = split_volume_path(given->from);
            const auto to = split_volume_path(given->to);
            if (!from || !to) {
                return report_usage(from ? to.error().message() : from.error().message());
            }
            if (from->name.empty() || to->name.empty()) {
                return report_usage(
                    fmt::format("{}: no volume named; write DIR/NAME",
                                printable(from->name.empty() ? given->from : given->to)));
            }
            return with_session(line, from->directory, session_kind::work, [&](session& source) {
                return migrate(line, source.service(), *from, *to, *given);
            });
        };
    });
}

}  // namespace uthin::tools
