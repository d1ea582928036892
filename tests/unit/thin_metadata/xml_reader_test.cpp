// The XML and the human readable text: exact output, strict input, and round trips.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/random.h"
#include "support/mapping_recorder.h"
#include "support/matchers.h"
#include "support/seed.h"
#include "thin_metadata/xml_reader.h"
#include "thin_metadata/xml_writer.h"

namespace uthin::thin_metadata {
namespace {

using test::HasCode;
using test::mapping_recorder;
using testing::ElementsAre;
using testing::HasSubstr;

const char* const sample_1x =
    R"(<superblock uuid="" time="3" transaction="7" version="2" data_block_size="128")"
    R"( nr_data_blocks="1024">
  <def name="18">
    <range_mapping origin_begin="0" data_begin="0" length="100" time="1"/>
  </def>
  <device dev_id="1" mapped_blocks="101" transaction="0" creation_time="0" snap_time="1">
    <ref name="18"/>
    <single_mapping origin_block="500" data_block="310" time="2"/>
  </device>
  <device dev_id="2" mapped_blocks="100" transaction="4" creation_time="1" snap_time="1">
    <ref name="18"/>
  </device>
</superblock>)";

const char* const sample_0_9 =
    R"(<superblock uuid="" time="3" transaction="7" flags="0" version="2" data_block_size="128")"
    R"( nr_data_blocks="1024">
  <device dev_id="1" mapped_blocks="1" transaction="0" creation_time="0" snap_time="1">
    <single_mapping origin_block="500" data_block="310" time="2"/>
  </device>
</superblock>
)";

// Hands out `text` in pieces of `piece_bytes`.
text_input input_of(std::string_view text, std::size_t piece_bytes = SIZE_MAX) {
    return [text, piece_bytes](std::span<char> buffer) mutable -> result<std::size_t> {
        const std::size_t length = std::min({text.size(), buffer.size(), piece_bytes});
        std::memcpy(buffer.data(), text.data(), length);
        text.remove_prefix(length);
        return length;
    };
}

result<std::string> rewritten(std::string_view text, dump_dialect dialect) {
    std::string out;
    xml_writer writer(
        [&](std::string_view piece) -> result<void> {
            out += piece;
            return {};
        },
        dialect);
    UTHIN_TRY(read_xml(input_of(text), writer, {}));
    return out;
}

std::string error_of(std::string_view text) {
    mapping_recorder recorder;
    const auto outcome = read_xml(input_of(text), recorder, {});
    EXPECT_THAT(outcome, HasCode(error_code::invalid_argument));
    return outcome ? "" : outcome.error().message();
}

std::string sample_with(std::string_view from, std::string_view to) {
    std::string text = sample_1x;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
}

TEST(Xml, EachDialectComesBackByteForByte) {
    ASSERT_OK_AND_ASSIGN(const std::string modern, rewritten(sample_1x, dump_dialect::v1));
    EXPECT_EQ(modern, sample_1x);
    ASSERT_OK_AND_ASSIGN(const std::string classic, rewritten(sample_0_9, dump_dialect::v0_9));
    EXPECT_EQ(classic, sample_0_9);
}

TEST(Xml, FlagsShowIn1xOnlyWhenSet) {
    ASSERT_OK_AND_ASSIGN(const std::string without, rewritten(sample_0_9, dump_dialect::v1));
    EXPECT_THAT(without, testing::Not(HasSubstr("flags")));
    std::string flagged = sample_0_9;
    flagged.replace(flagged.find("flags=\"0\""), 9, "flags=\"1\"");
    ASSERT_OK_AND_ASSIGN(const std::string with, rewritten(flagged, dump_dialect::v1));
    EXPECT_THAT(with, HasSubstr(R"(transaction="7" flags="1" version="2")"));
}

TEST(Xml, The0_9DialectRefusesSharedPieces) {
    EXPECT_THAT(rewritten(sample_1x, dump_dialect::v0_9), HasCode(error_code::unsupported));
}

TEST(Xml, ReferencesAreSplicedIn) {
    mapping_recorder recorder;
    ASSERT_OK(read_xml(input_of(sample_1x), recorder, {}));
    EXPECT_THAT(recorder.events, ElementsAre("pool", "def 18", "run 0 0 100 1", "end def",
                                             "device 1", "ref 18", "run 500 310 1 2", "end device",
                                             "device 2", "ref 18", "end device", "end pool"));
    EXPECT_EQ(recorder.pool.time, 3U);
    EXPECT_EQ(recorder.pool.transaction_id, 7U);
    EXPECT_EQ(recorder.pool.version, 2U);
    EXPECT_EQ(recorder.pool.data_blocks, 1024U);
    EXPECT_EQ(recorder.devices[1].mappings.size(), 101U);
    EXPECT_EQ(recorder.devices[2].details.transaction_id, 4U);
}

TEST(Xml, TextInSmallPiecesReadsTheSame) {
    mapping_recorder whole;
    mapping_recorder pieces;
    ASSERT_OK(read_xml(input_of(sample_1x), whole, {}));
    ASSERT_OK(read_xml(input_of(sample_1x, 7), pieces, {}));
    EXPECT_EQ(whole.events, pieces.events);
}

TEST(Xml, DeclarationCommentsAndSelfClosingDevicesAreAccepted) {
    mapping_recorder recorder;
    ASSERT_OK(read_xml(
        input_of("<?xml version=\"1.0\"?>\n<!-- by hand -->\n"
                 "<superblock uuid=\"x\" time=\"0\" transaction=\"0\" data_block_size=\"128\" "
                 "nr_data_blocks=\"9\"><device dev_id=\"1\" mapped_blocks=\"0\" transaction=\"0\" "
                 "creation_time=\"0\" snap_time=\"0\"/></superblock>"),
        recorder, {}));
    EXPECT_FALSE(recorder.pool.version.has_value());
    EXPECT_EQ(recorder.devices.size(), 1U);
}

TEST(Xml, TheSizeOfTheDataDeviceCanBeRaised) {
    const std::string text = sample_with("\"1024\"", "\"0\"");
    EXPECT_THAT(error_of(text), HasSubstr("the pool has 0"));
    mapping_recorder recorder;
    ASSERT_OK(read_xml(input_of(text), recorder, {.data_blocks = 400}));
    EXPECT_EQ(recorder.pool.data_blocks, 400U);
    mapping_recorder lower;
    ASSERT_OK(read_xml(input_of(sample_with("\"1024\"", "\"1024\"")), lower, {.data_blocks = 4}));
    EXPECT_EQ(lower.pool.data_blocks, 1024U);
}

TEST(Xml, ErrorsNameThePosition) {
    EXPECT_EQ(error_of(sample_with("<ref name=\"18\"/>", "<ref name=\"19\"/>")),
              "line 6, column 5: <ref name=\"19\"> has no <def> before it");
}

TEST(Xml, MalformedTextIsRefused) {
    EXPECT_THAT(error_of(""), HasSubstr("the text ends before </superblock>"));
    EXPECT_THAT(error_of(std::string(sample_1x).substr(0, 400)),
                HasSubstr("the text ends before </superblock>"));
    EXPECT_THAT(error_of("\x7f"
                         "ELF"),
                HasSubstr("line 1"));
    EXPECT_THAT(error_of(std::string(sample_1x) + sample_1x), HasSubstr("line 12"));
    EXPECT_THAT(error_of("<!DOCTYPE x [<!ENTITY a \"b\">]><superblock/>"),
                HasSubstr("document type"));
    EXPECT_THAT(error_of(sample_with("</def>", "words</def>")), HasSubstr("text 'words'"));
    EXPECT_THAT(error_of(sample_with("<ref name=\"18\"/>", "<rex name=\"18\"/>")),
                HasSubstr("<rex> is not expected here"));
    EXPECT_THAT(
        error_of(sample_with("<ref name=\"18\"/>", "<ref name=\"18\"><ref name=\"18\"/></ref>")),
        HasSubstr("<ref> is not expected here"));
    EXPECT_THAT(error_of(sample_with("  <def", "  <superblock><def")),
                HasSubstr("<superblock> is not expected here"));
}

TEST(Xml, AttributesMustBeKnownCompleteAndInRange) {
    EXPECT_THAT(error_of(sample_with("uuid=\"\" ", "")), HasSubstr("lacks the attribute 'uuid'"));
    EXPECT_THAT(error_of(sample_with("uuid=", "uid=\"\" uuid=")),
                HasSubstr("unknown attribute 'uid'"));
    for (const char* wrong : {"", " 3", "3 ", "+3", "-3", "0x3", "3.0", "18446744073709551616"}) {
        EXPECT_THAT(
            error_of(sample_with("transaction=\"7\"", fmt::format("transaction=\"{}\"", wrong))),
            HasSubstr("is not a number from 0 to 18446744073709551615"));
    }
    EXPECT_THAT(error_of(sample_with("time=\"3\"", "time=\"16777216\"")),
                HasSubstr("is not a number from 0 to 16777215"));
    EXPECT_THAT(error_of(sample_with("time=\"2\"", "time=\"16777216\"")),
                HasSubstr("is not a number from 0 to 16777215"));
    EXPECT_THAT(error_of(sample_with("creation_time=\"0\"", "creation_time=\"4294967296\"")),
                HasSubstr("is not a number from 0 to 4294967295"));
    EXPECT_THAT(error_of(sample_with("snap_time=\"1\"", "snap_time=\"4294967296\"")),
                HasSubstr("is not a number from 0 to 4294967295"));
    EXPECT_THAT(error_of(sample_with("\"128\"", "\"100\"")), HasSubstr("data block size"));
    EXPECT_THAT(error_of(sample_with("dev_id=\"1\"", "dev_id=\"4294967296\"")),
                HasSubstr("is not a number"));
}

TEST(Xml, MappingsMustAscendAndFitThePool) {
    EXPECT_THAT(error_of(sample_with("\"500\"", "\"99\"")), HasSubstr("block 99 is out of order"));
    EXPECT_THAT(error_of(sample_with("data_block=\"310\"", "data_block=\"1024\"")),
                HasSubstr("1 data blocks from 1024, but the pool has 1024"));
    EXPECT_THAT(error_of(sample_with("length=\"100\"", "length=\"1025\"")),
                HasSubstr("1025 data blocks from 0"));
    EXPECT_THAT(error_of(sample_with("length=\"100\"", "length=\"0\"")), HasSubstr("0 blocks"));
    EXPECT_THAT(
        error_of(sample_with("origin_begin=\"0\"", "origin_begin=\"18446744073709551600\"")),
        HasSubstr("a run of 100 blocks"));
    EXPECT_THAT(error_of(sample_with("<single_mapping origin_block=\"500\" data_block=\"310\" "
                                     "time=\"2\"/>",
                                     "<ref name=\"18\"/>")),
                HasSubstr("begins at block 0"));
}

TEST(Xml, NothingFollowsTheVeryLastBlock) {
    const std::string very_last = sample_with("\"500\"", "\"18446744073709551615\"");
    mapping_recorder recorder;
    ASSERT_OK(read_xml(input_of(very_last), recorder, {}));
    EXPECT_TRUE(recorder.devices[1].mappings.contains(UINT64_MAX));
    std::string twice = very_last;
    const std::string mapping =
        "<single_mapping origin_block=\"18446744073709551615\" data_block=\"310\" time=\"2\"/>";
    twice.insert(twice.find(mapping), mapping);
    EXPECT_THAT(error_of(twice), HasSubstr("is out of order"));
}

TEST(Xml, NamesAndIdsAreUnique) {
    EXPECT_THAT(error_of(sample_with("dev_id=\"2\"", "dev_id=\"1\"")),
                HasSubstr("there are two devices 1"));
    EXPECT_THAT(error_of(sample_with("</def>", "</def><def name=\"18\"></def>")),
                HasSubstr("there are two <def name=\"18\">"));
}

TEST(Xml, ErrorsOfTheSinkComeBackAsTheyAre) {
    mapping_recorder counting;
    ASSERT_OK(read_xml(input_of(sample_1x), counting, {}));
    for (std::size_t at = 0; at < counting.events.size(); ++at) {
        mapping_recorder failing;
        failing.fail_at = at;
        const auto outcome = read_xml(input_of(sample_1x), failing, {});
        ASSERT_THAT(outcome, HasCode(error_code::io_error)) << at;
        EXPECT_EQ(outcome.error().message(), "the recorder was told to fail");
        EXPECT_EQ(failing.events.size(), at + 1);
    }
}

TEST(Xml, ErrorsOfTheInputComeBackAsTheyAre) {
    mapping_recorder recorder;
    const auto outcome = read_xml(
        [](std::span<char>) -> result<std::size_t> { return fail(error_code::io_error, "no"); },
        recorder, {});
    EXPECT_THAT(outcome, HasCode(error_code::io_error));
}

TEST(Xml, ErrorsOfTheOutputEndTheWriting) {
    xml_writer writer(
        [](std::string_view) -> result<void> {
            return fail(error_code::io_error, "disk full", ENOSPC);
        },
        dump_dialect::v1);
    EXPECT_THAT(read_xml(input_of(sample_1x), writer, {}), HasCode(error_code::io_error));
}

TEST(Xml, NamesWithMarkupSurvive) {
    std::string all = sample_1x;
    for (std::size_t at = 0; (at = all.find("\"18\"", at)) != std::string::npos;) {
        all.replace(at, 4, "\"&lt;&amp;&quot;&gt;\"");
    }
    ASSERT_OK_AND_ASSIGN(const std::string again, rewritten(all, dump_dialect::v1));
    EXPECT_EQ(again, all);
}

TEST(Xml, SurvivesHostileText) {
    random_generator random(test::seed());
    const std::string good = sample_1x;
    std::uint64_t refused = 0;
    for (int round = 0; round < 5000; ++round) {
        std::string text = good;
        for (std::uint64_t change = 0; change < 1 + random.below(4); ++change) {
            const std::size_t at = random.below(text.size());
            switch (random.below(3)) {
                case 0: text[at] = static_cast<char>(random.below(256)); break;
                case 1: text.erase(at, random.below(20)); break;
                default: text.insert(at, good.substr(random.below(good.size()), 20)); break;
            }
        }
        mapping_recorder recorder;
        const auto outcome = read_xml(input_of(text), recorder, {});
        if (!outcome) {
            ++refused;
            EXPECT_EQ(outcome.error().code(), error_code::invalid_argument);
            EXPECT_EQ(outcome.error().message().find('\n'), std::string::npos);
        }
    }
    EXPECT_GT(refused, 4000U);
}

TEST(HumanReadable, Is1xText) {
    std::string out;
    human_readable_writer writer(
        [&](std::string_view piece) -> result<void> {
            out += piece;
            return {};
        },
        dump_dialect::v1);
    ASSERT_OK(read_xml(input_of(sample_1x), writer, {}));
    EXPECT_EQ(out,
              "begin superblock: \"\", 3, 7, 0, 2, 128, 1024\n"
              "def: 18\n    (0..99) -> (0..99), 1\n\n"
              "device: 1\nmapped_blocks: 101\ntransaction: 0\ncreation time: 0\nsnap time: 1\n"
              "    ref: 18\n    (500..500) -> (310..310), 2\n\n"
              "device: 2\nmapped_blocks: 100\ntransaction: 4\ncreation time: 1\nsnap time: 1\n"
              "    ref: 18\n\n"
              "end superblock\n");
}

TEST(HumanReadable, Is0_9Text) {
    std::string out;
    human_readable_writer writer(
        [&](std::string_view piece) -> result<void> {
            out += piece;
            return {};
        },
        dump_dialect::v0_9);
    ASSERT_OK(read_xml(input_of(sample_0_9), writer, {}));
    EXPECT_EQ(out,
              "begin superblock: \"\", 3, 7, 0, 2, 128, 1024\n"
              "device: 1\nmapped_blocks: 1\ntransaction: 0\ncreation time: 0\nsnap time: 1\n"
              "    500 -> 310, 2\n\n"
              "end superblock\n");
}

}  // namespace
}  // namespace uthin::thin_metadata
