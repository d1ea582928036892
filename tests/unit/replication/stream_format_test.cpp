// Headers of streams: both ways, and what must not be believed.
#include "replication/stream_format.h"

#include "support/matchers.h"

namespace uthin::replication {
namespace {

using test::HasCode;
using test::IsOk;

stream_header full_header() {
    stream_header header;
    header.pool_uuid = "pool";
    header.volume_uuid = "volume";
    header.volume_name = "name";
    header.to = {"to-id", "to"};
    header.from = {"from-id", "from"};
    header.to_size_bytes = 1 << 20;
    header.from_size_bytes = 1 << 19;
    header.block_size_bytes = 65536;
    header.created_unix_seconds = 1'800'000'000;
    header.temporary = true;
    header.relatives = {{"a-id", "a"}, {"b-id", ""}};
    return header;
}

std::vector<std::byte> field(std::uint16_t tag, std::uint16_t length, std::size_t present) {
    std::vector<std::byte> bytes(4 + present, std::byte{7});
    store_le(bytes.data(), tag);
    store_le(bytes.data() + 2, length);
    return bytes;
}

std::vector<std::byte> with(std::vector<std::byte> bytes, const std::vector<std::byte>& more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
    return bytes;
}

TEST(StreamHeader, SurvivesTheWire) {
    EXPECT_EQ(decode_header(encode_header(full_header())).value(), full_header());
    stream_header whole = full_header();
    whole.from = {};
    whole.from_size_bytes = 0;
    EXPECT_EQ(decode_header(encode_header(whole)).value(), whole);
}

TEST(StreamHeader, WithAFieldThatMayBeSkippedIsRead) {
    const auto bytes = with(encode_header(full_header()), field(0x9000, 3, 3));
    EXPECT_EQ(decode_header(bytes).value(), full_header());
}

TEST(StreamHeader, WithAFieldThatMustBeUnderstoodIsRefused) {
    const auto bytes = with(encode_header(full_header()), field(0x1000, 3, 3));
    EXPECT_THAT(decode_header(bytes), HasCode(error_code::unsupported));
}

TEST(StreamHeader, ThatIsCutOffOrMakesNoSenseIsRefused) {
    EXPECT_THAT(decode_header({}), HasCode(error_code::corrupt));
    EXPECT_THAT(decode_header(with(encode_header(full_header()), field(1, 5, 4))),
                HasCode(error_code::corrupt));
    EXPECT_THAT(decode_header(with(encode_header(full_header()), field(13, 0, 0))), IsOk());
    EXPECT_THAT(decode_header(field(13, 0, 0)), HasCode(error_code::corrupt));
    stream_header odd = full_header();
    odd.to_size_bytes = 1000;
    EXPECT_THAT(decode_header(encode_header(odd)), HasCode(error_code::corrupt));
    odd.to_size_bytes = 0;
    EXPECT_THAT(decode_header(encode_header(odd)), HasCode(error_code::corrupt));
}

// They come to stand in the catalogue and in messages.
TEST(StreamHeader, WithAnIdThatIsNoneIsRefused) {
    const std::string longest(64, 'i');
    stream_header header = full_header();
    header.to.id = header.from.id = longest;
    header.relatives[0].id = longest;
    EXPECT_EQ(decode_header(encode_header(header)).value(), header);
    for (const std::string& bad :
         {longest + "i", std::string("\xff\xfe"), std::string("a\0b", 3)}) {
        for (const int which : {0, 1, 2}) {
            header = full_header();
            (which == 0   ? header.to.id
             : which == 1 ? header.from.id
                          : header.relatives[1].id) = bad;
            EXPECT_THAT(decode_header(encode_header(header)), HasCode(error_code::corrupt));
        }
    }
}

TEST(StreamHeader, WithANumberOfAnotherLengthIsRefused) {
    constexpr std::array<std::uint16_t, 5> tags = {8, 9, 10, 11, 0x8001};
    constexpr std::array<std::uint16_t, 4> lengths = {0, 4, 7, 9};
    for (const std::uint16_t tag : tags) {
        for (const std::uint16_t length : lengths) {
            const auto bytes = with(encode_header(full_header()), field(tag, length, length));
            EXPECT_THAT(decode_header(bytes), HasCode(error_code::corrupt)) << tag;
        }
    }
}

TEST(StreamHeader, LeavesOutTheOldestRelativesThatDoNotFit) {
    stream_header header = full_header();
    header.relatives.clear();
    for (std::size_t i = 0; i < relatives_max; ++i) {
        header.relatives.push_back({std::to_string(i), std::string(text_bytes_max, 'n')});
    }
    const auto bytes = encode_header(header);
    EXPECT_LE(bytes.size(), begin_bytes_max);
    ASSERT_OK_AND_ASSIGN(const stream_header read, decode_header(bytes));
    EXPECT_GT(read.relatives.size(), 200U);
    EXPECT_LT(read.relatives.size(), relatives_max);
    EXPECT_EQ(read.relatives.back(), header.relatives[read.relatives.size() - 1]);
}

TEST(RecordCrc, DependsOnHeaderAndPayloadButNotOnItself) {
    disk_record record{};
    record.magic = record_magic;
    const std::vector<std::byte> payload(10, std::byte{1});
    const std::uint32_t crc = record_crc(record, payload);
    record.crc = 5;
    EXPECT_EQ(record_crc(record, payload), crc);
    record.sequence = 1;
    EXPECT_NE(record_crc(record, payload), crc);
    record.sequence = 0;
    EXPECT_NE(record_crc(record, std::span(payload).first(9)), crc);
}

}  // namespace
}  // namespace uthin::replication
