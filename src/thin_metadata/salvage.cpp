#include "thin_metadata/salvage.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include "base/out_of_memory.h"
#include "thin_metadata/orphan_nodes.h"

namespace uthin::thin_metadata {

using persistent_data::block_bytes;
using persistent_data::block_kind;

std::string_view to_string(root_origin origin) noexcept {
    switch (origin) {
        case root_origin::superblock: return "superblock";
        case root_origin::by_hand: return "by hand";
        case root_origin::search: return "search";
        case root_origin::details: return "details";
        case root_origin::none: return "none";
    }
    return "none";
}

bool salvage_report::has_loss() const noexcept {
    return loss_count != 0 || devices_may_be_lost ||
           std::any_of(devices.begin(), devices.end(), [](const salvaged_device& device) {
               return device.details_rebuilt || device.lost_mappings() != 0;
           });
}

salvage::salvage(block_device& device, std::uint64_t block_count, const salvage_options& options)
    : options_(options),
      blocks_(device, block_count,
              std::max<std::uint64_t>(options.cache_bytes / metadata_block_size_bytes, 64),
              options.correct_bits) {
}

result<std::unique_ptr<salvage>> salvage::plan(block_device& device,
                                               const salvage_options& options) {
    return or_out_of_memory([&]() -> result<std::unique_ptr<salvage>> {
        const std::uint64_t blocks = std::min(
            UTHIN_TRY(device.size_bytes()) / metadata_block_size_bytes, metadata_blocks_max);
        if (blocks == 0) {
            return fail(error_code::corrupt,
                        fmt::format("{}: too small for thin pool metadata", device.name()));
        }
        if (!options.device_roots.empty() && options.device_roots.rbegin()->first > device_id_max) {
            return fail(error_code::invalid_argument,
                        fmt::format("a root for device {}: ids have 24 bits ({} at most)",
                                    options.device_roots.rbegin()->first, device_id_max));
        }
        std::unique_ptr<salvage> made(new salvage(device, blocks, options));
        UTHIN_TRY(made->make_plan());
        return made;
    });
}

result<void> salvage::make_plan() {
    read_superblock();
    UTHIN_TRY(find_trees());
    if (!superblock_) {
        use_copy_of_superblock();
    }
    survey_devices();
    make_header();
    list_devices();
    report_.distinct_mappings = survey_->leaf_mappings();
    note_unknown_devices();
    report_.corrected_blocks.assign(blocks_.corrected().begin(), blocks_.corrected().end());
    return {};
}

const node_scan& salvage::scan() {
    if (!scan_) {
        scan_ = scan_nodes(blocks_);
    }
    return *scan_;
}

// ---- where the trees begin

void salvage::read_superblock() {
    aligned_buffer buffer(metadata_block_size_bytes);
    const block_bytes bytes(buffer.data(), metadata_block_size_bytes);
    if (const auto done = blocks_.device().read(0, buffer.span()); !done) {
        report_.superblock_failure = done.error().message();
        return;
    }
    auto superblock = check_superblock(metadata_block(0), bytes);
    if (!superblock) {
        report_.superblock_failure =
            is_blank(bytes) ? "superblock 0: all zeros" : superblock.error().message();
        const disk_superblock raw = load_superblock(bytes);
        if (raw.magic == superblock_magic) {
            hint_ = raw;
        }
        if (options_.correct_bits &&
            correct_single_bit(block_kind::superblock, metadata_block(0), bytes)) {
            superblock = check_superblock(metadata_block(0), bytes);
        }
    }
    if (superblock) {
        if (report_.superblock_failure) {
            note("superblock 0: one flipped bit was put right");
            report_.superblock_failure.reset();
        }
        superblock_ = *superblock;
    }
}

// A copy for the metadata snapshot still tells the block size, which never changes.
void salvage::use_copy_of_superblock() {
    if (options_.overrides.data_block_size_sectors) {
        return;
    }
    for (const metadata_block where : scan().superblocks) {
        const auto page = blocks_.read(where, block_kind::superblock);
        const auto copy = page ? check_superblock(where, page->bytes())
                               : result<disk_superblock>(fail(error_code::corrupt, {}));
        if (copy && check_data_block_size(copy->data_block_size_sectors)) {
            options_.overrides.data_block_size_sectors = copy->data_block_size_sectors;
            note(
                fmt::format("block {} holds a copy of a superblock: its data block size is {} "
                            "sectors",
                            where.value(), std::uint32_t{copy->data_block_size_sectors}));
            return;
        }
    }
}

// A node that verifies, but is no top node, has been written over the tree.
bool salvage::has_good_mapping_root() {
    return !top_.root_lost &&
           (top_.entries.empty() ||
            std::any_of(top_.entries.begin(), top_.entries.end(), [this](const named_root& entry) {
                return entry.root.value() < blocks_.block_count();
            }));
}

result<void> salvage::find_trees() {
    known_roots known{.mapping_root = options_.mapping_root,
                      .details_root = options_.details_root,
                      .hinted_mapping_root = std::nullopt,
                      .hinted_details_root = std::nullopt};
    report_.mapping_origin = known.mapping_root ? root_origin::by_hand : root_origin::superblock;
    report_.details_origin = known.details_root ? root_origin::by_hand : root_origin::superblock;
    if (superblock_) {
        read_trees_of_superblock(known);
    } else if (hint_) {
        known.hinted_mapping_root = metadata_block(hint_->data_mapping_root);
        known.hinted_details_root = metadata_block(hint_->device_details_root);
    }
    const bool complete = known.mapping_root && known.details_root;
    if (!complete || options_.search_always) {
        report_.candidates = find_roots(blocks_, scan(), complete ? known_roots{} : known);
    }
    if (!complete) {
        if (report_.candidates.empty()) {
            return fail(error_code::corrupt, "no compatible roots found");
        }
        const root_candidate& best = report_.candidates.front();
        if (!known.mapping_root) {
            report_.mapping_origin = root_origin::search;
            known.mapping_root = best.mapping_root;
        }
        if (!known.details_root) {
            report_.details_origin = best.details_root ? root_origin::search : root_origin::none;
            known.details_root = best.details_root;
            details_are_current_ = best.match == details_match::exact;
        }
    }
    if (!superblock_ || report_.mapping_origin == root_origin::search) {
        top_ = read_top_tree(blocks_, *known.mapping_root);
        use_roots_by_hand();
    }
    report_.mapping_root = *known.mapping_root;
    if (known.details_root) {
        details_ = read_details_tree(blocks_, *known.details_root);
        report_.details_root = *known.details_root;
    }
    return {};
}

void salvage::read_trees_of_superblock(known_roots& known) {
    const metadata_block mapping_root(superblock_->data_mapping_root);
    const metadata_block details_root(superblock_->device_details_root);
    details_ = read_details_tree(blocks_, known.details_root.value_or(details_root));
    if (!known.details_root && !details_.root_lost) {
        known.details_root = details_root;
    }
    top_ = read_top_tree(blocks_, known.mapping_root.value_or(mapping_root));
    if (known.mapping_root) {
        use_roots_by_hand();
        return;
    }
    const bool is_good = has_good_mapping_root();
    if (!is_good) {
        top_.entries.clear();
        if (!top_.root_lost) {
            top_.losses.push_back({.keys = {.first = 0, .last = device_id_max},
                                   .block = mapping_root,
                                   .text = "none of its entries is the root of a device"});
        }
    }
    const bool has_found = (!is_good || !top_.losses.empty()) && find_devices();
    use_roots_by_hand();
    if (is_good || has_found || !top_.entries.empty()) {
        known.mapping_root = mapping_root;
        report_.mapping_origin = is_good ? root_origin::superblock : root_origin::details;
    }
}

// False when nothing at all was found of what must be there.
bool salvage::find_devices() {
    std::vector<named_details> wanted;
    std::set_difference(details_.entries.begin(), details_.entries.end(), top_.entries.begin(),
                        top_.entries.end(), std::back_inserter(wanted),
                        [](const auto& a, const auto& b) { return a.id < b.id; });
    report_.mapping_root = metadata_block(superblock_->data_mapping_root);
    visit_all();
    visit_metadata_snapshot();
    const auto orphans = list_orphans(blocks_, *survey_, scan(), *superblock_, top_.nodes);
    found_roots found = find_device_roots(orphans, wanted);
    note(
        fmt::format("{} devices that the top mapping tree no longer names are recognised by their "
                    "numbers of mappings",
                    found.certain.size()));
    top_.entries.insert(top_.entries.end(), found.certain.begin(), found.certain.end());
    std::sort(top_.entries.begin(), top_.entries.end(),
              [](const named_root& a, const named_root& b) { return a.id < b.id; });
    report_.undecided = std::move(found.undecided);
    return !orphans.empty() ||
           std::all_of(wanted.begin(), wanted.end(), [](const named_details& device) {
               return device.details.mapped_blocks == 0;
           });
}

void salvage::use_roots_by_hand() {
    for (const auto& [id, root] : options_.device_roots) {
        const auto at = std::lower_bound(
            top_.entries.begin(), top_.entries.end(), id,
            [](const named_root& entry, std::uint64_t wanted) { return entry.id < wanted; });
        if (at != top_.entries.end() && at->id == id) {
            at->root = root;
        } else {
            top_.entries.insert(at, {.id = id, .root = root});
        }
    }
}

// ---- what is under them

std::uint64_t salvage::data_limit() const {
    if (options_.data_blocks) {
        return std::min(*options_.data_blocks, data_blocks_max);
    }
    if (!superblock_ || superblock_->data_sm_root.nr_blocks == 0) {
        return data_blocks_max;
    }
    return std::min<std::uint64_t>(
        std::max<std::uint64_t>(superblock_->data_sm_root.nr_blocks,
                                options_.overrides.data_blocks.value_or(0)),
        data_blocks_max);
}

void salvage::visit_all() {
    survey_ = std::make_unique<mapping_survey>(blocks_, data_limit());
    constexpr std::size_t batch = 256;
    for (std::size_t at = 0; at < top_.entries.size(); ++at) {
        if (at % batch == 0) {
            std::vector<metadata_block> roots;
            for (std::size_t next = at; next < std::min(at + batch, top_.entries.size()); ++next) {
                roots.push_back(top_.entries[next].root);
            }
            blocks_.prefetch(roots, persistent_data::block_kind::btree_node);
        }
        (void)survey_->visit(top_.entries[at].root);
        survey_->add_reference(top_.entries[at].root);
    }
}

// Nothing when it is the pool's: a top tree that both have refers to each tree once.
salvaged_entries<named_root> salvage::read_top_of_snapshot() {
    const metadata_block held(superblock_->held_root);
    if (held.value() == 0 || held.value() >= blocks_.block_count()) {
        return {};
    }
    const auto page = blocks_.read(held, block_kind::superblock);
    if (!page) {
        return {};
    }
    const metadata_block root(load_superblock(page->bytes()).data_mapping_root);
    return root != report_.mapping_root ? read_top_tree(blocks_, root)
                                        : salvaged_entries<named_root>();
}

// So that its nodes are not taken for nobody's.
void salvage::visit_metadata_snapshot() {
    if (!snapshot_top_) {
        snapshot_top_ = read_top_of_snapshot();
        top_.nodes.insert(top_.nodes.end(), snapshot_top_->nodes.begin(),
                          snapshot_top_->nodes.end());
    }
    for (const named_root& entry : snapshot_top_->entries) {
        (void)survey_->visit(entry.root);
        survey_->add_reference(entry.root);
    }
}

bool salvage::has_too_many_mappings() {
    auto details = details_.entries.begin();
    return std::any_of(top_.entries.begin(), top_.entries.end(), [&](const named_root& entry) {
        details = std::find_if(details, details_.entries.end(),
                               [&](const named_details& has) { return has.id >= entry.id; });
        const subtree_summary* const tree = survey_->find(entry.root);
        return tree != nullptr && survey_->has_damage(entry.root) &&
               details != details_.entries.end() && details->id == entry.id &&
               tree->mappings > details->details.mapped_blocks;
    });
}

// What is found below a rebuilt node may have lost nodes too.
void salvage::adopt_children_of_lost_nodes() {
    constexpr int rounds_max = 4;
    for (int round = 0; round < rounds_max; ++round) {
        const auto& lost = survey_->lost_nodes();
        if (std::all_of(lost.begin(), lost.end(),
                        [](const auto& node) { return node.height == 1; })) {
            return;
        }
        visit_metadata_snapshot();
        const auto rebuilt = adopt_orphans(blocks_, *survey_, scan(), *superblock_, top_.nodes);
        visit_all();
        if (rebuilt.empty()) {
            return;
        }
        if (has_too_many_mappings()) {
            for (const metadata_block where : rebuilt) {
                blocks_.take_back(where);
            }
            return visit_all();
        }
        report_.rebuilt_nodes.insert(report_.rebuilt_nodes.end(), rebuilt.begin(), rebuilt.end());
    }
}

void salvage::survey_devices() {
    visit_all();
    // Without the superblock nobody knows which blocks are in use.
    if (superblock_ && (report_.mapping_origin == root_origin::superblock ||
                        report_.mapping_origin == root_origin::details)) {
        adopt_children_of_lost_nodes();
    }
}

// ---- what is sent

void salvage::make_header() {
    pool_header& header = report_.header;
    subtree_summary all;
    for (const named_root& entry : top_.entries) {
        if (const subtree_summary* const tree = survey_->find(entry.root)) {
            all.add(*tree);
        }
    }
    std::uint64_t last_transaction = 0;
    std::uint32_t time = all.time_max;
    for (const named_details& entry : details_.entries) {
        last_transaction = std::max<std::uint64_t>(last_transaction, entry.details.transaction_id);
        for (const std::uint32_t at : {std::uint32_t{entry.details.creation_time},
                                       std::uint32_t{entry.details.snapshotted_time}}) {
            time = at < time_limit ? std::max(time, at) : time;
        }
    }
    if (superblock_) {
        header = pool_header_of(*superblock_);
    } else {
        header.version = superblock_version;
        header.transaction_id =
            report_.details_origin == root_origin::none ? 1 : last_transaction + 1;
        // A device without details may have been snapshotted after its newest mapping.
        const bool may_be_later = details_.entries.size() < top_.entries.size();
        time = std::min(time + (may_be_later ? 1 : 0), time_limit - 1);
    }
    if (header.time >= time_limit || time > header.time) {
        header.time = time;
    }
    const restore_overrides& given = options_.overrides;
    header.transaction_id = options_.transaction_id.value_or(
        std::max(header.transaction_id, given.transaction_id.value_or(0)));
    header.data_blocks =
        options_.data_blocks.value_or(std::max(header.data_blocks, given.data_blocks.value_or(0)));
    if (all.mappings != 0) {
        header.data_blocks = std::max(header.data_blocks, all.highest_data_block + 1);
    }
    header.data_block_size_sectors =
        given.data_block_size_sectors.value_or(header.data_block_size_sectors);
}

void salvage::list_devices() {
    auto root = top_.entries.begin();
    auto details = details_.entries.begin();
    // Details of another time know devices that were deleted since.
    const bool add_unmapped = report_.mapping_origin != root_origin::search ||
                              report_.details_origin == root_origin::superblock;
    while (root != top_.entries.end() || details != details_.entries.end()) {
        // The last number there is may be that of a device.
        const bool more_roots = root != top_.entries.end();
        const bool more_details = details != details_.entries.end();
        const std::uint64_t id =
            std::min(more_roots ? root->id : UINT64_MAX, more_details ? details->id : UINT64_MAX);
        const named_root* const has_root = more_roots && root->id == id ? &*root++ : nullptr;
        const named_details* const has_details =
            more_details && details->id == id ? &*details++ : nullptr;
        if (has_root != nullptr || add_unmapped) {
            add_device(id, has_root, has_details);
        } else {
            report_.devices_may_be_lost = true;
            note(fmt::format("device {} is dropped: only the details know it", id));
        }
    }
}

void salvage::add_device(std::uint64_t id, const named_root* root, const named_details* details) {
    const subtree_summary* const tree = root != nullptr ? survey_->find(root->root) : nullptr;
    salvaged_device device{.id = device_id(id), .mappings = tree != nullptr ? tree->mappings : 0};
    dump_device sent{.info = {.id = device_id(id), .details = {}}, .root = {}};
    device.details_rebuilt = details == nullptr;
    if (details != nullptr) {
        if (details_are_current_) {
            device.stated_mappings = details->details.mapped_blocks;
        }
        sent.info.details = {.mapped_blocks = device.mappings,
                             .transaction_id = details->details.transaction_id,
                             .creation_time = details->details.creation_time,
                             .snapshotted_time = details->details.snapshotted_time};
        device_details& is = sent.info.details;
        is.transaction_id = std::min(is.transaction_id, report_.header.transaction_id);
        is.creation_time = std::min(is.creation_time, report_.header.time);
        is.snapshotted_time =
            std::clamp(is.snapshotted_time, is.creation_time, report_.header.time);
    } else {
        // Snapshotted now: every mapping older than this counts as shared, and is copied when it
        // is written to.
        const std::uint64_t transaction = report_.header.transaction_id;
        sent.info.details = {.mapped_blocks = device.mappings,
                             .transaction_id = transaction - (transaction != 0 ? 1 : 0),
                             .creation_time = report_.header.time,
                             .snapshotted_time = report_.header.time};
    }
    const bool is_shown =
        tree != nullptr &&
        (tree->mappings != 0 || (tree->height == 1 && !survey_->has_damage(root->root)));
    list_losses(device, root != nullptr ? root->root : metadata_block(), root != nullptr);
    sent.root = is_shown ? root->root : survey_->add_empty_tree();
    report_.mappings += device.mappings;
    report_.devices.push_back(device);
    devices_.push_back(sent);
}

void salvage::list_losses(salvaged_device& device, metadata_block root, bool root_known) {
    // The number of mappings that should be there shows when nothing was in a lost range.
    const bool is_whole = device.stated_mappings && *device.stated_mappings == device.mappings;
    if (!root_known) {
        if (!is_whole) {
            device.has_loss = true;
            add_loss({.device = device.id,
                      .blocks = {},
                      .metadata = report_.mapping_root,
                      .text = "the top mapping tree does not know the device"});
        }
        return;
    }
    if (is_whole || !survey_->has_damage(root)) {
        return;
    }
    survey_->list_losses(root, [&](const mapping_survey::loss& lost) {
        device.has_loss = true;
        add_loss(
            {.device = device.id, .blocks = lost.keys, .metadata = lost.block, .text = lost.text});
    });
}

void salvage::add_loss(lost_mappings loss) {
    ++report_.loss_count;
    if (report_.losses.size() < options_.losses_max) {
        report_.losses.push_back(std::move(loss));
    }
}

void salvage::note_unknown_devices() {
    for (const auto& lost : details_.losses) {
        note(fmt::format("details tree, devices {} to {}: {}", lost.keys.first, lost.keys.last,
                         lost.text));
    }
    for (const auto& lost : top_.losses) {
        note(fmt::format("top mapping tree, devices {} to {}: {}", lost.keys.first, lost.keys.last,
                         lost.text));
    }
    if (!top_.losses.empty() && (!details_.losses.empty() || details_.entries.empty())) {
        report_.devices_may_be_lost = true;
        note("devices may be lost that neither tree knows any more");
    }
    // What is dropped from one tree may have been all that the other one lacks.
    report_.devices_may_be_lost =
        report_.devices_may_be_lost || top_.entries_dropped || details_.entries_dropped;
    if (superblock_ && superblock_->held_root != 0) {
        note("the metadata snapshot is dropped");
    }
}

result<void> salvage::send(mapping_sink& sink, const dump_options& options) {
    return or_out_of_memory([&]() -> result<void> {
        if (report_.header.data_block_size_sectors == 0) {
            std::string hint;
            if (hint_ && check_data_block_size(hint_->data_block_size_sectors)) {
                hint = fmt::format(" (it says {})", std::uint32_t{hint_->data_block_size_sectors});
            }
            return fail(
                error_code::invalid_argument,
                "data block size needs to be provided due to corruption in the superblock" + hint);
        }
        UTHIN_TRY(check_data_block_size(report_.header.data_block_size_sectors));
        return dump_devices(*survey_, report_.header, devices_, sink, options);
    });
}

}  // namespace uthin::thin_metadata
