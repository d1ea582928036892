#include "support/corpus.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <string>

#include "support/matchers.h"

namespace uthin::test {
namespace {

namespace fs = std::filesystem;

std::string sha256_of(const fs::path& file) {
    const std::string command = "sha256sum < '" + file.string() + "'";
    std::FILE* pipe = ::popen(command.c_str(), "r");
    std::array<char, 65> digest{};
    const bool is_read = pipe != nullptr && std::fread(digest.data(), 1, 64, pipe) == 64;
    return (pipe != nullptr && ::pclose(pipe) == 0 && is_read) ? digest.data() : "none";
}

TEST(Corpus, HoldsFiftySixPools) {
    EXPECT_EQ(corpus_names().size(), 56U);
}

TEST(Corpus, UnknownScenarioIsNotFound) {
    EXPECT_THAT(load_corpus("no-such-pool"), HasCode(error_code::not_found));
}

TEST(Corpus, MetadataImagesAreTheOnesThatTheScenarioDescribes) {
    const temporary_directory directory;
    const fs::path image = directory.path() / "metadata";
    for (const std::string& name : corpus_names()) {
        SCOPED_TRACE(name);
        ASSERT_OK_AND_ASSIGN(const corpus_scenario scenario, load_corpus(name));
        EXPECT_EQ(scenario.name, name);
        ASSERT_OK(scenario.unpack("metadata.img", image));
        EXPECT_EQ(fs::file_size(image), scenario.metadata_size_bytes);
        EXPECT_EQ(sha256_of(image), scenario.sha256.at("metadata.img"));
    }
}

TEST(Corpus, DataAndOriginOfAPoolAreTheOnesThatTheScenarioDescribes) {
    for (const std::string name : {"external-origin-192k", "snap-break-1024k"}) {
        SCOPED_TRACE(name);
        ASSERT_OK_AND_ASSIGN(const corpus_scenario scenario, load_corpus(name));
        ASSERT_OK_AND_ASSIGN(const unpacked_pool pool, unpack_pool(scenario));
        EXPECT_EQ(fs::file_size(pool.data), scenario.data_size_bytes);
        EXPECT_EQ(sha256_of(pool.data), scenario.sha256.at("data.img"));
        if (scenario.has_external_origin) {
            EXPECT_EQ(sha256_of(pool.external_origin), scenario.sha256.at("extra.img"));
        } else {
            EXPECT_TRUE(pool.external_origin.empty());
        }
    }
}

TEST(Corpus, EveryPoolThatWasNotKilledHasMapsOrNoActiveThin) {
    std::size_t thins = 0;
    for (const std::string& name : corpus_names()) {
        ASSERT_OK_AND_ASSIGN(const corpus_scenario scenario, load_corpus(name));
        thins += scenario.thins.size();
        EXPECT_EQ(scenario.text("acknowledged.log").has_value(), scenario.crashed) << name;
        EXPECT_THAT(scenario.text("thin_dump.xml"), IsOk()) << name;
        for (const thin_map& thin : scenario.thins) {
            EXPECT_GT(thin.size_sectors(), 0U) << name << " thin " << thin.device_id;
        }
    }
    EXPECT_EQ(thins, 239U);
}

thin_map example() {
    return {.device_id = 7,
            .runs = {{.begin_sector = 0, .length_sectors = 8, .tag = 0, .delta_sectors = 0},
                     {.begin_sector = 8, .length_sectors = 4, .tag = 3, .delta_sectors = -2},
                     {.begin_sector = 12,
                      .length_sectors = 4,
                      .tag = sector_run::tag_mixed,
                      .delta_sectors = 0}}};
}

TEST(Corpus, AWordIsTheTagAndThePositionThatWasWritten) {
    const thin_map map = example();
    EXPECT_EQ(map.size_sectors(), 16U);
    EXPECT_EQ(map.word_at(7), 0U);
    EXPECT_EQ(map.word_at(8), (3ULL << 40U) | 6U);
    EXPECT_EQ(map.word_at(11), (3ULL << 40U) | 9U);
    EXPECT_EQ(map.word_at(12), std::nullopt);
    EXPECT_EQ(map.word_at(16), std::nullopt);
}

TEST(Corpus, TheFirstWrongSectorIsNamed) {
    const thin_map map = example();
    std::array<std::byte, 3 * 512> content{};
    for (std::uint64_t i = 0; i < 3; ++i) {
        ASSERT_TRUE(map.expected_sector(7 + i, std::span(content).subspan(i * 512, 512)));
    }
    EXPECT_EQ(map.first_difference(7, content), "");
    content[2 * 512 + 511] = std::byte{1};
    EXPECT_EQ(map.first_difference(7, content),
              "thin 7 sector 9: first word 0x30000000007, expected 0x30000000007");
    EXPECT_EQ(map.first_difference(15, content), "thin 7 ends before sector 16");
}

}  // namespace
}  // namespace uthin::test
