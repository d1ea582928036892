#include "pool/pool_file.h"

#include <fmt/format.h>

#include <map>

#include "base/result.h"
#include "io/durable_file.h"
#include "pool/names.h"
#include "pool/sqlite.h"

namespace uthin {

namespace {

constexpr std::string_view format_name = "uthin-pool";
constexpr std::uint64_t format_version = 1;
constexpr std::uint64_t file_bytes_max = 64U << 10;

// SQLite reads and quotes JSON: the engine needs no parser of its own.
struct json_value {
    std::string type;  // as json_each tells it: text, integer, true, false, ...
    std::string text;
};

std::unexpected<error> damaged(std::string_view path, std::string_view cause) {
    return fail(error_code::corrupt,
                fmt::format("{}: {}; restore the file, or describe the pool anew with 'uthin pool "
                            "adopt'",
                            printable(path), cause));
}

result<std::map<std::string, json_value>> read_object(std::string_view text,
                                                      std::string_view path) {
    auto database = UTHIN_TRY(sqlite_database::open_in_memory());
    auto type = UTHIN_TRY(database.prepare("SELECT json_valid(?1) AND json_type(?1) = 'object'"));
    type.bind(1, text);
    auto is_object = type.step();
    if (text.find('\0') != std::string_view::npos || !is_utf8(text) || !is_object || !*is_object ||
        type.integer(0) != 1) {
        return damaged(path, "not a JSON object");
    }
    type.reset();
    auto rows = UTHIN_TRY(database.prepare("SELECT key, type, atom FROM json_each(?)"));
    rows.bind(1, text);
    std::map<std::string, json_value> fields;
    while (UTHIN_TRY_CTX(rows.step(), path)) {
        const bool added =
            fields.emplace(rows.text(0), json_value{rows.text(1), rows.text(2)}).second;
        if (!added) {
            return damaged(path, fmt::format("'{}' is there twice", printable(rows.text(0))));
        }
    }
    return fields;
}

// Takes fields out of the object one by one; what is left at the end is unknown.
class field_reader {
public:
    field_reader(std::map<std::string, json_value> fields, std::string_view path)
        : fields_(std::move(fields)), path_(path) {}

    [[nodiscard]] bool has(const std::string& key) const { return fields_.contains(key); }
    result<std::string> text(const std::string& key) {
        const json_value value = UTHIN_TRY(take(key));
        if (value.type != "text" || value.text.empty()) {
            return damaged(path_, fmt::format("'{}' is not a text", key));
        }
        return value.text;
    }
    result<bool> boolean(const std::string& key) {
        const json_value value = UTHIN_TRY(take(key));
        if (value.type != "true" && value.type != "false") {
            return damaged(path_, fmt::format("'{}' is not true or false", key));
        }
        return value.type == "true";
    }
    result<std::uint64_t> number(const std::string& key) {
        const json_value value = UTHIN_TRY(take(key));
        const auto parsed = parse_decimal(value.text);
        if (value.type != "integer" || !parsed || *parsed > INT64_MAX) {
            return damaged(path_, fmt::format("'{}' is not a whole number", key));
        }
        return *parsed;
    }
    // 0 when it is missing.
    result<std::uint64_t> optional_number(const std::string& key) {
        return has(key) ? number(key) : 0U;
    }
    result<void> finish() const {
        if (!fields_.empty()) {
            return damaged(path_,
                           fmt::format("'{}' is not known", printable(fields_.begin()->first)));
        }
        return {};
    }

private:
    result<json_value> take(const std::string& key) {
        const auto at = fields_.find(key);
        if (at == fields_.end()) {
            return damaged(path_, fmt::format("'{}' is missing", key));
        }
        json_value value = std::move(at->second);
        fields_.erase(at);
        return value;
    }

    std::map<std::string, json_value> fields_;
    std::string_view path_;
};

// No URL scheme: as io::open_device tells them apart.
bool is_plain_path(std::string_view url) {
    const std::size_t colon = url.find(':');
    const std::size_t slash = url.find('/');
    return colon == std::string_view::npos || colon == 0 ||
           (slash != std::string_view::npos && slash < colon);
}

}  // namespace

std::string_view to_string(discard_mode mode) noexcept {
    switch (mode) {
        case discard_mode::passdown: return "passdown";
        case discard_mode::no_passdown: return "no-passdown";
        case discard_mode::ignore: return "ignore";
    }
    return "passdown";
}

result<discard_mode> parse_discard_mode(std::string_view text) {
    for (const discard_mode mode :
         {discard_mode::passdown, discard_mode::no_passdown, discard_mode::ignore}) {
        if (text == to_string(mode)) {
            return mode;
        }
    }
    return fail(error_code::invalid_argument,
                fmt::format("discard '{}': not known; use passdown, no-passdown or ignore",
                            printable(text)));
}

std::string_view to_string(data_cache cache) noexcept {
    return cache == data_cache::writeback ? "writeback" : "none";
}

result<data_cache> parse_data_cache(std::string_view text) {
    for (const data_cache cache : {data_cache::none, data_cache::writeback}) {
        if (text == to_string(cache)) {
            return cache;
        }
    }
    return fail(error_code::invalid_argument,
                fmt::format("cache '{}': not known; use none or writeback", printable(text)));
}

result<std::uint64_t> parse_low_water(std::string_view text, std::uint64_t data_blocks) {
    const bool percent = text.ends_with('%');
    const auto number = parse_decimal(percent ? text.substr(0, text.size() - 1) : text);
    if (!number || (percent && *number > 100) || *number > INT64_MAX) {
        return fail(
            error_code::invalid_argument,
            fmt::format("low-water '{}': not valid; give blocks, or 0% to 100%", printable(text)));
    }
    return percent ? data_blocks / 100 * *number + data_blocks % 100 * *number / 100 : *number;
}

result<std::uint64_t> parse_overcommit(std::string_view text) {
    constexpr std::uint64_t percent_max = 1'000'000;
    if (text == "off") {
        return 0U;
    }
    const std::uint64_t percent =
        text.ends_with('%') ? parse_decimal(text.substr(0, text.size() - 1)).value_or(0) : 0;
    if (percent == 0 || percent > percent_max) {
        return fail(error_code::invalid_argument,
                    fmt::format("overcommit '{}': not valid; give 1% to 1000000%, or off",
                                printable(text)));
    }
    return percent;
}

result<std::string> format_pool_file(const pool_file& file) {
    auto database = UTHIN_TRY(sqlite_database::open_in_memory());
    auto quote = UTHIN_TRY(database.prepare("SELECT json_quote(?)"));
    const auto quoted = [&](std::string_view text) -> result<std::string> {
        if (!is_utf8(text) || text.find('\0') != std::string_view::npos) {
            return fail(error_code::invalid_argument,
                        fmt::format("'{}': not UTF-8; use another path", printable(text)));
        }
        quote.bind(1, text);
        UTHIN_TRY(quote.step());
        std::string written = quote.text(0);
        quote.reset();
        return written;
    };
    std::string optional_fields;
    const auto add_number = [&](std::string_view key, std::uint64_t value) {
        if (value != 0) {
            optional_fields += fmt::format(",\n  \"{}\": {}", key, value);
        }
    };
    add_number("overcommit_percent", file.overcommit_percent);
    add_number("discard_bytes_per_s", file.discard_bytes_per_s);
    if (file.cache != data_cache::none) {
        optional_fields += fmt::format(",\n  \"cache\": \"{}\"", to_string(file.cache));
    }
    return fmt::format(
        "{{\n"
        "  \"format\": \"{}\",\n"
        "  \"version\": {},\n"
        "  \"uuid\": {},\n"
        "  \"metadata\": {},\n"
        "  \"data\": {},\n"
        "  \"adopted\": {},\n"
        "  \"read_only\": {},\n"
        "  \"zero_new_blocks\": {},\n"
        "  \"discard\": \"{}\",\n"
        "  \"error_if_no_space\": {},\n"
        "  \"no_space_timeout_s\": {},\n"
        "  \"low_water_blocks\": {}{}\n"
        "}}\n",
        format_name, format_version, UTHIN_TRY(quoted(file.uuid)), UTHIN_TRY(quoted(file.metadata)),
        UTHIN_TRY(quoted(file.data)), file.adopted, file.read_only, file.zero_new_blocks,
        to_string(file.discard), file.error_if_no_space, file.no_space_timeout.count(),
        file.low_water_blocks, optional_fields);
}

result<pool_file> parse_pool_file(std::string_view text, std::string_view path) {
    field_reader fields(UTHIN_TRY(read_object(text, path)), path);
    if (UTHIN_TRY(fields.text("format")) != format_name) {
        return damaged(path, "not the description of a pool");
    }
    const std::uint64_t version = UTHIN_TRY(fields.number("version"));
    if (version != format_version) {
        return fail(error_code::unsupported,
                    fmt::format("{}: has version {}, this program knows {}; use a newer uthin",
                                printable(path), version, format_version));
    }
    pool_file file;
    file.uuid = UTHIN_TRY(fields.text("uuid"));
    file.metadata = UTHIN_TRY(fields.text("metadata"));
    file.data = UTHIN_TRY(fields.text("data"));
    file.adopted = UTHIN_TRY(fields.boolean("adopted"));
    file.read_only = UTHIN_TRY(fields.boolean("read_only"));
    file.zero_new_blocks = UTHIN_TRY(fields.boolean("zero_new_blocks"));
    file.discard = UTHIN_TRY_CTX(parse_discard_mode(UTHIN_TRY(fields.text("discard"))), path);
    file.error_if_no_space = UTHIN_TRY(fields.boolean("error_if_no_space"));
    const std::uint64_t timeout_s = UTHIN_TRY(fields.number("no_space_timeout_s"));
    constexpr std::uint64_t timeout_s_max = 365ULL * 24 * 3600;
    if (timeout_s > timeout_s_max) {
        return damaged(path, "'no_space_timeout_s' is more than a year");
    }
    file.no_space_timeout = std::chrono::seconds(timeout_s);
    file.low_water_blocks = UTHIN_TRY(fields.number("low_water_blocks"));
    file.overcommit_percent = UTHIN_TRY(fields.optional_number("overcommit_percent"));
    file.discard_bytes_per_s = UTHIN_TRY(fields.optional_number("discard_bytes_per_s"));
    if (fields.has("cache")) {
        file.cache = UTHIN_TRY_CTX(parse_data_cache(UTHIN_TRY(fields.text("cache"))), path);
    }
    UTHIN_TRY(fields.finish());
    return file;
}

bool is_pool_directory(const std::string& path) {
    return io::kind_of_file(path) == io::file_kind::directory &&
           io::kind_of_file(path + "/pool.json") != io::file_kind::absent;
}

result<pool_file> load_pool_file(const std::string& directory) {
    const std::string path = directory + "/pool.json";
    auto text = io::read_file(path, file_bytes_max);
    if (!text && text.error().code() == error_code::not_found) {
        return fail(error_code::not_found,
                    fmt::format("{}: not a pool (no pool.json); make one with 'uthin pool create'",
                                printable(directory)));
    }
    if (!text) {
        return std::unexpected(std::move(text).error());
    }
    return parse_pool_file(*text, path);
}

result<void> store_pool_file(const std::string& directory, const pool_file& file) {
    return io::replace_file(directory + "/pool.json", UTHIN_TRY(format_pool_file(file)));
}

std::string resolved_url(const std::string& directory, const std::string& url) {
    if (is_plain_path(url) && !url.starts_with('/')) {
        return directory + "/" + url;
    }
    return url;
}

std::string path_of_url(std::string_view url) {
    if (url.starts_with("file:")) {
        return std::string(url.substr(5));
    }
    return is_plain_path(url) ? std::string(url) : std::string();
}

std::string absolute_url(const std::string& url) {
    const std::string path = path_of_url(url);
    return path.empty() ? url : io::absolute_path(path);
}

}  // namespace uthin
