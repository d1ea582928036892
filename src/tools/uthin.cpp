// The command line of uthin.
#include <fmt/format.h>

#include <cstdio>
#include <new>

#include "tools/standard_streams.h"
#include "tools/uthin_command.h"
#include "tools/uthin_serve.h"
#include "uthin/version.h"

namespace {

// CLI11 wants an explicit consent to options after the subcommand's arguments.
void let_options_follow(CLI::App& app) {
    app.fallthrough();
    for (CLI::App* command : app.get_subcommands({})) {
        let_options_follow(*command);
    }
}

// What CLI11 says, on one line.
std::string one_line(std::string text) {
    for (char& c : text) {
        c = c == '\n' ? ' ' : c;
    }
    return text;
}

int run(int argc, char** argv) {
    using namespace uthin::tools;
    CLI::App app("Thin volumes with snapshots of any depth, in user space, on the kernel's format",
                 "uthin");
    command_line line;
    app.set_version_flag("--version", fmt::format("uthin {}", uthin::version_string));
    app.add_flag("--json", line.json, "print JSON");
    app.add_option("--wait", line.wait_text, "how long to wait for a pool that is in use")
        ->capture_default_str();
    app.require_subcommand(1);
    add_pool_commands(app, line);
    add_volume_commands(app, line);
    add_data_commands(app, line);
    add_transfer_commands(app, line);
    add_origin_commands(app, line);
    add_migrate_command(app, line);
    add_backup_commands(app, line);
    add_replicate_commands(app, line);
    add_serve_command(app, line);
    let_options_follow(app);
    try {
        app.parse(argc, argv);
    } catch (const CLI::CallForHelp& help) {
        return app.exit(help);
    } catch (const CLI::CallForAllHelp& help) {
        return app.exit(help);
    } catch (const CLI::CallForVersion& version) {
        return app.exit(version);
    } catch (const CLI::ParseError& failure) {
        return report_usage(one_line(failure.what()) + "; see 'uthin --help'");
    }
    const auto wait = parse_duration(line.wait_text);
    if (!wait) {
        return report_usage(wait.error().message());
    }
    line.wait = *wait;
    return line.action();
}

}  // namespace

int main(int argc, char** argv) {
    using namespace uthin::tools;
    try {
        prepare_standard_streams();
        const int status = run(argc, argv);
        const auto arrived = flush_output();
        return arrived || status != exit_ok ? status : report_failure(arrived.error(), {});
    } catch (const std::bad_alloc&) {
        std::fputs("uthin: out of memory\n", stderr);
        return exit_failed;
    }
}
