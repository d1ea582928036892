#include "support/stream_watch.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "persistent_data/space_map.h"
#include "thin_metadata/metadata_view.h"

namespace uthin::test {

using io::operation_kind;
using persistent_data::block_kind;

namespace {

constexpr std::size_t complaints_max = 20;
constexpr std::size_t roots_begin = offsetof(thin_metadata::disk_superblock, time);

// Blocks with a count above 0 in the metadata space map of the committed state.
result<std::vector<bool>> used_blocks(block_device& device) {
    auto view = thin_metadata::open_offline(device, {});
    if (!view) {
        return std::unexpected(view.error());
    }
    const auto& root = (*view)->superblock().metadata_sm_root;
    std::vector<bool> used(root.nr_blocks);
    auto index = (*view)->source().read(metadata_block(root.bitmap_root), block_kind::index);
    if (!index) {
        return std::unexpected(index.error());
    }
    for (std::uint64_t begin = 0; begin < used.size();
         begin += persistent_data::entries_per_bitmap) {
        // Index entries begin behind the header of 16 bytes.
        persistent_data::disk_index_entry entry;
        std::memcpy(
            &entry,
            index->bytes().data() + 16 + begin / persistent_data::entries_per_bitmap * sizeof entry,
            sizeof entry);
        auto bitmap = (*view)->source().read(metadata_block(entry.blocknr), block_kind::bitmap);
        if (!bitmap) {
            return std::unexpected(bitmap.error());
        }
        const std::uint64_t end =
            std::min<std::uint64_t>(used.size(), begin + persistent_data::entries_per_bitmap);
        for (std::uint64_t block = begin; block < end; ++block) {
            used[block] =
                persistent_data::bitmap_count(bitmap->bytes().data(),
                                              static_cast<std::uint32_t>(block - begin)) != 0;
        }
    }
    return used;
}

}  // namespace

void stream_watch::complain(std::string text) {
    if (complaints_.size() < complaints_max) {
        complaints_.push_back(std::move(text));
    }
}

void stream_watch::committed(block_device& metadata) {
    auto used = used_blocks(metadata);
    if (!used) {
        complain("the committed state cannot be read: " + used.error().to_string());
        return;
    }
    used_ = std::move(*used);
}

void stream_watch::observe(const io::observed_operation& operation) {
    const bool on_metadata = operation.device_index == metadata_index_;
    if (!on_metadata && operation.device_index != data_index_) {
        return;
    }
    switch (operation.kind) {
        case operation_kind::read: return;
        case operation_kind::flush:
            (on_metadata ? metadata_unflushed_ : data_unflushed_) = 0;
            if (on_metadata) {
                superblock_unflushed_ = false;
            }
            return;
        case operation_kind::resize: metadata_unflushed_ += on_metadata ? 1U : 0U; return;
        case operation_kind::write:
        case operation_kind::discard:
        case operation_kind::write_zeroes: break;
    }
    if (superblock_unflushed_) {
        complain(fmt::format("O4: operation {}: {} of {} before the superblock is flushed",
                             operation.sequence, io::to_string(operation.kind),
                             operation.device_name));
    }
    if (on_metadata) {
        on_write(operation);
    } else if (!operation.fua) {
        ++data_unflushed_;
    }
}

void stream_watch::on_write(const io::observed_operation& operation) {
    const std::uint64_t begin = operation.offset_bytes / metadata_block_size_bytes;
    const std::uint64_t end =
        (operation.offset_bytes + operation.length_bytes + metadata_block_size_bytes - 1) /
        metadata_block_size_bytes;
    if (begin == 0) {
        on_superblock(operation);
    } else {
        ++metadata_unflushed_;
    }
    for (std::uint64_t block = std::max<std::uint64_t>(begin, 1);
         block < std::min<std::uint64_t>(end, used_.size()); ++block) {
        if (used_[block]) {
            complain(fmt::format("O1: operation {} overwrites block {} of the last commit",
                                 operation.sequence, block));
        }
    }
}

void stream_watch::on_superblock(const io::observed_operation& operation) {
    if (operation.length_bytes != metadata_block_size_bytes) {
        complain(fmt::format("O2: operation {} writes {} bytes with the superblock",
                             operation.sequence, operation.length_bytes));
        return;
    }
    const auto tail = operation.data.subspan(sector_size_bytes);
    if (!std::all_of(tail.begin(), tail.end(), [](std::byte b) { return b == std::byte{0}; })) {
        complain(fmt::format("O5: operation {} writes beyond the superblock's first sector",
                             operation.sequence));
    }
    const auto roots = operation.data.subspan(roots_begin, sector_size_bytes - roots_begin);
    // needs_check is written alone: it points to nothing new.
    const bool new_roots = !std::equal(roots.begin(), roots.end(), roots_.begin(), roots_.end());
    if (new_roots && (metadata_unflushed_ != 0 || data_unflushed_ != 0)) {
        complain(
            fmt::format("O2: operation {} writes the superblock with {} metadata and {} data "
                        "writes not flushed",
                        operation.sequence, metadata_unflushed_, data_unflushed_));
    }
    roots_.assign(roots.begin(), roots.end());
    superblock_unflushed_ = true;
}

}  // namespace uthin::test
