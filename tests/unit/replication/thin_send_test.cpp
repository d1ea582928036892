// Streams in the form of thin-send-recv 1.1: the bytes, and what is refused.
#include "replication/thin_send.h"

#include "base/result.h"
#include "support/matchers.h"
#include "support/stream_buffers.h"

namespace uthin::replication {
namespace {

using test::HasCode;
using test::memory_sink;
using test::memory_source;

constexpr thin_send_facts facts{.size_bytes = 1U << 20, .from = {}, .from_size_bytes = 0};

std::vector<std::byte> sample() {
    memory_sink sink;
    auto writer = write_thin_send(sink);
    EXPECT_OK(writer);
    EXPECT_OK((*writer)->data(4096, std::vector<std::byte>(1024, std::byte{'x'})));
    EXPECT_OK((*writer)->zeros(65536, 512));
    EXPECT_OK((*writer)->end());
    return sink.bytes;
}

result<std::vector<stream_record>> read_all(std::span<const std::byte> bytes,
                                            const thin_send_facts& about = facts) {
    memory_source source(bytes);
    const auto reader = UTHIN_TRY(read_thin_send(source, about));
    std::vector<stream_record> records;
    do {
        records.push_back(UTHIN_TRY(reader->next()));
    } while (records.back().kind != record_kind::end);
    return records;
}

std::string hex(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte byte : bytes) {
        constexpr const char* digits = "0123456789abcdef";
        text += digits[std::to_integer<unsigned>(byte) >> 4];
        text += digits[std::to_integer<unsigned>(byte) & 15];
    }
    return text;
}

// Written down by hand from the published description.
TEST(ThinSend, WritesTheBytesOfItsForm) {
    const auto bytes = sample();
    const std::string magic = "24c4f02aae2e4fa9";
    EXPECT_EQ(hex(std::span(bytes).first(28)),
              magic + "0000000000000000" + "0000000000000000" + "00000002");
    EXPECT_EQ(hex(std::span(bytes).subspan(28, 30)),
              magic + "0000000000001000" + "0000000000000400" + "00000000" + "7878");
    EXPECT_EQ(hex(std::span(bytes).subspan(28 + 28 + 1024)),
              magic + "0000000000010000" + "0000000000000200" + "00000001" +  // unmap
                  magic + "0000000000000000" + "0000000000000018" + "00000003" +
                  "0000000000000004" + "0000000000000001" + "0000000000000001");
}

TEST(ThinSend, ReadsWhatItWrote) {
    ASSERT_OK_AND_ASSIGN(const auto records, read_all(sample()));
    ASSERT_EQ(records.size(), 3U);
    EXPECT_EQ(records[0].kind, record_kind::data);
    EXPECT_EQ(records[0].offset_bytes, 4096U);
    EXPECT_EQ(records[0].length_bytes, 1024U);
    EXPECT_EQ(records[1].kind, record_kind::zero);
    EXPECT_EQ(records[1].offset_bytes, 65536U);
}

TEST(ThinSend, RefusesEveryCutAndWhatFollowsTheEnd) {
    auto bytes = sample();
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        EXPECT_THAT(read_all(std::span(bytes).first(size)), HasCode(error_code::corrupt)) << size;
    }
    bytes.push_back(std::byte{0});
    EXPECT_THAT(read_all(bytes), HasCode(error_code::corrupt));
}

TEST(ThinSend, RefusesWhatIsNoRecordOrLiesOutside) {
    const auto bytes = sample();
    for (std::size_t at = 0; at < bytes.size(); ++at) {
        if (at >= 56 && at < 56 + 1024) {
            continue;  // data: the form has no checksum
        }
        auto other = bytes;
        other[at] ^= std::byte{0x40};
        const auto read = read_all(other);
        // Of begin and end the offset says nothing; other places are as good as these.
        const std::size_t in_record = at < 56 ? at % 28 : (at - 1080) % 28;
        const bool harmless = in_record >= 8 && in_record < 24 && read.has_value();
        EXPECT_TRUE(!read || harmless) << at;
    }
    EXPECT_THAT(read_all(bytes, {.size_bytes = 65536, .from = {}, .from_size_bytes = 0}),
                HasCode(error_code::corrupt));
}

TEST(ThinSend, SkipsAnOptionalRecordThatItDoesNotKnow) {
    const auto bytes = sample();
    std::vector<std::byte> longer(bytes.begin(), bytes.begin() + 28);
    longer.insert(longer.end(), bytes.begin(), bytes.begin() + 28);
    longer[28 + 24] = std::byte{0x80};
    longer[28 + 27] = std::byte{9};
    longer.insert(longer.end(), bytes.begin() + 28, bytes.end());
    longer[longer.size() - 17] = std::byte{5};  // records, with that one
    EXPECT_OK(read_all(longer));
    longer[28 + 24] = std::byte{0};
    EXPECT_THAT(read_all(longer), HasCode(error_code::corrupt));
}

TEST(ThinSend, RefusesTheFormThatHasNoEnd) {
    auto bytes = sample();
    const std::array<unsigned char, 8> magic = {0xCA, 0x7F, 0x00, 0xD5, 0xDE, 0x7E, 0xC7, 0xED};
    for (std::size_t i = 0; i < magic.size(); ++i) {
        bytes[i] = std::byte{magic[i]};
    }
    EXPECT_TRUE(is_thin_send(std::span(bytes).first<8>()));
    EXPECT_THAT(read_all(bytes), HasCode(error_code::unsupported));
}

}  // namespace
}  // namespace uthin::replication
