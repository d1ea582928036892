// The pools of tests/data/corpus, made by real kernels: images, and what each thin must read as.
//
// Threads   Plain values; any thread.
// Failures  Errors name the file. not_found: no such scenario or file. corrupt: it cannot be
// parsed. Source    tests/data/corpus/README.md fixes the files and the meaning of the words in a
// sector.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "support/temporary_directory.h"
#include "uthin/error.h"

namespace uthin::test {

// `length_sectors` sectors from `begin_sector` on, written with one tag.
struct sector_run {
    static constexpr std::uint64_t tag_mixed = 0xffffffff;  // content is not of the stamped kind

    std::uint64_t begin_sector = 0;
    std::uint64_t length_sectors = 0;
    std::uint64_t tag = 0;           // 0: zeros
    std::int64_t delta_sectors = 0;  // the stamped position minus the position read
};

// What one thin reads as: runs without gaps from sector 0 to its end.
struct thin_map {
    std::uint32_t device_id = 0;
    std::vector<sector_run> runs;

    [[nodiscard]] std::uint64_t size_sectors() const;
    // The word that fills `sector`; nothing for mixed content and beyond the end.
    [[nodiscard]] std::optional<std::uint64_t> word_at(std::uint64_t sector) const;
    // Fills the 512 bytes of `content`; false where word_at() has nothing to say.
    [[nodiscard]] bool expected_sector(std::uint64_t sector, std::span<std::byte> content) const;
    // Compares whole sectors read at `first_sector`: empty, or one line on the first that differs.
    [[nodiscard]] std::string first_difference(std::uint64_t first_sector,
                                               std::span<const std::byte> content) const;
};

struct corpus_scenario {
    std::string name;
    std::string kernel;
    std::uint32_t block_size_sectors = 0;
    std::uint64_t metadata_size_bytes = 0;
    std::uint64_t data_size_bytes = 0;
    std::uint64_t low_water_blocks = 0;
    std::vector<std::string> features;  // words of the pool's table line
    bool crashed = false;               // cut by a kill: no maps, but acknowledged.log
    bool has_external_origin = false;
    std::map<std::string, int> tool_status;     // thin_check, thin_dump, ... 0.9.0
    std::map<std::string, std::string> sha256;  // of metadata.img, data.img, extra.img
    std::vector<thin_map> thins;
    std::filesystem::path directory;

    // A text such as "thin_dump.xml", decompressed; not_found when the scenario has none.
    [[nodiscard]] result<std::string> text(const std::string& file) const;
    // Decompresses "metadata.img", "data.img" or "extra.img" to a sparse file.
    [[nodiscard]] result<void> unpack(const std::string& image,
                                      const std::filesystem::path& to) const;
};

[[nodiscard]] std::vector<std::string> corpus_names();  // sorted
[[nodiscard]] result<corpus_scenario> load_corpus(const std::string& name);

// A scenario's images, unpacked.
struct unpacked_pool {
    temporary_directory directory;
    std::filesystem::path metadata;
    std::filesystem::path data;
    std::filesystem::path external_origin;  // empty when there is none
};
[[nodiscard]] result<unpacked_pool> unpack_pool(const corpus_scenario& scenario);

}  // namespace uthin::test
