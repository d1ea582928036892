// pool.json, and the manifest of a repository of backups: what is understood is written and read
// again as it is.
//
// First byte: which of them.
#include "fuzz/target.h"
#include "pool/pool_file.h"
#include "replication/repository.h"

namespace uthin::fuzz {
namespace {

void run(std::span<const std::byte> input) {
    if (input.empty()) {
        return;
    }
    const std::string text = text_of(input.subspan(1));
    if (std::to_integer<unsigned>(input.front()) % 2 == 0) {
        const auto file = parse_pool_file(text, "pool.json");
        if (!file) {
            return;
        }
        const auto written = format_pool_file(*file);
        // Bytes that are no text can be in no file.
        require(written.has_value(), "what was read can be written");
        require(
            require_ok(parse_pool_file(*written, "pool.json"), "what was written is read") == *file,
            "and it is the same");
        (void)resolved_url("/pool", file->metadata);
        (void)path_of_url(file->data);
        return;
    }
    const auto manifest = replication::parse_manifest(text, "manifest.json");
    if (manifest) {
        const std::string written = replication::format_manifest(*manifest);
        require(require_ok(replication::parse_manifest(written, "manifest.json"),
                           "what was written is read") == *manifest,
                "and it is the same");
    }
}

std::vector<bytes> seeds() {
    pool_file file;
    file.uuid = "6e0bb2a6-3a0d-4d4e-9f3c-00000000f022";
    file.metadata = "nbd://host/metadata";
    file.low_water_blocks = 7;
    file.overcommit_percent = 200;
    file.discard_bytes_per_s = 1U << 20;
    file.cache = data_cache::writeback;
    replication::repository_manifest manifest;
    manifest.id = "6e0bb2a6-3a0d-4d4e-9f3c-00000000f022";
    manifest.next_number = 3;
    manifest.points = {{.number = 1,
                        .volume = "vol",
                        .volume_uuid = "u",
                        .id = "one",
                        .file = "1.uthin",
                        .sha256 = std::string(64, 'a'),
                        .file_bytes = 5,
                        .size_bytes = 512},
                       {.number = 2,
                        .volume = "vol",
                        .volume_uuid = "u",
                        .id = "two",
                        .base = "one",
                        .file = "2.uthin",
                        .sha256 = std::string(64, 'b'),
                        .file_bytes = 5,
                        .size_bytes = 512}};
    std::vector<bytes> made = {
        bytes_of(require_ok(format_pool_file(pool_file{.uuid = file.uuid}), "a seed")),
        bytes_of(require_ok(format_pool_file(file), "a seed")),
        bytes_of(replication::format_manifest(manifest)),
    };
    for (std::size_t index = 0; index < made.size(); ++index) {
        made[index].insert(made[index].begin(), index == 2 ? std::byte{1} : std::byte{0});
    }
    return made;
}

const registration made({"pool_file", run, seeds, mutated_tagged_text, 400});

}  // namespace
}  // namespace uthin::fuzz
