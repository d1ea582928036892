#include "replication/receiver.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/clock.h"
#include "base/result.h"
#include "pool/labels.h"
#include "pool/names.h"
#include "replication/content_id.h"
#include "replication/patience.h"
#include "replication/resume_token.h"
#include "replication/thin_send.h"

namespace uthin::replication {

namespace {

// The notes of a transfer.
constexpr const char* to_note = "to";
constexpr const char* from_note = "from";
constexpr const char* position_note = "position";
constexpr std::chrono::seconds note_interval{2};

class stream_receiver {
public:
    stream_receiver(pool_service& pool, const receive_request& request, content_reader& reader)
        : pool_(pool), request_(request), reader_(reader), header_(reader.header()) {}

    result<receive_reply> receive() {
        directory_ = UTHIN_TRY(pool_.status()).directory;
        volumes_ = UTHIN_TRY(pool_.list_volumes());
        UTHIN_TRY(choose_names());
        UTHIN_TRY(choose_base());
        UTHIN_TRY(check_target());
        transfer_ = UTHIN_TRY(header_.is_resumed() ? find_transfer() : begin_transfer());
        auto filled = fill();
        if (!filled) {
            break_off();
            return std::unexpected(std::move(filled).error());
        }
        auto published = publish();
        if (!published) {
            drop();
            return std::unexpected(std::move(published).error());
        }
        receive_reply reply;
        reply.header = header_;
        reply.volume = UTHIN_TRY(pool_.show_volume(request_.name));
        reply.snapshot = snapshot_;
        return reply;
    }

private:
    [[nodiscard]] std::string shown(const std::string& name) const {
        return fmt::format("{}/{}", printable(directory_), printable(name));
    }

    result<void> choose_names() {
        snapshot_ = request_.snapshot;
        if (snapshot_.empty() && !header_.temporary) {
            snapshot_ = header_.to.name;
        }
        if (snapshot_.empty()) {
            return {};
        }
        if (snapshot_ == request_.name || find_volume(volumes_, snapshot_) != nullptr) {
            return fail(error_code::already_exists,
                        fmt::format("{}: the snapshot that is to be kept has a name that is taken; "
                                    "give another one with --snapshot",
                                    shown(snapshot_)));
        }
        return check_volume_name(snapshot_, std::nullopt);
    }

    result<void> choose_base() {
        if (!header_.is_incremental()) {
            return {};
        }
        const volume_info* target = find_volume(volumes_, request_.name);
        const volume_info* base = nullptr;
        for (const volume_info& volume : volumes_) {
            const bool fits =
                holds(volume, header_.from.id) && volume.size_bytes == header_.from_size_bytes;
            const bool of_target = target != nullptr && volume.parent_uuid == target->uuid;
            if (fits && (base == nullptr || of_target)) {
                base = &volume;
            }
        }
        if (base == nullptr) {
            return wrong_base();
        }
        base_ = base->name;
        return {};
    }

    result<void> wrong_base() const {
        std::string remedy = "there is no common snapshot, send it whole";
        for (const snapshot_name& relative : header_.relatives) {
            const auto common = std::ranges::find_if(
                volumes_, [&](const volume_info& volume) { return holds(volume, relative.id); });
            if (common != volumes_.end()) {
                remedy = fmt::format(
                    "the newest common snapshot is '{}', here '{}'; send with "
                    "--from {}",
                    printable(relative.name), printable(common->name), printable(relative.name));
                break;
            }
        }
        return fail(
            error_code::invalid_argument,
            fmt::format("{}: the stream builds on snapshot '{}' ({}), which is not here; {}",
                        printable(directory_), printable(header_.from.name),
                        printable(header_.from.id), remedy));
    }

    result<void> check_target() {
        UTHIN_TRY(check_volume_name(request_.name, std::nullopt));
        const volume_info* target = find_volume(volumes_, request_.name);
        if (target == nullptr) {
            return {};
        }
        if (!header_.is_incremental()) {
            return fail(error_code::already_exists,
                        fmt::format("{}: exists already, and the stream holds a whole volume; "
                                    "delete it or use another name",
                                    shown(request_.name)));
        }
        const auto role = target->labels.find(std::string(replica_of_label));
        const bool is_replica = role != target->labels.end() && role->second == request_.replica_of;
        if (!request_.replica_of.empty() && !is_replica) {
            return fail(error_code::invalid_argument,
                        fmt::format("{}: is no replica of that volume, or was promoted; delete it, "
                                    "use another name, or replicate with --reverse",
                                    shown(request_.name)));
        }
        if (target->in_use) {
            return fail(error_code::busy, fmt::format("{}: in use; disconnect its clients first",
                                                      shown(request_.name)));
        }
        replaces_ = UTHIN_TRY(seen_unchanged());
        return {};
    }

    // The volume, which is still what the base says.
    result<seen_volume> seen_unchanged() {
        const volume_info target = UTHIN_TRY(pool_.show_volume(request_.name));
        diff_request wanted;
        wanted.from = base_;
        wanted.from_device = device_tag(*find_volume(volumes_, base_));
        wanted.to = request_.name;
        wanted.to_device = device_tag(target);
        wanted.ranges_max = 1;
        const bool same_size = target.size_bytes == header_.from_size_bytes;
        if (!same_size || !UTHIN_TRY(pool_.diff(wanted)).ranges.empty()) {
            return fail(error_code::invalid_argument,
                        fmt::format("{}: was changed since '{}', the stream's base; undo that with "
                                    "'uthin volume rollback --to {}', or use another name",
                                    shown(request_.name), printable(base_), printable(base_)));
        }
        return seen_volume{target.dev_id, target.creation_time, target.creation_transaction_id,
                           target.size_bytes};
    }

    // ---- the transfer
    [[nodiscard]] std::map<std::string, std::string> notes(std::uint64_t position_bytes) const {
        return {{to_note, header_.to.id},
                {from_note, header_.from.id},
                {position_note, fmt::format("{}", position_bytes)}};
    }

    result<transfer_info> begin_transfer() {
        if (request_.resumable) {
            // What an earlier stream into the same volume left is of no use any more.
            for (const transfer_info& old : UTHIN_TRY(pool_.list_transfers())) {
                if (old.name == request_.name && !old.in_use) {
                    UTHIN_TRY(pool_.drop_transfer(old.id));
                }
            }
        }
        begin_transfer_request wanted;
        wanted.name = request_.name;
        wanted.base = base_;
        wanted.size_bytes = header_.to_size_bytes;
        wanted.notes = notes(0);
        transfer_info begun = UTHIN_TRY(pool_.begin_transfer(wanted));
        if (auto same = check_base(); !same) {
            transfer_ = begun;
            drop();
            return std::unexpected(std::move(same).error());
        }
        return begun;
    }

    // It began as a copy of whatever had the name of the base by then.
    result<void> check_base() {
        if (base_.empty()) {
            return {};
        }
        const volume_info* seen = find_volume(volumes_, base_);
        UTHIN_TRY(show_again(pool_, *seen));
        return {};
    }

    result<transfer_info> find_transfer() {
        durable_bytes_ = header_.start_bytes;
        marked_bytes_ = durable_bytes_;
        const auto transfers = UTHIN_TRY(pool_.list_transfers());
        const auto found = std::ranges::find(transfers, header_.transfer_id, &transfer_info::id);
        if (found == transfers.end() || found->name != request_.name) {
            return fail(error_code::not_found,
                        fmt::format("{}: the stream goes on with a transfer that is not here; send "
                                    "it again without --resume",
                                    shown(request_.name)));
        }
        // It may have come further than the token says, and then gets the rest twice.
        const auto noted = found->notes.find(position_note);
        const auto reached =
            noted == found->notes.end() ? std::nullopt : parse_decimal(noted->second);
        auto expected = notes(0);
        expected[position_note] = noted == found->notes.end() ? "" : noted->second;
        if (found->notes != expected || !reached || *reached < header_.start_bytes ||
            found->size_bytes != header_.to_size_bytes) {
            return fail(error_code::invalid_argument,
                        fmt::format("{}: the stream goes on where another one broke off; send it "
                                    "again without --resume",
                                    shown(request_.name)));
        }
        return *found;
    }

    // What is durable up to the last mark is noted. Without a reason to hurry not too often: it
    // costs a commit. With one even if nothing is new: it is kept for a day from then on.
    result<void> note(bool now) {
        const std::chrono::nanoseconds time = system_clock().monotonic();
        if (!now && (marked_bytes_ == durable_bytes_ || time < noted_at_ + note_interval)) {
            return {};
        }
        // ORDER: RC4. Durable before it is noted.
        UTHIN_TRY(data_->flush());
        UTHIN_TRY(pool_.note_transfer(transfer_.id, notes(marked_bytes_)));
        durable_bytes_ = marked_bytes_;
        noted_at_ = time;
        return {};
    }

    result<void> fill() {
        data_ = UTHIN_TRY(while_busy([&] { return pool_.open_transfer(transfer_.id); }));
        noted_at_ = system_clock().monotonic();
        if (request_.begun) {
            request_.begun(header_.to_size_bytes);
        }
        while (true) {
            const stream_record record = UTHIN_TRY(reader_.next());
            switch (record.kind) {
                case record_kind::data:
                    UTHIN_TRY(data_->write(record.offset_bytes, record.data));
                    break;
                case record_kind::zero:
                    UTHIN_TRY(data_->write_zeroes(record.offset_bytes, record.length_bytes));
                    break;
                case record_kind::mark:
                    marked_bytes_ = record.offset_bytes;
                    if (request_.resumable) {
                        UTHIN_TRY(note(false));
                    }
                    break;
                default: return {};
            }
            if (request_.progress) {
                request_.progress(record.offset_bytes + record.length_bytes);
            }
        }
    }

    void drop() {
        data_.reset();
        // It is the first failure that is told; what cannot be dropped now is dropped later.
        (void)while_busy([&] { return pool_.drop_transfer(transfer_.id); });
    }

    void break_off() {
        if (!request_.resumable) {
            drop();
            return;
        }
        if (data_) {
            (void)note(true);  // the token tells how far it came
        }
        data_.reset();
        if (request_.broke_off) {
            request_.broke_off(
                to_text({transfer_.id, durable_bytes_, header_.to.id, header_.from.id}));
        }
    }

    result<void> publish() {
        // Of a served pool: its client has left before the volume can be seen.
        UTHIN_TRY(data_->flush());
        data_.reset();
        if (replaces_) {
            UTHIN_TRY(seen_unchanged());
        }
        publish_request wanted;
        wanted.name = request_.name;
        wanted.replaces = replaces_;
        wanted.snapshot = snapshot_;
        wanted.received_from = header_.to.id;
        wanted.labels = request_.labels;
        if (!request_.replica_of.empty()) {
            wanted.labels[std::string(replica_of_label)] = request_.replica_of;
            wanted.labels[std::string(read_only_label)] = "true";
        }
        wanted.snapshot_labels = request_.snapshot_labels;
        return while_busy([&] { return pool_.publish_transfer(transfer_.id, wanted); });
    }

    pool_service& pool_;
    const receive_request& request_;
    content_reader& reader_;
    const stream_header header_;
    std::vector<volume_info> volumes_;
    std::string snapshot_;
    std::string base_;
    std::optional<seen_volume> replaces_;
    std::string directory_;
    transfer_info transfer_;
    std::unique_ptr<volume_data> data_;
    std::uint64_t marked_bytes_ = 0;   // up to the last mark
    std::uint64_t durable_bytes_ = 0;  // noted
    std::chrono::nanoseconds noted_at_{0};
};

// Its first bytes have been looked at.
class replayed_source final : public byte_source {
public:
    explicit replayed_source(byte_source& rest) : rest_(rest) {}
    result<void> look() {
        count_ = UTHIN_TRY(rest_.read(first_));
        return {};
    }
    [[nodiscard]] bool is_thin_send() const {
        return count_ == first_.size() && replication::is_thin_send(first_);
    }
    result<std::size_t> read(std::span<std::byte> buffer) override {
        const std::size_t again = std::min(buffer.size(), count_ - given_);
        std::copy_n(first_.begin() + static_cast<std::ptrdiff_t>(given_), again, buffer.begin());
        given_ += again;
        return again + UTHIN_TRY(rest_.read(buffer.subspan(again)));
    }

private:
    byte_source& rest_;
    std::array<std::byte, 8> first_{};
    std::size_t count_ = 0;
    std::size_t given_ = 0;
};

result<thin_send_facts> thin_send_facts_of(pool_service& pool, const receive_request& request) {
    thin_send_facts facts;
    facts.size_bytes = request.thin_send_size_bytes;
    if (!request.thin_send_base.empty()) {
        const volume_info base = UTHIN_TRY(pool.show_volume(request.thin_send_base));
        if (!is_snapshot(base)) {
            return fail(error_code::invalid_argument,
                        fmt::format("{}: is no snapshot; name the one that the stream builds on",
                                    printable(request.thin_send_base)));
        }
        facts.from = {content_id(base), base.name};
        facts.from_size_bytes = base.size_bytes;
        facts.size_bytes = facts.size_bytes == 0 ? base.size_bytes : facts.size_bytes;
    }
    UTHIN_TRY_CTX(check_volume_size(facts.size_bytes),
                  "a stream of thin_send does not tell the size of its volume (--size)");
    return facts;
}

result<std::unique_ptr<content_reader>> open_stream(pool_service& pool,
                                                    const receive_request& request,
                                                    replayed_source& source) {
    UTHIN_TRY(source.look());
    if (source.is_thin_send()) {
        return read_thin_send(source, UTHIN_TRY(thin_send_facts_of(pool, request)));
    }
    return std::make_unique<stream_reader>(UTHIN_TRY(stream_reader::open(source)));
}

}  // namespace

result<receive_reply> receive_stream(pool_service& pool, const receive_request& request,
                                     byte_source& source) {
    replayed_source replayed(source);
    const auto reader = UTHIN_TRY(open_stream(pool, request, replayed));
    receive_request wanted = request;
    wanted.resumable = request.resumable && !replayed.is_thin_send();  // that form has no marks
    return stream_receiver(pool, wanted, *reader).receive();
}

}  // namespace uthin::replication
