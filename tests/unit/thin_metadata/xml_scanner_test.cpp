// What is matched word by word reads as what is scanned tag by tag.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "support/mapping_recorder.h"
#include "support/matchers.h"
#include "thin_metadata/xml_reader.h"

namespace uthin::thin_metadata {
namespace {

using test::mapping_recorder;
using testing::HasSubstr;

// Hands out `text` in pieces of `piece_bytes`.
text_input input_of(std::string_view text, std::size_t piece_bytes) {
    return [text, piece_bytes](std::span<char> buffer) mutable -> result<std::size_t> {
        const std::size_t length = std::min({text.size(), buffer.size(), piece_bytes});
        std::memcpy(buffer.data(), text.data(), length);
        text.remove_prefix(length);
        return length;
    };
}

// Long texts are matched word by word where they are as thin_dump writes them; short pieces never.
TEST(XmlScanner, LongTextInSmallPiecesReadsTheSame) {
    std::string text = R"(<superblock uuid="" time="3" transaction="7" data_block_size="128")"
                       R"( nr_data_blocks="100000">
  <device dev_id="1" mapped_blocks="1" transaction="0" creation_time="0" snap_time="1">)"
                       "\n";
    for (int at = 0; at < 3000; ++at) {
        text += at % 3 == 0 ? fmt::format(
                                  "    <range_mapping origin_begin=\"{}\" data_begin=\"{}\" "
                                  "length=\"4\" time=\"1\"/>\n",
                                  10 * at, 7 * at)
                            : fmt::format(
                                  "    <single_mapping origin_block=\"{}\" data_block=\"{}\" "
                                  "time=\"2\"/>\n",
                                  10 * at, 7 * at);
    }
    text += "  </device>\n</superblock>\n";
    const auto read = [](std::string_view all, std::size_t piece_bytes) {
        mapping_recorder recorder;
        const auto outcome = read_xml(input_of(all, piece_bytes), recorder, {});
        recorder.events.push_back(outcome ? "good" : outcome.error().message());
        return recorder.events;
    };
    EXPECT_EQ(read(text, SIZE_MAX), read(text, 7));
    EXPECT_EQ(read(text, SIZE_MAX).back(), "good");
    EXPECT_EQ(read(text, SIZE_MAX).size(), 3000U + 5U);
    const auto expect_same = [&](std::string_view from, std::string_view to) {
        std::string changed = text;
        changed.replace(changed.find(from), from.size(), to);
        const auto whole = read(changed, SIZE_MAX);
        EXPECT_EQ(whole, read(changed, 7)) << to;
        EXPECT_NE(whole.back(), "good") << to;
        EXPECT_THAT(whole.back(), HasSubstr("line 100"));
    };
    const std::string_view line = R"(origin_block="10000" data_block="7000" time="2"/>)";
    expect_same(line, R"(origin_block="9990" data_block="7000" time="2"/>)");
    expect_same(line, R"(origin_block="10000" data_block="100000" time="2"/>)");
    expect_same(line, R"(origin_block="10000" data_block="7000" time="16777216"/>)");
    expect_same(line, R"(origin_block="" data_block="7000" time="2"/>)");
    expect_same(line, R"(origin_block="99999999999999999999" data_block="7000" time="2"/>)");
    expect_same(line, R"(origin_block="10000" data_block="7000" time="2">)");
    expect_same(line, R"(origin_block="10000" data_block="7000" time="2"/)");
}

}  // namespace
}  // namespace uthin::thin_metadata
