#include "support/image_check.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "support/corpus.h"
#include "support/matchers.h"

namespace uthin::test {
namespace {

namespace fs = std::filesystem;

void flip_byte(const fs::path& file, long offset_bytes) {
    std::FILE* stream = std::fopen(file.c_str(), "r+b");
    ASSERT_NE(stream, nullptr);
    ASSERT_EQ(std::fseek(stream, offset_bytes, SEEK_SET), 0);
    const int old = std::fgetc(stream);
    ASSERT_EQ(std::fseek(stream, offset_bytes, SEEK_SET), 0);
    std::fputc(old ^ 1, stream);
    ASSERT_EQ(std::fclose(stream), 0);
}

class ImageCheck : public ::testing::Test {
    void SetUp() override {
        if (std::getenv("UTHIN_NO_ORACLE") != nullptr) {
            GTEST_SKIP() << "UTHIN_NO_ORACLE is set: there is no judge to test";
        }
    }
};

TEST_F(ImageCheck, KernelImagesAreClean) {
    const temporary_directory directory;
    std::vector<fs::path> images;
    for (const std::string& name : corpus_names()) {
        if (name == "crash-6-128k") {
            continue;  // see ALeakedBlockIsAFailure
        }
        ASSERT_OK_AND_ASSIGN(const corpus_scenario scenario, load_corpus(name));
        images.push_back(directory.path() / name);
        ASSERT_OK(scenario.unpack("metadata.img", images.back()));
    }
    expect_images_are_clean(images);
}

TEST_F(ImageCheck, AFlippedBitFailsWithBothReports) {
    const temporary_directory directory;
    static fs::path image;
    image = directory.path() / "metadata";
    ASSERT_OK_AND_ASSIGN(const corpus_scenario scenario, load_corpus("fresh-64k"));
    ASSERT_OK(scenario.unpack("metadata.img", image));
    flip_byte(image, 100);
    EXPECT_NONFATAL_FAILURE(expect_image_is_clean(image), "superblock");
    EXPECT_NONFATAL_FAILURE(expect_image_is_clean(image), "bad superblock checksum");
}

TEST_F(ImageCheck, ALeakedBlockIsAFailure) {
    const temporary_directory directory;
    static fs::path image;
    image = directory.path() / "metadata";
    ASSERT_OK_AND_ASSIGN(const corpus_scenario scenario, load_corpus("crash-6-128k"));
    ASSERT_OK(scenario.unpack("metadata.img", image));
    EXPECT_NONFATAL_FAILURE(expect_image_is_clean(image), "sm count 1, mappings count 0");
}

TEST_F(ImageCheck, BytesOfAnImageAreCheckedToo) {
    static const std::vector<std::byte> zeros(4096 * 16);
    EXPECT_NONFATAL_FAILURE(expect_image_is_clean(std::span(zeros)), "bad magic 0");
}

TEST_F(ImageCheck, ShellWordsKeepQuotesAndSpaces) {
    const std::string word = "a 'b' $c";
    EXPECT_EQ(run_command("printf %s " + shell_quoted(word)).text, word);
    EXPECT_EQ(run_command("exit 3").status, 3);
}

}  // namespace
}  // namespace uthin::test
