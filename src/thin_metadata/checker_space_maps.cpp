#include <algorithm>
#include <array>
#include <bit>

#include <fmt/format.h>

#include "thin_metadata/checker_state.h"

namespace uthin::thin_metadata {

using persistent_data::bitmap_count;
using persistent_data::bitmap_header_bytes;
using persistent_data::block_kind;
using persistent_data::decode_count;
using persistent_data::disk_index_entry;
using persistent_data::entries_per_bitmap;
using persistent_data::metadata_index_entries_max;

namespace {

constexpr std::uint32_t field_bytes = entries_per_bitmap / 4;
constexpr std::uint32_t fields_per_word = 32;
constexpr std::uint32_t words_per_bitmap = entries_per_bitmap / fields_per_word;
static_assert(words_per_bitmap * fields_per_word == entries_per_bitmap);
constexpr std::uint64_t low_bits = 0x5555555555555555;

// One bit for each field that is not 0.
constexpr std::uint64_t used_fields(std::uint64_t word) {
    return (word | word >> 1) & low_bits;
}
// One bit for each field that is 3: the count is in the overflow tree.
constexpr std::uint64_t overflowed_fields(std::uint64_t word) {
    return word & word >> 1 & low_bits;
}
std::uint32_t field_at(const std::byte* fields, std::uint32_t index) {
    return decode_count(static_cast<std::uint32_t>(fields[index / 4]) >> 2 * (index % 4) & 3);
}
// decode_count is its own inverse.
void set_field(std::byte* fields, std::uint32_t index, std::uint32_t count) {
    const std::uint32_t shift = 2 * (index % 4);
    const auto raw = static_cast<std::uint32_t>(fields[index / 4]) & ~(3U << shift);
    fields[index / 4] = static_cast<std::byte>(raw | decode_count(count) << shift);
}

// The values [index, index + count) are those of one run.
bool is_run(const persistent_data::node_view& leaf, std::uint32_t index, std::uint32_t count) {
    const std::uint64_t first = leaf.value_u64(index);
    const std::uint64_t step = pack_mapping(data_block(1), 0);
    std::uint64_t differences = 0;
    for (std::uint32_t at = 0; at < count; ++at) {
        differences |= leaf.value_u64(index + at) ^ (first + at * step);
    }
    return differences == 0;
}

std::uint64_t bitmaps_for(std::uint64_t nr_blocks) {
    return nr_blocks / entries_per_bitmap + (nr_blocks % entries_per_bitmap != 0 ? 1 : 0);
}

std::string_view name_of(block_space space) {
    return space == block_space::data ? "data" : "metadata";
}

}  // namespace

const index_entry* space_map_state::find_entry(std::uint64_t index) const noexcept {
    if (index < entries.size() && entries[index].index == index) {
        return &entries[index];
    }
    const auto at = std::lower_bound(
        entries.begin(), entries.end(), index,
        [](const index_entry& entry, std::uint64_t wanted) { return entry.index < wanted; });
    return at != entries.end() && at->index == index ? &*at : nullptr;
}

// ---- counts of data blocks
// ---------------------------------------------------------------------

void data_counts::cover(const space_map_state& map) {
    map_ = &map;
    std::uint64_t next = 0;
    const bool is_whole = map.entries.size() == bitmaps_for(map.nr_blocks) &&
                          std::ranges::all_of(map.entries, [&next](const index_entry& entry) {
                              return entry.usable && entry.index == next++;
                          });
    if (is_whole) {
        dense_blocks_ = map.nr_blocks;
        dense_.resize(map.entries.size() * field_bytes);
        dense_overflow_ = paged_array<std::uint32_t, 1024>(map.nr_blocks);
    } else {
        pages_.resize(map.entries.size());
    }
}

void data_counts::count_overflow(std::uint64_t block, bool is_first) {
    std::uint32_t& count = dense_blocks_ != 0 ? dense_overflow_[block] : overflow_[block];
    count = is_first ? 3 : count + 1;
}

// True: it is the first reference.
inline bool data_counts::add_dense(std::byte& place, std::uint64_t block) {
    const auto shift = static_cast<std::uint32_t>(2 * (block % 4));
    const std::uint32_t fields = static_cast<std::uint32_t>(place);
    const std::uint32_t field = fields >> shift & 3;
    // Encoded counts go 0 -> 2 (one) -> 1 (two) -> 3 (more, counted elsewhere).
    constexpr std::uint32_t successors = 0b11'01'11'10;
    const std::uint32_t change = field ^ (successors >> 2 * field & 3);
    place = static_cast<std::byte>(fields ^ change << shift);
    if ((field & 1) != 0) {
        std::uint32_t& count = dense_overflow_[block];
        count = field == 1 ? 3 : count + 1;
    }
    return field == 0;
}

void data_counts::add_leaf(const persistent_data::node_view& leaf, data_block highest) {
    const std::uint32_t entries = leaf.nr_entries();
    if (highest.value() >= dense_blocks_) {
        for (std::uint32_t index = 0; index < entries; ++index) {
            add(mapping_block(leaf.value_u64(index)));
        }
        return;
    }
    const std::uint64_t next_mapping = pack_mapping(data_block(1), 0);
    std::byte* const fields = dense_.data();
    std::uint64_t used = 0;
    std::uint32_t index = 0;
    while (index < entries) {
        const std::uint64_t packed = leaf.value_u64(index);
        const std::uint64_t block = mapping_block(packed).value();
        // A whole word of a run that nobody else has: common, and the only way to be fast.
        if (block % fields_per_word == 0 && index + fields_per_word <= entries &&
            leaf.value_u64(index + fields_per_word - 1) ==
                packed + (fields_per_word - 1) * next_mapping &&
            is_run(leaf, index, fields_per_word) && take_blank_word(fields + block / 4)) {
            used += fields_per_word;
            index += fields_per_word;
            continue;
        }
        // Fields of scattered blocks are in no near cache.
        constexpr std::uint32_t ahead = 16;
        if (index + ahead < entries) {
            __builtin_prefetch(fields + mapping_block(leaf.value_u64(index + ahead)).value() / 4,
                               1);
        }
        used += add_dense(fields[block / 4], block) ? 1U : 0U;
        ++index;
    }
    used_ += used;
}

bool data_counts::take_blank_word(std::byte* fields) {
    constexpr std::uint64_t all_once = 0xAAAA'AAAA'AAAA'AAAA;
    if (load_le<std::uint64_t>(fields) != 0) {
        return false;
    }
    store_le(fields, all_once);
    return true;
}

void data_counts::add(data_block block) {
    if (map_ == nullptr) {
        return;
    }
    const index_entry* entry = map_->find_entry(block.value() / entries_per_bitmap);
    // Without a bitmap of its own there is nothing to compare with, and no bound for the memory.
    if (entry == nullptr || !entry->usable) {
        return;
    }
    const auto at = static_cast<std::size_t>(entry - map_->entries.data());
    if (dense_blocks_ == 0 && pages_[at] == nullptr) {
        pages_[at] = std::make_unique<std::byte[]>(field_bytes);
    }
    std::byte* const page = dense_blocks_ != 0 ? &dense_[at * field_bytes] : pages_[at].get();
    const auto index = static_cast<std::uint32_t>(block.value() % entries_per_bitmap);
    const std::uint32_t count = field_at(page, index);
    if (count >= 2) {
        count_overflow(block.value(), count == 2);
    }
    used_ += count == 0 ? 1 : 0;
    set_field(page, index, std::min(count + 1, 3U));
}

const std::byte* data_counts::fields(const index_entry& of) const noexcept {
    const auto at = static_cast<std::size_t>(&of - map_->entries.data());
    return dense_blocks_ != 0 ? dense_.data() + at * field_bytes : pages_[at].get();
}

std::uint32_t data_counts::exact(std::uint64_t block) const {
    if (dense_blocks_ != 0) {
        const std::uint32_t* const count = dense_overflow_.find(block);
        return count != nullptr ? std::max(*count, 3U) : 3;
    }
    const auto at = overflow_.find(block);
    return at != overflow_.end() ? at->second : 3;
}

// ---- reading
// -----------------------------------------------------------------------------------

result<void> checker::read_space_maps() {
    const disk_superblock& superblock = view_.superblock();
    metadata_map_.space = block_space::metadata;
    metadata_map_.nr_blocks = superblock.metadata_sm_root.nr_blocks;
    metadata_map_.nr_allocated = superblock.metadata_sm_root.nr_allocated;
    data_map_.space = block_space::data;
    data_map_.nr_blocks = superblock.data_sm_root.nr_blocks;
    data_map_.nr_allocated = superblock.data_sm_root.nr_allocated;

    UTHIN_TRY(read_metadata_index(metadata_block(superblock.metadata_sm_root.bitmap_root)));
    const metadata_block index_root(superblock.data_sm_root.bitmap_root);
    UTHIN_TRY(visit_root(
        {.use = block_use::data_index_node, .value_size_bytes = sizeof(disk_index_entry)},
        index_root));
    const auto is_whole = [&](metadata_block root, block_use use) {
        const block_info* info = blocks_.find(root.value());
        return info != nullptr && info->use == use && !info->has_damage;
    };
    data_map_.index_complete = is_whole(index_root, block_use::data_index_node);
    finish_index(metadata_map_);
    finish_index(data_map_);
    data_counts_.cover(data_map_);

    const auto read_overflow = [&](space_map_state& map, block_use use,
                                   std::uint64_t root) -> result<void> {
        UTHIN_TRY(visit_root({.use = use, .value_size_bytes = 4}, metadata_block(root)));
        map.overflow_complete = is_whole(metadata_block(root), use);
        std::sort(map.overflow.begin(), map.overflow.end());
        return {};
    };
    UTHIN_TRY(read_overflow(metadata_map_, block_use::metadata_overflow_node,
                            superblock.metadata_sm_root.ref_count_root));
    return read_overflow(data_map_, block_use::data_overflow_node,
                         superblock.data_sm_root.ref_count_root);
}

result<void> checker::read_metadata_index(metadata_block where) {
    metadata_map_.index_complete = false;
    if (!claim(where, block_use::metadata_index)) {
        metadata_counts_incomplete_ = true;
        return {};
    }
    const auto page = UTHIN_TRY(read(where, block_kind::index, [] {
        return std::string("lost: all counts of metadata blocks");
    }));
    if (!page) {
        metadata_counts_incomplete_ = true;
        return {};
    }
    const std::uint64_t wanted = bitmaps_for(metadata_map_.nr_blocks);
    if (wanted > metadata_index_entries_max) {
        add_superblock(check_severity::fatal, check_code::bad_space_map_size,
                       fmt::format("the metadata space map has {} blocks, the format ends at {}",
                                   metadata_map_.nr_blocks, metadata_blocks_max));
    }
    metadata_map_.index_complete = wanted <= metadata_index_entries_max;
    std::uint32_t unused = 0;
    for (std::uint32_t index = 0; index < metadata_index_entries_max; ++index) {
        const auto entry =
            page->bytes().subspan(16 + index * sizeof(disk_index_entry), sizeof(disk_index_entry));
        if (index < wanted) {
            add_index_entry(metadata_map_, index, entry.data());
        } else if (std::any_of(entry.begin(), entry.end(),
                               [](std::byte byte) { return byte != std::byte{}; })) {
            ++unused;
        }
    }
    if (unused != 0) {
        add_block(check_severity::cosmetic, check_code::unused_index_entry, where,
                  fmt::format("metadata space map: {} index entries behind the last bitmap are "
                              "not zero",
                              unused));
    }
    return {};
}

void checker::add_index_entry(space_map_state& map, std::uint64_t index, const std::byte* value) {
    disk_index_entry entry;
    std::memcpy(&entry, value, sizeof entry);
    const metadata_block bitmap(entry.blocknr);
    const bool usable = claim(bitmap, map.space == block_space::data ? block_use::data_bitmap
                                                                     : block_use::metadata_bitmap);
    metadata_counts_incomplete_ = metadata_counts_incomplete_ || !usable;
    map.entries.push_back({.index = index,
                           .bitmap = bitmap,
                           .nr_free = entry.nr_free,
                           .none_free_before = entry.none_free_before,
                           .usable = usable});
}

// Puts the entries of a (perhaps damaged) index in order and finds the gaps.
void checker::finish_index(space_map_state& map) {
    const auto by_index = [](const index_entry& a, const index_entry& b) {
        return a.index < b.index;
    };
    std::stable_sort(map.entries.begin(), map.entries.end(), by_index);
    const auto same = [](const index_entry& a, const index_entry& b) { return a.index == b.index; };
    map.entries.erase(std::unique(map.entries.begin(), map.entries.end(), same), map.entries.end());
    const std::uint64_t wanted = bitmaps_for(map.nr_blocks);
    std::uint64_t next = 0;
    // What a damaged index lacks has been reported as its loss.
    const bool was_complete = map.index_complete;
    const auto report_gap = [&](std::uint64_t end) {
        if (next < end && was_complete) {
            map.index_complete = false;
            metadata_counts_incomplete_ = true;
            add({.severity = check_severity::fatal,
                 .code = check_code::missing_index_entry,
                 .count = end - next,
                 .text = fmt::format("{} space map: bitmaps {} to {} are missing from the index",
                                     name_of(map.space), next, end - 1)});
        }
    };
    for (const index_entry& entry : map.entries) {
        if (entry.index >= wanted) {
            add_block(check_severity::fatal, check_code::extra_index_entry, entry.bitmap,
                      fmt::format("{} space map: bitmap {} lies behind the last one",
                                  name_of(map.space), entry.index));
            continue;
        }
        report_gap(entry.index);
        next = entry.index + 1;
    }
    report_gap(wanted);
}

result<std::optional<std::uint32_t>> checker::stored_metadata_count(metadata_block where) {
    const index_entry* entry = metadata_map_.find_entry(where.value() / entries_per_bitmap);
    if (entry == nullptr || !entry->usable || where.value() >= metadata_map_.nr_blocks) {
        return std::nullopt;
    }
    const auto page = source_.read(entry->bitmap, block_kind::bitmap);
    if (!page) {
        // The comparison reads it again and reports it.
        return std::nullopt;
    }
    return bitmap_count(page->bytes().data(),
                        static_cast<std::uint32_t>(where.value() % entries_per_bitmap));
}

// ---- comparing
// ---------------------------------------------------------------------------------

// One space map against the counts found in the trees.
class space_map_comparison {
public:
    space_map_comparison(checker& check, const space_map_state& map, bool trees_complete)
        : check_(check), map_(map), trees_complete_(trees_complete) {}

    [[nodiscard]] result<void> run();
    [[nodiscard]] bool is_complete() const noexcept {
        return trees_complete_ && map_.index_complete && map_.overflow_complete &&
               all_bitmaps_read_;
    }

private:
    // Neighbouring blocks with the same difference are one finding.
    struct difference {
        std::uint64_t begin = 0;
        std::uint64_t count = 0;
        std::uint32_t stored = 0;
        std::uint32_t expected = 0;
    };

    [[nodiscard]] const std::byte* expected_fields(const index_entry& entry);
    [[nodiscard]] std::uint32_t exact_expected(std::uint64_t block) const;
    void announce_bitmaps();
    [[nodiscard]] result<void> compare_bitmap(const index_entry& entry);
    void compare_word(std::uint64_t first_block, std::uint32_t fields, const std::byte* stored,
                      const std::byte* expected);
    void compare_block(std::uint64_t block, std::uint32_t stored, std::uint32_t expected);
    [[nodiscard]] std::optional<std::uint32_t> stored_count(std::uint64_t block,
                                                            std::uint32_t field);
    void note(std::uint64_t block, std::uint32_t stored, std::uint32_t expected);
    void flush_difference();
    void skip_overflow_until(std::uint64_t block, bool are_stale);
    void check_beyond_end(const index_entry& entry, std::uint32_t valid, const std::byte* stored);
    void check_hints(const index_entry& entry, std::uint32_t valid, std::uint32_t used,
                     std::uint32_t first_free);
    void add(check_severity severity, check_code code, std::uint64_t block, std::uint64_t count,
             std::string text);

    checker& check_;
    const space_map_state& map_;
    bool trees_complete_;
    bool all_bitmaps_read_ = true;
    std::uint64_t used_ = 0;
    std::size_t overflow_at_ = 0;
    difference difference_;
    std::array<std::byte, field_bytes> scratch_;
};

void space_map_comparison::add(check_severity severity, check_code code, std::uint64_t block,
                               std::uint64_t count, std::string text) {
    check_.add({.severity = severity,
                .code = code,
                .space = map_.space,
                .block = block,
                .count = count,
                .text = std::move(text)});
}

// One by one they would cost more than all leaves.
void space_map_comparison::announce_bitmaps() {
    std::vector<std::uint32_t> order;
    for (const index_entry& entry : map_.entries) {
        if (entry.usable && entry.index < bitmaps_for(map_.nr_blocks)) {
            order.push_back(static_cast<std::uint32_t>(entry.bitmap.value()));
        }
    }
    if (order.size() > 1) {
        check_.source_.plan(std::move(order), block_kind::bitmap);
    }
}

result<void> space_map_comparison::run() {
    announce_bitmaps();
    for (std::size_t at = 0; at < map_.entries.size(); ++at) {
        if (map_.entries[at].index >= bitmaps_for(map_.nr_blocks)) {
            break;
        }
        UTHIN_TRY(compare_bitmap(map_.entries[at]));
    }
    flush_difference();
    // Entries of bitmaps that are missing say nothing.
    skip_overflow_until(UINT64_MAX, map_.index_complete);
    if (all_bitmaps_read_ && map_.index_complete && used_ != map_.nr_allocated) {
        add(check_severity::cosmetic, check_code::wrong_nr_allocated, 0, 1,
            fmt::format("{} space map: the superblock says {} blocks allocated, the bitmaps say "
                        "{}",
                        name_of(map_.space), map_.nr_allocated, used_));
    }
    return {};
}

const std::byte* space_map_comparison::expected_fields(const index_entry& entry) {
    if (map_.space == block_space::data) {
        const std::byte* fields = check_.data_counts_.fields(entry);
        if (fields != nullptr) {
            return fields;
        }
        scratch_.fill(std::byte{});
        return scratch_.data();
    }
    scratch_.fill(std::byte{});
    for (std::uint32_t index = 0; index < entries_per_bitmap; ++index) {
        const block_info* info = check_.blocks_.find(entry.index * entries_per_bitmap + index);
        if (info != nullptr && info->references != 0) {
            set_field(scratch_.data(), index, std::min(info->references, 3U));
        }
    }
    return scratch_.data();
}

std::uint32_t space_map_comparison::exact_expected(std::uint64_t block) const {
    if (map_.space == block_space::data) {
        return check_.data_counts_.exact(block);
    }
    const block_info* info = check_.blocks_.find(block);
    return info != nullptr ? info->references : 0;
}

result<void> space_map_comparison::compare_bitmap(const index_entry& entry) {
    const std::uint64_t first_block = entry.index * entries_per_bitmap;
    const auto valid = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(entries_per_bitmap, map_.nr_blocks - first_block));
    // Keys in a gap before this bitmap are of no known field.
    skip_overflow_until(first_block, map_.index_complete);
    std::optional<persistent_data::block_ref> page;
    if (entry.usable) {
        page = UTHIN_TRY(check_.read(entry.bitmap, block_kind::bitmap, [&] {
            return fmt::format("lost: counts of {} blocks {} to {}", name_of(map_.space),
                               first_block, first_block + valid - 1);
        }));
    }
    if (!page) {
        all_bitmaps_read_ = false;
        skip_overflow_until(first_block + valid, false);
        return {};
    }
    const std::byte* stored = page->bytes().data() + bitmap_header_bytes;
    const std::byte* expected = expected_fields(entry);
    std::uint32_t used = 0;
    std::uint32_t first_free = valid;
    for (std::uint32_t at = 0; at < valid; at += fields_per_word) {
        const std::uint32_t fields = std::min(fields_per_word, valid - at);
        std::uint64_t word = load_le<std::uint64_t>(stored + at / 4);
        std::uint64_t wanted = load_le<std::uint64_t>(expected + at / 4);
        if (fields < fields_per_word) {
            const std::uint64_t mask = (1ULL << 2 * fields) - 1;
            word &= mask;
            wanted &= mask;
        }
        const std::uint64_t in_use = used_fields(word);
        used += static_cast<std::uint32_t>(std::popcount(in_use));
        const auto free_at =
            static_cast<std::uint32_t>(std::countr_one(in_use | low_bits << 1)) / 2;
        if (first_free == valid && free_at < fields) {
            first_free = at + free_at;
        }
        const bool has_overflow_entry =
            overflow_at_ < map_.overflow.size() &&
            map_.overflow[overflow_at_].first < first_block + at + fields;
        if (word != wanted || overflowed_fields(word) != 0 || has_overflow_entry) {
            compare_word(first_block + at, fields, stored + at / 4, expected + at / 4);
        }
    }
    used_ += used;
    check_beyond_end(entry, valid, stored);
    check_hints(entry, valid, used, first_free);
    return {};
}

void space_map_comparison::compare_word(std::uint64_t first_block, std::uint32_t fields,
                                        const std::byte* stored, const std::byte* expected) {
    for (std::uint32_t index = 0; index < fields; ++index) {
        compare_block(first_block + index, field_at(stored, index), field_at(expected, index));
    }
}

void space_map_comparison::compare_block(std::uint64_t block, std::uint32_t stored,
                                         std::uint32_t expected) {
    const std::optional<std::uint32_t> exact_stored = stored_count(block, stored);
    if (!exact_stored) {
        return;
    }
    const std::uint32_t exact = expected == 3 ? exact_expected(block) : expected;
    if (*exact_stored != exact && (trees_complete_ || *exact_stored < exact)) {
        note(block, *exact_stored, exact);
    }
}

// Absent: it cannot be known.
std::optional<std::uint32_t> space_map_comparison::stored_count(std::uint64_t block,
                                                                std::uint32_t field) {
    skip_overflow_until(block, true);
    const bool has_entry =
        overflow_at_ < map_.overflow.size() && map_.overflow[overflow_at_].first == block;
    if (field != 3) {
        skip_overflow_until(block + 1, true);
        return field;
    }
    if (!has_entry) {
        if (map_.overflow_complete) {
            add(check_severity::fatal, check_code::missing_overflow_entry, block, 1,
                fmt::format("{} block {}: marked as counted above 2, but the overflow tree lacks "
                            "it",
                            name_of(map_.space), block));
        }
        return std::nullopt;
    }
    const std::uint32_t count = map_.overflow[overflow_at_].second;
    ++overflow_at_;
    skip_overflow_until(block + 1, true);
    if (count < 3) {
        add(check_severity::cosmetic, check_code::small_overflow_entry, block, 1,
            fmt::format("{} block {}: the overflow tree says {}, below 3", name_of(map_.space),
                        block, count));
    }
    return count;
}

void space_map_comparison::skip_overflow_until(std::uint64_t block, bool are_stale) {
    while (overflow_at_ < map_.overflow.size() && map_.overflow[overflow_at_].first < block) {
        const auto& [key, count] = map_.overflow[overflow_at_++];
        if (are_stale) {
            add(check_severity::cosmetic, check_code::stale_overflow_entry, key, 1,
                fmt::format("{} block {}: a left-over entry of {} in the overflow tree",
                            name_of(map_.space), key, count));
        }
    }
}

void space_map_comparison::note(std::uint64_t block, std::uint32_t stored, std::uint32_t expected) {
    difference& open = difference_;
    if (open.count != 0 && open.begin + open.count == block && open.stored == stored &&
        open.expected == expected) {
        ++open.count;
        return;
    }
    flush_difference();
    open = {.begin = block, .count = 1, .stored = stored, .expected = expected};
}

void space_map_comparison::flush_difference() {
    const difference open = std::exchange(difference_, {});
    if (open.count == 0) {
        return;
    }
    const std::string blocks =
        open.count == 1 ? fmt::format("block {}", open.begin)
                        : fmt::format("blocks {} to {}", open.begin, open.begin + open.count - 1);
    const std::string text = fmt::format("{} {}: counted {}, but the trees hold {} references",
                                         name_of(map_.space), blocks, open.stored, open.expected);
    if (open.stored < open.expected) {
        add(check_severity::fatal, check_code::count_too_low, open.begin, open.count, text);
        return;
    }
    add(check_severity::repairable, check_code::count_too_high, open.begin, open.count, text);
    (map_.space == block_space::data ? check_.report_.leaked_data_blocks
                                     : check_.report_.leaked_metadata_blocks) += open.count;
    if (check_.options_.on_leak) {
        check_.options_.on_leak({.space = map_.space,
                                 .begin = open.begin,
                                 .count = open.count,
                                 .stored = open.stored,
                                 .expected = open.expected});
    }
}

// They would become counts of real blocks when the device grows.
void space_map_comparison::check_beyond_end(const index_entry& entry, std::uint32_t valid,
                                            const std::byte* stored) {
    std::uint64_t count = 0;
    for (std::uint32_t index = valid; index < entries_per_bitmap; ++index) {
        count += field_at(stored, index) != 0 ? 1U : 0U;
    }
    if (count != 0) {
        add(check_severity::repairable, check_code::count_beyond_end, map_.nr_blocks, count,
            fmt::format("{} space map: bitmap {} counts {} blocks behind the last one",
                        name_of(map_.space), entry.index, count));
    }
}

// Truncated and off-by-one values are what thin_restore 0.9 wrote (format.md 17.2, 17.3); only
// allocation looks at them.
void space_map_comparison::check_hints(const index_entry& entry, std::uint32_t valid,
                                       std::uint32_t used, std::uint32_t first_free) {
    const std::uint64_t first_block = entry.index * entries_per_bitmap;
    if (entry.nr_free != entries_per_bitmap - used) {
        add(check_severity::cosmetic, check_code::wrong_nr_free, first_block, 1,
            entry.nr_free == valid - used
                ? fmt::format("{} space map: bitmap {} says {} free, which leaves out what lies "
                              "behind the last block",
                              name_of(map_.space), entry.index, entry.nr_free)
                : fmt::format("{} space map: bitmap {} says {} free instead of {}",
                              name_of(map_.space), entry.index, entry.nr_free,
                              entries_per_bitmap - used));
    }
    if (entry.none_free_before > first_free) {
        add(check_severity::cosmetic, check_code::wrong_none_free_before, first_block, 1,
            fmt::format("{} space map: bitmap {} says that nothing is free before entry {}, but "
                        "{} is",
                        name_of(map_.space), entry.index, entry.none_free_before, first_free));
    }
}

result<void> checker::compare_space_maps() {
    report_.data_blocks_used = data_counts_.used();
    if (highest_reference_ >= metadata_map_.nr_blocks) {
        add_block(check_severity::fatal, check_code::count_too_low,
                  metadata_block(highest_reference_),
                  fmt::format("block {} is in use, but the metadata space map ends at {}",
                              highest_reference_, metadata_map_.nr_blocks));
    }
    space_map_comparison data(*this, data_map_, !data_counts_incomplete_);
    UTHIN_TRY(data.run());
    report_.data_space_map =
        data.is_complete() ? space_map_check::compared : space_map_check::partial;
    space_map_comparison metadata(*this, metadata_map_, !metadata_counts_incomplete_);
    UTHIN_TRY(metadata.run());
    report_.metadata_space_map =
        metadata.is_complete() ? space_map_check::compared : space_map_check::partial;
    return {};
}

}  // namespace uthin::thin_metadata
