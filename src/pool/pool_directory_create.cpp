// Making a pool, and taking one over.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/random.h"
#include "base/result.h"
#include "io/durable_file.h"
#include "io/open.h"
#include "pool/names.h"
#include "pool/pool_directory.h"

namespace uthin {

namespace {

// The kernel documentation's rule, twice over: the files are sparse, and running out is worse.
constexpr std::uint64_t metadata_bytes_per_data_block = 2 * 48;
constexpr std::uint64_t metadata_bytes_min_default = 16ULL << 20;
// With less the kernel's format itself fails.
constexpr std::uint64_t metadata_blocks_min = 16;
constexpr std::uint64_t entries_per_bitmap = 16320;
constexpr std::uint64_t data_blocks_limit = 1ULL << 40;
constexpr int catalogue_copies_max = 1000;

std::uint64_t default_metadata_bytes(std::uint64_t data_blocks) {
    const std::uint64_t wanted = data_blocks * metadata_bytes_per_data_block;
    const std::uint64_t rounded = (wanted + metadata_block_size_bytes - 1) /
                                  metadata_block_size_bytes * metadata_block_size_bytes;
    return std::clamp(rounded, metadata_bytes_min_default,
                      metadata_blocks_max * metadata_block_size_bytes);
}

// Files made so far, and the directory, to be removed again unless the whole succeeds.
class made_files {
public:
    made_files() = default;
    made_files(const made_files&) = delete;
    made_files& operator=(const made_files&) = delete;
    ~made_files() {
        for (auto path = paths_.rbegin(); path != paths_.rend(); ++path) {
            // The caller reports what went wrong first.
            std::error_code ignored;
            std::filesystem::remove(*path, ignored);
        }
    }
    void add(std::string path) { paths_.push_back(std::move(path)); }
    [[nodiscard]] result<void> add_directory(const std::string& path) {
        if (UTHIN_TRY(io::make_directory(path))) {
            add(path);
        }
        return {};
    }
    void add_catalogue(const std::string& path) {
        add(path);
        add(path + "-journal");
    }
    void keep() { paths_.clear(); }

private:
    std::vector<std::string> paths_;
};

// A plain path stays right when the caller's directory changes; files inside DIR move with it.
std::string lasting_url(const std::string& directory, const std::string& url) {
    const std::string path = path_of_url(url);
    if (path.empty()) {
        return url;
    }
    const std::string absolute = io::absolute_path(path);
    const std::string inside = io::absolute_path(directory) + "/";
    if (absolute.starts_with(inside) && absolute.find('/', inside.size()) == std::string::npos &&
        absolute.find(':', inside.size()) == std::string::npos) {
        return absolute.substr(inside.size());
    }
    return absolute;
}

result<void> check_block_size(std::uint64_t block_size_bytes) {
    constexpr std::uint64_t step = std::uint64_t{data_block_size_sectors_min} * sector_size_bytes;
    constexpr std::uint64_t max = std::uint64_t{data_block_size_sectors_max} * sector_size_bytes;
    if (block_size_bytes < step || block_size_bytes > max || block_size_bytes % step != 0) {
        return fail(error_code::invalid_argument,
                    fmt::format("block size {}: not valid; use a multiple of 64K from 64K to 1G",
                                block_size_bytes));
    }
    return {};
}

struct pool_layout {
    std::uint64_t data_blocks = 0;
    std::uint64_t metadata_bytes = 0;  // 0: a device that is there
};

result<pool_layout> plan(const create_pool_request& request) {
    UTHIN_TRY(check_block_size(request.block_size_bytes));
    pool_layout layout;
    layout.data_blocks = request.data_size_bytes / request.block_size_bytes;
    if (request.data_size_bytes == 0 && !request.data_url.empty()) {
        layout.data_blocks = 0;  // the whole device
    } else if (layout.data_blocks == 0) {
        return fail(error_code::invalid_argument,
                    fmt::format("data size {}: less than one block of {} bytes; give a larger "
                                "--data-size",
                                request.data_size_bytes, request.block_size_bytes));
    }
    if (request.data_size_bytes > volume_size_bytes_max || layout.data_blocks > data_blocks_limit) {
        return fail(error_code::out_of_range,
                    fmt::format("data size {}: too large for blocks of {} bytes; use a smaller "
                                "--data-size",
                                request.data_size_bytes, request.block_size_bytes));
    }
    if (!request.metadata_url.empty()) {
        if (request.metadata_size_bytes) {
            return fail(error_code::invalid_argument,
                        "metadata size: given for a device that is there; leave it out");
        }
        return layout;
    }
    layout.metadata_bytes =
        request.metadata_size_bytes.value_or(default_metadata_bytes(layout.data_blocks));
    if (layout.metadata_bytes > volume_size_bytes_max) {
        return fail(error_code::out_of_range,
                    fmt::format("metadata size {}: too large; the format uses at most 15.875 GiB",
                                layout.metadata_bytes));
    }
    return layout;
}

// What is too small fails here, before anything is written.
result<void> check_metadata_room(std::uint64_t metadata_bytes, std::uint64_t data_blocks) {
    const std::uint64_t blocks = metadata_bytes / metadata_block_size_bytes;
    const std::uint64_t needed = metadata_blocks_min + data_blocks / entries_per_bitmap * 2;
    if (blocks < needed) {
        return fail(error_code::no_metadata_space,
                    fmt::format("metadata size {}: too small for {} data blocks; give at least "
                                "{} bytes",
                                metadata_bytes, data_blocks, needed * metadata_block_size_bytes));
    }
    return {};
}

result<std::unique_ptr<block_device>> make_or_open(const std::string& directory,
                                                   const std::string& name, const std::string& url,
                                                   std::uint64_t size_bytes, made_files& made) {
    io::open_options options;
    if (!url.empty()) {
        return io::open_device(url, options);
    }
    const std::string path = directory + "/" + name;
    if (io::kind_of_file(path) != io::file_kind::absent) {
        return fail(error_code::already_exists,
                    fmt::format("{}: exists already; remove it, or use 'uthin pool adopt'",
                                printable(path)));
    }
    options.create_size_bytes = size_bytes;
    auto device = UTHIN_TRY(io::open_device(path, options));
    made.add(path);
    return device;
}

result<void> refuse_existing(const std::string& directory, std::string_view file) {
    const std::string path = fmt::format("{}/{}", directory, file);
    if (io::kind_of_file(path) != io::file_kind::absent) {
        return fail(error_code::already_exists,
                    fmt::format("{}: exists already; use another directory, or remove it",
                                printable(path)));
    }
    return {};
}

// Keeps a damaged catalogue beside the new one.
result<void> set_aside(const std::string& path) {
    if (io::kind_of_file(path) == io::file_kind::absent) {
        return {};
    }
    for (int number = 1; number <= catalogue_copies_max; ++number) {
        const std::string aside = fmt::format("{}.old-{}", path, number);
        if (io::kind_of_file(aside) == io::file_kind::absent) {
            const std::string journal = path + "-journal";
            if (io::kind_of_file(journal) != io::file_kind::absent) {
                UTHIN_TRY(io::rename_file(journal, aside + "-journal"));
            }
            return io::rename_file(path, aside);
        }
    }
    return fail(error_code::already_exists,
                fmt::format("{}: too many old copies; remove some", printable(path)));
}

}  // namespace

result<void> pool_directory::create(const create_pool_request& request, clock& time) {
    const std::string& directory = request.directory;
    const pool_layout layout = UTHIN_TRY_CTX(plan(request), printable(directory));
    if (layout.metadata_bytes != 0) {
        UTHIN_TRY_CTX(check_metadata_room(layout.metadata_bytes, layout.data_blocks),
                      printable(directory));
    }
    if (!request.low_water.empty()) {
        UTHIN_TRY(parse_low_water(request.low_water, 0));
    }
    for (const std::string_view file : {"pool.json", "catalog.db"}) {
        UTHIN_TRY(refuse_existing(directory, file));
    }
    made_files made;
    UTHIN_TRY(made.add_directory(directory));
    pool_devices devices;
    devices.metadata = UTHIN_TRY(
        make_or_open(directory, "metadata", request.metadata_url, layout.metadata_bytes, made));
    devices.data = UTHIN_TRY(make_or_open(directory, "data", request.data_url,
                                          layout.data_blocks * request.block_size_bytes, made));
    UTHIN_TRY(check_devices_are_blank(devices));
    const std::uint64_t data_blocks =
        layout.data_blocks != 0 ? layout.data_blocks
                                : UTHIN_TRY(devices.data->size_bytes()) / request.block_size_bytes;
    UTHIN_TRY_CTX(check_metadata_room(UTHIN_TRY(devices.metadata->size_bytes()), data_blocks),
                  printable(directory));

    pool_options options;
    options.format = true;
    options.data_block_size_sectors =
        static_cast<std::uint32_t>(request.block_size_bytes / sector_size_bytes);
    options.data_blocks = data_blocks;
    auto formatted = UTHIN_TRY_CTX(
        pool::open(std::move(devices.metadata), std::move(devices.data), options, time),
        printable(directory));
    UTHIN_TRY_CTX(formatted->close(), printable(directory));
    formatted.reset();

    pool_file file = request.features;
    file.uuid = make_uuid();
    file.metadata =
        request.metadata_url.empty() ? "metadata" : lasting_url(directory, request.metadata_url);
    file.data = request.data_url.empty() ? "data" : lasting_url(directory, request.data_url);
    file.adopted = false;
    if (!request.low_water.empty()) {
        file.low_water_blocks = UTHIN_TRY(parse_low_water(request.low_water, data_blocks));
    }
    const std::string names = directory + "/catalog.db";
    made.add_catalogue(names);
    UTHIN_TRY(catalogue::create(names, file.uuid,
                                {.read_only = false, .vfs_name = request.catalogue_vfs}));
    // ORDER: without pool.json there is no pool; it comes last, when all else is durable.
    UTHIN_TRY(store_pool_file(directory, file));
    made.keep();
    return {};
}

result<void> pool_directory::adopt(const adopt_pool_request& request, clock& time) {
    const std::string& directory = request.directory;
    const bool exists = io::kind_of_file(directory + "/pool.json") != io::file_kind::absent;
    if (exists && !request.rebuild_catalogue) {
        return fail(error_code::already_exists,
                    fmt::format("{}: is a pool already; use another directory, or "
                                "--rebuild-catalog",
                                printable(directory)));
    }
    pool_file file;
    if (exists) {
        file = UTHIN_TRY(load_pool_file(directory));
    } else {
        file.uuid = make_uuid();
        file.adopted = true;
    }
    if (!exists && (request.metadata_url.empty() || request.data_url.empty())) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: metadata or data device not named; give --metadata and "
                                "--data",
                                printable(directory)));
    }
    file.read_only = file.read_only || request.read_only;
    file.metadata =
        request.metadata_url.empty() ? file.metadata : lasting_url(directory, request.metadata_url);
    file.data = request.data_url.empty() ? file.data : lasting_url(directory, request.data_url);
    if (!exists && !request.rebuild_catalogue) {
        UTHIN_TRY(refuse_existing(directory, "catalog.db"));
    }
    // PD1: the devices are opened for reading, so nothing can be written to them.
    auto devices =
        UTHIN_TRY(open_pool_devices({.metadata_url = resolved_url(directory, file.metadata),
                                     .data_url = resolved_url(directory, file.data),
                                     .read_only = true,
                                     .wait = request.wait},
                                    time));
    UTHIN_TRY(check_pool_devices(devices));
    pool_options options;
    options.read_only = true;
    auto looked_at = UTHIN_TRY_CTX(
        pool::open(std::move(devices.metadata), std::move(devices.data), options, time),
        printable(directory));

    made_files made;
    UTHIN_TRY(made.add_directory(directory));
    const std::string names = directory + "/catalog.db";
    if (request.rebuild_catalogue) {
        UTHIN_TRY(set_aside(names));
    }
    made.add_catalogue(names);
    UTHIN_TRY(catalogue::create(names, file.uuid,
                                {.read_only = false, .vfs_name = request.catalogue_vfs}));
    UTHIN_TRY(store_pool_file(directory, file));
    made.keep();
    return looked_at->close();
}

}  // namespace uthin
