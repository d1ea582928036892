// replicate, promote: a volume kept up to date in another pool.
#include <fmt/format.h>
#include <unistd.h>

#include <climits>
#include <memory>
#include <sstream>

#include "base/clock.h"
#include "base/result.h"
#include "frontends/control/codec.h"
#include "frontends/replicate.h"
#include "pool/labels.h"
#include "tools/uthin_command.h"

namespace uthin::tools {

namespace {

using frontends::replica_state;

struct replicate_arguments {
    std::string path;
    std::string target;
    std::string name;
    std::string every = "30s";
    std::string stall_timeout = "60s";
    std::string shell = "ssh";
    std::string remote_program = "uthin";
    std::string compression;
    std::uint64_t rate_bytes_per_second = 0;
    bool once = false;
    bool reverse = false;
    bool status = false;
};

std::string own_program() {
    char path[PATH_MAX];
    const ssize_t length = ::readlink("/proc/self/exe", path, sizeof path);
    return length > 0 ? std::string(path, static_cast<std::size_t>(length)) : "uthin";
}

result<frontends::replicate_options> options_of(const replicate_arguments& given,
                                                const std::string& volume) {
    frontends::replicate_options options;
    options.target = UTHIN_TRY(
        frontends::parse_replica_target(given.target, given.name.empty() ? volume : given.name));
    options.own_program = own_program();
    options.shell.clear();
    std::istringstream words(given.shell);
    for (std::string word; words >> word;) {
        options.shell.push_back(word);
    }
    options.remote_program = given.remote_program;
    options.compress = !given.compression.empty();
    options.rate_bytes_per_second = given.rate_bytes_per_second;
    options.take_over = given.reverse;
    options.stall_timeout = std::chrono::duration_cast<std::chrono::milliseconds>(
        UTHIN_TRY(parse_duration(given.stall_timeout)));
    return options;
}

void print_round(const command_line& line, const replicate_arguments& given,
                 const frontends::round_report& report) {
    if (line.json) {
        print_json({{"snapshot", report.snapshot},
                    {"whole", report.whole},
                    {"resumed", report.resumed},
                    {"data", report.data_bytes}});
    } else {
        print_line(fmt::format("replicated {} to {}: {}, {}{}", printable(given.path),
                               printable(given.target), printable(report.snapshot),
                               readable_size(report.data_bytes), report.whole ? ", whole" : ""));
    }
    std::fflush(stdout);
}

// Each round has the pool to itself if nobody serves it, and lets go of it in between.
int run_replicate(const command_line& line, const replicate_arguments& given) {
    const auto parts = split_volume_path(given.path);
    const auto every = parse_duration(given.every);
    if (!every) {
        return report_usage(every.error().message());
    }
    while (true) {
        const auto begun = system_clock().monotonic();
        const int status = with_volume(
            line, given.path, session_kind::work,
            [&](pool_service& pool, const std::string& name) -> result<void> {
                const auto options = UTHIN_TRY(options_of(given, name));
                print_round(line, given, UTHIN_TRY(frontends::replicate_once(pool, name, options)));
                return {};
            });
        if (given.once || status == exit_usage) {
            return status;
        }
        const auto next = begun + *every;
        const auto now = system_clock().monotonic();
        if (next > now) {
            system_clock().sleep_for(next - now);
        }
    }
}

nlohmann::json to_json(const replica_state& state, std::int64_t now) {
    nlohmann::json value = {{"target", state.target}, {"snapshot", state.snapshot},
                            {"rounds", state.rounds}, {"failures", state.failures},
                            {"error", state.error},   {"lag_seconds", nullptr}};
    if (state.replicated_unix_seconds != 0) {
        value["lag_seconds"] = now - state.replicated_unix_seconds;
    }
    return value;
}

int print_status(const command_line& line, const replicate_arguments& given) {
    return with_volume(
        line, given.path, session_kind::inspect,
        [&](pool_service& pool, const std::string& name) -> result<void> {
            const std::int64_t now = system_clock().unix_seconds();
            nlohmann::json list = nlohmann::json::array();
            const auto replicas = frontends::replicas_of(UTHIN_TRY(pool.show_volume(name)));
            if (!line.json) {
                print_line(
                    fmt::format("{:>8}  {:>8}  {:>8}  {}", "LAG", "ROUNDS", "FAILURES", "TARGET"));
            }
            for (const replica_state& state : replicas) {
                list.push_back(to_json(state, now));
                if (!line.json) {
                    const std::string lag =
                        state.replicated_unix_seconds == 0
                            ? "-"
                            : fmt::format("{} s", now - state.replicated_unix_seconds);
                    print_line(fmt::format("{:>8}  {:>8}  {:>8}  {}{}{}", lag, state.rounds,
                                           state.failures, printable(state.target),
                                           state.error.empty() ? "" : ": ",
                                           printable(state.error)));
                }
            }
            if (line.json) {
                print_json({{"replicas", std::move(list)}});
            }
            return {};
        });
}

int run_promote(const command_line& line, const std::string& path) {
    const auto parts = split_volume_path(path);
    return with_volume(
        line, path, session_kind::change,
        [&](pool_service& pool, const std::string& name) -> result<void> {
            const volume_info volume = UTHIN_TRY(pool.show_volume(name));
            if (!volume.labels.contains(std::string(replica_of_label))) {
                return fail(
                    error_code::invalid_argument,
                    fmt::format("{}: is no replica; see 'uthin volume show'", printable(path)));
            }
            label_request request;
            request.name = name;
            request.remove = {std::string(replica_of_label), std::string(read_only_label)};
            print_volume(line, parts->directory, "promoted", UTHIN_TRY(pool.label_volume(request)));
            return {};
        });
}

}  // namespace

void add_replicate_commands(CLI::App& app, command_line& line) {
    CLI::App* command =
        app.add_subcommand("replicate", "keeps a volume up to date in another pool");
    const auto given = std::make_shared<replicate_arguments>();
    command->add_option("DIR/NAME", given->path, "the volume")->required();
    command->add_option("TARGET", given->target, "DIR of a pool, or ssh://[USER@]HOST[:PORT]/DIR");
    command->add_option("--as", given->name, "the volume's name there; default: the same");
    command->add_option("--every", given->every, "a round each so often")->capture_default_str();
    command->add_flag("--once", given->once, "one round");
    command->add_flag("--reverse", given->reverse,
                      "the volume there was the source: it is rolled back and becomes the replica");
    command->add_flag("--status", given->status, "how far behind each replica is");
    command->add_option("--compress", given->compression, "how to compress")
        ->check(CLI::IsMember({"zstd"}));
    command->add_option("--rate-limit", given->rate_bytes_per_second, "bytes in a second, as 10M")
        ->transform(as_size());
    command
        ->add_option("--stall-timeout", given->stall_timeout,
                     "how long the other side may take nothing")
        ->capture_default_str();
    command
        ->add_option("--rsh", given->shell,
                     "the program that runs a command line on HOST, both as its last arguments")
        ->capture_default_str();
    command->add_option("--remote-uthin", given->remote_program, "uthin there")
        ->capture_default_str();
    command->callback([&line, given] {
        line.action = [&line, given] {
            if (given->status) {
                return print_status(line, *given);
            }
            return given->target.empty()
                       ? report_usage("replicate: no target; write DIR or ssh://HOST/DIR")
                       : run_replicate(line, *given);
        };
    });
    CLI::App* promote = app.add_subcommand("promote", "makes a replica a volume to be written to");
    const auto path = std::make_shared<std::string>();
    promote->add_option("DIR/NAME", *path, "the replica")->required();
    promote->callback(
        [&line, path] { line.action = [&line, path] { return run_promote(line, *path); }; });
}

}  // namespace uthin::tools
