// The command `uthin serve`.
#pragma once

#include <CLI/CLI.hpp>

namespace uthin::tools {

// Adds the command to `app`. When it is given, its callback sets `exit_status` and returns only if
// the server could not be started: otherwise this process becomes the server.
void add_serve_command(CLI::App& app, int& exit_status);

}  // namespace uthin::tools
