#include "thin_metadata/image_writer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "persistent_data/space_map_common.h"

namespace uthin::thin_metadata {

using persistent_data::block_bytes;
using persistent_data::block_kind;
using persistent_data::disk_index_entry;
using persistent_data::disk_space_map_root;
using persistent_data::entries_per_bitmap;
using persistent_data::node_view;

namespace {

constexpr std::size_t blocks_of_a_piece = 256;

struct node_page {
    node_page() : memory(metadata_block_size_bytes) {}
    [[nodiscard]] block_bytes bytes() noexcept {
        return block_bytes(memory.data(), metadata_block_size_bytes);
    }
    aligned_buffer memory;
};

// How many of `waiting` go into the next node, so that the last two share evenly.
std::size_t share_of(std::size_t waiting, std::size_t entries_max) {
    if (waiting >= 2 * entries_max) {
        return entries_max;
    }
    return waiting > entries_max ? (waiting + 1) / 2 : waiting;
}

result<metadata_block> write_node(image_writer& writer, bool leaf, std::uint32_t value_size,
                                  std::span<const std::uint64_t> keys, const std::byte* values) {
    node_page page;
    persistent_data::node_editor node(page.bytes());
    node.init(leaf, value_size);
    for (std::uint32_t index = 0; index < keys.size(); ++index) {
        node.set_key(index, keys[index]);
        node.set_value(index, values + std::size_t{value_size} * index);
    }
    node.set_nr_entries(static_cast<std::uint32_t>(keys.size()));
    const metadata_block where = UTHIN_TRY(writer.allocate());
    UTHIN_TRY(writer.write(where, block_kind::btree_node, page.bytes()));
    return where;
}

}  // namespace

// ---- count_array

std::uint32_t count_array::get(std::uint64_t block) const {
    const std::uint8_t* const found = small_.find(block);
    if (found == nullptr) {
        return 0;
    }
    return *found == in_large ? large_.at(block) : *found;
}

void count_array::add(std::uint64_t block) {
    std::uint8_t& small = small_[block];
    if (small == in_large) {
        ++large_.at(block);
    } else if (small + 1 == in_large) {
        large_.emplace(block, in_large);
        small = in_large;
    } else {
        ++small;
    }
}

std::uint32_t count_array::subtract(std::uint64_t block) {
    std::uint8_t& small = small_[block];
    if (small != in_large) {
        return --small;
    }
    const std::uint32_t left = --large_.at(block);
    if (left < in_large) {
        large_.erase(block);
        small = static_cast<std::uint8_t>(left);
    }
    return left;
}

std::vector<std::pair<std::uint64_t, std::uint32_t>> count_array::counts_from(
    std::uint32_t least) const {
    std::vector<std::pair<std::uint64_t, std::uint32_t>> found;
    constexpr std::uint64_t page = 1 << 16;
    for (std::uint64_t begin = 0; begin < block_count_; begin += page) {
        const std::uint8_t* const small = small_.find(begin);
        const std::uint64_t stop = small == nullptr ? 0 : std::min(page, block_count_ - begin);
        for (std::uint64_t index = 0; index < stop; ++index) {
            if (small[index] >= least) {
                found.emplace_back(begin + index, get(begin + index));
            }
        }
    }
    return found;
}

// ---- image_writer

image_writer::image_writer(block_device& device, std::uint64_t block_count, free_test is_free)
    : device_(device),
      counts_(block_count),
      is_free_(std::move(is_free)),
      writes_(device, blocks_of_a_piece * metadata_block_size_bytes) {
}

result<metadata_block> image_writer::allocate() {
    while (next_ < block_count() && !is_free_(next_)) {
        ++next_;
    }
    if (next_ >= block_count()) {
        return fail(error_code::no_metadata_space,
                    fmt::format("out of metadata space: {} blocks are not enough", block_count()));
    }
    counts_.add(next_);
    return metadata_block(next_++);
}

result<void> image_writer::write(metadata_block where, block_kind kind, block_bytes bytes) {
    persistent_data::prepare_block(kind, where, bytes);
    return writes_.write(where.value() * metadata_block_size_bytes, bytes);
}

result<void> image_writer::read_back(metadata_block where, block_bytes bytes) {
    return writes_.read(where.value() * metadata_block_size_bytes, bytes);
}

result<void> image_writer::flush() {
    UTHIN_TRY(writes_.finish());
    return device_.flush();
}

result<metadata_block> image_writer::write_overflow(const count_array& counts) {
    leaf_packer leaves(*this, sizeof(std::uint32_t));
    std::vector<packed_node> nodes;
    const auto keep = [&nodes](const packed_node& leaf) -> result<void> {
        nodes.push_back(leaf);
        return {};
    };
    constexpr std::uint32_t count_in_overflow = 3;
    for (const auto& [block, count] : counts.counts_from(count_in_overflow)) {
        std::array<std::byte, 4> value{};
        store_le(value.data(), count);
        UTHIN_TRY(leaves.push(block, value.data(), keep));
    }
    UTHIN_TRY(leaves.flush(keep));
    return write_tree_above(*this, sizeof(std::uint32_t), std::move(nodes));
}

result<disk_index_entry> image_writer::write_bitmap(const count_array& counts, std::uint64_t first,
                                                    metadata_block where) {
    node_page page;
    const auto stop = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(entries_per_bitmap, counts.block_count() - first));
    std::uint32_t used = 0;
    std::uint32_t first_free = stop;
    for (std::uint32_t index = 0; index < stop; ++index) {
        const std::uint32_t count = counts.get(first + index);
        if (count != 0) {
            ++used;
            persistent_data::set_bitmap_count(page.bytes().data(), index, count);
        } else {
            first_free = std::min(first_free, index);
        }
    }
    UTHIN_TRY(write(where, block_kind::bitmap, page.bytes()));
    return disk_index_entry{.blocknr = where.value(),
                            .nr_free = entries_per_bitmap - used,
                            .none_free_before = first_free};
}

result<disk_space_map_root> image_writer::write_data_space_map(const count_array& data) {
    const std::uint64_t blocks = data.block_count();
    std::uint64_t used = 0;
    leaf_packer index(*this, sizeof(disk_index_entry));
    std::vector<packed_node> nodes;
    const auto keep = [&nodes](const packed_node& leaf) -> result<void> {
        nodes.push_back(leaf);
        return {};
    };
    for (std::uint64_t bitmap = 0; bitmap < persistent_data::bitmaps_for(blocks); ++bitmap) {
        const metadata_block where = UTHIN_TRY(allocate());
        const auto entry = UTHIN_TRY(write_bitmap(data, bitmap * entries_per_bitmap, where));
        used += entries_per_bitmap - entry.nr_free;
        std::array<std::byte, sizeof entry> value{};
        std::memcpy(value.data(), &entry, sizeof entry);
        UTHIN_TRY(index.push(bitmap, value.data(), keep));
    }
    UTHIN_TRY(index.flush(keep));
    const metadata_block overflow = UTHIN_TRY(write_overflow(data));
    const metadata_block root =
        UTHIN_TRY(write_tree_above(*this, sizeof(disk_index_entry), std::move(nodes)));
    return disk_space_map_root{.nr_blocks = blocks,
                               .nr_allocated = used,
                               .bitmap_root = root.value(),
                               .ref_count_root = overflow.value()};
}

// The bitmaps count themselves: every block is allocated before the first bitmap is filled, the
// index block as the last of the image (install_image relies on it).
result<disk_space_map_root> image_writer::write_metadata_space_map() {
    const metadata_block overflow = UTHIN_TRY(write_overflow(counts_));
    std::vector<metadata_block> bitmaps;
    for (std::uint64_t left = persistent_data::bitmaps_for(block_count()); left != 0; --left) {
        bitmaps.push_back(UTHIN_TRY(allocate()));
    }
    const metadata_block index_block = UTHIN_TRY(allocate());
    node_page index;
    std::uint64_t used = 0;
    for (std::size_t bitmap = 0; bitmap < bitmaps.size(); ++bitmap) {
        const auto entry =
            UTHIN_TRY(write_bitmap(counts_, bitmap * entries_per_bitmap, bitmaps[bitmap]));
        used += entries_per_bitmap - entry.nr_free;
        std::memcpy(
            index.bytes().data() + persistent_data::bitmap_header_bytes + bitmap * sizeof entry,
            &entry, sizeof entry);
    }
    UTHIN_TRY(write(index_block, block_kind::index, index.bytes()));
    return disk_space_map_root{.nr_blocks = block_count(),
                               .nr_allocated = used,
                               .bitmap_root = index_block.value(),
                               .ref_count_root = overflow.value()};
}

// ---- leaf_packer

leaf_packer::leaf_packer(image_writer& writer, std::uint32_t value_size_bytes)
    : writer_(writer),
      value_size_(value_size_bytes),
      entries_max_(persistent_data::max_entries_for(value_size_bytes)) {
}

result<void> leaf_packer::push(std::uint64_t key, const std::byte* value,
                               const node_function& written) {
    if (keys_.size() >= 2 * std::size_t{entries_max_}) {
        UTHIN_TRY(write_leaf(entries_max_, written));
    }
    keys_.push_back(key);
    values_.insert(values_.end(), value, value + value_size_);
    return {};
}

void leaf_packer::push_front(const node_view& node) {
    std::vector<std::uint64_t> keys;
    std::vector<std::byte> values;
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        keys.push_back(node.key(index));
        values.insert(values.end(), node.value(index), node.value(index) + value_size_);
    }
    keys_.insert(keys_.begin(), keys.begin(), keys.end());
    values_.insert(values_.begin(), values.begin(), values.end());
}

result<void> leaf_packer::flush(const node_function& written) {
    while (!keys_.empty()) {
        UTHIN_TRY(write_leaf(share_of(keys_.size(), entries_max_), written));
    }
    return {};
}

result<void> leaf_packer::write_leaf(std::size_t count, const node_function& written) {
    const packed_node leaf{
        .first_key = keys_.front(),
        .where = UTHIN_TRY(
            write_node(writer_, true, value_size_, std::span(keys_).first(count), values_.data())),
        .entries = static_cast<std::uint32_t>(count)};
    keys_.erase(keys_.begin(), keys_.begin() + static_cast<std::ptrdiff_t>(count));
    values_.erase(values_.begin(),
                  values_.begin() + static_cast<std::ptrdiff_t>(count * value_size_));
    return written(leaf);
}

result<metadata_block> write_tree_above(image_writer& writer, std::uint32_t value_size_bytes,
                                        std::vector<packed_node> nodes) {
    if (nodes.empty()) {
        return write_node(writer, true, value_size_bytes, {}, nullptr);
    }
    constexpr std::uint32_t entries_max = persistent_data::max_entries_for(8);
    while (nodes.size() > 1) {
        std::vector<packed_node> above;
        for (std::size_t at = 0; at < nodes.size();) {
            const std::size_t count = share_of(nodes.size() - at, entries_max);
            std::vector<std::uint64_t> keys;
            std::vector<std::byte> values(8 * count);
            for (std::size_t index = 0; index < count; ++index) {
                keys.push_back(nodes[at + index].first_key);
                store_le(values.data() + 8 * index, nodes[at + index].where.value());
            }
            above.push_back({.first_key = keys.front(),
                             .where = UTHIN_TRY(write_node(writer, false, 8, keys, values.data())),
                             .entries = static_cast<std::uint32_t>(count)});
            at += count;
        }
        nodes = std::move(above);
    }
    return nodes.front().where;
}

}  // namespace uthin::thin_metadata
