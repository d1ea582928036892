// What a stream costs and what cannot be written into one; reading it is in stream_reader_test.
#include "replication/stream_writer.h"

#include "replication/stream_reader.h"
#include "support/matchers.h"
#include "support/stream_buffers.h"

namespace uthin::replication {
namespace {

using test::HasCode;
using test::memory_sink;

stream_header some_header() {
    stream_header header;
    header.to = {"id", "name"};
    header.to_size_bytes = 1U << 20;
    return header;
}

TEST(StreamWriter, WritesARangeOfZerosAsOneRecordHoweverItWasTold) {
    memory_sink sink;
    ASSERT_OK_AND_ASSIGN(auto writer, stream_writer::begin(sink, some_header(), false, 1U << 20));
    for (std::uint64_t at = 0; at < 100; ++at) {
        ASSERT_OK(writer.zeros(at * 512, 512));
    }
    ASSERT_OK(writer.end());
    EXPECT_EQ(test::record_boundaries(sink.bytes).size(), 4U);  // begin, zeros, end, its end
}

TEST(StreamWriter, SetsAMarkBeforeTheNextRecordWhenEnoughWasWritten) {
    memory_sink sink;
    ASSERT_OK_AND_ASSIGN(auto writer, stream_writer::begin(sink, some_header(), false, 2048));
    for (std::uint64_t at = 0; at < 5; ++at) {
        ASSERT_OK(writer.data(at * 2048, std::vector<std::byte>(1024, std::byte{'x'})));
    }
    ASSERT_OK(writer.end());
    test::memory_source source(sink.bytes);
    ASSERT_OK_AND_ASSIGN(auto reader, stream_reader::open(source));
    std::vector<std::uint64_t> marks;
    for (stream_record record; record.kind != record_kind::end || marks.empty();) {
        ASSERT_OK_AND_ASSIGN(record, reader.next());
        if (record.kind == record_kind::mark) {
            marks.push_back(record.offset_bytes);
        }
    }
    EXPECT_EQ(marks, (std::vector<std::uint64_t>{3072, 7168}));
}

TEST(StreamWriter, SetsMarksWhereThereIsNothingToTellOfForLong) {
    constexpr std::uint64_t step = 1U << 20;
    memory_sink sink;
    stream_header header = some_header();
    header.to_size_bytes = 1U << 30;
    ASSERT_OK_AND_ASSIGN(auto writer, stream_writer::begin(sink, header, false, step));
    ASSERT_OK(writer.data(0, std::vector<std::byte>(512, std::byte{'x'})));
    for (std::uint64_t at = step; at <= 200 * step; at += step) {
        if (at > 100 * step) {
            ASSERT_OK(writer.zeros(at - step, step));
        }
        ASSERT_OK(writer.reached(at));
    }
    ASSERT_OK(writer.end());
    test::memory_source source(sink.bytes);
    ASSERT_OK_AND_ASSIGN(auto reader, stream_reader::open(source));
    std::vector<std::uint64_t> marks;
    std::uint64_t zeros = 0;
    for (stream_record record; record.kind != record_kind::end || marks.empty();) {
        ASSERT_OK_AND_ASSIGN(record, reader.next());
        if (record.kind == record_kind::mark) {
            marks.push_back(record.offset_bytes / step);
        }
        zeros += record.kind == record_kind::zero ? record.length_bytes / step : 0;
    }
    EXPECT_EQ(marks, (std::vector<std::uint64_t>{65, 129, 193}));
    EXPECT_EQ(zeros, 100U);
}

TEST(StreamWriter, RefusesRangesThatDoNotAscend) {
    memory_sink sink;
    ASSERT_OK_AND_ASSIGN(auto writer, stream_writer::begin(sink, some_header(), false, 1U << 20));
    ASSERT_OK(writer.zeros(1024, 512));
    EXPECT_THAT(writer.zeros(1024, 512), HasCode(error_code::invalid_argument));
    EXPECT_THAT(writer.data(0, std::vector<std::byte>(512)), HasCode(error_code::invalid_argument));
}

TEST(StreamWriter, DoesNotCompressWhatGetsLargerByIt) {
    std::vector<std::byte> bytes(512);
    std::uint32_t state = 1;
    for (std::byte& byte : bytes) {
        state = state * 1664525 + 1013904223;
        byte = static_cast<std::byte>(state >> 24);
    }
    std::array<std::size_t, 2> sizes{};
    for (const bool compress : {false, true}) {
        memory_sink sink;
        ASSERT_OK_AND_ASSIGN(auto writer,
                             stream_writer::begin(sink, some_header(), compress, 1U << 20));
        ASSERT_OK(writer.data(0, bytes));
        sizes[compress ? 1 : 0] = sink.bytes.size();
    }
    EXPECT_EQ(sizes[0], sizes[1]);
}

TEST(StreamWriter, GivesTheFailureOfItsSink) {
    memory_sink sink;
    sink.fail_above_bytes = 200;
    ASSERT_OK_AND_ASSIGN(auto writer, stream_writer::begin(sink, some_header(), false, 1U << 20));
    EXPECT_THAT(writer.data(0, std::vector<std::byte>(512)), HasCode(error_code::io_error));
}

}  // namespace
}  // namespace uthin::replication
