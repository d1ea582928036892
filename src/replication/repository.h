// A directory of streams: backups of volumes, and what is known of them.
//
//   REPO/manifest.json   what is there; changed by rename only
//   REPO/streams/*.uthin one file for each point in time: the whole content, or what changed
//
// Invariants
//   RP1  A stream that the manifest names is durable and whole, and every difference has its base.
//   RP2  A crash leaves the manifest before or after a change; files that it does not name are
//        removed by the next writer.
// Threads   One. Writers of other processes are kept out while the object lives.
// Failures  not_found, corrupt (the manifest), busy (another writer); those of files.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/lock.h"
#include "uthin/error.h"

namespace uthin::replication {

struct backup_point {
    std::uint64_t number = 0;  // in the order of being made; never used again
    std::string volume{};
    std::string volume_uuid{};
    std::string id{};    // of the content
    std::string base{};  // that id of the point it is the difference to; empty: whole
    std::string file{};  // within REPO
    std::string sha256{};
    std::uint64_t file_bytes = 0;
    std::uint64_t size_bytes = 0;  // of the volume
    std::int64_t created_unix_seconds = 0;
    bool operator==(const backup_point&) const = default;
};

struct repository_manifest {
    std::string id{};
    std::uint64_t next_number = 1;
    std::vector<backup_point> points{};  // oldest first
    bool operator==(const repository_manifest&) const = default;
};

[[nodiscard]] std::string format_manifest(const repository_manifest& manifest);
// `path` is for messages.
[[nodiscard]] result<repository_manifest> parse_manifest(const std::string& text,
                                                         const std::string& path);

class repository {
public:
    [[nodiscard]] static result<repository> open(const std::string& path);
    // Makes it when there is none, and keeps other writers out.
    [[nodiscard]] static result<repository> open_for_writing(const std::string& path);
    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    [[nodiscard]] const repository_manifest& manifest() const noexcept { return manifest_; }
    [[nodiscard]] std::string path_of(const backup_point& point) const;
    // From the whole stream on to the point. corrupt: one is missing.
    [[nodiscard]] result<std::vector<backup_point>> chain_of(const backup_point& point) const;
    // Durable on return.
    [[nodiscard]] result<void> store(repository_manifest manifest);
    // Streams that the manifest does not name.
    [[nodiscard]] result<void> remove_strays();

private:
    explicit repository(std::string path) : path_(std::move(path)) {}
    std::string path_;
    repository_manifest manifest_;
    std::unique_ptr<io::ownership> lock_;
};

}  // namespace uthin::replication
