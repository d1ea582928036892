#include "thin_metadata/dumper.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/out_of_memory.h"
#include "persistent_data/btree.h"
#include "thin_metadata/leaf_runs.h"

namespace uthin::thin_metadata {

using persistent_data::block_source;
using persistent_data::btree_cursor;
using persistent_data::node_view;

namespace {

// For those who want the devices only.
class no_sink final : public mapping_sink {
public:
    result<void> begin_pool(const pool_header&) override { return {}; }
    result<void> begin_shared(std::string_view) override { return {}; }
    result<void> end_shared() override { return {}; }
    result<void> begin_device(const thin_device_info&) override { return {}; }
    result<void> run(const mapping_run&) override { return {}; }
    result<void> reference(std::string_view) override { return {}; }
    result<void> end_device() override { return {}; }
    result<void> end_pool() override { return {}; }
};

class dumper {
public:
    // The devices of `superblock`, or those that are `listed`.
    dumper(block_source& source, const disk_superblock* superblock,
           std::span<const dump_device> listed, mapping_sink& sink, const dump_options& options)
        : source_(source),
          superblock_(superblock),
          listed_(listed),
          sink_(sink),
          options_(options),
          joiner_(sink) {
        if (options.devices) {
            wanted_ = *options.devices;
            std::sort(wanted_.begin(), wanted_.end());
            wanted_.erase(std::unique(wanted_.begin(), wanted_.end()), wanted_.end());
        }
    }

    [[nodiscard]] result<void> run(const pool_header& header);
    [[nodiscard]] result<std::vector<dump_device>> list();

private:
    using device_function =
        std::function<result<void>(const thin_device_info& device, metadata_block root)>;

    [[nodiscard]] result<void> for_each_device(const device_function& each);
    [[nodiscard]] result<void> for_each_listed(const device_function& each);
    [[nodiscard]] result<void> for_each_wanted(btree_cursor& details, btree_cursor& top,
                                               const device_function& each);
    [[nodiscard]] result<void> find_shared_leaves();
    [[nodiscard]] result<void> plan_leaves();
    // False when the source makes no use of it.
    bool announce(std::vector<std::uint32_t> leaves);
    [[nodiscard]] result<void> send_shared_pieces();
    void prefetch_shared(metadata_block head, metadata_block leaf);
    [[nodiscard]] result<void> send_mappings(metadata_block root);
    [[nodiscard]] result<void> send_mappings_or_references(metadata_block root);
    // Returns the keys, last < first when the leaf is empty.
    [[nodiscard]] result<std::pair<std::uint64_t, std::uint64_t>> send_leaf(metadata_block leaf,
                                                                            std::uint64_t first,
                                                                            std::uint64_t last);

    block_source& source_;
    const disk_superblock* superblock_;
    std::span<const dump_device> listed_;
    mapping_sink& sink_;
    const dump_options& options_;
    std::vector<device_id> wanted_;
    // All that are sent, when shared leaves are looked for.
    std::vector<dump_device> devices_;
    run_joiner joiner_;
    std::optional<leaf_runs> runs_;
    bool is_planned_ = false;
    // Last shared leaf that was announced to the source.
    metadata_block prefetched_until_;
};

thin_device_info device_info(std::uint64_t id, const std::byte* value) {
    disk_device_details stored;
    std::memcpy(&stored, value, sizeof stored);
    return {.id = device_id(id),
            .details = {.mapped_blocks = stored.mapped_blocks,
                        .transaction_id = stored.transaction_id,
                        .creation_time = stored.creation_time,
                        .snapshotted_time = stored.snapshotted_time}};
}

std::unexpected<error> different_devices(std::uint64_t id, bool has_details) {
    return fail(error_code::corrupt, fmt::format("device {} has {}", id,
                                                 has_details ? "details but no mapping tree"
                                                             : "a mapping tree but no details"));
}

result<void> dumper::run(const pool_header& header) {
    UTHIN_TRY(sink_.begin_pool(header));
    if (options_.shared_pieces && !options_.skip_mappings) {
        UTHIN_TRY(find_shared_leaves());
        UTHIN_TRY(plan_leaves());
        UTHIN_TRY(send_shared_pieces());
    }
    std::size_t at = 0;
    UTHIN_TRY(
        for_each_device([&](const thin_device_info& device, metadata_block root) -> result<void> {
            if (runs_) {
                prefetch_trees(source_, devices_, at++);
            }
            UTHIN_TRY(sink_.begin_device(device));
            if (!options_.skip_mappings) {
                UTHIN_TRY_CTX(runs_ ? send_mappings_or_references(root) : send_mappings(root),
                              fmt::format("device {}", device.id.value()));
            }
            return sink_.end_device();
        }));
    return sink_.end_pool();
}

// Without mappings the top tree is not needed, and may be damaged.
result<void> dumper::for_each_device(const device_function& each) {
    if (superblock_ == nullptr) {
        return for_each_listed(each);
    }
    btree_cursor details(source_, metadata_block(superblock_->device_details_root),
                         sizeof(disk_device_details));
    btree_cursor top(source_, metadata_block(superblock_->data_mapping_root), 8);
    if (options_.devices) {
        return for_each_wanted(details, top, each);
    }
    UTHIN_TRY_CTX(details.seek(0), "details tree");
    if (!options_.skip_mappings) {
        UTHIN_TRY_CTX(top.seek(0), "top mapping tree");
    }
    while (!details.at_end()) {
        metadata_block root;
        if (!options_.skip_mappings) {
            if (top.at_end() || top.key() > details.key()) {
                return different_devices(details.key(), true);
            }
            if (top.key() < details.key()) {
                return different_devices(top.key(), false);
            }
            root = metadata_block(top.value_u64());
            UTHIN_TRY_CTX(top.next(), "top mapping tree");
        }
        UTHIN_TRY(each(device_info(details.key(), details.value()), root));
        UTHIN_TRY_CTX(details.next(), "details tree");
    }
    return top.at_end() ? result<void>() : different_devices(top.key(), false);
}

result<void> dumper::for_each_listed(const device_function& each) {
    for (const dump_device& device : listed_) {
        if (!options_.devices ||
            std::binary_search(wanted_.begin(), wanted_.end(), device.info.id)) {
            UTHIN_TRY(each(device.info, device.root));
        }
    }
    return {};
}

result<void> dumper::for_each_wanted(btree_cursor& details, btree_cursor& top,
                                     const device_function& each) {
    for (const device_id id : wanted_) {
        UTHIN_TRY_CTX(details.seek(id.value()), "details tree");
        const bool has_details = !details.at_end() && details.key() == id.value();
        metadata_block root;
        if (!options_.skip_mappings) {
            UTHIN_TRY_CTX(top.seek(id.value()), "top mapping tree");
            const bool has_mappings = !top.at_end() && top.key() == id.value();
            if (has_mappings != has_details) {
                return different_devices(id.value(), has_details);
            }
            if (has_mappings) {
                root = metadata_block(top.value_u64());
            }
        }
        if (has_details) {
            UTHIN_TRY(each(device_info(id.value(), details.value()), root));
        }
    }
    return {};
}

result<std::vector<dump_device>> dumper::list() {
    std::vector<dump_device> devices;
    UTHIN_TRY(for_each_device(
        [&devices](const thin_device_info& device, metadata_block root) -> result<void> {
            devices.push_back({device, root});
            return {};
        }));
    return devices;
}

result<void> dumper::find_shared_leaves() {
    devices_ = UTHIN_TRY(list());
    leaf_runs& runs = runs_.emplace(source_.block_count());
    for (std::size_t at = 0; at < devices_.size(); ++at) {
        prefetch_trees(source_, devices_, at);
        runs.begin_device();
        UTHIN_TRY_CTX(
            list_leaves(source_, devices_[at].root, nullptr,
                        [&](metadata_block leaf, std::uint64_t, std::uint64_t) -> result<void> {
                            runs.add(leaf);
                            return {};
                        }),
            fmt::format("device {}", devices_[at].info.id.value()));
        runs.end_device();
    }
    return {};
}

// A plan costs the source a window, which a single leaf is not worth.
bool dumper::announce(std::vector<std::uint32_t> leaves) {
    return leaves.size() > 1 &&
           source_.plan(std::move(leaves), persistent_data::block_kind::btree_node);
}

// In the order in which they are going to be sent.
result<void> dumper::plan_leaves() {
    if (!source_.plan({}, persistent_data::block_kind::btree_node)) {
        return {};  // it would make no use of a longer one
    }
    std::vector<std::uint32_t> leaves;
    for (auto head = runs_->find_shared_run(metadata_block(0)); head;
         head = runs_->find_shared_run(*head + 1)) {
        for (std::optional<metadata_block> leaf = head; leaf; leaf = runs_->next_in_run(*leaf)) {
            leaves.push_back(static_cast<std::uint32_t>(leaf->value()));
        }
    }
    for (std::size_t at = 0; at < devices_.size(); ++at) {
        prefetch_trees(source_, devices_, at);
        UTHIN_TRY(
            list_leaves(source_, devices_[at].root, nullptr,
                        [&](metadata_block leaf, std::uint64_t, std::uint64_t) -> result<void> {
                            if (!runs_->is_shared(leaf)) {
                                leaves.push_back(static_cast<std::uint32_t>(leaf.value()));
                            }
                            return {};
                        }));
    }
    is_planned_ = announce(std::move(leaves));
    return {};
}

// The shared leaves that come next, so that they are read together: many runs are one leaf long.
void dumper::prefetch_shared(metadata_block head, metadata_block leaf) {
    constexpr std::size_t ahead = 128;
    std::vector<metadata_block> wanted;
    std::optional<metadata_block> run = head;
    std::optional<metadata_block> next = leaf;
    while (run && wanted.size() < ahead) {
        wanted.push_back(*next);
        next = runs_->next_in_run(*next);
        if (!next) {
            run = runs_->find_shared_run(*run + 1);
            next = run;
        }
    }
    source_.prefetch(wanted, persistent_data::block_kind::btree_node);
    prefetched_until_ = wanted.back();
}

// Whether the keys also lie in the bounds of each parent shows when the devices are sent.
result<void> dumper::send_shared_pieces() {
    auto head = runs_->find_shared_run(metadata_block(0));
    prefetched_until_ = head.value_or(metadata_block());
    for (; head; head = runs_->find_shared_run(*head + 1)) {
        UTHIN_TRY(sink_.begin_shared(fmt::format("{}", head->value())));
        std::uint64_t key_min = 0;
        for (std::optional<metadata_block> leaf = head; leaf; leaf = runs_->next_in_run(*leaf)) {
            if (!is_planned_ && *leaf == prefetched_until_) {
                prefetch_shared(*head, *leaf);
            }
            const auto [first_key, last_key] =
                UTHIN_TRY_CTX(send_leaf(*leaf, key_min, UINT64_MAX), "shared mappings");
            runs_->set_keys(*leaf, first_key, last_key);
            key_min = first_key > last_key ? key_min : last_key + (last_key != UINT64_MAX ? 1 : 0);
        }
        UTHIN_TRY(joiner_.flush());
        UTHIN_TRY(sink_.end_shared());
    }
    return {};
}

result<void> dumper::send_mappings(metadata_block root) {
    std::vector<std::uint32_t> leaves;
    UTHIN_TRY(
        list_leaves(source_, root, nullptr,
                    [&leaves](metadata_block leaf, std::uint64_t, std::uint64_t) -> result<void> {
                        leaves.push_back(static_cast<std::uint32_t>(leaf.value()));
                        return {};
                    }));
    const bool planned = announce(std::move(leaves));
    UTHIN_TRY(list_leaves(
        source_, root, [planned](metadata_block) { return !planned; },
        [this](metadata_block leaf, std::uint64_t first, std::uint64_t last) -> result<void> {
            (void)UTHIN_TRY(send_leaf(leaf, first, last));
            return {};
        }));
    return joiner_.flush();
}

result<void> dumper::send_mappings_or_references(metadata_block root) {
    UTHIN_TRY(list_leaves(
        source_, root,
        [this](metadata_block leaf) { return !is_planned_ && !runs_->is_shared(leaf); },
        [this](metadata_block leaf, std::uint64_t first, std::uint64_t last) -> result<void> {
            if (!runs_->is_shared(leaf)) {
                (void)UTHIN_TRY(send_leaf(leaf, first, last));
                return {};
            }
            UTHIN_TRY(joiner_.flush());
            const auto [first_key, last_key] = runs_->keys(leaf);
            if (first_key <= last_key && (first_key < first || last_key > last)) {
                return fail(error_code::corrupt,
                            fmt::format("mapping tree: block {} holds keys {} to {}, outside {} "
                                        "to {}",
                                        leaf.value(), first_key, last_key, first, last));
            }
            if (runs_->begins_run(leaf)) {
                UTHIN_TRY(sink_.reference(fmt::format("{}", leaf.value())));
            }
            return {};
        }));
    return joiner_.flush();
}

result<std::pair<std::uint64_t, std::uint64_t>> dumper::send_leaf(metadata_block leaf,
                                                                  std::uint64_t first,
                                                                  std::uint64_t last) {
    const auto page = UTHIN_TRY(read_mapping_leaf(source_, leaf, first, last));
    const node_view node(page.bytes());
    if (node.nr_entries() == 0) {
        return std::pair<std::uint64_t, std::uint64_t>(1, 0);
    }
    for (std::uint32_t index = 0; index < node.nr_entries();) {
        const mapping_run run = run_at(node, index);
        UTHIN_TRY(joiner_.add(run));
        index += static_cast<std::uint32_t>(run.count);
    }
    return std::pair(node.key(0), node.key(node.nr_entries() - 1));
}

}  // namespace

void prefetch_trees(block_source& source, std::span<const dump_device> devices, std::size_t at) {
    constexpr std::size_t batch = 64;
    if (at % batch != 0 || at >= devices.size()) {
        return;
    }
    std::vector<metadata_block> roots;
    for (const dump_device& device : devices.subspan(at, std::min(batch, devices.size() - at))) {
        roots.push_back(device.root);
    }
    prefetch_inner_nodes(source, roots);
}

pool_header pool_header_of(const disk_superblock& superblock) {
    return {.time = superblock.time,
            .transaction_id = superblock.trans_id,
            .flags = superblock.flags,
            .version = superblock.version,
            .data_block_size_sectors = superblock.data_block_size_sectors,
            .data_blocks = superblock.data_sm_root.nr_blocks};
}

result<std::vector<dump_device>> list_devices(metadata_view& view) {
    return or_out_of_memory([&]() -> result<std::vector<dump_device>> {
        no_sink nothing;
        const dump_options options;
        return dumper(view.source(), &view.superblock(), {}, nothing, options).list();
    });
}

result<void> dump_metadata(metadata_view& view, mapping_sink& sink, const dump_options& options) {
    return or_out_of_memory([&]() -> result<void> {
        return dumper(view.source(), &view.superblock(), {}, sink, options)
            .run(pool_header_of(view.superblock()));
    });
}

result<void> dump_devices(block_source& source, const pool_header& header,
                          std::span<const dump_device> devices, mapping_sink& sink,
                          const dump_options& options) {
    return or_out_of_memory([&]() -> result<void> {
        return dumper(source, nullptr, devices, sink, options).run(header);
    });
}

}  // namespace uthin::thin_metadata
