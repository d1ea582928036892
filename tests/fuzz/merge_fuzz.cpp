// A chain of streams merged: receiving the result gives what receiving the chain gives.
//
// One byte (what is put right), then u16 length and bytes of each stream but the last.
#include <algorithm>
#include <deque>

#include "fuzz/stream_input.h"
#include "replication/stream_merge.h"
#include "support/stream_buffers.h"

namespace uthin::fuzz {
namespace {

using replication::record_kind;

constexpr std::uint64_t volume_bytes_max = 4U << 20;
constexpr std::size_t chain_max = 4;

std::vector<bytes> parts_of(std::span<const std::byte> input) {
    std::vector<bytes> parts;
    while (input.size() > 2 && parts.size() < chain_max) {
        const std::size_t length = std::min(
            std::to_integer<std::size_t>(input[0]) | std::to_integer<std::size_t>(input[1]) << 8,
            input.size() - 2);
        parts.emplace_back(input.begin() + 2,
                           input.begin() + static_cast<std::ptrdiff_t>(2 + length));
        input = input.subspan(2 + length);
    }
    return parts;
}

bytes joined(std::byte tag, const std::vector<bytes>& parts) {
    bytes made{tag};
    for (const bytes& part : parts) {
        const std::size_t length = std::min<std::size_t>(part.size(), UINT16_MAX);
        made.push_back(static_cast<std::byte>(length & 0xff));
        made.push_back(static_cast<std::byte>(length >> 8));
        made.insert(made.end(), part.begin(), part.begin() + static_cast<std::ptrdiff_t>(length));
    }
    return made;
}

// False: the stream is not whole, or too large to be looked at.
bool apply_stream(std::span<const std::byte> stream, bytes& volume) {
    test::memory_source source(stream);
    auto reader = replication::stream_reader::open(source);
    if (!reader || reader->header().to_size_bytes > volume_bytes_max) {
        return false;
    }
    volume.resize(reader->header().to_size_bytes);
    while (true) {
        const auto record = reader->next();
        if (!record) {
            return false;
        }
        if (record->kind == record_kind::mark) {
            continue;
        }
        if (record->kind == record_kind::end) {
            return true;
        }
        // Only now: the offset of an end is any number.
        const auto to = volume.begin() + static_cast<std::ptrdiff_t>(record->offset_bytes);
        if (record->kind == record_kind::data) {
            std::ranges::copy(record->data, to);
        } else {
            std::fill_n(to, record->length_bytes, std::byte{0});
        }
    }
}

void run(std::span<const std::byte> input) {
    if (input.empty()) {
        return;
    }
    std::vector<bytes> parts = parts_of(input.subspan(1));
    std::deque<test::memory_source> sources;
    std::vector<replication::byte_source*> chain;
    for (bytes& part : parts) {
        part = sealed_stream(part, std::to_integer<std::uint8_t>(input.front()));
        chain.push_back(&sources.emplace_back(part));
    }
    test::memory_sink merged;
    if (!replication::merge_streams(chain, merged, false)) {
        return;
    }
    bytes one_by_one;
    for (const bytes& part : parts) {
        if (!apply_stream(part, one_by_one)) {
            return;
        }
    }
    bytes at_once;
    require(apply_stream(merged.bytes, at_once), "what was merged can be read");
    require(at_once == one_by_one, "merged or one after the other, the content is the same");
}

std::vector<bytes> seeds() {
    std::vector<bytes> made;
    replication::stream_header third = difference_header();
    third.from = third.to;
    third.to = {"44444444-3a0d-4d4e-9f3c-0123456789ab", "vol-newest"};
    third.to_size_bytes = 2 * third.from_size_bytes;
    for (const unsigned shape : {0U, 3U}) {
        const bytes whole = made_stream(whole_header(), shape, false);
        const bytes difference = made_stream(difference_header(), shape + 1, shape != 0);
        made.push_back(joined(std::byte{3}, {whole, difference}));
        made.push_back(
            joined(std::byte{3}, {whole, difference, made_stream(third, shape + 2, false)}));
    }
    return made;
}

bytes mutate(std::span<const std::byte> input, random_generator& random) {
    std::vector<bytes> parts = input.empty() ? std::vector<bytes>() : parts_of(input.subspan(1));
    if (parts.empty() || random.one_in(16)) {
        return mutated_bytes(input, random);
    }
    const std::size_t one = random.below(parts.size());
    switch (random.below(12)) {
        case 0: std::swap(parts[one], parts[random.below(parts.size())]); break;
        case 1: parts.push_back(parts[one]); break;
        default: parts[one] = mutated_stream(parts[one], random); break;
    }
    return joined(input.front(), parts);
}

const registration made({"merge", run, seeds, mutate});

}  // namespace
}  // namespace uthin::fuzz
