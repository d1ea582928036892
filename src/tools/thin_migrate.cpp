// thin_migrate: copies one thin device out of a pool: to a file, a disk, or a volume of another
// pool.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "base/result.h"
#include "io/durable_file.h"
#include "tools/migrate_target.h"
#include "tools/progress_bar.h"
#include "tools/thin_devices.h"
#include "tools/thin_tool.h"

namespace uthin::tools {
namespace {

using thin_metadata::copy_request;
using thin_metadata::copy_totals;

constexpr std::uint64_t buffer_megabytes_max = 1024;

struct migrate_line {
    std::optional<std::string> source;
    std::optional<std::string> metadata;
    std::optional<std::string> data;
    std::optional<std::string> target_device;
    std::optional<std::string> target_file;
    std::optional<std::uint64_t> device;
    std::optional<std::uint64_t> base;
    std::optional<std::uint64_t> size_bytes;
    std::optional<std::uint64_t> buffer_megabytes;
    bool metadata_snapshot = false;
    bool verify = false;
    bool zero_target = false;
    bool quiet = false;
};

// An opened source, and how long it is if that is known.
struct migrate_source {
    input_metadata metadata;
    std::unique_ptr<block_device> data;
    device_id device;
    std::optional<std::uint64_t> size_bytes;
    std::string metadata_path;
    std::string data_path;
};

result<migrate_source> open_source(const migrate_line& line) {
    migrate_source source;
    std::string metadata = line.metadata.value_or("");
    source.device = device_id(line.device.value_or(0));
    source.size_bytes = line.size_bytes;
    if (line.source) {
        if (!is_volume_path(*line.source)) {
            return fail(error_code::invalid_argument,
                        fmt::format("{}: is no volume DIR/NAME of a pool; name a device-mapper "
                                    "thin device by --metadata-dev, --data-dev and --dev-id",
                                    *line.source));
        }
        const volume_source found = UTHIN_TRY(find_volume(*line.source));
        if (!found.exists) {
            return fail(error_code::not_found,
                        fmt::format("Couldn't find source volume '{}'", *line.source));
        }
        metadata = found.directory;
        source.device = found.device;
        source.size_bytes = found.size_bytes;
    }
    const auto of_pool = UTHIN_TRY(pool_data_url(metadata));
    if (!line.data && !of_pool) {
        return fail(error_code::invalid_argument,
                    "no data device: give --data-dev, or a pool directory as --metadata-dev");
    }
    source.metadata_path = metadata;
    source.data_path = line.data ? *line.data : *of_pool;
    source.metadata =
        UTHIN_TRY(open_metadata_view(metadata, {.metadata_snapshot = line.metadata_snapshot}));
    source.data = UTHIN_TRY(open_data_device(source.data_path, line.metadata_snapshot
                                                                   ? data_access::live_read
                                                                   : data_access::shared_read));
    return source;
}

// The length of what is there already; absent: the target is still to be made.
result<std::optional<std::uint64_t>> target_size(const migrate_line& line) {
    if (line.target_device && is_volume_path(*line.target_device)) {
        const volume_source found = UTHIN_TRY(find_volume(*line.target_device));
        return found.exists ? std::optional(found.size_bytes) : std::nullopt;
    }
    const std::string& path = line.target_device ? *line.target_device : *line.target_file;
    return size_of_file_target(path);
}

result<std::uint64_t> device_size(const migrate_line& line, migrate_source& source,
                                  std::optional<std::uint64_t> of_target) {
    if (source.size_bytes) {
        return *source.size_bytes;
    }
    const std::uint64_t mapped =
        UTHIN_TRY(thin_metadata::mapped_end_bytes(*source.metadata.view, source.device));
    // The metadata does not tell how long a device is: what is there to take it in does.
    const std::uint64_t size_bytes =
        std::max<std::uint64_t>(of_target.value_or(mapped), line.target_file ? mapped : 0);
    if (size_bytes == 0) {
        return fail(error_code::invalid_argument,
                    fmt::format("device {} maps nothing; say how long it is with --size",
                                source.device.value()));
    }
    if (mapped > size_bytes) {
        return fail(error_code::invalid_argument,
                    fmt::format("lengths differ: input({}) != output({}): device {} maps more than "
                                "{} holds",
                                mapped, size_bytes, source.device.value(), *line.target_device));
    }
    return size_bytes;
}

// The source is not locked when it is that of a live pool.
result<void> expect_elsewhere(const migrate_line& line, const migrate_source& source) {
    const std::string& target = line.target_file ? *line.target_file : *line.target_device;
    if (!line.target_file && io::kind_of_file(target) != io::file_kind::block_device) {
        return {};
    }
    UTHIN_TRY(refuse_same_file(source.metadata_path, target));
    return refuse_same_file(source.data_path, target);
}

result<std::unique_ptr<migrate_target>> open_target(const migrate_line& line,
                                                    std::uint64_t size_bytes) {
    if (line.target_file) {
        return open_file_target(*line.target_file, size_bytes);
    }
    return is_volume_path(*line.target_device) ? open_volume_target(*line.target_device, size_bytes)
                                               : open_disk_target(*line.target_device, size_bytes);
}

// The blocks that a metadata snapshot keeps are free for others once it is released.
result<void> expect_same_snapshot(const migrate_line& line, const migrate_source& source) {
    if (!line.metadata_snapshot) {
        return {};
    }
    auto now = thin_metadata::open_offline(*source.metadata.device, {.metadata_snapshot = true});
    const auto& before = source.metadata.view->superblock();
    if (!now || (*now)->superblock().blocknr != before.blocknr ||
        (*now)->superblock().trans_id != before.trans_id ||
        (*now)->superblock().time != before.time ||
        (*now)->superblock().data_mapping_root != before.data_mapping_root) {
        return fail(error_code::view_expired,
                    "the metadata snapshot was released meanwhile; what was copied is not to be "
                    "trusted");
    }
    return {};
}

result<void> migrate(const migrate_line& line) {
    migrate_source source = UTHIN_TRY(open_source(line));
    const auto there = UTHIN_TRY(target_size(line));
    UTHIN_TRY(expect_elsewhere(line, source));
    if (line.base && !there) {
        return fail(
            error_code::not_found,
            fmt::format("--delta-id needs a destination that holds device {} already", *line.base));
    }
    copy_request request;
    request.device = source.device;
    request.size_bytes = UTHIN_TRY(device_size(line, source, there));
    // Before the target is touched.
    (void)UTHIN_TRY(thin_metadata::mapped_end_bytes(*source.metadata.view, source.device));
    if (line.base) {
        request.base = device_id(*line.base);
        (void)UTHIN_TRY(thin_metadata::mapped_end_bytes(*source.metadata.view, *request.base));
    }
    if (line.buffer_megabytes) {
        request.buffer_bytes = static_cast<std::size_t>(*line.buffer_megabytes) << 20;
    }
    const auto target = UTHIN_TRY(open_target(line, request.size_bytes));
    request.is_blank = target->is_blank();
    progress_bar progress("copying", request.size_bytes);
    if (!line.quiet) {
        request.progress = [&progress](std::uint64_t offset) { progress.show(offset); };
    }
    auto& view = *source.metadata.view;
    const copy_totals totals =
        UTHIN_TRY(thin_metadata::copy_device(view, *source.data, *target, request));
    if (line.verify) {
        UTHIN_TRY(thin_metadata::verify_copy(view, *source.data, *target, request));
    }
    UTHIN_TRY(expect_same_snapshot(line, source));
    UTHIN_TRY(target->keep());
    if (!line.quiet) {
        tell(fmt::format("copied {} bytes, {} bytes are holes{}\n", totals.data_bytes,
                         totals.hole_bytes, line.verify ? ", verified" : ""));
    }
    return {};
}

void add_options(option_table& options, migrate_line& line) {
    options.value(
        "--buffer-size-meg", "MB",
        [&line](std::string_view text) -> result<void> {
            line.buffer_megabytes = UTHIN_TRY(parse_number(text, buffer_megabytes_max));
            return *line.buffer_megabytes != 0
                       ? result<void>()
                       : fail(error_code::invalid_argument, "at least 1 is needed");
        },
        "The size of the copy buffers, in megabytes");
    options.text("--data-dev", "FILE", line.data,
                 "The pool's data device; not needed for a pool directory");
    options.number("--delta-id", "DEV_ID", line.base,
                   "Copy only what differs from this device, which the destination holds already");
    options.text("--dest-dev", "DEVICE", line.target_device,
                 "Copy to this disk, or volume DIR/NAME of a pool");
    options.text("--dest-file", "FILE", line.target_file, "Copy to this file, made if missing");
    options.number("--dev-id", "DEV_ID", line.device, "Copy this device of --metadata-dev");
    options.text("--metadata-dev", "FILE", line.metadata,
                 "The pool's metadata device, or a pool directory");
    options.flag("-m,--metadata-snapshot,--metadata-snap", line.metadata_snapshot,
                 "Read the metadata snapshot of a live pool");
    options.flag("-q,--quiet", line.quiet, "Print no messages");
    options.value(
        "--size", "BYTES",
        [&line](std::string_view text) -> result<void> {
            line.size_bytes = UTHIN_TRY(parse_number(text));
            return *line.size_bytes != 0 && *line.size_bytes % sector_size_bytes == 0
                       ? result<void>()
                       : fail(error_code::invalid_argument,
                              fmt::format("a multiple of {} is needed", sector_size_bytes));
        },
        "The device's length, which metadata does not tell");
    options.text("--src-device,--source-dev", "DEVICE", line.source,
                 "Copy this volume DIR/NAME of a pool that is not in use");
    options.flag("--verify", line.verify, "Read everything again afterwards and compare");
    // What is not mapped reads as zeros in the copy in any case.
    options.hidden_flag("--zero-dest", line.zero_target);
    options.conflict("--source-dev", "--metadata-dev,--dev-id,--size");
    options.conflict("--dest-dev", "--dest-file");
}

std::optional<int> find_missing(const option_table& options, const migrate_line& line) {
    if (!line.source && !(line.metadata && line.device)) {
        return options.usage_error(
            "the source is missing: give '--source-dev <DEVICE>', or '--metadata-dev <FILE>' and "
            "'--dev-id <DEV_ID>'");
    }
    if (!line.target_device && !line.target_file) {
        return options.usage_error(
            "the destination is missing: give '--dest-dev <DEVICE>' or '--dest-file <FILE>'");
    }
    return std::nullopt;
}

}  // namespace

int thin_migrate_main(arguments given) {
    migrate_line line;
    option_table options("thin_migrate", "Migrate a thin volume from one pool to another");
    add_options(options, line);
    if (const auto status = options.parse(given)) {
        return *status;
    }
    if (const auto status = find_missing(options, line)) {
        return *status;
    }
    return finish("thin_migrate", migrate(line), line.quiet);
}

}  // namespace uthin::tools
