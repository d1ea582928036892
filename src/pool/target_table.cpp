#include "pool/target_table.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <span>

#include "base/result.h"
#include "pool/names.h"
#include "pool/target_words.h"

namespace uthin {

namespace {

constexpr std::string_view pool_form =
    "0 LENGTH thin-pool METADATA DATA BLOCK-SECTORS LOW-WATER-BLOCKS [COUNT FEATURE...]";
constexpr std::string_view thin_form = "0 LENGTH thin POOL ID [ORIGIN]";

struct feature_word {
    std::string_view word;
    bool pool_features::*field;
};
// In the order in which the kernel prints them.
constexpr auto feature_words = std::to_array<feature_word>({
    {"skip_block_zeroing", &pool_features::skip_block_zeroing},
    {"ignore_discard", &pool_features::ignore_discard},
    {"no_discard_passdown", &pool_features::no_discard_passdown},
    {"read_only", &pool_features::read_only},
    {"error_if_no_space", &pool_features::error_if_no_space},
});
// There are five, but its grammar takes four words.
constexpr std::uint64_t kernel_feature_words_max = 4;

std::unexpected<error> refuse(const std::string& cause, std::string_view remedy) {
    return fail(error_code::invalid_argument, fmt::format("table line: {}; {}", cause, remedy));
}

// Words are backslash-escaped so that a path with a space comes back whole.
std::string quoted(std::string_view word) {
    std::string text;
    for (const char c : word) {
        if (c == '\\' || c == ' ' || (c >= '\t' && c <= '\r')) {
            text += '\\';
        }
        text += c;
    }
    return text;
}

result<pool_features> parse_features(std::span<const std::string> words, table_dialect dialect) {
    pool_features features;
    if (words.empty()) {
        return features;
    }
    const bool strict = dialect == table_dialect::strict_kernel;
    const std::uint64_t count_max = strict ? kernel_feature_words_max : feature_words.size();
    const auto count = parse_decimal(words[0]);
    const auto given = words.subspan(1);
    if (!count || *count > count_max || *count > given.size()) {
        return refuse(fmt::format("feature count '{}' is not valid with {} words after it",
                                  printable(words[0]), given.size()),
                      fmt::format("it must be a number up to {}", count_max));
    }
    if (!strict && given.size() != *count) {
        return refuse(
            fmt::format("'{}' follows the last of {} features", printable(given[*count]), *count),
            "correct the count or remove it");
    }
    for (const std::string& word : given.first(*count)) {
        const feature_word* found = nullptr;
        for (const feature_word& known : feature_words) {
            found = known.word == lower_case(word) ? &known : found;
        }
        if (found == nullptr) {
            return refuse(fmt::format("unknown feature '{}'", printable(word)),
                          "use skip_block_zeroing, ignore_discard, no_discard_passdown, read_only "
                          "or error_if_no_space");
        }
        features.*(found->field) = true;
    }
    return features;
}

}  // namespace

result<target_line> parse_target_line(std::string_view text) {
    std::vector<std::string> words = split_target_words(text);
    if (words.size() < 3) {
        return refuse(fmt::format("{} words", words.size()), "write START LENGTH TARGET WORD...");
    }
    const auto start = parse_decimal(words[0]);
    const auto length = parse_decimal(words[1]);
    if (!start || !length) {
        return refuse(
            fmt::format("'{}' is no number of sectors", printable(start ? words[1] : words[0])),
            "write START LENGTH TARGET WORD...");
    }
    if (*start != 0) {
        return refuse(fmt::format("it starts at sector {}", *start), "there must be no gap");
    }
    if (*length == 0) {
        return refuse("it has length 0", "give the length in sectors");
    }
    target_line line{*start, *length, std::move(words[2]), {}};
    words.erase(words.begin(), words.begin() + 3);
    line.words = std::move(words);
    return line;
}

result<pool_table> parse_pool_table(const target_line& line, table_dialect dialect) {
    const std::span<const std::string> words = line.words;
    if (line.target != "thin-pool" || words.size() < 4) {
        return refuse(fmt::format("{} words for target '{}'", words.size(), printable(line.target)),
                      fmt::format("write {}", pool_form));
    }
    pool_table table;
    table.length_sectors = line.length_sectors;
    table.features = UTHIN_TRY(parse_features(words.subspan(4), dialect));
    table.metadata_device = words[0];
    table.data_device = words[1];
    if (table.metadata_device == table.data_device) {
        return refuse(fmt::format("'{}' is both metadata and data", printable(words[0])),
                      "use two devices");
    }
    const auto block = parse_decimal(words[2]);
    if (!block || *block < data_block_size_sectors_min || *block > data_block_size_sectors_max ||
        *block % data_block_size_sectors_min != 0) {
        return refuse(fmt::format("block size '{}' is not valid", printable(words[2])),
                      "use a multiple of 128 sectors from 128 to 2097152");
    }
    table.block_size_sectors = static_cast<std::uint32_t>(*block);
    const auto low_water = parse_decimal(words[3]);
    if (!low_water) {
        return refuse(fmt::format("low water mark '{}' is not valid", printable(words[3])),
                      "use a number of blocks");
    }
    table.low_water_blocks = *low_water;
    return table;
}

result<void> check_pool_reload(const pool_table& live, const pool_table& next,
                               table_dialect dialect) {
    if (live.metadata_device != next.metadata_device) {
        return refuse(fmt::format("metadata '{}' instead of '{}'", printable(next.metadata_device),
                                  printable(live.metadata_device)),
                      "a different pool cannot replace a pool");
    }
    if (live.data_device != next.data_device) {
        return fail(error_code::busy,
                    fmt::format("table line: data '{}' instead of '{}'; a live pool keeps its data "
                                "device",
                                printable(next.data_device), printable(live.data_device)));
    }
    if (live.features.ignore_discard != next.features.ignore_discard) {
        return refuse("ignore_discard differs from the live pool's",
                      "discards cannot be switched on or off while the pool is open");
    }
    if (dialect == table_dialect::uthin && live.block_size_sectors != next.block_size_sectors) {
        return refuse(fmt::format("block size {} instead of {}", next.block_size_sectors,
                                  live.block_size_sectors),
                      "a pool's block size never changes");
    }
    return {};
}

std::string table_status_line(const pool_table& table) {
    std::vector<std::string_view> features;
    for (const feature_word& known : feature_words) {
        if (table.features.*(known.field)) {
            features.push_back(known.word);
        }
    }
    std::string line =
        fmt::format("{} {} {} {} {} ", quoted(table.metadata_device), quoted(table.data_device),
                    table.block_size_sectors, table.low_water_blocks, features.size());
    for (const std::string_view feature : features) {
        line += fmt::format("{} ", feature);
    }
    return line;
}

std::string format_table(const pool_table& table) {
    std::string line =
        fmt::format("0 {} thin-pool {}", table.length_sectors, table_status_line(table));
    line.pop_back();
    return line;
}

result<thin_table> parse_thin_table(const target_line& line) {
    const std::span<const std::string> words = line.words;
    if (line.target != "thin" || (words.size() != 2 && words.size() != 3)) {
        return refuse(fmt::format("{} words for target '{}'", words.size(), printable(line.target)),
                      fmt::format("write {}", thin_form));
    }
    thin_table table;
    table.length_sectors = line.length_sectors;
    table.pool_device = words[0];
    if (words.size() == 3) {
        table.external_origin = words[2];
        if (table.external_origin == table.pool_device) {
            return refuse(fmt::format("'{}' is both pool and origin", printable(words[0])),
                          "use another origin");
        }
    }
    const auto id = parse_decimal(words[1]);
    if (!id || *id > device_id_max) {
        return refuse(fmt::format("device id '{}' is not valid", printable(words[1])),
                      "use a decimal number from 0 to 16777215");
    }
    table.id = device_id(*id);
    return table;
}

std::string table_status_line(const thin_table& table) {
    std::string line = fmt::format("{} {}", quoted(table.pool_device), table.id.value());
    if (!table.external_origin.empty()) {
        line += ' ';
        line += quoted(table.external_origin);
    }
    return line;
}

std::string format_table(const thin_table& table) {
    return fmt::format("0 {} thin {}", table.length_sectors, table_status_line(table));
}

}  // namespace uthin
