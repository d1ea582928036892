// thin_metadata_size: how large should the metadata device be?
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/result.h"
#include "tools/thin_tool.h"
#include "uthin/units.h"

namespace uthin::tools {
namespace {

struct unit {
    std::string_view letter;
    std::string_view short_name;
    std::string_view name;
    std::uint64_t bytes;
};

constexpr std::array units = {
    unit{"b", "B", "byte", 1},
    unit{"s", "s", "sector", 512},
    unit{"k", "KiB", "kibibyte", 1ULL << 10},
    unit{"K", "kB", "kilobyte", 1000},
    unit{"m", "MiB", "mebibyte", 1ULL << 20},
    unit{"M", "MB", "megabyte", 1000ULL * 1000},
    unit{"g", "GiB", "gibibyte", 1ULL << 30},
    unit{"G", "GB", "gigabyte", 1000ULL * 1000 * 1000},
    unit{"t", "TiB", "tebibyte", 1ULL << 40},
    unit{"T", "TB", "terabyte", 1000ULL * 1000 * 1000 * 1000},
    unit{"p", "PiB", "pebibyte", 1ULL << 50},
    unit{"P", "PB", "petabyte", 1000ULL * 1000 * 1000 * 1000 * 1000},
    unit{"e", "EiB", "exbibyte", 1ULL << 60},
    unit{"E", "EB", "exabyte", 1000ULL * 1000 * 1000 * 1000 * 1000 * 1000},
};

result<const unit*> find_unit(std::string_view name) {
    for (const unit& known : units) {
        const bool plural = name.size() == known.name.size() + 1 && name.ends_with('s') &&
                            name.starts_with(known.name);
        if (name == known.letter || name == known.short_name || name == known.name || plural) {
            return &known;
        }
    }
    return fail(error_code::invalid_argument, fmt::format("unknown unit '{}'", name));
}

// Digits and a unit, sectors without one.
result<std::uint64_t> parse_size(std::string_view text) {
    const std::size_t end = std::min(text.find_first_not_of("0123456789"), text.size());
    const std::uint64_t number = UTHIN_TRY(parse_number(text.substr(0, end)));
    const unit* const of = UTHIN_TRY(find_unit(end == text.size() ? "s" : text.substr(end)));
    if (number > UINT64_MAX / of->bytes) {
        return fail(error_code::invalid_argument, "the size is out of range");
    }
    return number * of->bytes;
}

// Digits, and like 0.9 a letter for so many thousands.
result<std::uint64_t> parse_count(std::string_view text) {
    const auto of = std::find_if(units.begin() + 2, units.end(), [text](const unit& known) {
        return text.size() > 1 && text.ends_with(known.letter);
    });
    const std::uint64_t times = of == units.end() ? 1 : of->bytes;
    text.remove_suffix(of == units.end() ? 0 : 1);
    return UTHIN_TRY(parse_number(text, UINT64_MAX / times)) * times;
}

enum class number_form : std::uint8_t { sentence, bare, with_letter, with_name };

struct size_line {
    std::uint64_t block_bytes = 0;
    std::uint64_t pool_bytes = 0;
    std::optional<std::uint64_t> thins;
    const unit* shown_in = &units[1];
    number_form form = number_form::sentence;
};

result<void> take_form(std::optional<std::string_view> text, size_line& line) {
    if (!text) {
        line.form = number_form::bare;
    } else if (*text == "short") {
        line.form = number_form::with_letter;
    } else if (*text == "long") {
        line.form = number_form::with_name;
    } else {
        return fail(error_code::invalid_argument, "choose short or long");
    }
    return {};
}

result<void> check_sizes(const size_line& line) {
    constexpr std::uint64_t step = 64ULL << 10;
    constexpr std::uint64_t most = 1ULL << 30;
    if (line.block_bytes == 0 || line.block_bytes % step != 0 || line.block_bytes > most) {
        return fail(error_code::invalid_argument,
                    "block size must be a multiple of 64 KiB, and at most 1 GiB");
    }
    if (line.pool_bytes < line.block_bytes) {
        return fail(error_code::invalid_argument, "pool size must be larger than block size");
    }
    return {};
}

// Half-full leaves for every data block, and one block for each device.
std::uint64_t metadata_bytes(const size_line& line) {
    constexpr std::uint64_t mappings_per_leaf = 126;
    const std::uint64_t data_blocks =
        line.pool_bytes / line.block_bytes + (line.pool_bytes % line.block_bytes != 0 ? 1 : 0);
    const std::uint64_t leaves =
        data_blocks / mappings_per_leaf + (data_blocks % mappings_per_leaf != 0 ? 1 : 0);
    const std::uint64_t thins = std::min(*line.thins, metadata_blocks_max);
    return std::min(1 + leaves + thins, metadata_blocks_max) * metadata_block_size_bytes;
}

std::string number_text(std::uint64_t bytes, const unit& in) {
    if (bytes % in.bytes == 0) {
        return fmt::format("{}", bytes / in.bytes);
    }
    const double value = static_cast<double>(bytes) / static_cast<double>(in.bytes);
    return value < 1 ? fmt::format("{}", value) : fmt::format("{:.2f}", value);
}

result<void> print_size(const size_line& line) {
    UTHIN_TRY(check_sizes(line));
    const std::string number = number_text(metadata_bytes(line), *line.shown_in);
    text_file target;
    switch (line.form) {
        case number_form::sentence:
            UTHIN_TRY(target.write(fmt::format("{} {}s\n", number, line.shown_in->name)));
            break;
        case number_form::bare: UTHIN_TRY(target.write(number + "\n")); break;
        case number_form::with_letter:
            UTHIN_TRY(target.write(fmt::format("{}{}\n", number, line.shown_in->letter)));
            break;
        case number_form::with_name:
            UTHIN_TRY(target.write(fmt::format("{}{}s\n", number, line.shown_in->name)));
            break;
    }
    return target.close();
}

}  // namespace

int thin_metadata_size_main(arguments given) {
    size_line line;
    option_table options(
        "thin_metadata_size",
        "Estimate the size of the metadata device needed for a given configuration");
    const auto into = [](std::uint64_t& size) {
        return [&size](std::string_view text) -> result<void> {
            size = UTHIN_TRY(parse_size(text));
            return {};
        };
    };
    options.value("-b,--block-size", "SIZE[bskmg]", into(line.block_bytes), "Size of a data block");
    options.value(
        "-m,--max-thins", "NUM",
        [&line](std::string_view text) -> result<void> {
            line.thins = UTHIN_TRY(parse_count(text));
            return {};
        },
        "Most thin devices and snapshots");
    options.optional_value(
        "-n,--numeric-only", "short|long",
        [&line](std::optional<std::string_view> form) { return take_form(form, line); },
        "Print the number only, or with its unit");
    options.value("-s,--pool-size", "SIZE[bskmgtp]", into(line.pool_bytes),
                  "Size of the data device");
    options.value(
        "-u,--unit", "UNIT",
        [&line](std::string_view name) -> result<void> {
            line.shown_in = UTHIN_TRY(find_unit(name));
            return {};
        },
        "Unit of the output, b s k K m M g G t T p P e E [default: s]");
    options.require("--block-size");
    options.require("--pool-size");
    options.require("--max-thins");
    if (const auto status = options.parse(given)) {
        return *status;
    }
    return finish("thin_metadata_size", print_size(line));
}

}  // namespace uthin::tools
