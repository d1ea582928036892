#include "thin_metadata/reverse_map.h"

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <span>
#include <tuple>

#include <fmt/format.h>

#include "base/out_of_memory.h"
#include "thin_metadata/pool_leaves.h"

namespace uthin::thin_metadata {

using persistent_data::node_view;

namespace {

// A run of one leaf.
struct piece {
    std::uint64_t data_begin = 0;
    std::uint64_t begin = 0;
    std::uint32_t leaf = 0;  // in order of discovery
    std::uint16_t count = 0;
    bool is_first = false;  // of its leaf
    bool is_last = false;

    // Others of equal rank are told apart by their devices.
    [[nodiscard]] auto rank() const noexcept { return std::tuple(data_begin, count); }
};

// A device that has a leaf, and whether it has the first or the last piece of it as a part of a
// longer run.
struct leaf_user {
    std::uint32_t device : 30 = 0;
    std::uint32_t first_joined : 1 = 0;
    std::uint32_t last_joined : 1 = 0;
};

// A leaf with pieces.
struct leaf_pieces {
    std::uint32_t first_piece = 0;
    std::uint32_t piece_count = 0;
    std::size_t first_user = 0;
    std::uint32_t user_count = 0;
};

void sort_by_rank(std::span<piece> pieces) {
    std::ranges::sort(pieces, {}, &piece::rank);
}

// They are spread evenly over the regions, more or less, so that most of the sorting is putting
// each into its place.
void sort_pieces(std::vector<piece>& pieces) {
    constexpr std::size_t pieces_per_bucket = 8;
    if (pieces.size() < 64 * pieces_per_bucket) {
        sort_by_rank(pieces);
        return;
    }
    const auto [least, most] = std::ranges::minmax(pieces, {}, &piece::data_begin);
    const std::uint64_t origin = least.data_begin;
    const std::uint64_t buckets = std::bit_ceil(pieces.size() / pieces_per_bucket);
    const int shift = std::max(0, static_cast<int>(std::bit_width(most.data_begin - origin)) -
                                      static_cast<int>(std::bit_width(buckets) - 1));
    std::vector<std::uint32_t> ends(buckets + 1);
    for (const piece& each : pieces) {
        ++ends[((each.data_begin - origin) >> shift) + 1];
    }
    for (std::size_t bucket = 1; bucket <= buckets; ++bucket) {
        ends[bucket] += ends[bucket - 1];
    }
    // ends[b] is where the next one of bucket b goes.
    std::vector<piece> sorted(pieces.size());
    for (const piece& each : pieces) {
        sorted[ends[(each.data_begin - origin) >> shift]++] = each;
    }
    std::size_t begin = 0;
    for (std::size_t bucket = 0; bucket < buckets; ++bucket) {
        sort_by_rank(std::span(sorted).subspan(begin, ends[bucket] - begin));
        begin = ends[bucket];
    }
    pieces.swap(sorted);
}

class reverse_mapper {
public:
    reverse_mapper(const std::vector<range<data_block>>& regions, std::uint64_t block_count)
        : regions_(regions), leaf_of_block_(block_count) {
        for (const range<data_block>& region : regions) {
            least_ = std::min(least_, region.begin.value());
            end_ = std::max(end_, std::min(region.end.value(), data_blocks_max));
        }
    }

    void add_leaf(const leaf_usage& leaf, metadata_block where, const node_view& node);
    // Between the leaves and the devices.
    void end_leaves() { users_.resize(user_count_); }
    void begin_device(std::size_t device) {
        device_ = static_cast<std::uint32_t>(device);
        last_.reset();
    }
    [[nodiscard]] result<void> add_use(const leaf_usage& leaf, metadata_block where,
                                       device_id device);
    void end_device() { close_run(); }
    [[nodiscard]] result<void> send(const std::vector<dump_device>& devices,
                                    const reverse_output& each);

private:
    static constexpr std::uint64_t data_blocks_max = std::uint64_t{1} << 40;

    struct named_begin {
        device_id device;
        std::uint64_t begin = 0;
        auto operator<=>(const named_begin&) const = default;
    };

    void add_run(std::uint64_t data_begin, std::uint64_t begin, std::uint64_t count,
                 leaf_pieces& of_leaf);
    void add_piece(const piece& made, leaf_pieces& of_leaf);
    void close_run();
    void collect_named(std::span<piece> equal, const std::vector<dump_device>& devices);

    const std::vector<range<data_block>>& regions_;
    // What encloses all regions.
    std::uint64_t least_ = UINT64_MAX;
    std::uint64_t end_ = 0;
    std::vector<piece> pieces_;
    std::vector<leaf_pieces> leaves_;
    paged_array<std::uint32_t> leaf_of_block_;  // plus one
    std::size_t user_count_ = 0;
    std::vector<leaf_user> users_;
    // Runs of several pieces, one after the other.
    std::vector<reverse_run> joined_;
    std::vector<named_begin> named_;
    // Of the device that is walked: the run that its last leaf with pieces ended with.
    std::uint32_t device_ = 0;
    leaf_user* last_user_ = nullptr;
    std::optional<reverse_run> last_;
    bool last_is_joined_ = false;
};

void reverse_mapper::add_leaf(const leaf_usage& leaf, metadata_block where, const node_view& node) {
    if (least_ >= end_) {
        return;
    }
    // Without a branch for each: which mappings are wanted cannot be predicted.
    std::array<std::uint16_t, metadata_block_size_bytes / 16> hits;
    const std::uint64_t origin = pack_mapping(data_block(least_), 0);
    const std::uint64_t length_less_one = pack_mapping(data_block(end_ - least_), 0) - 1;
    const std::uint32_t count = node.nr_entries();
    std::size_t hit_count = 0;
    for (std::uint32_t index = 0; index < count; ++index) {
        hits[hit_count] = static_cast<std::uint16_t>(index);
        hit_count += node.value_u64(index) - origin <= length_less_one ? 1U : 0U;
    }
    if (hit_count == 0) {
        return;
    }
    leaf_pieces of_leaf{.first_piece = static_cast<std::uint32_t>(pieces_.size()),
                        .first_user = user_count_};
    for (std::size_t at = 0; at < hit_count;) {
        const std::uint64_t begin = node.key(hits[at]);
        const std::uint64_t data_begin = mapping_block(node.value_u64(hits[at])).value();
        std::uint64_t length = 1;
        while (at + length < hit_count && node.key(hits[at + length]) == begin + length &&
               mapping_block(node.value_u64(hits[at + length])).value() == data_begin + length) {
            ++length;
        }
        add_run(data_begin, begin, length, of_leaf);
        at += length;
    }
    if (of_leaf.piece_count != 0) {
        pieces_[of_leaf.first_piece].is_first = true;
        pieces_.back().is_last = true;
        leaves_.push_back(of_leaf);
        leaf_of_block_[where.value()] = static_cast<std::uint32_t>(leaves_.size());
        user_count_ += leaf.trees;
    }
}

void reverse_mapper::add_run(std::uint64_t data_begin, std::uint64_t begin, std::uint64_t count,
                             leaf_pieces& of_leaf) {
    for (const range<data_block>& region : regions_) {
        const std::uint64_t from = std::max(data_begin, region.begin.value());
        const std::uint64_t to = std::min(data_begin + count, region.end.value());
        if (from < to) {
            add_piece({.data_begin = from,
                       .begin = begin + (from - data_begin),
                       .leaf = static_cast<std::uint32_t>(leaves_.size()),
                       .count = static_cast<std::uint16_t>(to - from)},
                      of_leaf);
        }
    }
}

void reverse_mapper::add_piece(const piece& made, leaf_pieces& of_leaf) {
    if (of_leaf.piece_count != 0) {
        piece& last = pieces_.back();
        if (last.data_begin + last.count == made.data_begin &&
            last.begin + last.count == made.begin) {
            last.count = static_cast<std::uint16_t>(last.count + made.count);
            return;
        }
    }
    pieces_.push_back(made);
    ++of_leaf.piece_count;
}

void reverse_mapper::close_run() {
    if (last_ && last_is_joined_) {
        joined_.push_back(*last_);
    }
    last_.reset();
    last_is_joined_ = false;
}

result<void> reverse_mapper::add_use(const leaf_usage& leaf, metadata_block where,
                                     device_id device) {
    const std::uint32_t* const number = leaf_of_block_.find(where.value());
    if (number == nullptr || *number == 0) {
        return {};
    }
    leaf_pieces& of_leaf = leaves_[*number - 1];
    if (of_leaf.user_count == leaf.trees) {
        return fail(error_code::corrupt,
                    fmt::format("the metadata changed while it was read: block {}", where.value()));
    }
    leaf_user& user = users_[of_leaf.first_user + of_leaf.user_count++];
    user.device = device_ & ((1U << 30) - 1);
    const auto run_of = [device](const piece& from) {
        return reverse_run{.data_begin = data_block(from.data_begin),
                           .count = from.count,
                           .device = device,
                           .begin = virtual_block(from.begin)};
    };
    const reverse_run first = run_of(pieces_[of_leaf.first_piece]);
    const bool continues = last_ && last_->data_begin + last_->count == first.data_begin &&
                           last_->begin + last_->count == first.begin;
    if (continues) {
        last_->count += first.count;
        last_is_joined_ = true;
        last_user_->last_joined = 1;
        user.first_joined = 1;
    }
    if (!continues || of_leaf.piece_count != 1) {
        close_run();
        last_ = run_of(pieces_[of_leaf.first_piece + of_leaf.piece_count - 1]);
    }
    last_user_ = &user;
    return {};
}

// The devices of pieces of equal rank, in order.
void reverse_mapper::collect_named(std::span<piece> equal,
                                   const std::vector<dump_device>& devices) {
    const auto users_of = [this](const piece& of) {
        const leaf_pieces& leaf = leaves_[of.leaf];
        return std::span(users_).subspan(leaf.first_user, leaf.user_count);
    };
    // A changed copy of a leaf often is that of later devices: then nothing is left to be sorted.
    std::ranges::sort(equal, {}, [&](const piece& of) {
        const auto users = users_of(of);
        return users.empty() ? 0U : std::uint32_t{users.front().device};
    });
    named_.clear();
    for (const piece& from : equal) {
        for (const leaf_user& user : users_of(from)) {
            const bool is_joined = (from.is_first && user.first_joined != 0) ||
                                   (from.is_last && user.last_joined != 0);
            if (!is_joined) {
                named_.push_back({devices[user.device].info.id, from.begin});
            }
        }
    }
}

result<void> reverse_mapper::send(const std::vector<dump_device>& devices,
                                  const reverse_output& each) {
    sort_pieces(pieces_);
    std::ranges::sort(joined_);
    std::size_t piece_at = 0;
    std::size_t joined_at = 0;
    const auto rank_of = [](const reverse_run& run) {
        return std::tuple(run.data_begin.value(), run.count);
    };
    while (piece_at < pieces_.size() || joined_at < joined_.size()) {
        std::tuple<std::uint64_t, std::uint64_t> rank;
        if (piece_at < pieces_.size()) {
            rank = pieces_[piece_at].rank();
        }
        if (piece_at == pieces_.size() ||
            (joined_at < joined_.size() && rank_of(joined_[joined_at]) < rank)) {
            rank = rank_of(joined_[joined_at]);
        }
        std::size_t end = piece_at;
        while (end < pieces_.size() && pieces_[end].rank() == rank) {
            ++end;
        }
        collect_named(std::span(pieces_).subspan(piece_at, end - piece_at), devices);
        piece_at = end;
        for (; joined_at < joined_.size() && rank_of(joined_[joined_at]) == rank; ++joined_at) {
            named_.push_back({joined_[joined_at].device, joined_[joined_at].begin.value()});
        }
        if (!std::ranges::is_sorted(named_)) {
            std::ranges::sort(named_);
        }
        for (const named_begin& named : named_) {
            UTHIN_TRY(each({.data_begin = data_block(std::get<0>(rank)),
                            .count = std::get<1>(rank),
                            .device = named.device,
                            .begin = virtual_block(named.begin)}));
        }
    }
    return {};
}

}  // namespace

result<void> reverse_mappings(metadata_view& view, const std::vector<range<data_block>>& regions,
                              const reverse_output& each) {
    return or_out_of_memory([&]() -> result<void> {
        pool_leaves leaves(view);
        UTHIN_TRY(leaves.find(view, {}));
        reverse_mapper mapper(regions, view.source().block_count());
        UTHIN_TRY(leaves.read_all(true,
                                  [&](const leaf_usage& leaf, metadata_block where,
                                      const node_view& node) -> result<void> {
                                      mapper.add_leaf(leaf, where, node);
                                      return {};
                                  }));
        mapper.end_leaves();
        for (std::size_t index = 0; index < leaves.devices().size(); ++index) {
            const device_id device = leaves.devices()[index].info.id;
            mapper.begin_device(index);
            UTHIN_TRY(leaves.of_device(
                index, [&](const leaf_usage& leaf, metadata_block where, std::uint64_t,
                           std::uint64_t) { return mapper.add_use(leaf, where, device); }));
            mapper.end_device();
        }
        return mapper.send(leaves.devices(), each);
    });
}

}  // namespace uthin::thin_metadata
