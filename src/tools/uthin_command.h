// What the commands of `uthin` share: common options, how a command runs, how results and failures
// are printed.
//
// Threads   One.
// Failures  A command returns its exit status: 0 ok, 1 understood and refused or failed, 2 the
//           command line cannot be understood. Failures are one line on stderr.
#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "pool/names.h"
#include "tools/uthin_session.h"

namespace uthin::tools {

inline constexpr int exit_ok = 0;
inline constexpr int exit_failed = 1;
inline constexpr int exit_usage = 2;

struct command_line {
    bool json = false;
    std::string wait_text = "10s";
    std::chrono::nanoseconds wait{std::chrono::seconds(10)};
    // Set by the command that was chosen; run after the whole line was understood.
    std::function<int()> action;
};

// "uthin: OBJECT: CAUSE; REMEDY".
int report_failure(const error& failure, const std::string& object);
int report_usage(const std::string& what);
void print_line(const std::string& text);
void print_json(const nlohmann::json& value);

// Connects, runs `body`, closes; the first failure is reported.
int with_pool(const command_line& line, const std::string& directory, session_kind kind,
              const std::function<result<void>(pool_service&)>& body);
int with_session(const command_line& line, const std::string& directory, session_kind kind,
                 const std::function<result<void>(session&)>& body);
// The same with DIR/NAME taken apart.
int with_volume(const command_line& line, const std::string& path, session_kind kind,
                const std::function<result<void>(pool_service&, const std::string& name)>& body);

// "NAME", or "DIR/NAME" of the same pool.
[[nodiscard]] result<std::string> name_in_pool(const std::string& directory,
                                               const std::string& text);
// Values such as "10s", "500ms", "2m".
[[nodiscard]] result<std::chrono::nanoseconds> parse_duration(const std::string& text);
// Validator that turns "10G" into bytes.
[[nodiscard]] CLI::Validator as_size();

[[nodiscard]] std::string summary(const volume_info& volume);
void print_volume(const command_line& line, const std::string& directory, std::string_view verb,
                  const volume_info& volume);

// --kernel and --table: what the device-mapper would say.
struct kernel_flags {
    bool status = false;
    bool table = false;
    [[nodiscard]] bool any() const { return status || table; }
};
void add_kernel_flags(CLI::App& command, kernel_flags& flags);
void print_kernel_lines(const command_line& line, const kernel_flags& flags,
                        const target_lines& lines);

void add_pool_commands(CLI::App& app, command_line& line);
void add_events(CLI::App& pool, command_line& line);
void add_volume_commands(CLI::App& app, command_line& line);
void add_data_commands(CLI::App& app, command_line& line);
void add_transfer_commands(CLI::App& app, command_line& line);
void add_origin_commands(CLI::App& app, command_line& line);
void add_migrate_command(CLI::App& app, command_line& line);
void add_backup_commands(CLI::App& app, command_line& line);
void add_replicate_commands(CLI::App& app, command_line& line);

}  // namespace uthin::tools
