#include "thin_metadata/changed_runs.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "base/out_of_memory.h"
#include "persistent_data/btree.h"
#include "thin_metadata/difference_joiner.h"

namespace uthin::thin_metadata {

using persistent_data::block_kind;
using persistent_data::block_ref;
using persistent_data::block_source;
using persistent_data::node_view;

namespace {

constexpr std::uint32_t value_size_bytes = 8;

// Walks one tree. It stands at a subtree that was not read yet, at an entry of a leaf, or at the
// end; the caller decides which subtrees are read.
class lazy_cursor {
public:
    lazy_cursor(block_source& source, std::uint64_t from) : source_(source), from_(from) {}

    void start(metadata_block root) {
        root_ = root;
        at_root_ = true;
    }
    [[nodiscard]] bool at_end() const noexcept { return !at_root_ && levels_.empty(); }
    [[nodiscard]] bool at_subtree() const noexcept {
        return at_root_ || (!levels_.empty() && !view().is_leaf());
    }
    // Of the subtree, or of the entry. Bounds are inclusive.
    [[nodiscard]] std::uint64_t first() const noexcept {
        return at_root_ ? 0 : view().key(levels_.back().index);
    }
    [[nodiscard]] std::uint64_t last() const noexcept {
        if (at_root_) {
            return UINT64_MAX;
        }
        const level& here = levels_.back();
        if (!at_subtree()) {
            return first();
        }
        return here.index + 1 < view().nr_entries() ? view().key(here.index + 1) - 1 : here.last;
    }
    [[nodiscard]] metadata_block subtree() const noexcept {
        return at_root_ ? root_ : view().child(levels_.back().index);
    }
    [[nodiscard]] data_block mapped_to() const noexcept {
        return mapping_block(view().value_u64(levels_.back().index));
    }

    // Passes the subtree or the entry.
    void pass() {
        if (at_root_) {
            at_root_ = false;
            return;
        }
        ++levels_.back().index;
        climb();
    }
    // Reads the subtree and stands at its first part that is not before `from`.
    result<void> enter() {
        const metadata_block where = subtree();
        const std::uint64_t begin = first();
        const std::uint64_t end = last();
        if (levels_.size() > persistent_data::btree_depth_max) {
            return fail(error_code::corrupt,
                        fmt::format("mapping tree: more than {} levels under block {}",
                                    persistent_data::btree_depth_max, root_.value()));
        }
        const metadata_block parent = levels_.empty() ? root_ : levels_.back().node.where();
        UTHIN_TRY(persistent_data::check_pointer(where, parent, source_.block_count()));
        block_ref node = UTHIN_TRY(source_.read(where, block_kind::btree_node));
        const node_view read(node.bytes());
        UTHIN_TRY(persistent_data::check_tree_node(read, where, value_size_bytes));
        UTHIN_TRY(check_keys(read, where, begin, end));
        at_root_ = false;
        levels_.push_back({std::move(node), 0, end});
        climb();
        while (!at_end() && levels_.back().node.where() == where && last() < from_) {
            pass();
        }
        return {};
    }

private:
    struct level {
        block_ref node;
        std::uint32_t index = 0;
        std::uint64_t last = UINT64_MAX;  // keys of this node are at most this
    };
    [[nodiscard]] node_view view() const noexcept { return node_view(levels_.back().node.bytes()); }
    void climb() {
        while (!levels_.empty() && levels_.back().index >= view().nr_entries()) {
            levels_.pop_back();
            if (!levels_.empty()) {
                ++levels_.back().index;
            }
        }
    }
    static result<void> check_keys(const node_view& node, metadata_block where, std::uint64_t begin,
                                   std::uint64_t end) {
        for (std::uint32_t i = 0; i < node.nr_entries(); ++i) {
            const std::uint64_t least = i == 0 ? begin : node.key(i - 1) + 1;
            if (node.key(i) < least || node.key(i) > end) {
                return fail(error_code::corrupt,
                            fmt::format("mapping tree: block {} is no node for the keys {} to {}",
                                        where.value(), begin, end));
            }
        }
        return {};
    }

    block_source& source_;
    const std::uint64_t from_;
    metadata_block root_;
    bool at_root_ = false;
    std::vector<level> levels_;
};

class change_finder {
public:
    change_finder(block_source& source, std::uint64_t from, const difference_function& each)
        : left_(source, from), right_(source, from), runs_(each) {}

    result<void> find(std::optional<metadata_block> left_root, metadata_block right_root) {
        if (left_root) {
            left_.start(*left_root);
        }
        right_.start(right_root);
        while (!left_.at_end() || !right_.at_end()) {
            UTHIN_TRY(step());
        }
        return runs_.flush();
    }

private:
    result<void> step() {
        const bool has_left = !left_.at_end();
        const bool has_right = !right_.at_end();
        const bool apart = !has_left || !has_right || left_.last() < right_.first() ||
                           right_.last() < left_.first();
        if (apart) {
            const bool takes_left = has_left && (!has_right || left_.last() < right_.first());
            return takes_left ? alone(left_, "left mapping tree", difference_kind::left_only)
                              : alone(right_, "right mapping tree", difference_kind::right_only);
        }
        if (left_.at_subtree() && right_.at_subtree()) {
            return two_subtrees();
        }
        if (left_.at_subtree() || right_.at_subtree()) {
            return left_.at_subtree() ? enter_left() : enter_right();
        }
        const difference_run next{difference_kind::different, virtual_block(left_.first()), 1,
                                  left_.mapped_to(), right_.mapped_to()};
        left_.pass();
        right_.pass();
        return next.left == next.right ? result<void>() : runs_.add(next);
    }
    // The other tree has nothing there.
    result<void> alone(lazy_cursor& cursor, const char* name, difference_kind kind) {
        if (cursor.at_subtree()) {
            UTHIN_TRY_CTX(cursor.enter(), name);
            return {};
        }
        difference_run next;
        next.kind = kind;
        next.begin = virtual_block(cursor.first());
        next.count = 1;
        (kind == difference_kind::left_only ? next.left : next.right) = cursor.mapped_to();
        cursor.pass();
        return runs_.add(next);
    }
    result<void> two_subtrees() {
        if (left_.subtree() == right_.subtree()) {
            left_.pass();
            right_.pass();
            return {};
        }
        // What is shared lies at one height in both trees: the higher one is opened until both are
        // as high, and the wider one is taken for the higher.
        const std::uint64_t left_width = left_.last() - left_.first();
        const std::uint64_t right_width = right_.last() - right_.first();
        if (left_width >= right_width) {
            UTHIN_TRY(enter_left());
        }
        return right_width >= left_width ? enter_right() : result<void>();
    }
    result<void> enter_left() {
        UTHIN_TRY_CTX(left_.enter(), "left mapping tree");
        return {};
    }
    result<void> enter_right() {
        UTHIN_TRY_CTX(right_.enter(), "right mapping tree");
        return {};
    }

    lazy_cursor left_;
    lazy_cursor right_;
    difference_joiner runs_;
};

}  // namespace

result<void> find_changes(metadata_view& view, std::optional<metadata_block> left_root,
                          metadata_block right_root, virtual_block from,
                          const difference_function& each) {
    return or_out_of_memory([&]() -> result<void> {
        return change_finder(view.source(), from.value(), each).find(left_root, right_root);
    });
}

}  // namespace uthin::thin_metadata
