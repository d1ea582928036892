// Table lines of thin-pool and thin, one a line: what is accepted prints as a line that means the
// same, and a pool's next table is judged against the one before.
#include <optional>
#include <sstream>

#include "fuzz/target.h"
#include "pool/target_table.h"
#include "pool/target_words.h"

namespace uthin::fuzz {
namespace {

void check_thin(const target_line& line) {
    const auto table = parse_thin_table(line);
    if (!table) {
        return;
    }
    const std::string printed = format_table(*table);
    const auto again =
        parse_thin_table(require_ok(parse_target_line(printed), "what was printed is a line"));
    require(again && *again == *table, "what was printed means the same");
    require(printed.ends_with(table_status_line(*table)), "the status shows the same words");
}

std::optional<pool_table> check_pool(const target_line& line, table_dialect dialect) {
    const auto table = parse_pool_table(line, dialect);
    if (!table) {
        return std::nullopt;
    }
    require(table->block_size_sectors != 0, "a pool has blocks");
    const std::string printed = format_table(*table);
    const auto again = parse_pool_table(
        require_ok(parse_target_line(printed), "what was printed is a line"), dialect);
    require(again && *again == *table, "what was printed means the same");
    require(printed + " " == "0 " + std::to_string(table->length_sectors) + " thin-pool " +
                                 table_status_line(*table),
            "the status shows the same words");
    return *table;
}

void run(std::span<const std::byte> input) {
    std::istringstream lines(text_of(input));
    std::optional<pool_table> live;
    for (std::string text; std::getline(lines, text);) {
        (void)lower_case(text);
        const auto line = parse_target_line(text);
        if (!line) {
            continue;
        }
        check_thin(*line);
        const auto ours = check_pool(*line, table_dialect::uthin);
        const auto strict = check_pool(*line, table_dialect::strict_kernel);
        if (live && ours) {
            (void)check_pool_reload(*live, *ours, table_dialect::uthin);
            (void)check_pool_reload(*live, *ours, table_dialect::strict_kernel);
        }
        live = ours ? ours : strict ? strict : live;
    }
}

std::vector<bytes> seeds() {
    std::vector<bytes> made;
    for (const char* text :
         {"0 131072 thin-pool /dev/m /dev/d 384 +7 2 SKIP_block_zeroing read_only\n",
          "0 131072 thin-pool 254:1 254:2 128 32768 0\n"
          "0 262144 thin-pool 254:1 254:2 128 1 1 ignore_discard\n",
          "0 2048 thin /dev/mapper/pool 7 /dev/base\\ image\n0 2048 thin /dev/mapper/pool 0\n",
          "0 1 thin-pool a b 2097152 0 5 skip_block_zeroing ignore_discard no_discard_passdown "
          "read_only error_if_no_space\n"}) {
        made.push_back(bytes_of(text));
    }
    return made;
}

const registration made({"table", run, seeds, mutated_text, 600});

}  // namespace
}  // namespace uthin::fuzz
