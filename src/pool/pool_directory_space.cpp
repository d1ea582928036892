// Who uses how much of the data, who may, and how much the volumes may ask for together.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/result.h"
#include "pool/names.h"
#include "pool/pool_directory.h"
#include "thin_metadata/exclusive_blocks.h"
#include "uthin/log.h"

namespace uthin {

namespace {

// Data in percent, without overflow: at most all that a number can hold.
std::uint64_t percent_of(std::uint64_t bytes, std::uint64_t percent) {
    const std::uint64_t hundredth = bytes / 100;
    if (hundredth != 0 && percent > UINT64_MAX / (hundredth + 1)) {
        return UINT64_MAX;
    }
    return hundredth * percent + bytes % 100 * percent / 100;
}

}  // namespace

// ---- what is used

// The last committed state, with everything in it that was done before the call.
result<std::shared_ptr<thin_metadata::metadata_view>> pool_directory::present_view() {
    const pool_mode mode = pool_->mode();
    const bool changes = mode == pool_mode::write || mode == pool_mode::out_of_data_space;
    if (purpose_ != open_purpose::inspect && changes) {
        UTHIN_TRY_CTX(pool_->commit(), printable(directory_));
    }
    return UTHIN_TRY_CTX(pool_->create_view(), printable(directory_));
}

// Of the last commit: looking on, again and again, must not make commits.
result<std::shared_ptr<const pool_directory::usage_map>> pool_directory::measured_usage() {
    const auto view = UTHIN_TRY_CTX(pool_->create_view(), printable(directory_));
    // Held while measuring: who asks meanwhile wants the same.
    const lock_guard held(usage_lock_);
    if (usage_ == nullptr || usage_transaction_ != view->transaction()) {
        auto measured = std::make_shared<usage_map>();
        for (const auto& one :
             UTHIN_TRY_CTX(thin_metadata::measure_exclusive(*view), printable(directory_))) {
            (*measured)[one.id] = {one.mapped_blocks, one.exclusive_blocks};
        }
        usage_ = std::move(measured);
        usage_transaction_ = view->transaction();
    }
    return usage_;
}

// Whoever lists volumes gets them also when the metadata cannot be walked; without the figures
// then.
void pool_directory::add_usage(std::span<volume_info> volumes) {
    auto usage = measured_usage();
    if (!usage && usage.error().code() == error_code::view_expired) {
        usage = measured_usage();
    }
    if (!usage) {
        log(log_level::warning, "directory", "usage: " + usage.error().to_string());
        return;
    }
    for (volume_info& volume : volumes) {
        const auto at = (*usage)->find(device_id(volume.dev_id));
        if (at != (*usage)->end()) {
            const std::uint64_t block_bytes = pool_->data_block_size_bytes();
            const device_usage& of = at->second;
            const std::uint64_t exclusive = std::min(of.exclusive_blocks, of.mapped_blocks);
            volume.exclusive_bytes = exclusive * block_bytes;
            volume.shared_bytes = (of.mapped_blocks - exclusive) * block_bytes;
        }
    }
}

result<std::vector<volume_info>> pool_directory::list_with_usage() {
    auto volumes = UTHIN_TRY(gather());
    add_usage(volumes);
    return volumes;
}

result<volume_info> pool_directory::show_with_usage(std::string_view name) {
    auto volume = UTHIN_TRY(show(name));
    add_usage(std::span(&volume, 1));
    return volume;
}

result<usage_reply> pool_directory::usage(const std::vector<std::string>& names) {
    const lock_guard held(change_lock_);
    std::vector<device_id> ids;
    std::set<device_id> seen;
    usage_reply reply;
    for (const std::string& name : names) {
        const found_volume found = UTHIN_TRY(must_find(name));
        if (!seen.insert(found.record.identity.id).second) {
            return fail(error_code::invalid_argument,
                        fmt::format("{}/{}: named twice; name each volume once",
                                    printable(directory_), printable(name)));
        }
        ids.push_back(found.record.identity.id);
        reply.mapped_bytes += found.details.mapped_blocks * pool_->data_block_size_bytes();
    }
    const auto view = UTHIN_TRY(present_view());
    reply.freed_bytes =
        UTHIN_TRY_CTX(thin_metadata::blocks_freed_by_deleting(*view, ids), printable(directory_)) *
        pool_->data_block_size_bytes();
    return reply;
}

// ---- promises and limits of volumes

result<void> pool_directory::apply_policies(const volume_record* changed, bool must_fit) {
    const std::uint64_t block_bytes = pool_->data_block_size_bytes();
    std::map<device_id, space_policy> policies;
    const auto add = [&](const volume_record& record) {
        space_policy policy;
        policy.reserved_blocks = (record.reserved_bytes + block_bytes - 1) / block_bytes;
        // At least one, since 0 means another thing.
        policy.limit_blocks = record.limit_bytes == 0
                                  ? 0
                                  : std::max<std::uint64_t>(record.limit_bytes / block_bytes, 1);
        if (policy != space_policy()) {
            policies[record.identity.id] = policy;
        }
    };
    for (const volume_record& record : UTHIN_TRY(names_->limited_volumes())) {
        const device_id id = record.identity.id;
        if (UTHIN_TRY(probe(std::span(&id, 1))).has(record.identity)) {
            add(record);
        }
    }
    if (changed != nullptr) {
        policies.erase(changed->identity.id);
        add(*changed);
    }
    if (policies.empty() && !has_policies_) {
        return {};
    }
    has_policies_ = !policies.empty();
    return pool_->set_space_policies(std::move(policies), must_fit);
}

// After a change that took volumes away, or failed: it cannot be refused any more.
void pool_directory::renew_policies() {
    if (auto applied = apply_policies(nullptr, false); !applied) {
        log(log_level::warning, "directory", "limits: " + applied.error().to_string());
    }
}

result<void> pool_directory::check_limits(const volume_record& record) const {
    const auto refuse = [&](std::string_view cause, std::string_view remedy) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}/{}: {}; {}", printable(directory_), printable(record.name),
                                cause, remedy));
    };
    if (record.limit_bytes > volume_size_bytes_max) {
        return refuse("the limit is greater than any volume", "give 0 for none");
    }
    if (record.reserved_bytes > record.size_bytes) {
        return refuse(fmt::format("{} bytes reserved, but its size is {}", record.reserved_bytes,
                                  record.size_bytes),
                      "reserve no more than its size");
    }
    if (record.limit_bytes != 0 && record.reserved_bytes > record.limit_bytes) {
        return refuse(fmt::format("{} bytes reserved, but its limit is {}", record.reserved_bytes,
                                  record.limit_bytes),
                      "reserve no more than its limit");
    }
    return {};
}

// In force from here on; names_ does not hold it yet.
result<void> pool_directory::apply_limits(const volume_record& record) {
    auto applied = apply_policies(&record, true);
    if (!applied && applied.error().code() == error_code::no_data_space) {
        return fail(
            error_code::no_data_space,
            fmt::format("{}/{}: {}; reserve less, or grow the pool with 'uthin pool grow'",
                        printable(directory_), printable(record.name), applied.error().message()));
    }
    return applied;
}

result<volume_info> pool_directory::set_volume(const set_volume_request& request) {
    const lock_guard held(change_lock_);
    UTHIN_TRY(must_find(request.name));
    UTHIN_TRY(prepare_change("limit a volume"));
    volume_record record = UTHIN_TRY(must_have_record(request.name));
    record.reserved_bytes = request.reserved_bytes.value_or(record.reserved_bytes);
    record.limit_bytes = request.limit_bytes.value_or(record.limit_bytes);
    UTHIN_TRY(check_limits(record));
    UTHIN_TRY(apply_limits(record));
    auto stored = names_->set_limits(record.uuid, record.reserved_bytes, record.limit_bytes);
    if (!stored) {
        renew_policies();
        return std::unexpected(std::move(stored).error());
    }
    return describe(request.name);
}

// ---- all volumes together

result<void> pool_directory::check_overcommit(std::uint64_t added_bytes, std::string_view what) {
    const std::uint64_t percent = file().overcommit_percent;
    if (percent == 0 || added_bytes == 0) {
        return {};
    }
    const pool_status now = UTHIN_TRY(pool_->status());
    const std::uint64_t data_bytes = now.data_total_blocks * pool_->data_block_size_bytes();
    const std::uint64_t allowed = percent_of(data_bytes, percent);
    std::uint64_t total = added_bytes;
    for (const volume_info& volume : UTHIN_TRY(gather())) {
        total += std::min(volume.size_bytes, UINT64_MAX - total);
    }
    if (total > allowed) {
        return fail(error_code::no_data_space,
                    fmt::format("{}: {}: the sizes of all volumes would add up to {}, {}% of the "
                                "data are {}; delete volumes, grow the pool, or 'uthin pool set "
                                "DIR overcommit=...'",
                                printable(directory_), what, readable_size(total), percent,
                                readable_size(allowed)));
    }
    return {};
}

}  // namespace uthin
