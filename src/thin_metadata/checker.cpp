#include "thin_metadata/checker.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/out_of_memory.h"
#include "thin_metadata/checker_state.h"
#include "thin_metadata/leaf_plan.h"

namespace uthin::thin_metadata {

using persistent_data::block_kind;
using persistent_data::block_ref;

namespace {

// Findings of one code that are listed, so that a common one does not hide the others.
constexpr std::uint64_t listed_of_code_max = 100;
constexpr std::uint64_t progress_interval_blocks = 256;
constexpr std::uint32_t metadata_block_size_sectors = metadata_block_size_bytes / sector_size_bytes;

constexpr tree_walk details_walk{.use = block_use::details_node,
                                 .value_size_bytes = sizeof(disk_device_details)};
constexpr tree_walk top_walk{.use = block_use::top_node, .value_size_bytes = 8};

}  // namespace

result<check_report> check_metadata(metadata_view& view, const check_options& options) {
    return or_out_of_memory([&]() -> result<check_report> {
        checker check(view, options);
        return check.run();
    });
}

checker::checker(metadata_view& view, const check_options& options)
    : view_(view),
      source_(view.source()),
      options_(options),
      listed_of_code_(check_code_count),
      block_count_(view.source().block_count()),
      pool_time_(view.superblock().time),
      blocks_(block_count_) {
}

result<check_report> checker::run() {
    const disk_superblock& superblock = view_.superblock();
    const bool has_space_maps = view_.has_space_maps();
    report_.transaction_id = superblock.trans_id;
    report_.needs_check = (superblock.flags & superblock_flag_needs_check) != 0;
    report_.metadata_blocks = block_count_;
    if (has_space_maps) {
        const auto& root = superblock.metadata_sm_root;
        report_.metadata_blocks = root.nr_blocks;
        report_.free_metadata_blocks =
            root.nr_blocks - std::min<std::uint64_t>(root.nr_allocated, root.nr_blocks);
        report_.data_blocks = superblock.data_sm_root.nr_blocks;
    } else {
        report_.metadata_space_map = space_map_check::absent;
        report_.data_space_map = space_map_check::absent;
    }
    check_superblock_fields();
    if (options_.scope == check_scope::superblock) {
        return std::move(report_);
    }
    (void)claim(metadata_block(0), block_use::superblock);
    if (superblock.blocknr != 0 && !has_space_maps) {
        (void)claim(metadata_block(superblock.blocknr), block_use::superblock);
    }
    const bool with_space_maps = has_space_maps && options_.scope == check_scope::all;
    if (with_space_maps) {
        UTHIN_TRY(read_space_maps());
    }
    if (options_.scope == check_scope::all) {
        leaf_plan leaves(source_);
        leaves.add_devices(metadata_block(superblock.data_mapping_root));
        leaves_planned_ = leaves.announce();
    }
    UTHIN_TRY(check_trees_of(superblock, true));
    if (has_space_maps && superblock.held_root != 0) {
        UTHIN_TRY(check_held_root());
    }
    if (with_space_maps) {
        UTHIN_TRY(compare_space_maps());
    }
    return std::move(report_);
}

// ---- findings
// ----------------------------------------------------------------------------------

void checker::add(check_finding finding) {
    switch (finding.severity) {
        case check_severity::cosmetic: ++report_.cosmetic; break;
        case check_severity::repairable: ++report_.repairable; break;
        case check_severity::fatal: ++report_.fatal; break;
    }
    if (finding.code == check_code::count_too_high ||
        finding.code == check_code::count_beyond_end) {
        ++report_.too_high;
    }
    // Half of the room is kept for what matters.
    const std::size_t room = finding.severity == check_severity::cosmetic
                                 ? options_.findings_max / 2
                                 : options_.findings_max;
    std::uint64_t& listed = listed_of_code_[static_cast<std::size_t>(finding.code)];
    if (report_.findings.size() < room && listed < listed_of_code_max) {
        ++listed;
        report_.findings.push_back(std::move(finding));
    }
}

void checker::add_superblock(check_severity severity, check_code code, std::string text) {
    add_block(severity, code, metadata_block(view_.superblock().blocknr),
              "superblock: " + std::move(text));
}

void checker::add_device(check_severity severity, check_code code, std::uint64_t id,
                         std::string text) {
    add({.severity = severity,
         .code = code,
         .device = device_id(id),
         .text = fmt::format("device {}: {}", id, text)});
}

void checker::add_block(check_severity severity, check_code code, metadata_block where,
                        std::string text) {
    add({.severity = severity,
         .code = code,
         .space = block_space::metadata,
         .block = where.value(),
         .text = std::move(text)});
}

void checker::lose(block_use use) {
    metadata_counts_incomplete_ = true;
    if (use == block_use::top_node || use == block_use::bottom_node ||
        use == block_use::superblock) {
        data_counts_incomplete_ = true;
    }
}

// ---- blocks
// ------------------------------------------------------------------------------------

result<std::optional<block_ref>> checker::read(metadata_block where, block_kind kind,
                                               const std::function<std::string()>& lost,
                                               std::optional<device_id> device) {
    ++blocks_read_;
    if (options_.progress && blocks_read_ % progress_interval_blocks == 0 &&
        !options_.progress(blocks_read_)) {
        return fail(error_code::cancelled, "the check was cancelled");
    }
    result<block_ref> page = source_.read(where, kind);
    if (page) {
        return std::move(*page);
    }
    check_code code = check_code::bad_block;
    switch (page.error().code()) {
        case error_code::corrupt: break;
        case error_code::wrong_block: code = check_code::wrong_block_number; break;
        case error_code::io_error: code = check_code::device_error; break;
        case error_code::out_of_range: code = check_code::block_out_of_range; break;
        default: return std::unexpected(std::move(page).error());
    }
    add({.severity = check_severity::fatal,
         .code = code,
         .space = block_space::metadata,
         .block = where.value(),
         .device = device,
         .text = fmt::format("{}: {}", page.error().message(), lost())});
    return std::nullopt;
}

bool checker::claim(metadata_block where, block_use use) {
    if (where.value() >= block_count_) {
        add_block(check_severity::fatal, check_code::block_out_of_range, where,
                  fmt::format("{} is said to be at block {}, but the device has {} blocks",
                              to_string(use), where.value(), block_count_));
        return false;
    }
    block_info& info = blocks_[where.value()];
    ++info.references;
    highest_reference_ = std::max(highest_reference_, where.value());
    if (info.use != block_use::none) {
        add_block(check_severity::fatal, check_code::conflicting_use, where,
                  fmt::format("block {} is a {} and also a {}", where.value(), to_string(info.use),
                              to_string(use)));
        return false;
    }
    ++report_.metadata_blocks_used;
    info.use = use;
    return true;
}

// ---- superblock
// --------------------------------------------------------------------------------

void checker::check_superblock_fields() {
    const disk_superblock& superblock = view_.superblock();
    using enum check_severity;
    if (superblock.magic != superblock_magic) {
        add_superblock(fatal, check_code::bad_magic,
                       fmt::format("magic {} instead of {}", std::uint64_t{superblock.magic},
                                   superblock_magic));
    }
    if (view_.has_space_maps() && superblock.blocknr != 0) {
        add_superblock(fatal, check_code::wrong_block_number,
                       fmt::format("it carries the number {}", std::uint64_t{superblock.blocknr}));
    }
    if (superblock.version != superblock_version) {
        add_superblock(cosmetic, check_code::bad_version,
                       fmt::format("version {} instead of {}", std::uint32_t{superblock.version},
                                   superblock_version));
    }
    if ((superblock.flags & ~superblock_flag_needs_check) != 0) {
        add_superblock(cosmetic, check_code::unknown_flags,
                       fmt::format("unknown flags {:#x}", std::uint32_t{superblock.flags}));
    }
    if (superblock.incompat_flags != 0 || superblock.compat_ro_flags != 0) {
        add_superblock(fatal, check_code::unknown_features,
                       fmt::format("unknown features: incompatible {:#x}, read-only {:#x}",
                                   std::uint32_t{superblock.incompat_flags},
                                   std::uint32_t{superblock.compat_ro_flags}));
    }
    if (superblock.compat_flags != 0) {
        add_superblock(cosmetic, check_code::unknown_features,
                       fmt::format("unknown compatible features {:#x}",
                                   std::uint32_t{superblock.compat_flags}));
    }
    if (const auto size = check_data_block_size(superblock.data_block_size_sectors); !size) {
        add_superblock(fatal, check_code::bad_data_block_size, size.error().message());
    }
    if (superblock.metadata_block_size_sectors != metadata_block_size_sectors) {
        add_superblock(cosmetic, check_code::bad_metadata_block_size,
                       fmt::format("metadata block size of {} sectors instead of {}",
                                   std::uint32_t{superblock.metadata_block_size_sectors},
                                   metadata_block_size_sectors));
    }
    if (superblock.time >= time_limit) {
        add_superblock(fatal, check_code::time_limit_reached,
                       fmt::format("the pool's time {} does not fit into the 24 bits of a mapping",
                                   std::uint32_t{superblock.time}));
    }
    if (view_.has_space_maps()) {
        check_sizes();
        check_superblock_tail();
    }
}

void checker::check_sizes() {
    const disk_superblock& superblock = view_.superblock();
    const std::uint64_t metadata_blocks = superblock.metadata_sm_root.nr_blocks;
    const std::uint64_t data_blocks = superblock.data_sm_root.nr_blocks;
    using enum check_severity;
    if (superblock.metadata_nr_blocks != metadata_blocks) {
        add_superblock(cosmetic, check_code::stale_metadata_size,
                       fmt::format("{} metadata blocks at format time, {} now",
                                   std::uint64_t{superblock.metadata_nr_blocks}, metadata_blocks));
    }
    if (metadata_blocks > block_count_) {
        add_superblock(fatal, check_code::bad_space_map_size,
                       fmt::format("the metadata space map has {} blocks, the device only {}",
                                   metadata_blocks, block_count_));
    }
    if (data_blocks > data_blocks_max) {
        add_superblock(fatal, check_code::bad_space_map_size,
                       fmt::format("the data space map has {} blocks, more than mappings can name",
                                   data_blocks));
    }
    if (options_.data_device_blocks && data_blocks > *options_.data_device_blocks) {
        add_superblock(fatal, check_code::bad_space_map_size,
                       fmt::format("the data space map has {} blocks, the data device only {}",
                                   data_blocks, *options_.data_device_blocks));
    }
}

// Nobody reads these bytes, so a failure to read them here says nothing; block 0 may also be
// damaged on purpose when the caller brought a superblock of its own.
void checker::check_superblock_tail() {
    const auto page = source_.read(metadata_block(0), block_kind::superblock);
    if (!page) {
        return;
    }
    const auto tail = page->bytes().subspan(sizeof(disk_superblock));
    if (std::any_of(tail.begin(), tail.end(), [](std::byte byte) { return byte != std::byte{}; })) {
        add_superblock(check_severity::cosmetic, check_code::nonzero_padding,
                       "bytes behind the last field are not zero");
    }
}

// ---- devices
// -----------------------------------------------------------------------------------

result<void> checker::check_trees_of(const disk_superblock& superblock, bool is_live) {
    UTHIN_TRY(visit_root(details_walk, metadata_block(superblock.device_details_root)));
    UTHIN_TRY(visit_root(top_walk, metadata_block(superblock.data_mapping_root)));
    return check_devices(superblock, is_live);
}

result<void> checker::check_devices(const disk_superblock& superblock, bool is_live) {
    const metadata_block details_root(superblock.device_details_root);
    const metadata_block top_root(superblock.data_mapping_root);
    std::vector<named_device> devices;
    std::vector<named_root> roots;
    UTHIN_TRY(
        collect(details_walk, details_root, {}, 1, [&](std::uint64_t id, const std::byte* value) {
            named_device& device = devices.emplace_back(named_device{id, {}});
            std::memcpy(&device.details, value, sizeof device.details);
        }));
    UTHIN_TRY(collect(top_walk, top_root, {}, 1, [&](std::uint64_t id, const std::byte* value) {
        roots.push_back({id, metadata_block(load_le<std::uint64_t>(value))});
    }));
    const block_info* details_info = blocks_.find(details_root.value());
    const block_info* top_info = blocks_.find(top_root.value());
    // What a damaged tree lacks has been reported as its loss.
    const bool details_whole = details_info != nullptr && !details_info->has_damage;
    const bool top_whole = top_info != nullptr && !top_info->has_damage;
    if (is_live) {
        report_.devices = std::max(devices.size(), roots.size());
    }
    auto device = devices.begin();
    auto root = roots.begin();
    while (device != devices.end() || root != roots.end()) {
        if (root == roots.end() || (device != devices.end() && device->id < root->id)) {
            if (top_whole) {
                add_device(check_severity::fatal, check_code::missing_mapping_tree, device->id,
                           fmt::format("it has details ({} blocks mapped) but no mapping tree",
                                       std::uint64_t{device->details.mapped_blocks}));
            }
            ++device;
        } else if (device == devices.end() || root->id < device->id) {
            if (details_whole) {
                add_device(check_severity::fatal, check_code::missing_details, root->id,
                           "it has a mapping tree but no details");
            }
            ++root;
        } else {
            check_device(*device, root->root, superblock, is_live);
            ++device;
            ++root;
        }
    }
    return {};
}

void checker::check_device(const named_device& device, metadata_block root,
                           const disk_superblock& superblock, bool is_live) {
    using enum check_severity;
    const disk_device_details& details = device.details;
    const std::uint32_t time = superblock.time;
    if (device.id > device_id_max) {
        add_device(cosmetic, check_code::device_id_too_large, device.id,
                   "no message can name an id above 24 bits");
    }
    if (details.creation_time > details.snapshotted_time || details.snapshotted_time > time) {
        add_device(cosmetic, check_code::device_from_future, device.id,
                   fmt::format("created at {}, snapshotted at {}, but the pool's time is {}",
                               std::uint32_t{details.creation_time},
                               std::uint32_t{details.snapshotted_time}, time));
    }
    if (details.transaction_id > superblock.trans_id) {
        add_device(
            cosmetic, check_code::device_from_future, device.id,
            fmt::format("made in transaction {}, but the pool's is {}",
                        std::uint64_t{details.transaction_id}, std::uint64_t{superblock.trans_id}));
    }
    const block_info* info = blocks_.find(root.value());
    if (options_.scope != check_scope::all || info == nullptr ||
        info->use != block_use::bottom_node) {
        return;
    }
    if (is_live) {
        report_.mapped_blocks += info->entries;
    } else if (info->time_max > time) {
        add_device(cosmetic, check_code::mapping_from_future, device.id,
                   fmt::format("metadata snapshot: a mapping of time {}, but the snapshot's is {}",
                               info->time_max, time));
    }
    if (!info->has_damage && info->entries != details.mapped_blocks) {
        add_device(repairable, check_code::wrong_mapped_blocks, device.id,
                   fmt::format("its details say {} blocks mapped, its tree maps {}",
                               std::uint64_t{details.mapped_blocks}, info->entries));
    }
}

result<void> checker::check_held_root() {
    const metadata_block held(view_.superblock().held_root);
    // A crash of a kernel can publish the pointer before the block is counted (format.md 17.19);
    // such a snapshot is to be dropped, not followed.
    if (held.value() < block_count_ && options_.scope == check_scope::all &&
        UTHIN_TRY(stored_metadata_count(held)) == 0U) {
        add_superblock(check_severity::repairable, check_code::bad_held_root,
                       fmt::format("the metadata snapshot's block {} is not counted: it was left "
                                   "by a crash, release it",
                                   held.value()));
        return {};
    }
    if (!claim(held, block_use::superblock)) {
        lose(block_use::superblock);
        return {};
    }
    const auto page = UTHIN_TRY(read(held, block_kind::superblock, [] {
        return std::string("the metadata snapshot cannot be read; release it");
    }));
    if (!page) {
        lose(block_use::superblock);
        return {};
    }
    // Number and checksum were verified when it was read; a page of a live pool that was not read
    // but made has no checksum yet.
    const disk_superblock copy = load_superblock(page->bytes());
    if (copy.magic != superblock_magic) {
        add_block(check_severity::fatal, check_code::bad_held_root, held,
                  fmt::format("metadata snapshot: superblock {}: magic {} instead of {}",
                              held.value(), std::uint64_t{copy.magic}, superblock_magic));
        lose(block_use::superblock);
        return {};
    }
    return check_trees_of(copy, false);
}

}  // namespace uthin::thin_metadata
