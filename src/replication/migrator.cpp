#include "replication/migrator.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "base/clock.h"
#include "base/random.h"
#include "base/result.h"
#include "pool/labels.h"
#include "pool/names.h"
#include "replication/content_id.h"
#include "replication/migrate_copy.h"
#include "replication/patience.h"

namespace uthin::replication {

namespace {

constexpr std::string_view temporary_prefix = "migrating-";
constexpr std::string_view staged_suffix = ".migrating";  // the volume at the target, until the end
constexpr std::string_view left_suffix = ".migrated";     // the volume at the source, afterwards

// A round with so little to copy is the last one.
constexpr std::uint64_t small_bytes = 4U << 20;
constexpr std::uint64_t rounds_max = 8;
// Relatives that are compared with a snapshot to find the best one.
constexpr std::size_t candidates_max = 16;
constexpr std::chrono::milliseconds look_interval{100};

class migration {
public:
    migration(pool_service& source, pool_directory& target, const migrate_request& request)
        : source_(source), target_(target), request_(request) {}

    result<migrate_reply> run() {
        UTHIN_TRY(look());
        if (!is_complete()) {
            UTHIN_TRY(check_capacity());
            UTHIN_TRY(move_snapshots());
            UTHIN_TRY(is_still() ? move_volume() : follow_and_move());
        }
        UTHIN_TRY(finish());
        return std::move(reply_);
    }

private:
    [[nodiscard]] std::string at_source(const std::string& name) const {
        return fmt::format("{}/{}", printable(source_report_.directory), printable(name));
    }
    [[nodiscard]] std::string there(const std::string& name) const {
        return fmt::format("{}/{}", printable(target_.directory()), printable(name));
    }
    [[nodiscard]] std::string final_name() const {
        return request_.target_name.empty() ? request_.name : request_.target_name;
    }
    [[nodiscard]] std::string staged_name() const {
        return final_name() + std::string(staged_suffix);
    }
    [[nodiscard]] std::string left_name() const { return request_.name + std::string(left_suffix); }

    // Nobody can change the source.
    [[nodiscard]] bool is_still() const { return replication::is_still(source_report_); }
    [[nodiscard]] static bool is_temporary(const volume_info& volume) {
        return is_temporary_name(volume.name, temporary_prefix);
    }

    // Of the content, wherever it is copied to.
    [[nodiscard]] std::string identity_of(const volume_info& volume) const {
        return !volume.uuid.empty()
                   ? content_id(volume)
                   : fmt::format("{}:{}:{}:{}", source_report_.uuid, volume.dev_id,
                                 volume.creation_time, volume.creation_transaction_id);
    }

    // ---- looking

    result<void> look() {
        source_report_ = UTHIN_TRY(source_.status());
        if (source_report_.uuid == target_.file().uuid) {
            return fail(error_code::invalid_argument,
                        fmt::format("{}: is the pool of the volume; name another one",
                                    printable(target_.directory())));
        }
        const auto volumes = UTHIN_TRY(source_.list_volumes());
        present_ = UTHIN_TRY(target_.list());
        const volume_info* named = find_volume(volumes, request_.name);
        const volume_info* left = find_volume(volumes, left_name());
        if (named == nullptr && left == nullptr) {
            return fail(error_code::not_found,
                        fmt::format("{}: no such volume; see 'uthin volume list {}'",
                                    at_source(request_.name), printable(source_report_.directory)));
        }
        if (named != nullptr && left != nullptr) {
            return fail(error_code::already_exists,
                        fmt::format("{}: exists, and would be the name of the volume afterwards; "
                                    "rename or delete it",
                                    at_source(left_name())));
        }
        volume_ = named != nullptr ? *named : *left;
        renamed_ = named == nullptr;
        find_family(volumes);
        UTHIN_TRY(check_names());
        return is_complete() ? result<void>() : drop_used_copies();
    }

    // Snapshots are copied once, and a client could write to one behind the copy: those that
    // somebody has open, or changed since (CI2), are of no use, and deleted. busy if he stays.
    result<void> drop_used_copies() {
        if (is_still()) {
            return {};
        }
        std::map<std::string, std::string> seen;  // and its content id (received_from)
        auto unused = while_busy([&]() -> result<void> {
            std::string used;
            for (const volume_info& now : UTHIN_TRY(source_.list_volumes())) {
                const volume_info* member = find_volume(family_, now.name);
                if (member == nullptr || is_temporary(*member) || !is_same_device(now, *member)) {
                    continue;
                }
                const bool in_use = now.in_use && !is_marked_read_only(now.labels);
                if (in_use || content_id(now) != content_id(*member)) {
                    seen.insert_or_assign(now.name, now.received_from);
                }
                used = in_use ? now.name : used;
            }
            return used.empty() ? result<void>() : in_use(used);
        });
        for (volume_info& member : family_) {
            const auto at = seen.find(member.name);
            if (at != seen.end() && at_target(member) != nullptr) {
                UTHIN_TRY(target_.remove({.name = member.name, .if_exists = true}));
            }
            if (at != seen.end()) {
                member.received_from = at->second;
            }
        }
        if (!seen.empty()) {
            present_ = UTHIN_TRY(target_.list());
        }
        return unused;
    }
    [[nodiscard]] result<void> in_use(const std::string& name) const {
        return fail(error_code::busy,
                    fmt::format("{}: in use, and what is written to a snapshot while it is copied "
                                "would be lost; disconnect its clients and start again",
                                at_source(name)));
    }

    // The snapshots of the volume, and theirs, oldest first.
    void find_family(const std::vector<volume_info>& volumes) {
        std::set<std::string> uuids = {volume_.uuid};
        bool grew = !volume_.uuid.empty();
        while (grew) {
            grew = false;
            for (const volume_info& one : volumes) {
                if (!one.uuid.empty() && uuids.contains(one.parent_uuid)) {
                    grew = uuids.insert(one.uuid).second || grew;
                }
            }
        }
        for (const volume_info& one : volumes) {
            if (one.uuid != volume_.uuid && !one.uuid.empty() && uuids.contains(one.uuid)) {
                family_.push_back(one);
            }
        }
        std::ranges::sort(family_, [](const volume_info& a, const volume_info& b) {
            return std::pair(a.creation_time, a.creation_transaction_id) <
                   std::pair(b.creation_time, b.creation_transaction_id);
        });
    }

    // A snapshot that is there already.
    [[nodiscard]] const volume_info* at_target(const volume_info& member) const {
        const volume_info* found = find_volume(present_, member.name);
        return found != nullptr && holds(*found, identity_of(member)) ? found : nullptr;
    }

    // Nothing but the last renaming is left to do. A volume that got its name back at the source
    // may have been written to since.
    [[nodiscard]] bool is_complete() const {
        if (!renamed_ && !is_still()) {
            return false;
        }
        const auto holds = [&](const std::string& name) {
            const volume_info* found = find_volume(present_, name);
            return found != nullptr && found->received_from == mark_of_end();
        };
        return holds(final_name()) || holds(staged_name());
    }
    // What the volume at the target is marked with once it holds all.
    [[nodiscard]] std::string mark_of_end() const {
        volume_info itself = volume_;
        itself.received_from.clear();  // a snapshot that is used as a volume goes on changing
        return identity_of(itself) + ":volume";
    }

    result<void> check_names() {
        std::vector<volume_info> all = family_;
        all.push_back(volume_);
        for (const volume_info& one : all) {
            if (!one.external_origin.empty()) {
                return fail(
                    error_code::unsupported,
                    fmt::format("{}: stands on an external origin; 'uthin flatten' it first",
                                at_source(one.name)));
            }
        }
        for (const volume_info& one : family_) {
            if (find_volume(present_, one.name) != nullptr && at_target(one) == nullptr) {
                return name_taken(one.name);
            }
        }
        const volume_info* last = find_volume(present_, final_name());
        if (last != nullptr && !(is_complete() && last->received_from == mark_of_end())) {
            return name_taken(final_name());
        }
        const volume_info* staged = find_volume(present_, staged_name());
        if (staged != nullptr && staged->received_from.empty()) {
            return name_taken(staged_name());
        }
        return check_volume_name(staged_name(), std::nullopt);
    }

    [[nodiscard]] result<void> name_taken(const std::string& name) const {
        return fail(
            error_code::already_exists,
            fmt::format("{}: exists already, and is no copy of what there is now; rename or "
                        "delete it",
                        there(name)));
    }

    // ---- planning

    // Of those at the target the one that `one` differs from least; null: none is better than
    // copying everything.
    result<const volume_info*> best_relative(const volume_info& one,
                                             const std::vector<const volume_info*>& placed) {
        const volume_info* best = nullptr;
        std::uint64_t least =
            UTHIN_TRY(cost_of_changes(source_, nullptr, one, UINT64_MAX)).data_bytes;
        std::size_t looked_at = 0;
        for (auto at = placed.rbegin(); at != placed.rend() && looked_at < candidates_max; ++at) {
            ++looked_at;
            const change_cost cost = UTHIN_TRY(cost_of_changes(source_, *at, one, least));
            // What is cut off may end inside a block, which is a copy then: of two that differ as
            // little, the one that is no larger.
            const std::uint64_t bytes =
                cost.data_bytes + ((*at)->size_bytes > one.size_bytes ? 1U : 0U);
            if (bytes < least) {
                least = bytes;
                best = *at;
            }
        }
        return best;
    }

    // Each block that is written may need one at the target, at its size.
    result<void> check_capacity() {
        const pool_report target = UTHIN_TRY(target_.report());
        std::uint64_t needed = 0;
        std::vector<const volume_info*> placed;
        const auto add = [&](const volume_info& one, bool is_there) -> result<void> {
            if (!is_there) {
                const volume_info* from = UTHIN_TRY(best_relative(one, placed));
                const change_cost cost = UTHIN_TRY(
                    cost_of_changes(source_, from, one, UINT64_MAX, target.block_size_bytes));
                needed += cost.touched_blocks;
                total_bytes_ += cost.data_bytes;
            }
            placed.push_back(&one);
            return {};
        };
        for (const volume_info& member : family_) {
            UTHIN_TRY(add(member, at_target(member) != nullptr));
        }
        // A snapshot that is used as a volume may have another content by now.
        const volume_info itself = UTHIN_TRY(show_device_again(source_, volume_));
        UTHIN_TRY(add(itself, false));
        const std::uint64_t free = target.data_blocks - target.data_used_blocks;
        if (needed <= free) {
            return {};
        }
        return fail(error_code::no_data_space,
                    fmt::format("{}: {} data blocks are needed and {} are free; grow the pool with "
                                "'uthin pool grow --data-size'",
                                printable(target_.directory()), needed, free));
    }

    // ---- copying

    [[nodiscard]] std::vector<const volume_info*> placed() const {
        std::vector<const volume_info*> found;
        for (const volume_info& member : family_) {
            if (at_target(member) != nullptr) {
                found.push_back(&member);
            }
        }
        return found;
    }

    // A copy of `member`, which nobody changes meanwhile, appears as content of the staged volume
    // and, with `snapshot`, as a snapshot of that.
    result<void> copy(const volume_info& member, const std::string& snapshot,
                      const std::string& received_from) {
        const volume_info* from = UTHIN_TRY(best_relative(member, placed()));
        hidden_volume hidden =
            UTHIN_TRY(target_.make_hidden(from != nullptr ? from->name : "", member.size_bytes));
        auto done = fill(member, from, *hidden.data);
        if (done) {
            done = publish(hidden, snapshot, received_from);
        }
        if (!done) {
            target_.drop_hidden(hidden);
            return done;
        }
        present_ = UTHIN_TRY(target_.list());
        return {};
    }

    result<void> fill(const volume_info& member, const volume_info* from, volume& into) {
        const auto content = UTHIN_TRY(source_.open_data(member.name, true));
        // What was opened by its name is what was looked at.
        UTHIN_TRY(show_again(source_, member));
        UTHIN_TRY(make_durable(*content, member));
        change_copier copier(source_, *content, into);
        copier.on_progress([&](std::uint64_t bytes) {
            if (request_.progress) {
                const std::uint64_t done = reply_.copied_bytes + bytes;
                request_.progress(done, std::max(total_bytes_, done));
            }
        });
        UTHIN_TRY(copier.copy(from, member));
        UTHIN_TRY(show_again(source_, member));  // CI2: nobody wrote to it meanwhile
        reply_.copied_bytes += copier.copied_bytes();
        return request_.verify ? copier.verify(from, member) : result<void>();
    }

    result<void> publish(hidden_volume& hidden, const std::string& snapshot,
                         const std::string& received_from) {
        publish_request wanted;
        wanted.name = staged_name();
        wanted.snapshot = snapshot;
        wanted.received_from = received_from;
        if (const volume_info* staged = find_volume(present_, staged_name())) {
            wanted.replaces = seen_volume{staged->dev_id, staged->creation_time,
                                          staged->creation_transaction_id, staged->size_bytes};
        }
        return target_.publish_hidden(hidden, wanted);
    }

    result<void> move_snapshots() {
        for (const volume_info& member : family_) {
            if (at_target(member) == nullptr) {
                UTHIN_TRY(move_snapshot(member));
            }
        }
        return {};
    }

    result<void> move_snapshot(const volume_info& member) {
        UTHIN_TRY(copy(member, member.name, identity_of(member)));
        if (!is_temporary(member) &&
            std::ranges::find(reply_.names, member.name) == reply_.names.end()) {
            reply_.names.push_back(member.name);
        }
        return {};
    }

    result<void> move_volume() { return copy(volume_, {}, mark_of_end()); }

    // ---- a volume that may be in use

    [[nodiscard]] result<bool> is_used() {
        return UTHIN_TRY(show_device_again(source_, volume_)).in_use;
    }

    result<void> follow_and_move() {
        while (!renamed_) {
            const std::uint64_t before = reply_.copied_bytes;
            create_snapshots_request wanted;
            wanted.snapshots = {{volume_.name, std::string(temporary_prefix) + make_uuid()}};
            const auto made = UTHIN_TRY(source_.create_snapshots(wanted));
            family_.push_back(made.front());
            if (auto same = show_device_again(source_, volume_); !same) {
                (void)source_.delete_volume({.name = made.front().name, .if_exists = true});
                return std::unexpected(std::move(same).error());
            }
            UTHIN_TRY(move_snapshot(family_.back()));
            ++reply_.round_count;
            UTHIN_TRY(drop_temporaries(family_.back().name));
            if (reply_.copied_bytes - before <= small_bytes || reply_.round_count >= rounds_max ||
                !UTHIN_TRY(is_used())) {
                break;
            }
        }
        system_clock().sleep_for(look_interval);  // the server sees that we have left
        UTHIN_TRY(drop_used_copies());
        UTHIN_TRY(move_snapshots());
        UTHIN_TRY(take_name());
        auto moved = move_volume();
        if (!moved && !renamed_before_) {
            // Nothing appeared: the volume is the source's, as before. The failure is what is told.
            (void)source_.rename_volume(left_name(), request_.name);
        }
        reply_.barrier = system_clock().monotonic() - taken_at_;
        return moved;
    }

    // ORDER: MI1. From here on nobody finds the volume by its name, and nobody had it open.
    result<void> take_name() {
        taken_at_ = system_clock().monotonic();
        renamed_before_ = renamed_;
        const std::chrono::nanoseconds end = taken_at_ + request_.wait;
        while (!renamed_) {
            if (!UTHIN_TRY(is_used())) {
                taken_at_ = system_clock().monotonic();
                UTHIN_TRY(source_.rename_volume(request_.name, left_name()));
                volume_.name = left_name();
                const auto used = is_used();
                if (used && !*used) {
                    renamed_ = true;
                    break;
                }
                UTHIN_TRY(source_.rename_volume(left_name(), request_.name));
                volume_.name = request_.name;
                UTHIN_TRY(used);
            }
            if (system_clock().monotonic() >= end) {
                return fail(error_code::busy,
                            fmt::format("{}: in use; all but the last changes are copied: "
                                        "disconnect its clients and start again, or give a longer "
                                        "--wait",
                                        at_source(request_.name)));
            }
            system_clock().sleep_for(look_interval);
        }
        volume_ = UTHIN_TRY(source_.show_volume(volume_.name));
        return {};
    }

    // All but the one called `kept`, in both pools.
    result<void> drop_temporaries(const std::string& kept) {
        const auto is_old = [&](const volume_info& one) {
            return is_temporary(one) && one.name != kept;
        };
        for (const volume_info& one : std::vector(family_)) {
            if (is_old(one)) {
                UTHIN_TRY(target_.remove({.name = one.name, .if_exists = true}));
                UTHIN_TRY(source_.delete_volume({.name = one.name, .if_exists = true}));
            }
        }
        std::erase_if(family_, is_old);
        present_ = UTHIN_TRY(target_.list());
        return {};
    }

    result<void> finish() {
        UTHIN_TRY(drop_temporaries({}));
        if (find_volume(present_, staged_name()) != nullptr) {
            UTHIN_TRY(target_.rename(staged_name(), final_name()));
            reply_.names.push_back(final_name());
        }
        reply_.left_as = is_still() ? std::string() : left_name();
        return {};
    }

    pool_service& source_;
    pool_directory& target_;
    const migrate_request& request_;
    pool_report source_report_;
    volume_info volume_;
    bool renamed_ = false;         // it is called left_name() at the source
    bool renamed_before_ = false;  // by an earlier call
    std::vector<volume_info> family_;
    std::vector<volume_info> present_;  // at the target
    std::uint64_t total_bytes_ = 0;
    std::chrono::nanoseconds taken_at_{0};
    migrate_reply reply_;
};

}  // namespace

result<migrate_reply> migrate_volume(pool_service& source, pool_directory& target,
                                     const migrate_request& request) {
    return migration(source, target, request).run();
}

}  // namespace uthin::replication
