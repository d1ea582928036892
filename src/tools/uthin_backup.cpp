// backup, restore: volumes into a repository of streams and back.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "base/result.h"
#include "frontends/control/codec.h"
#include "replication/backup.h"
#include "tools/progress_bar.h"
#include "tools/uthin_command.h"

namespace uthin::tools {

namespace {

using replication::backup_point;
using replication::repository;

struct backup_arguments {
    std::string path;
    std::string repository_path;
    std::string compression;
    std::string volume;
    bool full = false;
    std::uint64_t rate_bytes_per_second = 0;
    std::uint64_t keep_last = 0;
    std::uint64_t point = 0;  // 0: the newest
};

nlohmann::json to_json(const backup_point& point) {
    return {{"number", point.number},
            {"volume", point.volume},
            {"volume_uuid", point.volume_uuid},
            {"id", point.id},
            {"base", point.base},
            {"file", point.file},
            {"bytes", point.file_bytes},
            {"size", point.size_bytes},
            {"created", point.created_unix_seconds}};
}

nlohmann::json to_json(const std::vector<backup_point>& points) {
    nlohmann::json list = nlohmann::json::array();
    for (const backup_point& point : points) {
        list.push_back(to_json(point));
    }
    return {{"backups", std::move(list)}};
}

// A command that needs no pool.
int run_alone(const std::string& object, const std::function<result<void>()>& body) {
    const result<void> done = body();
    if (!done) {
        return report_failure(done.error(), object);
    }
    return exit_ok;
}

int run_backup(const command_line& line, const backup_arguments& given) {
    return with_volume(
        line, given.path, session_kind::work,
        [&](pool_service& pool, const std::string& name) -> result<void> {
            repository to = UTHIN_TRY(repository::open_for_writing(given.repository_path));
            std::optional<progress_bar> progress;
            replication::backup_request request;
            request.name = name;
            request.full = given.full;
            request.compress = !given.compression.empty();
            request.rate_bytes_per_second = given.rate_bytes_per_second;
            request.begun = [&](std::uint64_t size) { progress.emplace("backing up", size); };
            request.progress = [&](std::uint64_t position) { progress->show(position); };
            const auto made = replication::make_backup(pool, to, request);
            progress.reset();
            const backup_point point = UTHIN_TRY(made);
            if (line.json) {
                print_json(to_json(point));
            } else {
                print_line(fmt::format("backed up {}: number {}, {}, {}", printable(given.path),
                                       point.number, point.base.empty() ? "whole" : "difference",
                                       readable_size(point.file_bytes)));
            }
            return {};
        });
}

void print_points(const std::vector<backup_point>& points) {
    print_line(fmt::format("{:>6}  {:<19}  {:>10}  {:>10}  {:<10}  {}", "NUMBER", "CREATED (UTC)",
                           "SIZE", "STORED", "KIND", "VOLUME"));
    for (const backup_point& point : points) {
        // fmt throws for years that the calendar cannot hold.
        const std::int64_t seconds =
            std::clamp<std::int64_t>(point.created_unix_seconds, 0, 253'402'300'799);
        print_line(fmt::format("{:>6}  {:%Y-%m-%d %H:%M:%S}  {:>10}  {:>10}  {:<10}  {}",
                               point.number, fmt::gmtime(static_cast<std::time_t>(seconds)),
                               readable_size(point.size_bytes), readable_size(point.file_bytes),
                               point.base.empty() ? "whole" : "difference",
                               printable(point.volume)));
    }
}

result<void> list(const command_line& line, const backup_arguments& given) {
    const repository stored = UTHIN_TRY(repository::open(given.repository_path));
    if (line.json) {
        print_json(to_json(stored.manifest().points));
    } else {
        print_points(stored.manifest().points);
    }
    return {};
}

result<void> verify(const backup_arguments& given) {
    const repository stored = UTHIN_TRY(repository::open(given.repository_path));
    const auto complaints =
        UTHIN_TRY(replication::verify_backups(stored, [](const backup_point& point) {
            print_line(fmt::format("backup {}: ok", point.number));
        }));
    for (const std::string& complaint : complaints) {
        print_line(printable(complaint));
    }
    if (!complaints.empty()) {
        return fail(error_code::corrupt,
                    fmt::format("{}: {} backups are damaged; make new ones with --full",
                                printable(given.repository_path), complaints.size()));
    }
    return {};
}

result<void> prune(const command_line& line, const backup_arguments& given) {
    repository stored = UTHIN_TRY(repository::open_for_writing(given.repository_path));
    const auto gone = UTHIN_TRY(replication::prune_backups(stored, given.keep_last));
    if (line.json) {
        print_json(to_json(gone));
        return {};
    }
    for (const backup_point& point : gone) {
        print_line(fmt::format("removed backup {} of {}", point.number, printable(point.volume)));
    }
    return {};
}

result<backup_point> choose_point(const repository& stored, const backup_arguments& given) {
    const auto& points = stored.manifest().points;
    const backup_point* chosen = nullptr;
    for (const backup_point& point : points) {
        const bool of_volume = given.volume.empty() || point.volume == given.volume;
        if (!of_volume || (given.point != 0 && point.number != given.point)) {
            continue;
        }
        if (chosen != nullptr && chosen->volume_uuid != point.volume_uuid) {
            return fail(error_code::invalid_argument,
                        fmt::format("{}: holds several volumes; say which with --volume or --point",
                                    printable(given.repository_path)));
        }
        chosen = &point;
    }
    if (chosen == nullptr) {
        return fail(error_code::not_found,
                    fmt::format("{}: no such backup; see 'uthin backup list'",
                                printable(given.repository_path)));
    }
    return *chosen;
}

int run_restore(const command_line& line, const backup_arguments& given) {
    const auto parts = split_volume_path(given.path);
    return with_volume(
        line, given.path, session_kind::work,
        [&](pool_service& pool, const std::string& name) -> result<void> {
            const repository from = UTHIN_TRY(repository::open(given.repository_path));
            std::optional<progress_bar> progress;
            replication::restore_request request;
            request.name = name;
            request.point = UTHIN_TRY(choose_point(from, given));
            request.begun = [&](std::uint64_t size) { progress.emplace("restoring", size); };
            request.progress = [&](std::uint64_t position) { progress->show(position); };
            const auto restored = replication::restore_backup(pool, from, request);
            progress.reset();
            print_volume(line, parts->directory, "restored", UTHIN_TRY(restored));
            return {};
        });
}

void add_restore(CLI::App& app, command_line& line) {
    CLI::App* command = app.add_subcommand("restore", "a volume from a repository of backups");
    const auto given = std::make_shared<backup_arguments>();
    command->add_option("REPO", given->repository_path, "the repository")->required();
    command->add_option("DIR/NAME", given->path, "the volume that is made")->required();
    command->add_option("--point", given->point, "number of the backup; default: the newest");
    command->add_option("--volume", given->volume, "name that the volume had");
    command->callback(
        [&line, given] { line.action = [&line, given] { return run_restore(line, *given); }; });
}

CLI::App* add_repository_command(CLI::App& backup, const char* name, const char* description,
                                 const std::shared_ptr<backup_arguments>& given) {
    CLI::App* command = backup.add_subcommand(name, description);
    command->add_option("REPO", given->repository_path, "the repository")->required();
    return command;
}

}  // namespace

void add_backup_commands(CLI::App& app, command_line& line) {
    CLI::App* backup = app.add_subcommand(
        "backup", "a volume into a repository: whole at first, then what changed");
    const auto given = std::make_shared<backup_arguments>();
    backup->add_option("DIR/NAME", given->path, "the volume, or a snapshot of it");
    backup->add_option("REPO", given->repository_path, "a directory; it is made");
    backup->add_flag("--full", given->full, "everything, whatever is there already");
    backup->add_option("--compress", given->compression, "how to compress")
        ->check(CLI::IsMember({"zstd"}));
    backup->add_option("--rate-limit", given->rate_bytes_per_second, "bytes in a second, as 10M")
        ->transform(as_size());
    backup->require_subcommand(0, 1);
    CLI::App* list_command = add_repository_command(*backup, "list", "what there is", given);
    CLI::App* verify_command =
        add_repository_command(*backup, "verify", "reads every stream, restores nothing", given);
    CLI::App* prune_command =
        add_repository_command(*backup, "prune", "removes old backups of each volume", given);
    prune_command->add_option("--keep-last", given->keep_last, "how many stay")
        ->required()
        ->check(CLI::Range(std::uint64_t{1}, UINT64_MAX));
    backup->callback([&line, given, list_command, verify_command, prune_command] {
        line.action = [&line, given, list_command, verify_command, prune_command] {
            const std::string& object = given->repository_path;
            if (list_command->parsed()) {
                return run_alone(object, [&] { return list(line, *given); });
            }
            if (verify_command->parsed()) {
                return run_alone(object, [&] { return verify(*given); });
            }
            if (prune_command->parsed()) {
                return run_alone(object, [&] { return prune(line, *given); });
            }
            if (given->path.empty() || given->repository_path.empty()) {
                return report_usage("backup: write DIR/NAME REPO; see 'uthin backup --help'");
            }
            return run_backup(line, *given);
        };
    });
    add_restore(app, line);
}

}  // namespace uthin::tools
