#include "pool/space_shares.h"

#include <utility>

namespace uthin::pool_engine {

void space_shares::replace(std::map<device_id, space_policy> policies) {
    std::map<device_id, entry> entries;
    for (const auto& [id, policy] : policies) {
        entry& of = entries[id];
        of.policy = policy;
        if (const auto old = entries_.find(id); old != entries_.end()) {
            of.in_flight = old->second.in_flight;
        }
    }
    entries_ = std::move(entries);
    all_stale_ = true;
}

void space_shares::mapped_changed(device_id id) {
    if (entries_.contains(id)) {
        stale_.insert(id);
    }
}

void space_shares::allocated(device_id id, std::uint64_t holes) {
    if (const auto at = entries_.find(id); at != entries_.end()) {
        promised_ -= at->second.promised();
        at->second.in_flight += holes;
        promised_ += at->second.promised();
    }
}

void space_shares::settled(device_id id) {
    // A device that got its policy while blocks of it were in flight has fewer here than it had.
    if (const auto at = entries_.find(id); at != entries_.end() && at->second.in_flight > 0) {
        promised_ -= at->second.promised();
        --at->second.in_flight;
        promised_ += at->second.promised();
        stale_.insert(id);
    }
}

void space_shares::aborted() {
    for (auto& [id, of] : entries_) {
        of.in_flight = 0;
    }
    all_stale_ = true;
}

result<void> space_shares::refresh_one(device_id id, entry& of, const metadata& from) {
    const auto details = from.get_details(id);
    if (!details && details.error().code() != error_code::not_found) {
        return std::unexpected(details.error());
    }
    promised_ -= of.promised();
    of.mapped = details ? details->mapped_blocks : 0;
    promised_ += of.promised();
    return {};
}

result<void> space_shares::refresh(const metadata& from) {
    if (all_stale_) {
        promised_ = 0;
        for (auto& [id, of] : entries_) {
            promised_ += of.promised();
        }
        for (auto& [id, of] : entries_) {
            UTHIN_TRY(refresh_one(id, of, from));
        }
        all_stale_ = false;
        stale_.clear();
        return {};
    }
    for (const device_id id : stale_) {
        if (const auto at = entries_.find(id); at != entries_.end()) {
            UTHIN_TRY(refresh_one(id, at->second, from));
        }
    }
    stale_.clear();
    return {};
}

result<std::uint64_t> space_shares::promised_blocks(const metadata& from) {
    UTHIN_TRY(refresh(from));
    return promised_;
}

result<space_shares::claim> space_shares::begin_claim(device_id id, std::uint64_t free_blocks,
                                                      const metadata& from) {
    UTHIN_TRY(refresh(from));
    claim made;
    made.free_blocks_ = free_blocks;
    made.promised_ = promised_;
    if (const auto at = entries_.find(id); at != entries_.end()) {
        const entry& of = at->second;
        made.promised_to_us_ = of.promised();
        if (of.policy.limit_blocks != 0) {
            const std::uint64_t used = of.mapped + of.in_flight;
            made.below_limit_ = of.policy.limit_blocks > used ? of.policy.limit_blocks - used : 0;
        }
    }
    return made;
}

space_shares::verdict space_shares::claim::take(bool is_hole) noexcept {
    if (is_hole && below_limit_ == 0) {
        return verdict::over_limit;
    }
    const bool ours = is_hole && promised_to_us_ > 0;
    if (!ours && promised_ > 0 && free_blocks_ <= promised_) {
        return verdict::promised_to_others;
    }
    below_limit_ -= is_hole && below_limit_ != UINT64_MAX ? 1U : 0U;
    promised_ -= ours ? 1U : 0U;
    promised_to_us_ -= ours ? 1U : 0U;
    free_blocks_ -= free_blocks_ > 0 ? 1U : 0U;
    return verdict::granted;
}

}  // namespace uthin::pool_engine
