// All thin_* tools in one program: the tool is chosen by the name it is called by, or by the first
// argument.
#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <new>
#include <string_view>
#include <utility>

#include "base/large_heap.h"
#include "tools/standard_streams.h"
#include "tools/thin_tool.h"

namespace {

using uthin::tools::arguments;
using uthin::tools::tell;

struct tool {
    std::string_view name;
    int (*run)(arguments given);
};

constexpr std::array tools = {
    tool{"thin_check", uthin::tools::thin_check_main},
    tool{"thin_delta", uthin::tools::thin_delta_main},
    tool{"thin_dump", uthin::tools::thin_dump_main},
    tool{"thin_ls", uthin::tools::thin_ls_main},
    tool{"thin_metadata_pack", uthin::tools::thin_metadata_pack_main},
    tool{"thin_metadata_size", uthin::tools::thin_metadata_size_main},
    tool{"thin_metadata_unpack", uthin::tools::thin_metadata_unpack_main},
    tool{"thin_migrate", uthin::tools::thin_migrate_main},
    tool{"thin_repair", uthin::tools::thin_repair_main},
    tool{"thin_restore", uthin::tools::thin_restore_main},
    tool{"thin_rmap", uthin::tools::thin_rmap_main},
    tool{"thin_shrink", uthin::tools::thin_shrink_main},
    tool{"thin_trim", uthin::tools::thin_trim_main},
};

const tool* find_tool(std::string_view path) {
    const std::size_t slash = path.rfind('/');
    const std::string_view name = slash == std::string_view::npos ? path : path.substr(slash + 1);
    for (const tool& candidate : tools) {
        if (candidate.name == name) {
            return &candidate;
        }
    }
    return nullptr;
}

int run(int argc, char** argv) {
    uthin::tools::prepare_standard_streams();
    uthin::use_large_heap();
    arguments given(argv, static_cast<std::size_t>(argc));
    for (int skipped = 0; skipped < 2 && !given.empty(); ++skipped) {
        const tool* const chosen = find_tool(given.front());
        given = given.subspan(1);
        if (chosen != nullptr) {
            const int status = chosen->run(given);
            return std::fflush(stdout) == 0 && std::ferror(stdout) == 0 ? status
                                                                        : uthin::tools::exit_failed;
        }
    }
    tell("Usage: thin_tools <TOOL> [ARGUMENTS]\nTools:\n");
    for (const tool& known : tools) {
        tell(fmt::format("  {}\n", known.name));
    }
    return uthin::tools::exit_failed;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::bad_alloc&) {
        std::fputs("out of memory\n", stderr);
        return uthin::tools::exit_failed;
    }
}
