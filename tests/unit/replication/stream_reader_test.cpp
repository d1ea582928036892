// Streams as they were written, and every way in which they are not.
#include "replication/stream_reader.h"

#include <functional>

#include "base/random.h"
#include "base/result.h"
#include "support/matchers.h"
#include "support/seed.h"
#include "support/stream_buffers.h"

namespace uthin::replication {
namespace {

using test::HasCode;
using test::memory_sink;
using test::memory_source;

constexpr std::uint64_t volume_bytes = 4U << 20;

stream_header some_header() {
    stream_header header;
    header.to = {"to-id", "to"};
    header.to_size_bytes = volume_bytes;
    header.block_size_bytes = 65536;
    return header;
}

std::vector<std::byte> noise(std::size_t size_bytes) {
    random_generator random(test::seed());
    std::vector<std::byte> bytes(size_bytes);
    for (std::byte& byte : bytes) {
        byte = static_cast<std::byte>(random.next());
    }
    return bytes;
}

// begin, data, zeros (told in two calls), data that compresses, end.
std::vector<std::byte> sample(bool compress) {
    memory_sink sink;
    auto writer = stream_writer::begin(sink, some_header(), compress, 1U << 20);
    EXPECT_OK(writer);
    EXPECT_OK(writer->data(512, noise(4096)));
    EXPECT_OK(writer->zeros(65536, 65536));
    EXPECT_OK(writer->zeros(131072, 512));
    EXPECT_OK(writer->data(262144, std::vector<std::byte>(8192, std::byte{'x'})));
    EXPECT_OK(writer->end());
    return sink.bytes;
}

result<std::vector<stream_record>> read_all(std::span<const std::byte> bytes,
                                            std::vector<std::vector<std::byte>>* contents) {
    memory_source source(bytes);
    auto reader = UTHIN_TRY(stream_reader::open(source));
    std::vector<stream_record> records;
    do {
        records.push_back(UTHIN_TRY(reader.next()));
        if (contents != nullptr) {
            contents->emplace_back(records.back().data.begin(), records.back().data.end());
        }
    } while (records.back().kind != record_kind::end);
    return records;
}

TEST(StreamReader, ReadsWhatWasWritten) {
    for (const bool compress : {false, true}) {
        const auto bytes = sample(compress);
        EXPECT_EQ(bytes.size() < 8192, compress);
        std::vector<std::vector<std::byte>> contents;
        ASSERT_OK_AND_ASSIGN(const auto records, read_all(bytes, &contents));
        ASSERT_EQ(records.size(), 4U);
        EXPECT_EQ(contents[0], noise(4096));
        EXPECT_EQ(records[0].offset_bytes, 512U);
        EXPECT_EQ(records[1].kind, record_kind::zero);
        EXPECT_EQ(records[1].offset_bytes, 65536U);
        EXPECT_EQ(records[1].length_bytes, 66048U);
        EXPECT_EQ(contents[2], std::vector<std::byte>(8192, std::byte{'x'}));
    }
}

TEST(StreamReader, RefusesAStreamThatIsCutAnywhere) {
    const auto bytes = sample(true);
    for (std::size_t length = 0; length < bytes.size(); ++length) {
        ASSERT_THAT(read_all(std::span(bytes).first(length), nullptr), HasCode(error_code::corrupt))
            << length;
    }
}

TEST(StreamReader, RefusesAStreamWithAnyByteFlipped) {
    auto bytes = sample(true);
    for (std::size_t at = 0; at < bytes.size(); ++at) {
        const auto flip = static_cast<std::byte>(1U << (at % 8));
        bytes[at] ^= flip;
        ASSERT_FALSE(read_all(bytes, nullptr)) << at;
        bytes[at] ^= flip;
    }
}

TEST(StreamReader, RefusesRecordsThatAreReorderedLostOrRepeated) {
    const auto bytes = sample(false);
    const auto at = test::record_boundaries(bytes);
    ASSERT_EQ(at.size(), 6U);
    const auto assembled = [&](std::initializer_list<std::size_t> records) {
        std::vector<std::byte> made(bytes.begin(), bytes.begin() + 16);
        for (const std::size_t record : records) {
            made.insert(made.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at[record]),
                        bytes.begin() + static_cast<std::ptrdiff_t>(at[record + 1]));
        }
        return made;
    };
    EXPECT_OK(read_all(assembled({0, 1, 2, 3, 4}), nullptr));
    EXPECT_FALSE(read_all(assembled({0, 2, 1, 3, 4}), nullptr));
    EXPECT_FALSE(read_all(assembled({0, 1, 3, 4}), nullptr));
    EXPECT_FALSE(read_all(assembled({0, 1, 1, 2, 3, 4}), nullptr));
    EXPECT_FALSE(read_all(assembled({1, 2, 3, 4}), nullptr));
    EXPECT_FALSE(read_all(assembled({0, 1, 2, 3, 4, 4}), nullptr));
    EXPECT_FALSE(read_all(assembled({0, 0, 1, 2, 3, 4}), nullptr));
}

// Whole, with a right checksum, and not what was sent: the digest at the end tells.
TEST(StreamReader, RefusesAnotherStreamsRecord) {
    auto bytes = sample(false);
    const auto at = test::record_boundaries(bytes);
    disk_record record;
    std::memcpy(&record, bytes.data() + at[1], sizeof record);
    const auto payload = std::span(bytes).subspan(at[1] + sizeof record, record.payload_bytes);
    payload[7] ^= std::byte{1};
    record.crc = record_crc(record, payload);
    std::memcpy(bytes.data() + at[1], &record, sizeof record);
    EXPECT_THAT(read_all(bytes, nullptr), HasCode(error_code::corrupt));
}

TEST(StreamReader, RefusesAnotherVersion) {
    auto bytes = sample(false);
    bytes[8] = std::byte{2};
    EXPECT_THAT(read_all(bytes, nullptr), HasCode(error_code::unsupported));
}

// Records with a right checksum, but with what no sender writes.
TEST(StreamReader, RefusesRecordsThatLieWhereNoneCanLie) {
    const auto bytes = sample(false);
    const auto at = test::record_boundaries(bytes);
    const auto changed = [&](const std::function<void(disk_record&)>& change) {
        auto made = bytes;
        disk_record record;
        std::memcpy(&record, made.data() + at[2], sizeof record);  // of zeros
        change(record);
        record.crc = record_crc(record, {});
        std::memcpy(made.data() + at[2], &record, sizeof record);
        memory_source source(made);
        auto reader = stream_reader::open(source);
        EXPECT_OK(reader);
        EXPECT_OK(reader->next());
        return reader->next();
    };
    EXPECT_OK(changed([](disk_record&) {}));
    EXPECT_THAT(changed([](disk_record& r) { r.offset_bytes = 0; }), HasCode(error_code::corrupt));
    EXPECT_THAT(changed([](disk_record& r) { r.offset_bytes = 65537; }),
                HasCode(error_code::corrupt));
    EXPECT_THAT(changed([](disk_record& r) { r.length_bytes = 0; }), HasCode(error_code::corrupt));
    EXPECT_THAT(changed([](disk_record& r) { r.length_bytes = volume_bytes; }),
                HasCode(error_code::corrupt));
    EXPECT_THAT(changed([](disk_record& r) { r.offset_bytes = ~511ULL; }),
                HasCode(error_code::corrupt));
    EXPECT_THAT(changed([](disk_record& r) { r.flags = 2; }), HasCode(error_code::unsupported));
}

}  // namespace
}  // namespace uthin::replication
