// A stream of mappings made into the metadata of a pool.
//
// Invariants
//   RE1  Until the whole stream has arrived, block 0 is no superblock: what lies on the device is
//        the old pool (nothing written yet), no pool, or the new one.
//   RE2  Leaves of a shared piece are written once, unless a device needs a part of one to fill a
//        node up to a third.
//   RE3  mapped_blocks of each device is the number of its mappings, whatever the stream says.
//   RE4  The pool's time is at least that of every mapping and every device, whatever the stream
//        says: a mapping from the future would count as made after the next snapshot, and be
//        written in place.
// Threads   One.
// Failures  no_metadata_space, invalid_argument (geometry that fits no pool), those of the device.
//           After one that came behind the first write the device holds no pool.
// Source    docs/format.md 3 to 8.
#pragma once

#include <map>
#include <memory>
#include <optional>

#include "thin_metadata/image_writer.h"
#include "thin_metadata/mapping_stream.h"
#include "thin_metadata/superblock.h"

namespace uthin::thin_metadata {

// What the user knows better. Transaction id and number of blocks only go up, as in thin_restore.
struct restore_overrides {
    std::optional<std::uint64_t> transaction_id = std::nullopt;
    std::optional<std::uint32_t> data_block_size_sectors = std::nullopt;
    std::optional<std::uint64_t> data_blocks = std::nullopt;
};

[[nodiscard]] result<pool_header> overridden(const pool_header& given,
                                             const restore_overrides& overrides);

// Makes what lies on the device no pool, durably: what is written next may be half there.
[[nodiscard]] result<void> write_unfinished_mark(block_device& device);

class restorer final : public mapping_sink {
public:
    // `device` outlives it.
    restorer(block_device& device, const restore_overrides& overrides)
        : device_(device), overrides_(overrides) {}

    [[nodiscard]] result<void> begin_pool(const pool_header& pool) override;
    [[nodiscard]] result<void> begin_shared(std::string_view name) override;
    [[nodiscard]] result<void> end_shared() override;
    [[nodiscard]] result<void> begin_device(const thin_device_info& device) override;
    [[nodiscard]] result<void> run(const mapping_run& run) override;
    [[nodiscard]] result<void> reference(std::string_view name) override;
    [[nodiscard]] result<void> end_device() override;
    [[nodiscard]] result<void> end_pool() override;

private:
    struct built_device {
        disk_device_details details;
        metadata_block root;
    };

    [[nodiscard]] result<void> keep_leaf(const packed_node& leaf);
    [[nodiscard]] result<void> add_shared_leaf(const packed_node& leaf);
    [[nodiscard]] result<void> append_entries_of(const packed_node& leaf);
    // Takes the last leaf back, its entries waiting again.
    [[nodiscard]] result<void> take_back_leaf();
    // One user of the leaf less; without any its data blocks are free.
    [[nodiscard]] result<void> release_leaf(const packed_node& leaf);
    [[nodiscard]] result<void> finish_leaves();
    [[nodiscard]] bool last_leaf_is_small() const noexcept;
    [[nodiscard]] result<disk_superblock> write_trees();
    [[nodiscard]] result<void> write_superblock(const disk_superblock& superblock);

    block_device& device_;
    restore_overrides overrides_;
    pool_header pool_;
    std::uint32_t time_max_ = 0;  // of all mappings and devices
    std::unique_ptr<image_writer> writer_;
    std::unique_ptr<count_array> data_;
    std::unique_ptr<leaf_packer> packer_;
    leaf_packer::node_function keep_;
    aligned_buffer page_{metadata_block_size_bytes};
    // Of the device or shared piece that is open.
    std::vector<packed_node> leaves_;
    thin_device_info device_info_;
    std::string shared_name_;
    std::map<std::string, std::vector<packed_node>, std::less<>> shared_;
    std::map<std::uint64_t, built_device> devices_;
};

}  // namespace uthin::thin_metadata
