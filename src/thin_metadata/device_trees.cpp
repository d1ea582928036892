#include "thin_metadata/device_trees.h"

#include <cstring>
#include <optional>
#include <unordered_set>

#include <fmt/format.h>

#include "persistent_data/btree.h"

namespace uthin::thin_metadata {

using persistent_data::block_kind;
using persistent_data::block_source;
using persistent_data::btree_depth_max;
using persistent_data::node_view;

namespace {

class entry_reader {
public:
    using entry_function = std::function<void(std::uint64_t key, const std::byte* value)>;

    entry_reader(block_source& source, std::uint32_t value_size_bytes, const entry_function& each,
                 std::vector<mapping_survey::loss>& losses, std::vector<metadata_block>& nodes,
                 bool& entries_dropped)
        : source_(source),
          value_size_(value_size_bytes),
          each_(each),
          losses_(losses),
          nodes_(nodes),
          entries_dropped_(entries_dropped) {}

    // False when nothing of the node can be used.
    bool read(metadata_block where, key_span bounds, std::uint32_t depth) {
        if (where.value() >= source_.block_count() || depth > btree_depth_max ||
            !seen_.insert(where.value()).second) {
            lose(where, bounds, fmt::format("the pointer to block {} is wrong", where.value()));
            return false;
        }
        const auto page = source_.read(where, block_kind::btree_node);
        if (!page) {
            lose(where, bounds, page.error().message());
            return false;
        }
        const node_view node(page->bytes());
        if (node.value_size_bytes() != (node.is_leaf() ? value_size_ : 8)) {
            lose(where, bounds, "it belongs to another kind of tree");
            return false;
        }
        nodes_.push_back(where);
        read_entries(where, node, bounds, depth);
        return true;
    }

private:
    void read_entries(metadata_block where, const node_view& node, key_span bounds,
                      std::uint32_t depth) {
        const auto series = ascending_entries(node, [&](std::uint32_t index) {
            return node.key(index) >= bounds.first && node.key(index) <= bounds.last;
        });
        if (series.size() != node.nr_entries()) {
            entries_dropped_ = true;
            lose(where, bounds,
                 fmt::format("{} entries are out of order", node.nr_entries() - series.size()));
        }
        for (std::size_t at = 0; at < series.size(); ++at) {
            const std::uint32_t index = series[at];
            if (node.is_leaf()) {
                each_(node.key(index), node.value(index));
                continue;
            }
            const std::uint64_t last =
                at + 1 < series.size() ? node.key(series[at + 1]) - 1 : bounds.last;
            (void)read(node.child(index), {.first = node.key(index), .last = last}, depth + 1);
        }
    }
    void lose(metadata_block where, key_span bounds, std::string text) {
        losses_.push_back({.keys = bounds, .block = where, .text = std::move(text)});
    }

    block_source& source_;
    std::uint32_t value_size_;
    const entry_function& each_;
    std::vector<mapping_survey::loss>& losses_;
    std::vector<metadata_block>& nodes_;
    bool& entries_dropped_;
    std::unordered_set<std::uint64_t> seen_;
};

template <class Entry>
salvaged_entries<Entry> read_entries_of(block_source& source, metadata_block root,
                                        std::uint32_t value_size_bytes, auto make_entry) {
    salvaged_entries<Entry> found;
    const entry_reader::entry_function each = [&](std::uint64_t key, const std::byte* value) {
        found.entries.push_back(make_entry(key, value));
    };
    entry_reader reader(source, value_size_bytes, each, found.losses, found.nodes,
                        found.entries_dropped);
    found.root_lost = !reader.read(root, {.first = 0, .last = device_id_max}, 1);
    return found;
}

}  // namespace

salvaged_entries<named_root> read_top_tree(block_source& source, metadata_block root) {
    return read_entries_of<named_root>(
        source, root, sizeof(std::uint64_t), [](std::uint64_t key, const std::byte* value) {
            return named_root{.id = key, .root = metadata_block(load_le<std::uint64_t>(value))};
        });
}

salvaged_entries<named_details> read_details_tree(block_source& source, metadata_block root) {
    return read_entries_of<named_details>(
        source, root, sizeof(disk_device_details), [](std::uint64_t key, const std::byte* value) {
            named_details entry{.id = key, .details = {}};
            std::memcpy(&entry.details, value, sizeof entry.details);
            return entry;
        });
}

}  // namespace uthin::thin_metadata
