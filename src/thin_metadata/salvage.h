// Everything that can be kept of a damaged pool, as a stream of mappings; and what is lost, to the
// block.
//
// Invariants
//   SA1  Every device that one of the two device trees knows is kept, and of its mappings all that
//        verify; where that may not be all devices the pool had, the report says so. What only
//        details of another time know is not kept: it may have been deleted since.
//   SA2  A mapping that is missing lies in a range of the report. A range that only says what may
//        have been there is left out when the number of mappings shows that nothing was.
//   SA3  mapped_blocks of each device is the number of its mappings that are sent.
//   SA4  Nothing is written; what is sent twice is the same twice.
//   SA5  Memory is bounded by a part of the size of the metadata, and by losses_max.
// Threads   One at a time.
// Failures  corrupt: there is no tree to begin with. invalid_argument: what the superblock no
//           longer tells has to be given. Errors of the sink.
// Source    docs/format.md 3 to 7; thin_repair 1.1 for the search and for what is made up.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "thin_metadata/device_finder.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/restorer.h"
#include "thin_metadata/root_finder.h"

namespace uthin::thin_metadata {

struct salvage_options {
    // By hand, instead of what the superblock says or the search finds.
    std::optional<metadata_block> mapping_root = std::nullopt;
    std::optional<metadata_block> details_root = std::nullopt;
    // Mapping trees of single devices.
    std::map<std::uint64_t, metadata_block> device_roots = {};
    // As in thin_restore: transaction id and number of blocks only go up.
    restore_overrides overrides = {};
    // Taken as they are.
    std::optional<std::uint64_t> transaction_id = std::nullopt;
    std::optional<std::uint64_t> data_blocks = std::nullopt;
    bool correct_bits = true;
    // List the candidates even if the superblock is good.
    bool search_always = false;
    std::size_t losses_max = 1 << 16;
    std::uint64_t cache_bytes = 6ULL << 20;
};

enum class root_origin : std::uint8_t {
    superblock,
    by_hand,
    search,
    details,  // the devices' own roots, recognised by what the details say of them
    none,
};
[[nodiscard]] std::string_view to_string(root_origin origin) noexcept;

struct lost_mappings {
    device_id device;
    key_span blocks;
    metadata_block metadata;  // the block that was found bad
    std::string text;
};

struct salvaged_device {
    device_id id;
    std::uint64_t mappings = 0;
    // What the details say, if they verify.
    std::optional<std::uint64_t> stated_mappings = std::nullopt;
    bool details_rebuilt = false;
    bool has_loss = false;

    [[nodiscard]] std::uint64_t lost_mappings() const noexcept {
        return stated_mappings && *stated_mappings > mappings ? *stated_mappings - mappings : 0;
    }
};

struct salvage_report {
    std::optional<std::string> superblock_failure;
    root_origin mapping_origin = root_origin::superblock;
    root_origin details_origin = root_origin::superblock;
    metadata_block mapping_root;
    metadata_block details_root;
    std::vector<root_candidate> candidates;
    std::vector<undecided_roots> undecided;
    pool_header header;
    std::vector<salvaged_device> devices;
    std::uint64_t mappings = 0;
    // Those in leaves that several devices share count once.
    std::uint64_t distinct_mappings = 0;
    // The first ones; loss_count includes those that did not fit.
    std::vector<lost_mappings> losses;
    std::uint64_t loss_count = 0;
    // Some that are not in `devices`: nobody can tell.
    bool devices_may_be_lost = false;
    std::vector<std::string> notes;
    std::vector<std::uint64_t> corrected_blocks;
    std::vector<metadata_block> rebuilt_nodes;

    // Something that the pool had is not there any more.
    [[nodiscard]] bool has_loss() const noexcept;
};

class salvage {
public:
    // Reads everything that is to be kept. `device` outlives it. invalid_argument: a root is given
    // for an id above 24 bits.
    [[nodiscard]] static result<std::unique_ptr<salvage>> plan(block_device& device,
                                                               const salvage_options& options);
    [[nodiscard]] const salvage_report& report() const noexcept { return report_; }
    [[nodiscard]] result<void> send(mapping_sink& sink, const dump_options& options);

private:
    salvage(block_device& device, std::uint64_t block_count, const salvage_options& options);

    [[nodiscard]] result<void> make_plan();
    void read_superblock();
    [[nodiscard]] result<void> find_trees();
    [[nodiscard]] bool has_good_mapping_root();
    void read_trees_of_superblock(known_roots& known);
    // Devices that the details know and a damaged top tree does not.
    bool find_devices();
    void use_roots_by_hand();
    [[nodiscard]] const node_scan& scan();
    void use_copy_of_superblock();
    [[nodiscard]] std::uint64_t data_limit() const;
    void survey_devices();
    void visit_all();
    [[nodiscard]] salvaged_entries<named_root> read_top_of_snapshot();
    void visit_metadata_snapshot();
    void adopt_children_of_lost_nodes();
    [[nodiscard]] bool has_too_many_mappings();
    void make_header();
    void list_devices();
    void add_device(std::uint64_t id, const named_root* root, const named_details* details);
    void list_losses(salvaged_device& device, metadata_block root, bool root_known);
    void add_loss(lost_mappings loss);
    void note_unknown_devices();
    void note(std::string text) { report_.notes.push_back(std::move(text)); }

    salvage_options options_;
    mending_source blocks_;
    std::unique_ptr<mapping_survey> survey_;
    std::optional<disk_superblock> superblock_;
    // Of a superblock that does not verify.
    std::optional<disk_superblock> hint_;
    std::optional<node_scan> scan_;
    salvaged_entries<named_root> top_;
    // Of the metadata snapshot, if it has one of its own; read at the first use.
    std::optional<salvaged_entries<named_root>> snapshot_top_;
    salvaged_entries<named_details> details_;
    bool details_are_current_ = true;
    std::vector<dump_device> devices_;
    salvage_report report_;
};

}  // namespace uthin::thin_metadata
