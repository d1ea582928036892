#include "persistent_data/transaction_manager.h"

#include <fmt/format.h>

#include "base/assert.h"
#include "persistent_data/space_map_metadata.h"

namespace uthin::persistent_data {

namespace {

error in_use_and_free(metadata_block where) {
    return error(error_code::corrupt,
                 fmt::format("metadata block {}: in use, and counted as free", where.value()));
}

}  // namespace

class transaction_manager::writer_source final : public block_source {
public:
    explicit writer_source(block_manager& blocks) : blocks_(blocks) {}

    [[nodiscard]] result<block_ref> read(metadata_block where, block_kind kind) override {
        return blocks_.writer_read(where, kind);
    }
    [[nodiscard]] std::uint64_t block_count() const override { return blocks_.block_count(); }
    void prefetch(std::span<const metadata_block> blocks, block_kind kind) override {
        blocks_.prefetch(blocks, kind);
    }

private:
    block_manager& blocks_;
};

transaction_manager::transaction_manager(block_manager& blocks)
    : blocks_(blocks),
      source_(std::make_unique<writer_source>(blocks)),
      metadata_map_(std::make_unique<space_map_metadata>(*this)) {
}

transaction_manager::~transaction_manager() = default;

block_source& transaction_manager::source() noexcept {
    return *source_;
}

result<void> transaction_manager::format_space_map(std::uint64_t nr_blocks) {
    return metadata_map_->format(nr_blocks);
}

result<void> transaction_manager::open_space_map(const disk_space_map_root& root) {
    return metadata_map_->open(root);
}

// What this transaction has is not counted as free, unless the metadata is damaged.
result<metadata_block> transaction_manager::free_block() {
    const metadata_block fresh(UTHIN_TRY(metadata_map_->new_block()));
    if (!exclusive_.insert(fresh.value()).second) {
        return std::unexpected(in_use_and_free(fresh));
    }
    tell_owner_hook(fresh);
    return fresh;
}

result<shadow> transaction_manager::new_block(block_kind kind) {
    const metadata_block fresh = UTHIN_TRY(free_block());
    const block_bytes bytes = UTHIN_TRY(blocks_.edit_new(fresh, kind));
    return shadow{fresh, bytes, false};
}

result<shadow> transaction_manager::shadow_block(metadata_block where, block_kind kind) {
    if (exclusive_.contains(where.value())) {
        return shadow{where, UTHIN_TRY(blocks_.edit(where, kind)), false};
    }
    const std::uint32_t pointers = UTHIN_TRY(metadata_map_->count(where.value()));
    if (pointers == 0) {  // the copy could be put on the original, which the last commit needs
        return std::unexpected(in_use_and_free(where));
    }
    const block_ref original = UTHIN_TRY(blocks_.writer_read(where, kind));
    const metadata_block copy = UTHIN_TRY(free_block());
    if (pointers > 1) {
        tell_owner_hook(where);
    }
    UTHIN_TRY(metadata_map_->dec(where.value(), where.value() + 1));
    const block_bytes bytes = UTHIN_TRY(blocks_.edit_copy(copy, original));
    return shadow{copy, bytes, pointers > 1};
}

result<shadow> transaction_manager::edit_own(const block_ref& page) {
    UTHIN_ASSERT(is_exclusive_shadow(page.where()));
    return shadow{page.where(), UTHIN_TRY(blocks_.edit(page)), false};
}

void transaction_manager::tell_owner_hook(metadata_block where) {
    if (owner_hook_) {
        owner_hook_(where);
    }
}

result<block_ref> transaction_manager::read(metadata_block where, block_kind kind) {
    return blocks_.writer_read(where, kind);
}

result<void> transaction_manager::inc(metadata_block where) {
    exclusive_.erase(where.value());
    return metadata_map_->inc(where.value(), where.value() + 1);
}

result<void> transaction_manager::dec(metadata_block where) {
    exclusive_.erase(where.value());
    return metadata_map_->dec(where.value(), where.value() + 1);
}

result<std::uint32_t> transaction_manager::count(metadata_block where) {
    return metadata_map_->count(where.value());
}

void transaction_manager::committed() {
    // Not clear(), nor `= {}`: they keep, and wipe each time, the largest table there ever was.
    exclusive_ = std::unordered_set<std::uint64_t>();
}

}  // namespace uthin::persistent_data
