// The receiver, with streams of either form: a refused stream leaves the pool as it was, a taken
// one is there as it says.
//
// First byte: bits 0 and 1 as in stream_input.h; 2 a difference is told the right base; 3 what
// arrived stays when it breaks off; 4 the volume is "vol", else "new"; 5 of thin_send's form: with
// a base.
#include <algorithm>

#include "fuzz/pool_input.h"
#include "fuzz/stream_input.h"
#include "replication/content_id.h"
#include "replication/receiver.h"
#include "replication/thin_send.h"
#include "support/stream_buffers.h"

namespace uthin::fuzz {
namespace {

using replication::record_kind;

constexpr std::uint64_t volume_bytes_max = 8U << 20;
constexpr unsigned right_base = 4;
constexpr unsigned resumable = 8;
constexpr unsigned into_vol = 16;
constexpr unsigned thin_send_base = 32;

volume_info base_of(pool_input& pool) {
    return require_ok(pool.service().show_volume("vol@1"), "the base");
}

bytes with_right_base(std::span<const std::byte> stream, pool_input& pool) {
    const bytes sealed = sealed_stream(stream, seal_records);
    test::memory_source again(sealed);
    const auto reader = replication::stream_reader::open(again);
    if (!reader || !reader->header().is_incremental()) {
        return {stream.begin(), stream.end()};
    }
    replication::stream_header header = reader->header();
    const volume_info base = base_of(pool);
    header.from = {replication::content_id(base), base.name};
    header.from_size_bytes = base.size_bytes;
    return with_header(stream, header);
}

// What the volume reads as when all of the stream is taken.
void apply_stream(std::span<const std::byte> stream, bytes& volume) {
    test::memory_source source(stream);
    auto reader = require_ok(replication::stream_reader::open(source), "a stream that was taken");
    volume.resize(reader.header().to_size_bytes);
    while (true) {
        const auto record = require_ok(reader.next(), "a record that was taken");
        const auto to = volume.begin() + static_cast<std::ptrdiff_t>(record.offset_bytes);
        if (record.kind == record_kind::data) {
            std::ranges::copy(record.data, to);
        } else if (record.kind == record_kind::zero) {
            std::fill_n(to, record.length_bytes, std::byte{0});
        } else if (record.kind == record_kind::end) {
            return;
        }
    }
}

bool is_thin_send(std::span<const std::byte> stream) {
    return stream.size() >= 8 && replication::is_thin_send(stream.first<8>());
}

void check_refused(pool_input& pool, const std::string& before, const std::string& token) {
    if (!token.empty()) {
        const auto kept = require_ok(pool.service().list_transfers(), "the transfers");
        require(kept.size() == 1 && !kept[0].in_use, "what arrived is kept");
        require_ok(pool.service().drop_transfer(kept[0].id), "it can be dropped");
    }
    require(pool.appearance() == before, "a refused stream leaves the pool as it was");
}

void run(std::span<const std::byte> input) {
    if (input.empty()) {
        return;
    }
    const auto flags = std::to_integer<unsigned>(input.front());
    pool_input pool;
    bytes stream(input.begin() + 1, input.end());
    if (!is_thin_send(stream)) {
        if ((flags & right_base) != 0) {
            stream = with_right_base(stream, pool);
        }
        stream = sealed_stream(stream, static_cast<std::uint8_t>(flags & 3));
    }
    replication::receive_request request;
    request.name = (flags & into_vol) != 0 ? "vol" : "new";
    request.resumable = (flags & resumable) != 0;
    request.thin_send_size_bytes = 1U << 20;
    request.thin_send_base = (flags & thin_send_base) != 0 ? "vol@1" : "";
    std::string token;
    request.broke_off = [&](const std::string& text) { token = text; };
    bytes expected = pool.content("vol@1");
    const std::string before = pool.appearance();
    test::memory_source source(stream);
    const auto taken = replication::receive_stream(pool.service(), request, source);
    if (!taken) {
        check_refused(pool, before, token);
        return;
    }
    require(taken->volume.name == request.name, "the volume has its name");
    require(taken->volume.size_bytes == taken->header.to_size_bytes, "and its size");
    if (is_thin_send(stream) || taken->volume.size_bytes > volume_bytes_max) {
        return;
    }
    if (!taken->header.is_incremental()) {
        expected.clear();
    }
    apply_stream(stream, expected);
    require(pool.content(request.name) == expected, "the volume reads as the stream says");
}

std::vector<bytes> seeds() {
    std::vector<bytes> made;
    const auto add = [&made](unsigned flags, bytes stream) {
        stream.insert(stream.begin(), static_cast<std::byte>(flags));
        made.push_back(std::move(stream));
    };
    add(3, made_stream(whole_header(), 0, false));
    add(3 | resumable, made_stream(whole_header(), 1, true));
    add(3 | right_base, made_stream(difference_header(), 2, false));
    add(3 | right_base | into_vol, made_stream(difference_header(), 1, false));
    add(0, made_thin_send(1));
    add(thin_send_base | into_vol, made_thin_send(2));
    return made;
}

const registration made({"receive", run, seeds, mutated_tagged_stream, 60});

}  // namespace
}  // namespace uthin::fuzz
