#include "tools/thin_devices.h"

#include <fmt/format.h>

#include <cstdlib>

#include "base/random.h"
#include "base/result.h"
#include "io/durable_file.h"
#include "io/open.h"
#include "pool/pool_file.h"

namespace uthin::tools {

result<std::optional<std::string>> pool_data_url(const std::string& path) {
    if (!is_pool_directory(path)) {
        return std::nullopt;
    }
    const pool_file pool = UTHIN_TRY(load_pool_file(path));
    return resolved_url(path, pool.data);
}

result<std::unique_ptr<block_device>> open_data_device(const std::string& path, data_access how) {
    io::open_options options;
    options.read_only = how != data_access::exclusive_write;
    options.lock = how == data_access::exclusive_write ? io::lock_mode::exclusive
                   : how == data_access::shared_read   ? io::lock_mode::shared
                                                       : io::lock_mode::none;
    options.claim_disk = how != data_access::live_read;
    if (path.find("://") == std::string::npos && !path.starts_with("file:")) {
        if (io::kind_of_file(path) == io::file_kind::absent) {
            return fail(error_code::not_found, fmt::format("Couldn't find data device '{}'", path));
        }
        return io::open_device("file:" + path, options);
    }
    return io::open_device(path, options);
}

result<std::unique_ptr<block_device>> open_scratch(std::uint64_t size_bytes) {
    const char* const named = std::getenv("TMPDIR");
    const std::string folder = named != nullptr && *named != '\0' ? named : "/tmp";
    const std::string path = fmt::format("{}/uthin-scratch-{}", folder, make_uuid());
    io::open_options options;
    options.create_size_bytes = size_bytes;
    auto device = UTHIN_TRY(io::open_device("file:" + path, options));
    UTHIN_TRY(io::remove_file(path));
    return device;
}

result<void> flush_file(const std::string& path) {
    const io::file_kind kind = io::kind_of_file(path);
    if (kind != io::file_kind::regular && kind != io::file_kind::block_device) {
        return {};
    }
    const auto device =
        UTHIN_TRY(io::open_device("file:" + path, {.lock = io::lock_mode::none, .direct = false}));
    return device->flush();
}

}  // namespace uthin::tools
