// The command `uthin serve`.
#pragma once

#include "tools/uthin_command.h"

namespace uthin::tools {

// Returns from its action only if the server could not be started: otherwise this process becomes
// the server.
void add_serve_command(CLI::App& app, command_line& line);

}  // namespace uthin::tools
