// The reader of streams: pieces in their order and inside of the volume, an end only when all of it
// came; and a merge of one stream says what the stream says.
#include <map>

#include "fuzz/stream_input.h"
#include "replication/stream_merge.h"
#include "support/stream_buffers.h"

namespace uthin::fuzz {
namespace {

using replication::record_kind;

struct content {
    bool whole = false;
    replication::stream_header header;
    // Sectors that the stream tells of.
    std::map<std::uint64_t, bytes> data;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> zeros;
};

void add_zeros(content& to, std::uint64_t begin, std::uint64_t length) {
    if (!to.zeros.empty() && to.zeros.back().first + to.zeros.back().second == begin) {
        to.zeros.back().second += length;
    } else {
        to.zeros.emplace_back(begin, length);
    }
}

content read_all(std::span<const std::byte> stream) {
    content found;
    test::memory_source source(stream);
    auto reader = replication::stream_reader::open(source);
    if (!reader) {
        return found;
    }
    found.header = reader->header();
    std::uint64_t position = found.header.start_bytes;
    while (true) {
        const auto record = reader->next();
        if (!record) {
            return found;
        }
        if (record->kind == record_kind::end) {
            found.whole = true;
            return found;
        }
        if (record->kind == record_kind::mark) {
            require(record->offset_bytes >= position && record->offset_bytes % 512 == 0 &&
                        record->offset_bytes <= found.header.to_size_bytes,
                    "a mark is where the stream is, or further on in the volume");
            position = record->offset_bytes;
            continue;
        }
        require(record->offset_bytes >= position, "pieces ascend");
        require(record->length_bytes != 0 && record->length_bytes % 512 == 0, "whole sectors");
        position = record->offset_bytes + record->length_bytes;
        require(position > record->offset_bytes && position <= found.header.to_size_bytes,
                "pieces lie inside of the volume");
        if (record->kind == record_kind::zero) {
            add_zeros(found, record->offset_bytes, record->length_bytes);
            continue;
        }
        require(record->data.size() == record->length_bytes, "a piece has its data");
        for (std::size_t at = 0; at < record->data.size(); at += 512) {
            const auto sector = record->data.subspan(at, 512);
            found.data[record->offset_bytes + at] = {sector.begin(), sector.end()};
        }
    }
}

void run(std::span<const std::byte> input) {
    if (input.empty()) {
        return;
    }
    const bytes stream =
        sealed_stream(input.subspan(1), std::to_integer<std::uint8_t>(input.front()));
    const content found = read_all(stream);
    const auto header = replication::decode_header(replication::encode_header(found.header));
    require(!found.whole || (header && *header == found.header), "a header is written as it is");
    test::memory_source source(stream);
    replication::byte_source* const chain[] = {&source};
    test::memory_sink merged;
    const auto done = replication::merge_streams(chain, merged, input.size() % 2 == 0);
    require(!done || found.whole, "nothing is merged that cannot be read");
    if (!done) {
        return;
    }
    const content again = read_all(merged.bytes);
    require(again.whole, "what was merged can be read");
    // What a whole stream does not tell of reads as zeros.
    require(again.data == found.data && again.zeros.empty(), "and it says the same");
}

std::vector<bytes> seeds() {
    std::vector<bytes> made;
    for (const unsigned shape : {0U, 1U, 2U}) {
        for (const unsigned sealed : {0U, 1U, 3U}) {
            const bool whole = shape != 2;
            bytes seed =
                made_stream(whole ? whole_header() : difference_header(), shape, sealed == 1);
            seed.insert(seed.begin(), static_cast<std::byte>(sealed));
            made.push_back(std::move(seed));
        }
    }
    return made;
}

const registration made({"stream", run, seeds, mutated_tagged_stream});

}  // namespace
}  // namespace uthin::fuzz
