#include "tools/snapshot_option.h"

#include "base/result.h"

namespace uthin::tools {

void add_snapshot_option(option_table& options, snapshot_choice& choice, std::string_view help) {
    const auto take = [&choice](std::optional<std::string_view> block) -> result<void> {
        choice.chosen = true;
        if (block) {
            choice.block = UTHIN_TRY(parse_number(*block));
        }
        return {};
    };
    options.optional_value("-m,--metadata-snapshot,--metadata-snap", "BLOCKNR", take, help);
}

result<void> expect_snapshot(const snapshot_choice& choice,
                             const thin_metadata::metadata_view& view) {
    if (choice.block && *choice.block != view.superblock().blocknr) {
        return fail(error_code::invalid_argument,
                    "metadata snapshot does not match that in superblock");
    }
    return {};
}

}  // namespace uthin::tools
