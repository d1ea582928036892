#include "support/pool_state.h"

#include <cstring>

#include <fmt/format.h>

#include "base/result.h"
#include "persistent_data/btree.h"
#include "thin_metadata/checker.h"

namespace uthin::test {

using persistent_data::block_source;
using persistent_data::btree_cursor;
using thin_metadata::disk_device_details;
using thin_metadata::disk_superblock;

namespace {

result<device_states> read_devices(block_source& source, const disk_superblock& superblock) {
    device_states devices;
    btree_cursor details(source, metadata_block(superblock.device_details_root),
                         sizeof(disk_device_details));
    UTHIN_TRY(details.seek(0));
    while (!details.at_end()) {
        disk_device_details disk;
        std::memcpy(&disk, details.value(), sizeof disk);
        devices[details.key()].details = {disk.mapped_blocks, disk.transaction_id,
                                          disk.creation_time, disk.snapshotted_time};
        UTHIN_TRY(details.next());
    }
    std::size_t trees = 0;
    btree_cursor top(source, metadata_block(superblock.data_mapping_root), 8);
    UTHIN_TRY(top.seek(0));
    while (!top.at_end()) {
        ++trees;
        device_state& device = devices[top.key()];
        btree_cursor bottom(source, metadata_block(top.value_u64()), 8);
        UTHIN_TRY(bottom.seek(0));
        while (!bottom.at_end()) {
            const std::uint64_t packed = bottom.value_u64();
            device.mappings.emplace_hint(device.mappings.end(), bottom.key(),
                                         mapped_block{thin_metadata::mapping_block(packed).value(),
                                                      thin_metadata::mapping_time(packed)});
            UTHIN_TRY(bottom.next());
        }
        UTHIN_TRY(top.next());
    }
    if (trees != devices.size()) {
        return fail(error_code::corrupt,
                    fmt::format("{} mapping trees for {} devices", trees, devices.size()));
    }
    return devices;
}

std::string text_of(const device_details& details) {
    return fmt::format("mapped {} transaction {} created {} snapshotted {}", details.mapped_blocks,
                       details.transaction_id, details.creation_time, details.snapshotted_time);
}

std::string difference_of_mappings(std::uint64_t id, const device_state& expected,
                                   const device_state& found) {
    for (const auto& [block, mapping] : expected.mappings) {
        const auto other = found.mappings.find(block);
        if (other == found.mappings.end()) {
            return fmt::format("device {} block {}: unmapped, expected {}", id, block,
                               mapping.data);
        }
        if (other->second.data != mapping.data || other->second.time != mapping.time) {
            return fmt::format("device {} block {}: at {} time {}, expected {} time {}", id, block,
                               other->second.data, other->second.time, mapping.data, mapping.time);
        }
    }
    for (const auto& [block, mapping] : found.mappings) {
        if (!expected.mappings.contains(block)) {
            return fmt::format("device {} block {}: at {}, expected unmapped", id, block,
                               mapping.data);
        }
    }
    return {};
}

template <class T>
std::string unequal(const char* what, const T& expected, const T& found) {
    return expected == found ? std::string()
                             : fmt::format("{} {}, expected {}", what, found, expected);
}

}  // namespace

std::uint64_t pool_state::references(std::uint64_t data) const {
    std::uint64_t count = 0;
    for (const auto& [id, device] : devices) {
        for (const auto& [block, mapping] : device.mappings) {
            count += mapping.data == data ? 1U : 0U;
        }
    }
    return count;
}

result<pool_state> read_state(thin_metadata::metadata_view& view, block_device* device) {
    const disk_superblock& superblock = view.superblock();
    pool_state state;
    state.transaction_id = superblock.trans_id;
    state.time = superblock.time;
    state.needs_check = (superblock.flags & thin_metadata::superblock_flag_needs_check) != 0;
    state.data_blocks = superblock.data_sm_root.nr_blocks;
    state.metadata_blocks = superblock.metadata_sm_root.nr_blocks;
    state.devices = UTHIN_TRY(read_devices(view.source(), superblock));
    if (superblock.held_root != 0 && device != nullptr) {
        const auto held = UTHIN_TRY_CTX(
            thin_metadata::open_offline(*device, {.metadata_snapshot = true}), "held");
        state.held = std::make_shared<const device_states>(
            UTHIN_TRY_CTX(read_devices(held->source(), held->superblock()), "held"));
    }
    return state;
}

std::string difference(const device_states& expected, const device_states& found) {
    for (const auto& [id, device] : expected) {
        const auto other = found.find(id);
        if (other == found.end()) {
            return fmt::format("device {} is missing", id);
        }
        if (other->second.details != device.details) {
            return fmt::format("device {}: {}, expected {}", id, text_of(other->second.details),
                               text_of(device.details));
        }
        if (std::string text = difference_of_mappings(id, device, other->second); !text.empty()) {
            return text;
        }
    }
    for (const auto& [id, device] : found) {
        if (!expected.contains(id)) {
            return fmt::format("device {} should not be there", id);
        }
    }
    return {};
}

std::string difference(const pool_state& expected, const pool_state& found) {
    for (std::string text :
         {unequal("transaction id", expected.transaction_id, found.transaction_id),
          unequal("time", expected.time, found.time),
          unequal("needs_check", expected.needs_check, found.needs_check),
          unequal("data blocks", expected.data_blocks, found.data_blocks),
          unequal("metadata blocks", expected.metadata_blocks, found.metadata_blocks),
          unequal("held", expected.held != nullptr, found.held != nullptr),
          difference(expected.devices, found.devices)}) {
        if (!text.empty()) {
            return text;
        }
    }
    if (expected.held != nullptr) {
        if (std::string text = difference(*expected.held, *found.held); !text.empty()) {
            return "metadata snapshot: " + text;
        }
    }
    return {};
}

std::string check_complaint(thin_metadata::metadata_view& view) {
    const auto report = thin_metadata::check_metadata(view, {.findings_max = 4});
    if (!report) {
        return "check: " + report.error().to_string();
    }
    if (report->is_clean()) {
        return {};
    }
    std::string text =
        fmt::format("check: {} fatal, {} repairable", report->fatal, report->repairable);
    for (const thin_metadata::check_finding& finding : report->findings) {
        text += "; " + finding.text;
    }
    return text;
}

}  // namespace uthin::test
