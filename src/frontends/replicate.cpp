#include "frontends/replicate.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/random.h"
#include "base/result.h"
#include "frontends/child_process.h"
#include "frontends/control/codec.h"
#include "frontends/control/codec_fields.h"
#include "pool/labels.h"
#include "pool/names.h"
#include "replication/content_id.h"
#include "replication/patience.h"
#include "replication/rate_limit.h"
#include "replication/sender.h"

namespace uthin::frontends {

namespace {

using replication::content_id;
using replication::is_snapshot;

constexpr std::string_view ssh_scheme = "ssh://";
constexpr std::size_t error_bytes_max = 500;

std::string hold_label(const replica_target& target) {
    return std::string(hold_label_prefix) + "replica-" + target.tag();
}

// For the shell on the other side.
std::string quoted(const std::string& word) {
    std::string out = "'";
    for (const char c : word) {
        out += c == '\'' ? std::string("'\\''") : std::string(1, c);
    }
    return out + "'";
}

class child_sink final : public replication::byte_sink {
public:
    child_sink(child_process& child, std::chrono::milliseconds stall_timeout)
        : child_(child), stall_timeout_(stall_timeout) {}
    result<void> write(std::span<const std::byte> bytes) override {
        auto written = child_.write(bytes, stall_timeout_);
        broken_ = broken_ || !written;
        return written;
    }
    [[nodiscard]] bool broken() const { return broken_; }

private:
    child_process& child_;
    const std::chrono::milliseconds stall_timeout_;
    bool broken_ = false;
};

std::string token_of(const std::string& output) {
    constexpr std::string_view word = "token ";
    const std::size_t at = output.rfind(word);
    if (at == std::string::npos || (at != 0 && output[at - 1] != '\n')) {
        return {};
    }
    const std::size_t begin = at + word.size();
    return output.substr(begin, output.find('\n', begin) - begin);
}

class replicator {
public:
    replicator(pool_service& pool, std::string volume, const replicate_options& options)
        : pool_(pool), volume_(std::move(volume)), options_(options), target_(options.target) {}

    result<round_report> run() {
        source_ = UTHIN_TRY(pool_.show_volume(volume_));
        if (source_.uuid.empty() || is_snapshot(source_)) {
            return fail(error_code::invalid_argument,
                        fmt::format("{}: is a snapshot, or not in the catalogue; replicate a "
                                    "volume",
                                    printable(volume_)));
        }
        read_state();
        auto done = round();
        ++state_.rounds;
        if (done) {
            state_.failures = 0;
            state_.error.clear();
        } else {
            ++state_.failures;
            state_.error = cut_text(done.error().message(), error_bytes_max);
        }
        const auto noted = note_state();
        if (done && !noted) {
            return std::unexpected(noted.error());
        }
        return done;
    }

private:
    // ---- the other side
    [[nodiscard]] std::vector<std::string> command(const std::vector<std::string>& words) const {
        if (target_.host.empty()) {
            std::vector<std::string> all = {options_.own_program};
            all.insert(all.end(), words.begin(), words.end());
            return all;
        }
        std::string line = options_.remote_program;
        for (const std::string& word : words) {
            line += " " + quoted(word);
        }
        std::vector<std::string> all = options_.shell;
        if (!target_.port.empty()) {
            all.emplace_back("-p");
            all.push_back(target_.port);
        }
        all.push_back(target_.host);
        all.push_back(line);
        return all;
    }
    result<std::string> run_there(const std::vector<std::string>& words) const {
        return UTHIN_TRY_CTX(run_program(command(words), options_.stall_timeout),
                             printable(target_.text));
    }
    [[nodiscard]] std::string there(const std::string& volume) const {
        return target_.directory + "/" + volume;
    }
    result<std::vector<volume_info>> list_there() const {
        const std::string text =
            UTHIN_TRY(run_there({"volume", "list", target_.directory, "--json"}));
        // ssh may have said something before.
        const std::size_t begin = std::min(text.find("{\"volumes\""), text.size());
        const json value = json::parse(text.substr(begin), nullptr, /*allow_exceptions=*/false);
        if (!value.is_object()) {
            return fail(error_code::io_error,
                        fmt::format("{}: gave no list of its volumes: {}", target_.text,
                                    printable(cut_text(text, 200))));
        }
        return decode_volumes(value);
    }

    // ---- the label that remembers
    [[nodiscard]] std::string state_key() const { return replica_label_prefix + target_.tag(); }
    void read_state() {
        const auto label = source_.labels.find(state_key());
        if (label != source_.labels.end()) {
            if (auto parsed = parse_replica_state(label->second)) {
                state_ = std::move(*parsed);
            }
        }
        state_.target = target_.text;
    }
    result<void> note_state() {
        label_request request;
        request.name = volume_;
        request.set = {{state_key(), to_text(state_)}};
        UTHIN_TRY(pool_.label_volume(request));
        return {};
    }

    // ---- the round
    result<round_report> round() {
        auto theirs = UTHIN_TRY(list_there());
        const auto ours = UTHIN_TRY(pool_.list_volumes());
        const volume_info* base = common_snapshot(ours, theirs);
        UTHIN_TRY(remove_strays(ours, base));
        if (options_.take_over && base != nullptr) {
            UTHIN_TRY(take_over(*base, theirs));
        }
        if (!state_.token.empty()) {
            const auto* pending = replication::find_volume(ours, state_.pending);
            auto resumed = resume(pending);
            if (resumed || !state_.token.empty() || may_be_there_) {
                return resumed;  // or the next round goes on from further on, or sees it there
            }
        }
        if (base == nullptr && replication::find_volume(theirs, target_.volume) != nullptr) {
            return fail(error_code::not_found,
                        fmt::format("{}: '{}' exists and has no snapshot in common with {} (one "
                                    "that was written to is none any more); delete it there, or "
                                    "give another name with --as",
                                    printable(target_.text), printable(target_.volume),
                                    printable(volume_)));
        }
        return send_new(base);
    }

    // RE3: what rounds left that were killed, and streams that will not be gone on with. The last
    // round's snapshot may be there yet.
    result<void> remove_strays(const std::vector<volume_info>& ours, const volume_info* base) {
        for (const volume_info& own : ours) {
            const bool wanted = (base != nullptr && own.name == base->name) ||
                                own.name == state_.snapshot || own.name == state_.pending;
            if (own.labels.contains(hold_label(target_)) && !wanted) {
                UTHIN_TRY(remove_here(own.name));
            }
        }
        return {};
    }

    // The newest snapshot of the volume here whose content is there as well, as a snapshot of the
    // replica: another one may be newer than what the replica stands on.
    [[nodiscard]] const volume_info* common_snapshot(const std::vector<volume_info>& ours,
                                                     const std::vector<volume_info>& theirs) const {
        const volume_info* replica = replication::find_volume(theirs, target_.volume);
        const volume_info* found = nullptr;
        for (const volume_info& own : ours) {
            if (!is_snapshot(own) || own.parent_uuid != source_.uuid) {
                continue;
            }
            const bool shared = std::ranges::any_of(theirs, [&](const volume_info& other) {
                return replication::holds(other, content_id(own)) &&
                       other.size_bytes == own.size_bytes &&
                       (replica == nullptr || other.parent_uuid == replica->uuid);
            });
            if (shared && (found == nullptr || own.creation_time > found->creation_time)) {
                found = &own;
            }
        }
        return found;
    }

    result<void> take_over(const volume_info& base, const std::vector<volume_info>& theirs) {
        const volume_info* target = replication::find_volume(theirs, target_.volume);
        if (target == nullptr || target->labels.contains(std::string(replica_of_label))) {
            return {};
        }
        const auto same = std::ranges::find_if(theirs, [&](const volume_info& other) {
            return replication::holds(other, content_id(base)) && other.parent_uuid == target->uuid;
        });
        UTHIN_TRY(run_there({"volume", "rollback", there(target_.volume), "--to", same->name}));
        UTHIN_TRY(run_there({"volume", "label", there(target_.volume),
                             std::string(replica_of_label) + "=" + source_.uuid,
                             std::string(read_only_label) + "=true"}));
        return {};
    }

    result<round_report> send_new(const volume_info* base) {
        round_report report;
        report.whole = base == nullptr;
        report.snapshot = UTHIN_TRY(make_snapshot());
        replication::send_request request;
        request.name = report.snapshot;
        request.from = base == nullptr ? "" : base->name;
        request.compress = options_.compress;
        auto sent = send(request, report.snapshot);
        if (!sent) {
            if (!state_.token.empty() || may_be_there_) {
                state_.pending = report.snapshot;
            } else {
                (void)remove_here(report.snapshot);
            }
            return std::unexpected(std::move(sent).error());
        }
        report.data_bytes = sent->data_bytes;
        UTHIN_TRY(reached(report.snapshot, sent->header.created_unix_seconds));
        return report;
    }

    result<round_report> resume(const volume_info* pending) {
        if (pending == nullptr) {
            state_.token.clear();
            return fail(error_code::not_found, "the snapshot under way is gone");
        }
        round_report report;
        report.snapshot = pending->name;
        report.resumed = true;
        replication::send_request request;
        request.token = std::exchange(state_.token, {});
        request.compress = options_.compress;
        auto sent = send(request, pending->name);
        if (!sent && sent.error().code() == error_code::cancelled && state_.token.empty()) {
            state_.token = request.token;  // it stalled: nobody said how far it came
        }
        if (!sent) {
            return std::unexpected(std::move(sent).error());
        }
        report.data_bytes = sent->data_bytes;
        UTHIN_TRY(reached(report.snapshot, sent->header.created_unix_seconds));
        return report;
    }

    result<std::string> make_snapshot() {
        const std::string name =
            fmt::format("{}-replica-{}-{}-{:04x}", cut_text(volume_, 180), target_.tag(),
                        system_clock().unix_seconds(), system_random_u64() & 0xffff);
        create_snapshots_request request;
        request.snapshots = {{volume_,
                              name,
                              {{hold_label(target_), std::string(cut_text(target_.text, 1000))},
                               {std::string(read_only_label), "true"}}}};
        UTHIN_TRY(pool_.create_snapshots(request));
        return name;
    }

    // Leaves a token when it broke off and can go on.
    result<replication::send_reply> send(const replication::send_request& request,
                                         const std::string& snapshot) {
        may_be_there_ = false;
        auto child = UTHIN_TRY(child_process::start(
            command({"receive", there(target_.volume), "--snapshot", snapshot, "--replica-of",
                     source_.uuid, "--snapshot-label", hold_label(target_) + "=replication",
                     // The next round builds on it, unless somebody writes to it.
                     "--snapshot-label", std::string(read_only_label) + "=true",
                     // A line that fell silent ends nothing there by itself.
                     "--stall-timeout", fmt::format("{}ms", options_.stall_timeout.count())})));
        child_sink sink(child, options_.stall_timeout);
        replication::rate_limit limited(sink, options_.rate_bytes_per_second, system_clock());
        auto sent = replication::send_snapshot(pool_, request,
                                               options_.rate_bytes_per_second == 0
                                                   ? static_cast<replication::byte_sink&>(sink)
                                                   : limited);
        const bool stalled = !sent && sent.error().code() == error_code::cancelled;
        if (!sent && (stalled || !sink.broken())) {
            return sent;  // of our own pool, or there is nothing to wait for
        }
        // Also after a broken pipe: the other side knows why.
        auto finished = child.finish(options_.stall_timeout);
        if (!finished) {
            // The line can be lost between the other side's last step and its word; what is still
            // on its way there may even arrive after the next round has begun.
            may_be_there_ = sent.has_value();
            state_.token = token_of(child.output());
            return std::unexpected(
                std::move(finished).error().with_context(printable(target_.text)));
        }
        return sent;
    }

    // ORDER: RE1. Both sides hold the new snapshot by now: the older ones may go.
    result<void> reached(const std::string& snapshot, std::int64_t created_unix_seconds) {
        state_.replicated_unix_seconds = created_unix_seconds;
        state_.snapshot = snapshot;
        state_.pending.clear();
        state_.token.clear();
        UTHIN_TRY(note_state());
        for (const volume_info& own : UTHIN_TRY(pool_.list_volumes())) {
            if (own.name != snapshot && own.labels.contains(hold_label(target_))) {
                UTHIN_TRY(remove_here(own.name));
            }
        }
        for (const volume_info& other : UTHIN_TRY(list_there())) {
            if (other.name != snapshot && other.labels.contains(hold_label(target_))) {
                UTHIN_TRY(
                    run_there({"volume", "delete", there(other.name), "--force", "--if-exists"}));
            }
        }
        return {};
    }
    result<void> remove_here(const std::string& name) {
        UTHIN_TRY(replication::while_busy(
            [&] { return pool_.delete_volume({.name = name, .if_exists = true, .force = true}); }));
        return {};
    }

    pool_service& pool_;
    const std::string volume_;
    const replicate_options& options_;
    const replica_target& target_;
    volume_info source_;
    replica_state state_;
    // All was sent, and nobody said what became of it: the next round looks at both sides.
    bool may_be_there_ = false;
};

// "HOST", "HOST:PORT", "[ADDRESS]:PORT", each with "USER@" or without.
void split_host(const std::string& text, replica_target& target) {
    const std::size_t user_end = text.find('@') == std::string::npos ? 0 : text.find('@') + 1;
    std::string host = text.substr(user_end);
    const bool bracketed = host.starts_with('[') && host.find(']') != std::string::npos;
    const std::size_t colon = host.find(':', bracketed ? host.find(']') : 0);
    if (colon != std::string::npos) {
        target.port = host.substr(colon + 1);
        host.resize(colon);
    }
    if (bracketed) {
        host = host.substr(1, host.find(']') - 1);
    }
    target.host = host.empty() ? "" : text.substr(0, user_end) + host;
}

}  // namespace

std::string replica_target::tag() const {
    const std::string all = text + "\n" + volume;
    return fmt::format("{:08x}", ~crc32c_raw(~0U, std::as_bytes(std::span(all))));
}

result<replica_target> parse_replica_target(const std::string& text, const std::string& volume) {
    replica_target target;
    target.text = text;
    target.volume = volume;
    target.directory = text;
    if (text.starts_with(ssh_scheme)) {
        const std::string rest = text.substr(ssh_scheme.size());
        const std::size_t slash = rest.find('/');
        target.directory = slash == std::string::npos ? "" : rest.substr(slash);
        split_host(rest.substr(0, slash), target);
    }
    // A host that begins with a dash would be an option of ssh.
    if (target.directory.empty() || target.host.starts_with('-') ||
        (text.starts_with(ssh_scheme) && target.host.empty()) ||
        target.port.find_first_not_of("0123456789") != std::string::npos) {
        return fail(error_code::invalid_argument,
                    fmt::format("target '{}': not valid; write DIR or ssh://[USER@]HOST[:PORT]/DIR",
                                printable(text)));
    }
    return target;
}

std::string to_text(const replica_state& state) {
    return to_text(json{{"target", state.target},
                        {"replicated", state.replicated_unix_seconds},
                        {"snapshot", state.snapshot},
                        {"pending", state.pending},
                        {"token", state.token},
                        {"rounds", state.rounds},
                        {"failures", state.failures},
                        {"error", state.error}});
}

result<replica_state> parse_replica_state(const std::string& text) {
    const json value = UTHIN_TRY(parse_object(text));
    replica_state state;
    field_reader fields(value);
    fields.required("target", state.target);
    fields.required("replicated", state.replicated_unix_seconds);
    fields.required("snapshot", state.snapshot);
    fields.required("pending", state.pending);
    fields.required("token", state.token);
    fields.required("rounds", state.rounds);
    fields.required("failures", state.failures);
    fields.required("error", state.error);
    UTHIN_TRY(fields.outcome());
    return state;
}

std::vector<replica_state> replicas_of(const volume_info& volume) {
    std::vector<replica_state> found;
    for (const auto& [key, value] : volume.labels) {
        if (key.starts_with(replica_label_prefix)) {
            if (auto state = parse_replica_state(value)) {
                found.push_back(std::move(*state));
            }
        }
    }
    return found;
}

result<round_report> replicate_once(pool_service& pool, const std::string& volume,
                                    const replicate_options& options) {
    return replicator(pool, volume, options).run();
}

}  // namespace uthin::frontends
