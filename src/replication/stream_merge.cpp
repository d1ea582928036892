#include "replication/stream_merge.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "base/result.h"

namespace uthin::replication {

namespace {

// One stream of the chain, at the record that it has come to.
struct member {
    explicit member(stream_reader opened) : reader(std::move(opened)) {}

    [[nodiscard]] std::uint64_t end_bytes() const {
        return record.offset_bytes + record.length_bytes;
    }
    // To the first record that reaches behind `position_bytes`. At the stream's end: none is left.
    result<void> skip_to(std::uint64_t position_bytes) {
        while (!ended && (!begun || end_bytes() <= position_bytes)) {
            begun = true;
            do {
                record = UTHIN_TRY(reader.next());
            } while (record.kind == record_kind::mark);
            ended = record.kind == record_kind::end;
        }
        return {};
    }

    stream_reader reader;
    stream_record record{};
    bool begun = false;
    bool ended = false;
    // What lies behind was cut off by a later stream of the chain.
    std::uint64_t limit_bytes = UINT64_MAX;
};

class merger {
public:
    merger(std::vector<member>& members, stream_writer& writer)
        : members_(members), writer_(writer) {}

    result<void> run() {
        for (std::size_t i = 0; i + 1 < members_.size(); ++i) {
            for (std::size_t later = i + 1; later < members_.size(); ++later) {
                members_[i].limit_bytes = std::min(members_[i].limit_bytes,
                                                   members_[later].reader.header().to_size_bytes);
            }
        }
        for (std::uint64_t position = 0;;) {
            for (member& each : members_) {
                UTHIN_TRY(each.skip_to(position));
            }
            const std::optional<piece> next = next_piece(position);
            if (!next) {
                break;
            }
            UTHIN_TRY(write(*next));
            position = next->end_bytes;
        }
        // What was cut off is read, too: only at its end is it known that a stream is whole.
        for (member& each : members_) {
            UTHIN_TRY(each.skip_to(UINT64_MAX));
        }
        return {};
    }

private:
    struct piece {
        const member* from = nullptr;
        std::uint64_t begin_bytes = 0;
        std::uint64_t end_bytes = 0;
    };

    // From the first byte at or behind `position` that a stream tells of, as told by the newest
    // that does, up to where an even newer one begins.
    std::optional<piece> next_piece(std::uint64_t position) const {
        piece found{nullptr, UINT64_MAX, UINT64_MAX};
        for (auto at = members_.rbegin(); at != members_.rend(); ++at) {
            const std::uint64_t begin = std::max(at->record.offset_bytes, position);
            const std::uint64_t end = at->ended ? 0 : std::min(at->end_bytes(), at->limit_bytes);
            if (begin < end && begin < found.begin_bytes) {
                // Those that were looked at before are newer, and begin behind it.
                found = {&*at, begin, std::min(end, found.begin_bytes)};
            }
        }
        return found.from == nullptr ? std::nullopt : std::optional(found);
    }
    result<void> write(const piece& one) {
        const stream_record& record = one.from->record;
        const std::uint64_t length = one.end_bytes - one.begin_bytes;
        if (record.kind == record_kind::data) {
            return writer_.data(one.begin_bytes,
                                record.data.subspan(one.begin_bytes - record.offset_bytes, length));
        }
        return {};  // what a whole stream does not tell of reads as zeros
    }

    std::vector<member>& members_;
    stream_writer& writer_;
};

}  // namespace

result<void> merge_streams(std::span<byte_source* const> chain, byte_sink& sink, bool compress) {
    std::vector<member> members;
    members.reserve(chain.size());
    for (byte_source* source : chain) {
        members.emplace_back(UTHIN_TRY(stream_reader::open(*source)));
        const stream_header& header = members.back().reader.header();
        const bool fits = members.size() == 1
                              ? !header.is_incremental()
                              : header.from.id == members[members.size() - 2].reader.header().to.id;
        if (!fits || header.is_resumed()) {
            return fail(
                error_code::invalid_argument,
                fmt::format("stream '{}': does not follow the one before it; give a whole one "
                            "and the differences to it",
                            header.to.name));
        }
    }
    if (members.empty()) {
        return fail(error_code::invalid_argument, "no stream is given to be merged");
    }
    stream_header header = members.back().reader.header();
    header.from = {};
    header.from_size_bytes = 0;
    constexpr std::uint64_t mark_interval_bytes = 1U << 20;
    auto writer = UTHIN_TRY(stream_writer::begin(sink, header, compress, mark_interval_bytes));
    UTHIN_TRY(merger(members, writer).run());
    return writer.end();
}

}  // namespace uthin::replication
