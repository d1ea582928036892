// The pools made by real kernels: all of them check clean, and dump as thin_dump dumps them.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "support/corpus.h"
#include "support/image_check.h"
#include "support/mapping_recorder.h"
#include "support/matchers.h"
#include "support/metadata_images.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/xml_reader.h"
#include "thin_metadata/xml_writer.h"

namespace uthin::thin_metadata {
namespace {

using test::mapping_recorder;

std::string findings_text(const check_report& report) {
    std::string text;
    for (const check_finding& finding : report.findings) {
        text += fmt::format("{} {}: {}\n", to_string(finding.severity), to_string(finding.code),
                            finding.text);
    }
    return text;
}

template <class Writer>
result<std::string> dump_text(block_device& device, const offline_options& from,
                              dump_dialect dialect) {
    std::string text;
    Writer writer(
        [&](std::string_view piece) -> result<void> {
            text += piece;
            return {};
        },
        dialect);
    const auto view = UTHIN_TRY(open_offline(device, from));
    UTHIN_TRY(dump_metadata(*view, writer, {.shared_pieces = dialect == dump_dialect::v1}));
    return text;
}

result<void> record_text(std::string_view text, mapping_sink& sink,
                         const xml_read_options& options = {}) {
    return read_xml(
        [text](std::span<char> buffer) mutable -> result<std::size_t> {
            const std::size_t length = text.copy(buffer.data(), buffer.size());
            text.remove_prefix(length);
            return length;
        },
        sink, options);
}

class Corpus : public testing::TestWithParam<std::string> {
protected:
    // Every test reads every pool; they are small, so each is unpacked once.
    void SetUp() override {
        static std::map<std::string, std::unique_ptr<block_device>> loaded;
        std::unique_ptr<block_device>& slot = loaded[GetParam()];
        if (slot == nullptr) {
            slot = test::load_corpus_metadata(GetParam());
        }
        ASSERT_NE(slot, nullptr);
        device_ = slot.get();
    }
    block_device* device_ = nullptr;
};

TEST_P(Corpus, ChecksClean) {
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*device_, {}));
    ASSERT_OK_AND_ASSIGN(const check_report report, check_metadata(*view, {}));
    EXPECT_EQ(report.fatal, 0U) << findings_text(report);
    EXPECT_EQ(report.metadata_space_map, space_map_check::compared);
    EXPECT_EQ(report.data_space_map, space_map_check::compared);
    EXPECT_EQ(report.leaked_metadata_blocks, 0U);
    // Cut by a kill: one data block is counted but not mapped.
    const bool has_leak = GetParam() == "crash-6-128k";
    EXPECT_EQ(report.repairable, has_leak ? 1U : 0U) << findings_text(report);
    EXPECT_EQ(report.leaked_data_blocks, has_leak ? 1U : 0U);
    // The kernel leaves nothing to complain about, but does not update the size after growing.
    for (const check_finding& finding : report.findings) {
        if (finding.severity == check_severity::cosmetic) {
            EXPECT_EQ(finding.code, check_code::stale_metadata_size) << finding.text;
            EXPECT_EQ(GetParam(), "grow-metadata");
        }
    }
}

TEST_P(Corpus, DumpsAsThinDump0_9Did) {
    ASSERT_OK_AND_ASSIGN(const test::corpus_scenario scenario, test::load_corpus(GetParam()));
    ASSERT_OK_AND_ASSIGN(const std::string recorded, scenario.text("thin_dump.xml"));
    ASSERT_OK_AND_ASSIGN(const std::string text,
                         dump_text<xml_writer>(*device_, {}, dump_dialect::v0_9));
    EXPECT_EQ(text, recorded);
    if (const auto snapshot = scenario.text("thin_dump-metasnap.xml")) {
        ASSERT_OK_AND_ASSIGN(
            const std::string held,
            dump_text<xml_writer>(*device_, {.metadata_snapshot = true}, dump_dialect::v0_9));
        // 0.9 says 0 data blocks, as the snapshot's superblock does; ours says what the pool has.
        const auto size_of = [](std::string_view of) {
            return of.substr(of.find("nr_data_blocks"));
        };
        const auto line_of = [](std::string_view of) { return of.substr(0, of.find('\n')); };
        EXPECT_EQ(line_of(size_of(held)), line_of(size_of(text)));
        EXPECT_EQ(held.substr(0, held.find("nr_data_blocks")),
                  snapshot->substr(0, snapshot->find("nr_data_blocks")));
        EXPECT_EQ(held.substr(held.find('\n')), snapshot->substr(snapshot->find('\n')));
    }
}

TEST_P(Corpus, SharedPiecesExpandToTheSameMappings) {
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*device_, {}));
    mapping_recorder expanded;
    mapping_recorder shared;
    mapping_recorder reread;
    ASSERT_OK(dump_metadata(*view, expanded, {}));
    ASSERT_OK(dump_metadata(*view, shared, {.shared_pieces = true}));
    ASSERT_OK_AND_ASSIGN(const std::string text,
                         dump_text<xml_writer>(*device_, {}, dump_dialect::v1));
    ASSERT_OK(record_text(text, reread));
    EXPECT_EQ(expanded.devices, shared.devices);
    EXPECT_EQ(expanded.devices, reread.devices);
    EXPECT_EQ(shared.events, reread.events);
    EXPECT_EQ(expanded.pool, reread.pool);
}

TEST_P(Corpus, ReadsAndChecksItsMetadataSnapshot) {
    const auto view = open_offline(*device_, {.metadata_snapshot = true});
    if (!view) {
        EXPECT_THAT(view, test::HasCode(error_code::not_found));
        return;
    }
    ASSERT_OK_AND_ASSIGN(const check_report report, check_metadata(**view, {}));
    EXPECT_EQ(report.fatal + report.repairable, 0U) << findings_text(report);
    EXPECT_GT(report.devices, 0U);
}

TEST_P(Corpus, DumpsAsThinDump1xDoes) {
    const std::filesystem::path tools = test::thin_tools_directory();
    if (tools.empty()) {
        GTEST_SKIP() << "thin_dump 1.1 was not fetched";
    }
    const test::temporary_directory directory;
    const std::filesystem::path path = directory.path() / "metadata.img";
    ASSERT_OK_AND_ASSIGN(const test::corpus_scenario scenario, test::load_corpus(GetParam()));
    ASSERT_OK(scenario.unpack("metadata.img", path));
    const std::string command = test::shell_quoted((tools / "thin_dump").string()) + " " +
                                test::shell_quoted(path.string());
    const test::command_output xml = test::run_command(command);
    ASSERT_EQ(xml.status, 0) << xml.text;
    ASSERT_OK_AND_ASSIGN(const std::string text,
                         dump_text<xml_writer>(*device_, {}, dump_dialect::v1));
    EXPECT_EQ(text, xml.text);
    const test::command_output human = test::run_command(command + " -f human_readable");
    ASSERT_EQ(human.status, 0) << human.text;
    ASSERT_OK_AND_ASSIGN(const std::string human_text,
                         dump_text<human_readable_writer>(*device_, {}, dump_dialect::v1));
    EXPECT_EQ(human_text, human.text);
}

INSTANTIATE_TEST_SUITE_P(All, Corpus, testing::ValuesIn(test::corpus_names()),
                         [](const testing::TestParamInfo<std::string>& param) {
                             std::string name = param.param;
                             std::replace(name.begin(), name.end(), '-', '_');
                             return name;
                         });

TEST(CorpusNames, AreTheFiftySixPools) {
    EXPECT_EQ(test::corpus_names().size(), 56U);
}

}  // namespace
}  // namespace uthin::thin_metadata
