#include "pool/pool_file.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>

#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::HasCode;

pool_file unusual_file() {
    pool_file file;
    file.uuid = "0-1";
    file.metadata = "/dev/ü \"quoted\"\n";
    file.data = "nbd://h/x";
    file.adopted = true;
    file.zero_new_blocks = false;
    file.discard = discard_mode::ignore;
    file.error_if_no_space = true;
    file.read_only = true;
    file.no_space_timeout = std::chrono::seconds(7);
    file.low_water_blocks = INT64_MAX;
    file.overcommit_percent = 150;
    file.discard_bytes_per_s = 1 << 20;
    file.cache = data_cache::writeback;
    return file;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST(PoolFile, ReadsBackWhatWasWritten) {
    for (const pool_file& file : {pool_file{.uuid = "u"}, unusual_file()}) {
        ASSERT_OK_AND_ASSIGN(const std::string text, format_pool_file(file));
        ASSERT_OK_AND_ASSIGN(const pool_file read, parse_pool_file(text, "x"));
        EXPECT_EQ(read, file);
    }
}

// Programs that do not know the field must not run the pool without it; others still can.
TEST(PoolFile, HasTheLaterFieldsOnlyWhenTheySaySomething) {
    ASSERT_OK_AND_ASSIGN(const std::string plain, format_pool_file({.uuid = "u"}));
    EXPECT_EQ(plain.find("overcommit"), std::string::npos);
    EXPECT_EQ(plain.find("discard_bytes"), std::string::npos);
    EXPECT_EQ(plain.find("cache"), std::string::npos);
    ASSERT_OK_AND_ASSIGN(const std::string full, format_pool_file(unusual_file()));
    EXPECT_NE(full.find("\"overcommit_percent\": 150"), std::string::npos);
    EXPECT_NE(full.find("\"cache\": \"writeback\""), std::string::npos);
}

TEST(PoolFile, GarbageIsCorruptInOneLine) {
    ASSERT_OK_AND_ASSIGN(const std::string good, format_pool_file(unusual_file()));
    for (const std::string& text :
         {std::string(),
          std::string("\0", 1),
          std::string("{"),
          std::string("[]"),
          std::string("null"),
          std::string("{}"),
          good + "x",
          good + std::string("\0", 1),
          std::string(60000, '['),
          std::string("{\"a\":\xff}"),
          replaced(good, "\"uthin-pool\"", "\"other\""),
          replaced(good, "\"0-1\"", "7"),
          replaced(good, "\"version\": 1", "\"version\": \"1\""),
          replaced(good, "\"version\": 1", "\"version\": 1.0"),
          replaced(good, "\"low_water_blocks\": 9223372036854775807",
                   "\"low_water_blocks\": 9223372036854775808"),
          replaced(good, "\"low_water_blocks\": 9223372036854775807", "\"low_water_blocks\": -1"),
          replaced(good, "\"adopted\": true", "\"adopted\": 1"),
          replaced(good, "\"adopted\": true", "\"adopted\": true, \"adopted\": false"),
          replaced(good, "\"adopted\": true", "\"adopted\": true, \"more\": 1"),
          replaced(good, "  \"adopted\": true,\n", "")}) {
        const auto parsed = parse_pool_file(text, "DIR/pool.json");
        ASSERT_THAT(parsed, HasCode(error_code::corrupt)) << text.substr(0, 400);
        EXPECT_EQ(parsed.error().message().find("DIR/pool.json"), 0U);
        EXPECT_EQ(parsed.error().message().find('\n'), std::string::npos);
    }
}

// A field that is not there, or is of another kind, is named.
TEST(PoolFile, EveryFieldIsAskedFor) {
    ASSERT_OK_AND_ASSIGN(const std::string good, format_pool_file(unusual_file()));
    for (const char* key :
         {"format", "version", "uuid", "metadata", "data", "adopted", "read_only",
          "zero_new_blocks", "discard", "error_if_no_space", "no_space_timeout_s",
          "low_water_blocks", "overcommit_percent", "discard_bytes_per_s", "cache"}) {
        SCOPED_TRACE(key);
        const std::string quoted = fmt::format("\"{}\": ", key);
        const std::size_t at = good.find(quoted) + quoted.size();
        const std::size_t end =
            good.find('\n', at) - (good[good.find('\n', at) - 1] == ',' ? 1 : 0);
        const std::string other = good.substr(0, at) + "[]" + good.substr(end);
        const auto of_another_kind = parse_pool_file(other, "x");
        ASSERT_THAT(of_another_kind, HasCode(error_code::corrupt));
        EXPECT_NE(of_another_kind.error().message().find(key), std::string::npos);
        const auto nameless =
            parse_pool_file(replaced(good, quoted, fmt::format("\"no {}\": ", key)), "x");
        ASSERT_THAT(nameless, HasCode(error_code::corrupt));
        EXPECT_NE(nameless.error().message().find(key), std::string::npos);
    }
}

TEST(PoolFile, ValuesThatMakeNoSenseAreRefused) {
    ASSERT_OK_AND_ASSIGN(const std::string good, format_pool_file(unusual_file()));
    EXPECT_THAT(
        parse_pool_file(
            replaced(good, "\"no_space_timeout_s\": 7", "\"no_space_timeout_s\": 31536001"), "x"),
        HasCode(error_code::corrupt));
    EXPECT_THAT(parse_pool_file(replaced(good, "\"ignore\"", "\"perhaps\""), "x"),
                HasCode(error_code::invalid_argument));
    EXPECT_THAT(parse_pool_file(replaced(good, "\"writeback\"", "\"perhaps\""), "x"),
                HasCode(error_code::invalid_argument));
    EXPECT_THAT(parse_pool_file(replaced(good, "\"0-1\"", "\"\""), "x"),
                HasCode(error_code::corrupt));
    for (const std::string& bad : {std::string("\xff"), std::string("a\0b", 3)}) {
        pool_file file = unusual_file();
        file.data = bad;
        EXPECT_THAT(format_pool_file(file), HasCode(error_code::invalid_argument));
        file = unusual_file();
        file.metadata = bad;
        EXPECT_THAT(format_pool_file(file), HasCode(error_code::invalid_argument));
        file = unusual_file();
        file.uuid = bad;
        const test::temporary_directory directory;
        EXPECT_THAT(store_pool_file(directory.path(), file), HasCode(error_code::invalid_argument));
        EXPECT_FALSE(is_pool_directory(directory.path()));
    }
}

TEST(PoolFile, ADirectoryWithThisFileIsAPool) {
    const test::temporary_directory directory;
    EXPECT_FALSE(is_pool_directory(directory.path()));
    EXPECT_FALSE(is_pool_directory(directory.path() / "missing"));
    std::ofstream(directory.path() / "pool.json") << "whatever it says";
    EXPECT_TRUE(is_pool_directory(directory.path()));
}

TEST(PoolFile, WordsOfSettingsAreReadOrRefused) {
    EXPECT_EQ(parse_low_water("7", 100).value(), 7U);
    EXPECT_EQ(parse_low_water("33%", 1000).value(), 330U);
    EXPECT_EQ(parse_low_water("100%", 199).value(), 199U);
    for (const char* text : {"", "%", "101%", "x", "-1", "9223372036854775808"}) {
        EXPECT_THAT(parse_low_water(text, 100), HasCode(error_code::invalid_argument)) << text;
    }
    EXPECT_EQ(parse_overcommit("off").value(), 0U);
    EXPECT_EQ(parse_overcommit("1000000%").value(), 1'000'000U);
    for (const char* text : {"", "0%", "1000001%", "100", "x%"}) {
        EXPECT_THAT(parse_overcommit(text), HasCode(error_code::invalid_argument)) << text;
    }
    for (const discard_mode mode :
         {discard_mode::passdown, discard_mode::no_passdown, discard_mode::ignore}) {
        EXPECT_EQ(parse_discard_mode(to_string(mode)), mode);
    }
    EXPECT_THAT(parse_discard_mode("no"), HasCode(error_code::invalid_argument));
    for (const data_cache cache : {data_cache::none, data_cache::writeback}) {
        EXPECT_EQ(parse_data_cache(to_string(cache)), cache);
    }
    EXPECT_THAT(parse_data_cache("no"), HasCode(error_code::invalid_argument));
}

TEST(PoolFile, ANewerVersionIsUnsupported) {
    ASSERT_OK_AND_ASSIGN(const std::string good, format_pool_file(unusual_file()));
    EXPECT_THAT(parse_pool_file(replaced(good, "\"version\": 1", "\"version\": 2"), "x"),
                HasCode(error_code::unsupported));
}

TEST(PoolFile, IsStoredWholeAndFoundAgain) {
    const test::temporary_directory directory;
    EXPECT_THAT(load_pool_file(directory.path()), HasCode(error_code::not_found));
    ASSERT_OK(store_pool_file(directory.path(), unusual_file()));
    ASSERT_OK(store_pool_file(directory.path(), pool_file{.uuid = "second"}));
    ASSERT_OK_AND_ASSIGN(const pool_file read, load_pool_file(directory.path()));
    EXPECT_EQ(read.uuid, "second");
    EXPECT_FALSE(std::filesystem::exists(directory.path() / "pool.json.new"));
    std::ofstream(directory.path() / "pool.json") << std::string(100000, ' ');
    EXPECT_THAT(load_pool_file(directory.path()), HasCode(error_code::invalid_argument));
}

TEST(PoolFile, PathsAndUrlsAreToldApart) {
    EXPECT_EQ(resolved_url("/p", "data"), "/p/data");
    EXPECT_EQ(resolved_url("/p", "/x"), "/x");
    EXPECT_EQ(resolved_url("/p", "nbd://h/x"), "nbd://h/x");
    EXPECT_EQ(path_of_url("nbd://h/x"), "");
    EXPECT_EQ(path_of_url("file:/a"), "/a");
    EXPECT_EQ(path_of_url("./a:b"), "./a:b");
}

}  // namespace
}  // namespace uthin
