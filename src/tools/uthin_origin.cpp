// merge, flatten: moving content between a volume and the image that it stands on.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "base/result.h"
#include "frontends/control/codec.h"
#include "tools/progress_bar.h"
#include "tools/uthin_command.h"

namespace uthin::tools {

namespace {

constexpr std::chrono::milliseconds look_interval{200};

struct origin_arguments {
    std::string path;
    origin_job_request request{};
    bool detach = false;
    bool pause = false;
    bool abort = false;
    bool status = false;
};

std::string_view name_of(origin_job_kind kind) {
    return kind == origin_job_kind::merge ? "merge" : "flatten";
}

void print_job(const command_line& line, const std::string& path, const origin_job_info& info) {
    if (line.json) {
        print_json(frontends::encode(info));
        return;
    }
    print_line(fmt::format("{} {}: {}, {} left{}{}", name_of(info.kind), printable(path),
                           info.state, readable_size(info.left_bytes),
                           info.failure.empty() ? "" : ": ", printable(info.failure)));
}

// Until the work has ended, wherever it runs.
result<origin_job_info> follow(pool_service& pool, origin_job_info info) {
    std::optional<progress_bar> progress;
    progress.emplace(std::string(name_of(info.kind)), info.total_bytes);
    while (info.state == "running") {
        system_clock().sleep_for(look_interval);
        info = UTHIN_TRY(pool.show_origin_job(info.name));
        progress->show(info.total_bytes - std::min(info.total_bytes, info.left_bytes));
    }
    return info;
}

result<void> run(const command_line& line, pool_service& pool, const std::string& name,
                 const origin_arguments& given, bool served) {
    if (given.status) {
        print_job(line, given.path, UTHIN_TRY(pool.show_origin_job(name)));
        return {};
    }
    if (given.pause || given.abort) {
        print_job(line, given.path, UTHIN_TRY(pool.stop_origin_job(name, given.abort)));
        return {};
    }
    origin_job_request request = given.request;
    request.name = name;
    auto started = pool.start_origin_job(request);
    if (!started && started.error().code() == error_code::busy) {
        // Going on already: opening the pool was enough.
        const auto present = pool.show_origin_job(name);
        if (present && present->state == "running" && present->kind == request.kind) {
            started = *present;
        }
    }
    origin_job_info info = UTHIN_TRY(std::move(started));
    if (!given.detach || !served) {
        info = UTHIN_TRY(follow(pool, std::move(info)));
    }
    print_job(line, given.path, info);
    if (info.state == "failed") {
        return fail(error_code::failed,
                    fmt::format("{}: stopped with everything valid; mend the cause and start it "
                                "again",
                                printable(given.path)));
    }
    return {};
}

CLI::App* add_command(CLI::App& app, command_line& line, origin_job_kind kind,
                      const std::string& help, const std::shared_ptr<origin_arguments>& given) {
    CLI::App* command = app.add_subcommand(std::string(name_of(kind)), help);
    given->request.kind = kind;
    command->add_option("DIR/NAME", given->path, "the volume")->required();
    command->add_flag("--detach", given->detach, "of a served pool: do not wait for the end");
    auto* const pause =
        command->add_flag("--pause", given->pause, "stop until it is started again");
    auto* const abort =
        command->add_flag("--abort", given->abort, "stop; what was done stays, and all is valid");
    auto* const status = command->add_flag("--status", given->status, "how far it is");
    pause->excludes(abort)->excludes(status);
    abort->excludes(status);
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
            const bool looks = given->status || given->pause || given->abort;
            return with_session(line, parts->directory,
                                given->status ? session_kind::inspect
                                : looks       ? session_kind::change
                                              : session_kind::work,
                                [&](session& opened) {
                                    return run(line, opened.service(), parts->name, *given,
                                               opened.local() == nullptr);
                                });
        };
    });
    return command;
}

}  // namespace

void add_origin_commands(CLI::App& app, command_line& line) {
    const auto merging = std::make_shared<origin_arguments>();
    CLI::App* merge = add_command(
        app, line, origin_job_kind::merge,
        "what a volume holds into its external origin, while it is used; also goes on with it",
        merging);
    merge->add_flag("--copy-up", merging->request.copy_up,
                    "other volumes on the same origin first get what would change under them");
    merge->add_flag("--grow-origin", merging->request.grow_origin,
                    "make a shorter origin as long as the volume");
    add_command(app, line, origin_job_kind::flatten,
                "what a volume lacks out of its external origin, until it needs it no more",
                std::make_shared<origin_arguments>());
}

}  // namespace uthin::tools
