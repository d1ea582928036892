#include "replication/repository.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "base/random.h"
#include "base/result.h"
#include "io/durable_file.h"
#include "io/stream_file.h"
#include "pool/names.h"

namespace uthin::replication {

namespace {

using json = nlohmann::json;

constexpr const char* format_name = "uthin-backup";
constexpr std::uint64_t format_version = 1;
constexpr std::uint64_t manifest_bytes_max = 256U << 20;
constexpr const char* streams_folder = "streams";

json encode(const backup_point& point) {
    return {{"number", point.number},
            {"volume", point.volume},
            {"volume_uuid", point.volume_uuid},
            {"id", point.id},
            {"base", point.base},
            {"file", point.file},
            {"sha256", point.sha256},
            {"file_bytes", point.file_bytes},
            {"size", point.size_bytes},
            {"created", point.created_unix_seconds}};
}

// get_to() converts any number, which means nothing where it does not fit.
void read_whole(const json& value, std::uint64_t& number) {
    if (!value.is_number_unsigned()) {
        throw json::other_error::create(501, "not a whole number", &value);
    }
    value.get_to(number);
}

void read_whole(const json& value, std::int64_t& number) {
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX)) {
        throw json::other_error::create(501, "not a whole number", &value);
    }
    value.get_to(number);
}

// Throws what is not as it should be.
backup_point decode(const json& value) {
    backup_point point;
    read_whole(value.at("number"), point.number);
    value.at("volume").get_to(point.volume);
    value.at("volume_uuid").get_to(point.volume_uuid);
    value.at("id").get_to(point.id);
    value.at("base").get_to(point.base);
    value.at("file").get_to(point.file);
    value.at("sha256").get_to(point.sha256);
    read_whole(value.at("file_bytes"), point.file_bytes);
    read_whole(value.at("size"), point.size_bytes);
    read_whole(value.at("created"), point.created_unix_seconds);
    return point;
}

// Nothing outside of the repository is read or removed, whatever the manifest says.
bool is_plain_file_name(const std::string& file) {
    const std::string prefix = std::string(streams_folder) + "/";
    return file.starts_with(prefix) && file.size() > prefix.size() && is_utf8(file) &&
           file.find('/', prefix.size()) == std::string::npos && file != prefix + "." &&
           file != prefix + "..";
}

std::string manifest_path(const std::string& path) {
    return path + "/manifest.json";
}

// Empty, but for what a first backup leaves that was killed while it wrote the manifest.
result<bool> is_blank(const std::string& path) {
    const std::string unfinished = manifest_path(path) + std::string(io::replacement_suffix);
    std::error_code problem;
    for (std::filesystem::directory_iterator at(path, problem), end; !problem && at != end;
         at.increment(problem)) {
        if (at->path() != unfinished) {
            return false;
        }
    }
    if (problem) {
        return fail(error_code::io_error,
                    fmt::format("{}: cannot be listed: {}", printable(path), problem.message()));
    }
    return true;
}

}  // namespace

std::string format_manifest(const repository_manifest& manifest) {
    json points = json::array();
    for (const backup_point& point : manifest.points) {
        points.push_back(encode(point));
    }
    const json value = {{"format", format_name},
                        {"version", format_version},
                        {"id", manifest.id},
                        {"next_number", manifest.next_number},
                        {"points", std::move(points)}};
    return value.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

result<repository_manifest> parse_manifest(const std::string& text, const std::string& path) {
    const auto damaged = [&](std::string_view what) {
        return fail(error_code::corrupt,
                    fmt::format("{}: is no manifest of backups ({}); restore it from a copy",
                                printable(path), printable(what)));
    };
    const json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!value.is_object() || value.value("format", json()) != json(format_name)) {
        return damaged("not JSON of uthin");
    }
    if (value.value("version", json()) != json(format_version)) {
        return fail(error_code::unsupported,
                    fmt::format("{}: has another version; use a newer uthin", printable(path)));
    }
    repository_manifest manifest;
    try {
        value.at("id").get_to(manifest.id);
        read_whole(value.at("next_number"), manifest.next_number);
        for (const json& point : value.at("points")) {
            manifest.points.push_back(decode(point));
        }
    } catch (const json::exception& problem) {
        return damaged(problem.what());
    }
    std::set<std::string> ids;
    std::uint64_t number = 0;
    for (const backup_point& point : manifest.points) {
        const bool ascends = point.number > number && point.number < manifest.next_number;
        const bool has_base = point.base.empty() || ids.contains(point.base);
        if (!ascends || !has_base || point.id.empty() || !is_plain_file_name(point.file) ||
            !ids.insert(point.id).second) {
            return damaged(fmt::format("point {}", point.number));
        }
        number = point.number;
    }
    return manifest;
}

result<repository> repository::open(const std::string& path) {
    repository opened(path);
    auto text = io::read_file(manifest_path(path), manifest_bytes_max);
    if (!text && text.error().code() == error_code::not_found) {
        return fail(
            error_code::not_found,
            fmt::format("{}: no repository of backups; 'uthin backup' makes one", printable(path)));
    }
    opened.manifest_ = UTHIN_TRY(parse_manifest(UTHIN_TRY(std::move(text)), manifest_path(path)));
    return opened;
}

result<repository> repository::open_for_writing(const std::string& path) {
    if (io::kind_of_file(manifest_path(path)) == io::file_kind::absent) {
        if (!UTHIN_TRY(io::make_directory(path)) && !UTHIN_TRY(is_blank(path))) {
            return fail(error_code::already_exists,
                        fmt::format("{}: is no repository of backups, and not empty; use another "
                                    "directory",
                                    printable(path)));
        }
        repository_manifest manifest;
        manifest.id = make_uuid();
        UTHIN_TRY(io::replace_file(manifest_path(path), format_manifest(manifest)));
    }
    UTHIN_TRY(io::make_directory(path + "/" + streams_folder));
    const std::string lock_path = path + "/lock";
    if (io::kind_of_file(lock_path) == io::file_kind::absent) {
        UTHIN_TRY(io::replace_file(lock_path, ""));
    }
    auto lock = UTHIN_TRY(io::acquire_ownership(lock_path, io::lock_mode::exclusive));
    // Read under the lock.
    repository opened = UTHIN_TRY(open(path));
    opened.lock_ = std::move(lock);
    UTHIN_TRY(opened.remove_strays());
    return opened;
}

std::string repository::path_of(const backup_point& point) const {
    return path_ + "/" + point.file;
}

result<std::vector<backup_point>> repository::chain_of(const backup_point& point) const {
    std::vector<backup_point> chain = {point};
    // A base is always listed before what builds on it (parse_manifest), so this ends.
    while (!chain.back().base.empty()) {
        const auto base = std::ranges::find(manifest_.points, chain.back().base, &backup_point::id);
        if (base == manifest_.points.end()) {
            return fail(error_code::corrupt,
                        fmt::format("{}: the base of backup {} is missing; make a new one with "
                                    "--full",
                                    printable(path_), chain.back().number));
        }
        chain.push_back(*base);
    }
    std::ranges::reverse(chain);
    return chain;
}

result<void> repository::store(repository_manifest manifest) {
    // ORDER: RP1. The streams are durable by now.
    UTHIN_TRY(io::replace_file(manifest_path(path_), format_manifest(manifest)));
    manifest_ = std::move(manifest);
    return {};
}

result<void> repository::remove_strays() {
    std::set<std::string> named;
    for (const backup_point& point : manifest_.points) {
        named.insert(point.file);
    }
    std::error_code code;
    std::vector<std::string> strays;
    for (const auto& entry :
         std::filesystem::directory_iterator(path_ + "/" + streams_folder, code)) {
        const std::string file =
            std::string(streams_folder) + "/" + entry.path().filename().string();
        if (!named.contains(file)) {
            strays.push_back(path_ + "/" + file);
        }
    }
    for (const std::string& stray : strays) {
        UTHIN_TRY(io::remove_file(stray));
    }
    return {};
}

}  // namespace uthin::replication
