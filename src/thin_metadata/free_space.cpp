#include "thin_metadata/free_space.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "persistent_data/btree.h"
#include "persistent_data/space_map.h"

namespace uthin::thin_metadata {

using persistent_data::bitmap_count;
using persistent_data::block_kind;
using persistent_data::disk_index_entry;
using persistent_data::entries_per_bitmap;

namespace {

class run_collector {
public:
    explicit run_collector(const data_range_function& each) : each_(each) {}

    result<void> used(std::uint64_t block) {
        if (!is_open_) {
            return {};
        }
        is_open_ = false;
        return each_({data_block(begin_), data_block(block)});
    }
    void free(std::uint64_t block) noexcept {
        begin_ = is_open_ ? begin_ : block;
        is_open_ = true;
    }

private:
    const data_range_function& each_;
    bool is_open_ = false;
    std::uint64_t begin_ = 0;
};

result<void> read_bitmap(metadata_view& view, const disk_index_entry& entry, std::uint64_t first,
                         std::uint64_t nr_blocks, run_collector& runs) {
    const metadata_block where(entry.blocknr);
    if (where.value() >= view.source().block_count()) {
        return fail(error_code::corrupt,
                    fmt::format("data space map: a bitmap is said to be at block {}, but the "
                                "device has {}",
                                where.value(), view.source().block_count()));
    }
    const auto page =
        UTHIN_TRY_CTX(view.source().read(where, block_kind::bitmap), "data space map");
    const auto count =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(entries_per_bitmap, nr_blocks - first));
    for (std::uint32_t index = 0; index < count; ++index) {
        if (bitmap_count(page.bytes().data(), index) == 0) {
            runs.free(first + index);
        } else {
            UTHIN_TRY(runs.used(first + index));
        }
    }
    return {};
}

}  // namespace

result<void> list_free_data(metadata_view& view, const data_range_function& each) {
    if (!view.has_space_maps()) {
        return fail(error_code::unsupported, "a metadata snapshot has no data space map");
    }
    const auto& root = view.superblock().data_sm_root;
    const std::uint64_t nr_blocks = root.nr_blocks;
    persistent_data::btree_cursor index(view.source(), metadata_block(root.bitmap_root),
                                        sizeof(disk_index_entry));
    UTHIN_TRY_CTX(index.seek(0), "data space map");
    run_collector runs(each);
    std::uint64_t first = 0;
    for (; first < nr_blocks; first += entries_per_bitmap) {
        if (index.at_end() || index.key() != first / entries_per_bitmap) {
            return fail(error_code::corrupt, fmt::format("data space map: bitmap {} is missing",
                                                         first / entries_per_bitmap));
        }
        disk_index_entry entry{};
        std::memcpy(&entry, index.value(), sizeof entry);
        UTHIN_TRY(read_bitmap(view, entry, first, nr_blocks, runs));
        UTHIN_TRY_CTX(index.next(), "data space map");
    }
    return runs.used(nr_blocks);
}

}  // namespace uthin::thin_metadata
