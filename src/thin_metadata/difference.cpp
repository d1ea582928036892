#include "thin_metadata/difference.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/out_of_memory.h"
#include "persistent_data/btree.h"
#include "thin_metadata/difference_joiner.h"
#include "thin_metadata/leaf_plan.h"
#include "thin_metadata/leaf_runs.h"

namespace uthin::thin_metadata {

using persistent_data::block_ref;
using persistent_data::block_source;
using persistent_data::node_view;

namespace {

struct leaf_place {
    metadata_block where;
    std::uint64_t first_key = 0;
    std::uint64_t last_key = 0;
};

// The runs of one tree, one after the other; a run does not go beyond its leaf.
class tree_runs {
public:
    explicit tree_runs(block_source& source) : source_(source) {}

    result<void> open(metadata_block root) {
        return list_leaves(
            source_, root, nullptr,
            [this](metadata_block leaf, std::uint64_t first, std::uint64_t last) -> result<void> {
                leaves_.push_back({leaf, first, last});
                return {};
            });
    }
    [[nodiscard]] const std::vector<leaf_place>& leaves() const noexcept { return leaves_; }

    // Before the first entry of this leaf: the next that will be read.
    [[nodiscard]] const leaf_place* next_leaf() const noexcept {
        return run_.count == 0 && page_ == std::nullopt && at_ < leaves_.size() ? &leaves_[at_]
                                                                                : nullptr;
    }
    void skip_leaf() noexcept { ++at_; }
    // Makes run() the next one, if there is any; reads a leaf when it must.
    result<void> fill() {
        while (run_.count == 0 && (page_ || at_ < leaves_.size())) {
            if (!page_) {
                UTHIN_TRY(read_leaf());
                continue;
            }
            const node_view node(page_->bytes());
            run_ = run_at(node, entry_);
            entry_ += static_cast<std::uint32_t>(run_.count);
            if (entry_ >= node.nr_entries()) {
                page_.reset();
            }
        }
        return {};
    }
    // The next one, which may be empty: then it ends at once.
    result<void> read_leaf() {
        const leaf_place& leaf = leaves_[at_++];
        page_ = UTHIN_TRY(read_mapping_leaf(source_, leaf.where, leaf.first_key, leaf.last_key));
        entry_ = 0;
        if (node_view(page_->bytes()).nr_entries() == 0) {
            page_.reset();
        }
        return {};
    }
    [[nodiscard]] bool at_end() const noexcept { return run_.count == 0; }
    // In the leaf that run() came from, nothing follows it.
    [[nodiscard]] bool leaf_ends() const noexcept { return !page_; }
    [[nodiscard]] const mapping_run& run() const noexcept { return run_; }
    void consume(std::uint64_t count) noexcept {
        run_.begin += count;
        run_.data_begin += count;
        run_.count -= count;
    }

private:
    block_source& source_;
    std::vector<leaf_place> leaves_;
    std::size_t at_ = 0;
    std::optional<block_ref> page_;
    std::uint32_t entry_ = 0;
    mapping_run run_;
};

// Leaves in the order of their keys; one that both trees have is read once.
void plan_reading(block_source& source, const std::vector<leaf_place>& left,
                  const std::vector<leaf_place>& right) {
    leaf_plan plan(source);
    auto a = left.begin();
    auto b = right.begin();
    while (a != left.end() || b != right.end()) {
        const bool takes_left =
            a != left.end() && (b == right.end() || a->first_key <= b->first_key);
        const leaf_place& next = takes_left ? *a : *b;
        plan.add_leaf(next.where);
        const bool is_shared = a != left.end() && b != right.end() && a->where == b->where;
        a += takes_left || is_shared ? 1 : 0;
        b += !takes_left || is_shared ? 1 : 0;
    }
    (void)plan.announce();
}

// The next stretch in which both sides are of one kind.
difference_run take_next(tree_runs& left, tree_runs& right) {
    const mapping_run& a = left.run();
    const mapping_run& b = right.run();
    difference_run next;
    if (right.at_end() || (!left.at_end() && a.begin < b.begin)) {
        next = {.kind = difference_kind::left_only,
                .begin = a.begin,
                .count = 0,
                .left = a.data_begin,
                .right = {}};
        next.count = right.at_end() ? a.count : std::min(a.count, b.begin - a.begin);
        left.consume(next.count);
        return next;
    }
    if (left.at_end() || b.begin < a.begin) {
        next = {.kind = difference_kind::right_only,
                .begin = b.begin,
                .count = 0,
                .left = {},
                .right = b.data_begin};
        next.count = left.at_end() ? b.count : std::min(b.count, a.begin - b.begin);
        right.consume(next.count);
        return next;
    }
    next = {
        .kind = a.data_begin == b.data_begin ? difference_kind::same : difference_kind::different,
        .begin = a.begin,
        .count = std::min(a.count, b.count),
        .left = a.data_begin,
        .right = b.data_begin};
    left.consume(next.count);
    right.consume(next.count);
    return next;
}

// A leaf that both trees have at this place.
result<void> send_shared_leaf(tree_runs& left, tree_runs& right, difference_joiner& runs) {
    right.skip_leaf();
    UTHIN_TRY(left.read_leaf());
    while (!left.leaf_ends()) {
        UTHIN_TRY(left.fill());
        const mapping_run run = left.run();
        left.consume(run.count);
        UTHIN_TRY(runs.add({.kind = difference_kind::same,
                            .begin = run.begin,
                            .count = run.count,
                            .left = run.data_begin,
                            .right = run.data_begin}));
    }
    return {};
}

}  // namespace

result<metadata_block> mapping_root_of(metadata_view& view, device_id device) {
    return or_out_of_memory([&]() -> result<metadata_block> {
        const auto root = UTHIN_TRY(persistent_data::btree_lookup_u64(
            view.source(), metadata_block(view.superblock().data_mapping_root), device.value()));
        if (!root) {
            return fail(error_code::not_found,
                        fmt::format("there is no device {}", device.value()));
        }
        return metadata_block(*root);
    });
}

result<void> find_differences(metadata_view& view, metadata_block left_root,
                              metadata_block right_root, const difference_function& each) {
    return or_out_of_memory([&]() -> result<void> {
        tree_runs left(view.source());
        tree_runs right(view.source());
        UTHIN_TRY_CTX(left.open(left_root), "left mapping tree");
        UTHIN_TRY_CTX(right.open(right_root), "right mapping tree");
        plan_reading(view.source(), left.leaves(), right.leaves());
        difference_joiner runs(each);
        while (true) {
            const leaf_place* const a = left.next_leaf();
            const leaf_place* const b = right.next_leaf();
            if (a != nullptr && b != nullptr && a->where == b->where) {
                UTHIN_TRY_CTX(send_shared_leaf(left, right, runs), "both mapping trees");
                continue;
            }
            UTHIN_TRY_CTX(left.fill(), "left mapping tree");
            UTHIN_TRY_CTX(right.fill(), "right mapping tree");
            if (left.at_end() && right.at_end()) {
                return runs.flush();
            }
            UTHIN_TRY(runs.add(take_next(left, right)));
        }
    });
}

}  // namespace uthin::thin_metadata
