// The stream form of thin_send: what is read can be written and read again.
//
// First byte: the size of the volume, in 64 KiB.
#include "fuzz/stream_input.h"
#include "replication/thin_send.h"
#include "support/stream_buffers.h"

namespace uthin::fuzz {
namespace {

using replication::record_kind;

struct told {
    bool whole = false;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> zeros;
    std::vector<std::pair<std::uint64_t, bytes>> data;
    bool operator==(const told&) const = default;
};

told read_all(std::span<const std::byte> stream, const replication::thin_send_facts& facts) {
    told found;
    test::memory_source source(stream);
    const auto reader = replication::read_thin_send(source, facts);
    if (!reader) {
        return found;
    }
    while (true) {
        const auto record = (*reader)->next();
        if (!record) {
            return found;
        }
        if (record->kind == record_kind::end) {
            found.whole = true;
            return found;
        }
        require(record->offset_bytes <= facts.size_bytes &&
                    record->length_bytes <= facts.size_bytes - record->offset_bytes,
                "pieces lie inside of the volume");
        require(record->length_bytes != 0 && record->length_bytes % 512 == 0, "whole sectors");
        if (record->kind == record_kind::zero) {
            found.zeros.emplace_back(record->offset_bytes, record->length_bytes);
        } else {
            require(record->data.size() == record->length_bytes, "a piece has its data");
            found.data.emplace_back(record->offset_bytes,
                                    bytes(record->data.begin(), record->data.end()));
        }
    }
}

void run(std::span<const std::byte> input) {
    if (input.empty()) {
        return;
    }
    replication::thin_send_facts facts;
    facts.size_bytes = std::to_integer<std::uint64_t>(input.front()) << 16;
    const told found = read_all(input.subspan(1), facts);
    if (!found.whole) {
        return;
    }
    test::memory_sink sink;
    const auto writer = require_ok(replication::write_thin_send(sink), "writing");
    for (const auto& [offset, data] : found.data) {
        require_ok(writer->data(offset, data), "writing data");
    }
    for (const auto& [offset, length] : found.zeros) {
        require_ok(writer->zeros(offset, length), "writing zeros");
    }
    require_ok(writer->end(), "writing the end");
    require(read_all(sink.bytes, facts) == found, "what was written reads the same");
}

std::vector<bytes> seeds() {
    std::vector<bytes> made;
    for (const unsigned shape : {0U, 1U, 2U}) {
        made.push_back(made_thin_send(shape));
        made.back().insert(made.back().begin(), std::byte{16});
    }
    return made;
}

const registration made({"thin_send", run, seeds, mutated_bytes});

}  // namespace
}  // namespace uthin::fuzz
