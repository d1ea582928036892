#include "fuzz/stream_input.h"

#include <algorithm>
#include <cstring>

#include "replication/digest.h"
#include "replication/thin_send.h"
#include "support/stream_buffers.h"

namespace uthin::fuzz {

using replication::disk_end;
using replication::disk_preamble;
using replication::disk_record;
using replication::record_kind;

namespace {

constexpr std::uint64_t volume_bytes = 1U << 20;

record_kind kind_of(const disk_record& record) {
    return static_cast<record_kind>(std::uint16_t{record.kind});
}

// The record at `at` and where its payload ends; false when it is not all there.
bool read_record(std::span<const std::byte> stream, std::size_t at, disk_record& record,
                 std::size_t& end) {
    if (at > stream.size() || stream.size() - at < sizeof record) {
        return false;
    }
    std::memcpy(&record, stream.data() + at, sizeof record);
    end = at + sizeof record + record.payload_bytes;
    return end <= stream.size();
}

// Where the whole records begin, and where the last one ends.
std::vector<std::size_t> boundaries_of(std::span<const std::byte> stream) {
    std::vector<std::size_t> found{sizeof(disk_preamble)};
    disk_record record;
    std::size_t end = 0;
    while (read_record(stream, found.back(), record, end)) {
        found.push_back(end);
    }
    return found;
}

struct totals {
    std::uint64_t position = 0;
    std::uint64_t data_bytes = 0;
    std::uint64_t zero_bytes = 0;
    std::uint64_t records = 0;
};

void seal_payload(disk_record& record, std::span<std::byte> payload, const totals& before,
                  const replication::digest& sum) {
    const auto digest = require_ok(sum.so_far(), "a digest");
    if (kind_of(record) == record_kind::mark && payload.size() == digest.size()) {
        std::ranges::copy(digest, payload.begin());
        record.offset_bytes = before.position;
    }
    if (kind_of(record) == record_kind::end && payload.size() == sizeof(disk_end)) {
        disk_end end;
        std::ranges::copy(digest, end.digest);
        end.data_bytes = before.data_bytes;
        end.zero_bytes = before.zero_bytes;
        end.records = before.records;
        std::memcpy(payload.data(), &end, sizeof end);
    }
}

void count(totals& sums, const disk_record& record) {
    ++sums.records;
    if (kind_of(record) == record_kind::data || kind_of(record) == record_kind::zero) {
        sums.position = record.offset_bytes + record.length_bytes;
        (kind_of(record) == record_kind::data ? sums.data_bytes : sums.zero_bytes) +=
            record.length_bytes;
    }
}

}  // namespace

bytes sealed_stream(std::span<const std::byte> stream, std::uint8_t what) {
    bytes made(stream.begin(), stream.end());
    if ((what & (seal_records | seal_digests)) == 0 || made.size() < sizeof(disk_preamble)) {
        return made;
    }
    auto sum = require_ok(replication::digest::begin(), "a digest");
    require_ok(sum.add(std::span(made).first(sizeof(disk_preamble))), "a digest");
    totals sums;
    const std::vector<std::size_t> boundaries = boundaries_of(made);
    for (std::size_t index = 0; index + 1 < boundaries.size(); ++index) {
        const std::size_t at = boundaries[index];
        disk_record record;
        std::memcpy(&record, made.data() + at, sizeof record);
        const auto payload = std::span(made).subspan(at + sizeof record, record.payload_bytes);
        if ((what & seal_digests) != 0) {
            seal_payload(record, payload, sums, sum);
        }
        if ((what & seal_records) != 0) {
            record.sequence = index;
            record.crc = replication::record_crc(record, payload);
        }
        std::memcpy(made.data() + at, &record, sizeof record);
        count(sums, record);
        require_ok(sum.add(std::span(made).subspan(at, sizeof record + payload.size())),
                   "a digest");
    }
    return made;
}

namespace {

std::uint64_t strange_place(random_generator& random) {
    switch (random.below(6)) {
        case 0: return 512 * random.below(4096);
        case 1: return UINT64_MAX - random.below(1024);
        case 2: return volume_bytes - 512 * random.below(4);
        case 3: return std::uint64_t{1} << random.below(64);
        case 4: return random.below(2048);
        default: return 0;
    }
}

void change_record(bytes& stream, std::size_t at, random_generator& random) {
    disk_record record;
    std::memcpy(&record, stream.data() + at, sizeof record);
    switch (random.below(7)) {
        case 0: record.kind = static_cast<std::uint16_t>(random.below(8)); break;
        case 1: record.flags = static_cast<std::uint16_t>(random.below(4)); break;
        case 2: record.offset_bytes = strange_place(random); break;
        case 3: record.length_bytes = strange_place(random); break;
        case 4: record.offset_bytes = record.offset_bytes + 512 * random.below(5) - 1024; break;
        case 5:
            record.payload_bytes =
                static_cast<std::uint32_t>(record.payload_bytes + random.below(65) - 32);
            break;
        default: record.sequence = record.sequence + random.below(3) - 1; break;
    }
    std::memcpy(stream.data() + at, &record, sizeof record);
}

bytes reordered(std::span<const std::byte> stream, const std::vector<std::size_t>& boundaries,
                random_generator& random) {
    std::vector<std::size_t> order;
    for (std::size_t index = 0; index + 1 < boundaries.size(); ++index) {
        order.push_back(index);
    }
    const auto one = static_cast<std::ptrdiff_t>(random.below(order.size()));
    const std::size_t other = random.below(order.size());
    switch (random.below(3)) {
        case 0: order.erase(order.begin() + one); break;
        case 1: order.insert(order.begin() + one, other); break;
        default: std::swap(order[static_cast<std::size_t>(one)], order[other]); break;
    }
    bytes made(stream.begin(), stream.begin() + static_cast<std::ptrdiff_t>(boundaries.front()));
    for (const std::size_t index : order) {
        made.insert(made.end(), stream.begin() + static_cast<std::ptrdiff_t>(boundaries[index]),
                    stream.begin() + static_cast<std::ptrdiff_t>(boundaries[index + 1]));
    }
    return made;
}

}  // namespace

bytes mutated_stream(std::span<const std::byte> stream, random_generator& random) {
    bytes made(stream.begin(), stream.end());
    for (std::uint64_t left = 1 + random.below(2); left != 0; --left) {
        const std::vector<std::size_t> boundaries =
            made.size() < sizeof(disk_preamble) ? std::vector<std::size_t>() : boundaries_of(made);
        if (boundaries.size() < 2 || random.one_in(4)) {
            made = mutated_bytes(made, random);
        } else if (random.one_in(3)) {
            made = reordered(made, boundaries, random);
        } else {
            change_record(made, boundaries[random.below(boundaries.size() - 1)], random);
        }
    }
    return made;
}

bytes mutated_tagged_stream(std::span<const std::byte> input, random_generator& random) {
    if (input.empty()) {
        return mutated_bytes(input, random);
    }
    bytes made = mutated_stream(input.subspan(1), random);
    made.insert(made.begin(),
                random.one_in(8) ? static_cast<std::byte>(random.below(256)) : input.front());
    return made;
}

replication::stream_header whole_header() {
    replication::stream_header header;
    header.pool_uuid = "6e0bb2a6-3a0d-4d4e-9f3c-0123456789ab";
    header.volume_uuid = "5d0bb2a6-3a0d-4d4e-9f3c-0123456789ab";
    header.volume_name = "vol";
    header.to = {"11111111-3a0d-4d4e-9f3c-0123456789ab", "vol-new"};
    header.to_size_bytes = volume_bytes;
    header.block_size_bytes = 64U << 10;
    header.created_unix_seconds = 1'795'000'000;
    header.relatives = {{"22222222-3a0d-4d4e-9f3c-0123456789ab", "older"}};
    return header;
}

replication::stream_header difference_header() {
    replication::stream_header header = whole_header();
    header.from = header.to;
    header.from_size_bytes = header.to_size_bytes;
    header.to = {"33333333-3a0d-4d4e-9f3c-0123456789ab", "vol-newer"};
    return header;
}

namespace {

void write_pieces(replication::content_writer& writer, unsigned shape) {
    const bytes sector(512, static_cast<std::byte>(0x41 + shape));
    bytes noise(1024);
    random_generator random(shape);
    for (std::byte& byte : noise) {
        byte = static_cast<std::byte>(random.below(4));
    }
    require_ok(writer.data(512 * shape, sector), "a piece of a seed");
    require_ok(writer.zeros(8192, 4096 * (1 + shape)), "a hole of a seed");
    require_ok(writer.data(volume_bytes / 2, noise), "a piece of a seed");
    require_ok(writer.data(volume_bytes - 512, sector), "a piece of a seed");
    require_ok(writer.end(), "the end of a seed");
}

}  // namespace

bytes made_stream(const replication::stream_header& header, unsigned shape, bool compress) {
    test::memory_sink sink;
    auto writer = require_ok(replication::stream_writer::begin(sink, header, compress, 512),
                             "beginning a seed");
    write_pieces(writer, shape);
    return std::move(sink.bytes);
}

bytes made_thin_send(unsigned shape) {
    test::memory_sink sink;
    const auto writer = require_ok(replication::write_thin_send(sink), "beginning a seed");
    write_pieces(*writer, shape);
    return std::move(sink.bytes);
}

bytes with_header(std::span<const std::byte> stream, const replication::stream_header& header) {
    disk_record record;
    std::size_t end = 0;
    constexpr std::size_t at = sizeof(disk_preamble);
    if (!read_record(stream, at, record, end)) {
        return {stream.begin(), stream.end()};
    }
    const bytes payload = replication::encode_header(header);
    record.payload_bytes = static_cast<std::uint32_t>(payload.size());
    bytes made(stream.begin(), stream.begin() + at);
    const auto raw = std::as_bytes(std::span(&record, 1));
    made.insert(made.end(), raw.begin(), raw.end());
    made.insert(made.end(), payload.begin(), payload.end());
    made.insert(made.end(), stream.begin() + static_cast<std::ptrdiff_t>(end), stream.end());
    return made;
}

}  // namespace uthin::fuzz
