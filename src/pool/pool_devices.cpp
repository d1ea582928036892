#include "pool/pool_devices.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/result.h"
#include "io/durable_file.h"
#include "io/open.h"
#include "pool/names.h"
#include "thin_metadata/superblock.h"

namespace uthin {

namespace {

constexpr std::chrono::milliseconds retry_interval{50};

enum class first_block : std::uint8_t { blank, superblock, foreign };

struct first_block_found {
    first_block kind = first_block::foreign;
    std::string cause;                  // why it is no superblock
    std::uint64_t metadata_blocks = 0;  // that a superblock speaks of
};

result<std::unique_ptr<block_device>> open_waiting(const std::string& url,
                                                   const io::open_options& options,
                                                   std::chrono::nanoseconds deadline, clock& time) {
    while (true) {
        auto device = io::open_device(url, options);
        const bool busy = !device && device.error().code() == error_code::busy;
        if (!busy || time.monotonic() >= deadline) {
            return device;
        }
        time.sleep_for(retry_interval);
    }
}

result<first_block_found> look_at(block_device& device) {
    aligned_buffer block(metadata_block_size_bytes);
    const std::uint64_t size_bytes = UTHIN_TRY(device.size_bytes());
    const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(size_bytes, block.size()));
    UTHIN_TRY(device.read(0, block.span().first(length)));
    const auto bytes = persistent_data::const_block_bytes(block.span());
    if (thin_metadata::is_blank(bytes)) {
        return first_block_found{first_block::blank, "all zeros", 0};
    }
    auto superblock = thin_metadata::check_superblock(metadata_block(0), bytes);
    if (!superblock) {
        return first_block_found{first_block::foreign, superblock.error().message(), 0};
    }
    return first_block_found{first_block::superblock, {}, superblock->metadata_sm_root.nr_blocks};
}

result<void> check_metadata_size(block_device& device) {
    const std::uint64_t size_bytes = UTHIN_TRY(device.size_bytes());
    if (size_bytes < metadata_block_size_bytes) {
        return fail(error_code::corrupt,
                    fmt::format("{}: truncated ({} bytes), no room for pool metadata; restore it "
                                "from a backup, or name the right file",
                                printable(device.name()), size_bytes));
    }
    return {};
}

result<void> check_not_truncated(block_device& device, std::uint64_t metadata_blocks) {
    const std::uint64_t blocks = UTHIN_TRY(device.size_bytes()) / metadata_block_size_bytes;
    if (blocks < metadata_blocks) {
        return fail(error_code::corrupt,
                    fmt::format("{}: truncated ({} blocks of 4096 bytes, its superblock says {}); "
                                "restore it from a backup",
                                printable(device.name()), blocks, metadata_blocks));
    }
    return {};
}

}  // namespace

result<pool_devices> open_pool_devices(const pool_devices_request& request, clock& time) {
    const std::string metadata_path = path_of_url(request.metadata_url);
    const std::string data_path = path_of_url(request.data_url);
    const bool same_file =
        !metadata_path.empty() && !data_path.empty() && io::is_same_file(metadata_path, data_path);
    if (request.metadata_url == request.data_url || same_file) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: named for metadata and for data; give two devices",
                                printable(request.data_url)));
    }
    io::open_options options;
    options.read_only = request.read_only;
    options.lock = request.read_only ? io::lock_mode::shared : io::lock_mode::exclusive;
    const auto deadline = time.monotonic() + request.wait;
    pool_devices devices;
    devices.metadata = UTHIN_TRY(open_waiting(request.metadata_url, options, deadline, time));
    options.direct = request.cache == data_cache::none;
    devices.data = UTHIN_TRY(open_waiting(request.data_url, options, deadline, time));
    return devices;
}

result<void> check_pool_devices(const pool_devices& devices) {
    UTHIN_TRY(check_metadata_size(*devices.metadata));
    const first_block_found metadata = UTHIN_TRY(look_at(*devices.metadata));
    if (metadata.kind == first_block::superblock) {
        return check_not_truncated(*devices.metadata, metadata.metadata_blocks);
    }
    const std::string name = printable(devices.metadata->name());
    const first_block_found data = UTHIN_TRY(look_at(*devices.data));
    if (data.kind == first_block::superblock) {
        return fail(error_code::corrupt,
                    fmt::format("{}: not pool metadata, but {} is: metadata and data are swapped; "
                                "name them the other way round",
                                name, printable(devices.data->name())));
    }
    if (metadata.kind == first_block::blank) {
        return fail(error_code::not_permitted,
                    fmt::format("{}: blank, no pool metadata; make a pool with 'uthin pool "
                                "create', or restore the metadata from a backup",
                                name));
    }
    return fail(error_code::corrupt,
                fmt::format("{}: not pool metadata ({}); name the right file, or try thin_repair",
                            name, printable(metadata.cause)));
}

result<void> check_devices_are_blank(const pool_devices& devices) {
    UTHIN_TRY(check_metadata_size(*devices.metadata));
    const first_block_found metadata = UTHIN_TRY(look_at(*devices.metadata));
    if (metadata.kind != first_block::blank) {
        return fail(
            error_code::already_exists,
            fmt::format("{}: not blank ({}); use 'uthin pool adopt', or zero its first "
                        "4096 bytes",
                        printable(devices.metadata->name()),
                        metadata.kind == first_block::superblock ? "it holds pool metadata"
                                                                 : "it holds something else"));
    }
    const first_block_found data = UTHIN_TRY(look_at(*devices.data));
    if (data.kind == first_block::superblock) {
        return fail(error_code::already_exists,
                    fmt::format("{}: holds the metadata of a pool; name another data device",
                                printable(devices.data->name())));
    }
    return {};
}

}  // namespace uthin
