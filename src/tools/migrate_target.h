// Where thin_migrate puts a device: a file, a disk, or a volume of a pool directory that is not in
// use.
//
// Invariants
//   MT1  What is there is refused before it is changed, unless it has the size that is needed; a
//        shorter file is made longer and written over.
//   MT2  What was made for a copy that failed is removed again.
// Threads   One.
// Failures  As io::open_device and pool_directory; invalid_argument: the lengths differ.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "thin_metadata/device_copy.h"

namespace uthin::tools {

class migrate_target : public thin_metadata::copy_target {
public:
    [[nodiscard]] bool is_blank() const noexcept { return is_blank_; }
    // The copy is complete; without this it is undone as far as MT2 says.
    [[nodiscard]] virtual result<void> keep() = 0;

protected:
    bool is_blank_ = false;
};

// Size of what is there already; absent: nothing is.
[[nodiscard]] result<std::optional<std::uint64_t>> size_of_file_target(const std::string& path);
[[nodiscard]] result<std::unique_ptr<migrate_target>> open_file_target(const std::string& path,
                                                                       std::uint64_t size_bytes);
[[nodiscard]] result<std::unique_ptr<migrate_target>> open_disk_target(const std::string& path,
                                                                       std::uint64_t size_bytes);
// DIR/NAME, made when the pool has no such volume.
[[nodiscard]] result<std::unique_ptr<migrate_target>> open_volume_target(const std::string& path,
                                                                         std::uint64_t size_bytes);

// "DIR/NAME" where DIR is a pool directory.
[[nodiscard]] bool is_volume_path(const std::string& path);

struct volume_source {
    std::string directory;
    device_id device;
    std::uint64_t size_bytes = 0;
    bool exists = false;
};
// What DIR/NAME means; the pool is only looked at. With `exists` false there is no such volume.
[[nodiscard]] result<volume_source> find_volume(const std::string& path);

}  // namespace uthin::tools
