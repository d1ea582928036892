#include "support/corpus.h"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>
#include <utility>

#include "base/result.h"
#include "support/paths.h"

namespace uthin::test {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t sector_bytes = 512;
constexpr std::uint64_t mebibyte = 1024 * 1024;
constexpr std::size_t hole_bytes = 4096;

struct file_closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
};
using file_handle = std::unique_ptr<std::FILE, file_closer>;

fs::path corpus_root() {
    return fs::path(test_data_dir()) / "corpus";
}

result<file_handle> open_file(const fs::path& path, const char* mode) {
    file_handle file(std::fopen(path.c_str(), mode));
    if (!file) {
        return fail(errno == ENOENT ? error_code::not_found : error_code::io_error, path.string(),
                    errno);
    }
    return file;
}

// Calls sink(bytes) -> result<void> for each decompressed piece of `path`.
template <class Sink>
result<void> decompress(const fs::path& path, Sink sink) {
    const file_handle file = UTHIN_TRY(open_file(path, "rb"));
    const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(),
                                                                       &ZSTD_freeDCtx);
    std::vector<char> packed(ZSTD_DStreamInSize());
    std::vector<char> plain(ZSTD_DStreamOutSize());
    std::size_t wanted = 1;  // 0 once the frame, with its checksum, is complete
    while (const std::size_t got = std::fread(packed.data(), 1, packed.size(), file.get())) {
        ZSTD_inBuffer in{packed.data(), got, 0};
        bool has_more = true;
        while (has_more) {
            ZSTD_outBuffer out{plain.data(), plain.size(), 0};
            wanted = ZSTD_decompressStream(context.get(), &out, &in);
            if (ZSTD_isError(wanted) != 0) {
                return fail(error_code::corrupt, path.string() + ": " + ZSTD_getErrorName(wanted));
            }
            UTHIN_TRY(sink(std::span<const char>(plain.data(), out.pos)));
            has_more = in.pos < in.size || (out.pos == out.size && wanted != 0);
        }
    }
    if (wanted != 0) {
        return fail(error_code::corrupt, path.string() + ": ends in the middle");
    }
    return {};
}

result<std::string> read_text(const fs::path& path) {
    const file_handle file = UTHIN_TRY(open_file(path, "rb"));
    std::string text;
    std::array<char, 65536> piece{};
    while (const std::size_t got = std::fread(piece.data(), 1, piece.size(), file.get())) {
        text.append(piece.data(), got);
    }
    return text;
}

result<std::vector<thin_map>> parse_maps(const std::string& text) {
    std::vector<thin_map> maps;
    std::istringstream lines(text);
    std::string line;
    while (std::getline(lines, line)) {
        std::istringstream words(line);
        sector_run run;
        if (line.starts_with("thin ")) {
            std::string word;
            words >> word >> maps.emplace_back().device_id;
        } else if (words >> run.begin_sector >> run.length_sectors >> run.tag >>
                       run.delta_sectors &&
                   !maps.empty() && maps.back().size_sectors() == run.begin_sector) {
            maps.back().runs.push_back(run);
        } else {
            return fail(error_code::corrupt, "maps.txt: " + line);
        }
    }
    return maps;
}

}  // namespace

std::uint64_t thin_map::size_sectors() const {
    return runs.empty() ? 0 : runs.back().begin_sector + runs.back().length_sectors;
}

std::optional<std::uint64_t> thin_map::word_at(std::uint64_t sector) const {
    const auto after = std::ranges::upper_bound(runs, sector, {}, &sector_run::begin_sector);
    if (after == runs.begin() || sector >= size_sectors()) {
        return std::nullopt;
    }
    const sector_run& run = *std::prev(after);
    if (run.tag == sector_run::tag_mixed) {
        return std::nullopt;
    }
    if (run.tag == 0) {
        return 0;
    }
    return (run.tag << 40U) | (sector + static_cast<std::uint64_t>(run.delta_sectors));
}

bool thin_map::expected_sector(std::uint64_t sector, std::span<std::byte> content) const {
    static_assert(std::endian::native == std::endian::little, "the stamps are little-endian");
    const std::optional<std::uint64_t> word = word_at(sector);
    if (!word || content.size() != sector_bytes) {
        return false;
    }
    for (std::size_t at = 0; at < sector_bytes; at += sizeof *word) {
        std::memcpy(content.data() + at, &*word, sizeof *word);
    }
    return true;
}

std::string thin_map::first_difference(std::uint64_t first_sector,
                                       std::span<const std::byte> content) const {
    if (content.size() % sector_bytes != 0) {
        return fmt::format("{} bytes are not whole sectors", content.size());
    }
    std::array<std::byte, sector_bytes> expected{};
    for (std::uint64_t i = 0; i < content.size() / sector_bytes; ++i) {
        const std::uint64_t sector = first_sector + i;
        if (sector >= size_sectors()) {
            return fmt::format("thin {} ends before sector {}", device_id, sector);
        }
        if (!expected_sector(sector, expected)) {
            continue;  // mixed: nothing is known
        }
        const std::byte* found = content.data() + i * sector_bytes;
        if (std::memcmp(found, expected.data(), sector_bytes) != 0) {
            std::uint64_t word = 0;
            std::memcpy(&word, found, sizeof word);
            return fmt::format("thin {} sector {}: first word {:#x}, expected {:#x}", device_id,
                               sector, word, *word_at(sector));
        }
    }
    return {};
}

result<std::string> corpus_scenario::text(const std::string& file) const {
    const fs::path packed = directory / (file + ".zst");
    if (!fs::exists(packed)) {
        return read_text(directory / file);
    }
    std::string text;
    UTHIN_TRY(decompress(packed, [&](std::span<const char> piece) -> result<void> {
        text.append(piece.data(), piece.size());
        return {};
    }));
    return text;
}

result<void> corpus_scenario::unpack(const std::string& image, const fs::path& to) const {
    const file_handle file = UTHIN_TRY(open_file(to, "wb"));
    std::uint64_t size_bytes = 0;
    UTHIN_TRY(
        decompress(directory / (image + ".zst"), [&](std::span<const char> piece) -> result<void> {
            while (!piece.empty()) {
                const auto part = piece.first(std::min(piece.size(), hole_bytes));
                const bool is_hole = std::ranges::all_of(part, [](char c) { return c == 0; });
                if (!is_hole &&
                    (std::fseek(file.get(), static_cast<long>(size_bytes), SEEK_SET) != 0 ||
                     std::fwrite(part.data(), 1, part.size(), file.get()) != part.size())) {
                    return fail(error_code::io_error, to.string(), errno);
                }
                size_bytes += part.size();
                piece = piece.subspan(part.size());
            }
            return {};
        }));
    std::error_code failure;
    if (std::fflush(file.get()) == 0) {
        fs::resize_file(to, size_bytes, failure);
    }
    if (failure || std::ferror(file.get()) != 0) {
        return fail(error_code::io_error, to.string(), failure.value());
    }
    return {};
}

std::vector<std::string> corpus_names() {
    std::vector<std::string> names;
    for (const fs::directory_entry& entry : fs::directory_iterator(corpus_root())) {
        if (entry.is_directory()) {
            names.push_back(entry.path().filename().string());
        }
    }
    std::ranges::sort(names);
    return names;
}

result<corpus_scenario> load_corpus(const std::string& name) {
    corpus_scenario scenario;
    scenario.directory = corpus_root() / name;
    const std::string text = UTHIN_TRY(read_text(scenario.directory / "scenario.json"));
    const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
    if (json.is_discarded()) {
        return fail(error_code::corrupt, name + ": scenario.json");
    }
    scenario.name = json.at("name");
    scenario.kernel = json.at("kernel");
    scenario.block_size_sectors = json.at("block_sectors");
    scenario.metadata_size_bytes = json.at("metadata_mib").get<std::uint64_t>() * mebibyte;
    scenario.data_size_bytes = json.at("data_mib").get<std::uint64_t>() * mebibyte;
    scenario.low_water_blocks = json.at("low_water");
    scenario.crashed = json.at("crash");
    scenario.tool_status = json.at("tool_rc").get<std::map<std::string, int>>();
    scenario.sha256 = json.at("sha256").get<std::map<std::string, std::string>>();
    scenario.has_external_origin = scenario.sha256.contains("extra.img");
    std::istringstream words(json.at("features").get<std::string>());
    for (std::string word; words >> word;) {
        scenario.features.push_back(word);
    }
    const result<std::string> maps = scenario.text("maps.txt");
    if (maps) {
        scenario.thins = UTHIN_TRY_CTX(parse_maps(*maps), name);
    } else if (maps.error().code() != error_code::not_found) {
        return std::unexpected(maps.error());
    }
    return scenario;
}

result<unpacked_pool> unpack_pool(const corpus_scenario& scenario) {
    unpacked_pool pool;
    const fs::path& directory = pool.directory.path();
    if (directory.empty()) {
        return fail(error_code::io_error, "no temporary folder");
    }
    pool.metadata = directory / "metadata";
    pool.data = directory / "data";
    UTHIN_TRY(scenario.unpack("metadata.img", pool.metadata));
    UTHIN_TRY(scenario.unpack("data.img", pool.data));
    if (scenario.has_external_origin) {
        pool.external_origin = directory / "extra";
        UTHIN_TRY(scenario.unpack("extra.img", pool.external_origin));
    }
    return pool;
}

}  // namespace uthin::test
