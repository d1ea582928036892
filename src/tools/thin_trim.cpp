// thin_trim: tells the data device which of its blocks a pool does not use.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "base/result.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/free_space.h"
#include "tools/progress_bar.h"
#include "tools/thin_devices.h"
#include "tools/thin_tool.h"

namespace uthin::tools {
namespace {

constexpr int exit_bad_metadata = 65;
// A large pool is discarded in pieces, so that it can be interrupted.
constexpr std::uint64_t discard_bytes_max = 4ULL << 30;

struct trim_line {
    std::optional<std::string> metadata;
    std::optional<std::string> data;
    bool dry_run = false;
    bool quiet = false;
};

struct trim_totals {
    std::uint64_t ranges = 0;
    std::uint64_t bytes = 0;
};

result<std::unique_ptr<block_device>> open_data(const trim_line& line,
                                                const thin_metadata::disk_superblock& superblock) {
    const std::string path = line.data ? *line.data : *UTHIN_TRY(pool_data_url(*line.metadata));
    auto device = UTHIN_TRY(open_data_device(
        path, line.dry_run ? data_access::shared_read : data_access::exclusive_write));
    const std::uint64_t block_bytes =
        std::uint64_t{superblock.data_block_size_sectors} * sector_size_bytes;
    const std::uint64_t found = UTHIN_TRY(device->size_bytes());
    if (found / block_bytes < superblock.data_sm_root.nr_blocks) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: unexpected data device size, wanted {} bytes, found {}", path,
                                superblock.data_sm_root.nr_blocks * block_bytes, found));
    }
    if (!line.dry_run && !device->capabilities().can_discard) {
        return fail(error_code::unsupported,
                    fmt::format("{}: this device (or its file system) cannot discard", path));
    }
    return device;
}

result<trim_totals> discard_free(const trim_line& line, thin_metadata::metadata_view& view,
                                 block_device& data) {
    const std::uint64_t block_bytes =
        std::uint64_t{view.superblock().data_block_size_sectors} * sector_size_bytes;
    trim_totals totals;
    text_file listed;
    progress_bar progress("trimming", view.superblock().data_sm_root.nr_blocks * block_bytes);
    UTHIN_TRY(
        thin_metadata::list_free_data(view, [&](const range<data_block>& free) -> result<void> {
            ++totals.ranges;
            totals.bytes += free.count() * block_bytes;
            if (line.dry_run) {
                return listed.write(fmt::format("{}..{}\n", free.begin.value(), free.end.value()));
            }
            const std::uint64_t end = free.end.value() * block_bytes;
            for (std::uint64_t at = free.begin.value() * block_bytes; at < end;) {
                const std::uint64_t length = std::min(end - at, discard_bytes_max);
                UTHIN_TRY(data.discard(at, length));
                at += length;
                if (!line.quiet) {
                    progress.show(at);
                }
            }
            return {};
        }));
    UTHIN_TRY(line.dry_run ? listed.close() : data.flush());
    return totals;
}

// The exit status when there is nothing to trim by.
result<int> trim(const trim_line& line) {
    if (!line.data && !UTHIN_TRY(pool_data_url(*line.metadata))) {
        return fail(error_code::invalid_argument,
                    "no data device: give --data-dev, or a pool directory as --metadata-dev");
    }
    const input_metadata opened = UTHIN_TRY(open_metadata_view(*line.metadata, {}));
    const auto& superblock = opened.view->superblock();
    if (!line.quiet && !line.dry_run) {
        UTHIN_TRY(print_result(fmt::format("TRANSACTION_ID={}\nMETADATA_FREE_BLOCKS={}\n",
                                           std::uint64_t{superblock.trans_id},
                                           thin_metadata::free_metadata_blocks(superblock))));
    }
    const auto report = UTHIN_TRY(thin_metadata::check_metadata(*opened.view, {}));
    if (!report.is_clean()) {
        if (!line.quiet) {
            tell(
                "thin_trim: metadata contains errors (run thin_check for details). "
                "perhaps you need to run thin_repair.\n");
        }
        return exit_bad_metadata;
    }
    // Behind the check: the sizes in the superblock mean something now.
    const auto data = UTHIN_TRY(open_data(line, superblock));
    const trim_totals totals = UTHIN_TRY(discard_free(line, *opened.view, *data));
    if (!line.quiet && !line.dry_run) {
        UTHIN_TRY(print_result(
            fmt::format("DISCARDED_RANGES={}\nDISCARDED_BYTES={}\n", totals.ranges, totals.bytes)));
    }
    return exit_ok;
}

}  // namespace

int thin_trim_main(arguments given) {
    trim_line line;
    option_table options("thin_trim", "Issue discard requests for free pool space (offline tool)");
    options.text("--data-dev", "FILE", line.data,
                 "The pool's data device; not needed for a pool directory");
    options.flag("--dry-run", line.dry_run,
                 "Print the free blocks BEGIN..END (END not included) and discard nothing");
    options.text("--metadata-dev", "FILE", line.metadata,
                 "The pool's metadata device, or a pool directory");
    options.flag("-q,--quiet", line.quiet, "Print no messages");
    options.require("--metadata-dev");
    if (const auto status = options.parse(given)) {
        return *status;
    }
    const auto status = trim(line);
    return status ? *status : report_failure("thin_trim", status.error(), line.quiet);
}

}  // namespace uthin::tools
