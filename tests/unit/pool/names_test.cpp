#include "pool/names.h"

#include <gtest/gtest.h>

#include "support/matchers.h"

namespace uthin {
namespace {

using test::HasCode;
using test::IsOk;

TEST(Names, OrdinaryNamesAreTaken) {
    for (const char* name : {"a", "web-1", "a b", "ü", "日本", "thin-", "thin-x", "thin-01",
                             "thin-16777216", "..a", "-x", "\xf0\x9f\x98\x80"}) {
        EXPECT_THAT(check_volume_name(name, std::nullopt), IsOk()) << name;
    }
    EXPECT_THAT(check_volume_name(std::string(255, 'x'), std::nullopt), IsOk());
}

TEST(Names, ADefaultNameBelongsToItsDevice) {
    EXPECT_THAT(check_volume_name("thin-7", device_id(7)), IsOk());
    EXPECT_THAT(check_volume_name("thin-7", device_id(8)), HasCode(error_code::invalid_argument));
    EXPECT_THAT(check_volume_name("thin-7", std::nullopt), HasCode(error_code::invalid_argument));
    EXPECT_EQ(id_of_default_name("thin-16777215"), device_id(16777215));
    EXPECT_EQ(id_of_default_name("thin-+7"), std::nullopt);
}

TEST(Names, WhatCannotBeAFileNameIsRefused) {
    for (const std::string& name :
         {std::string(), std::string("."), std::string(".."), std::string("a/b"),
          std::string(256, 'x'), std::string("a\nb"), std::string("a\0b", 3), std::string("\x7f"),
          std::string("\xc2\x85"), std::string("\xff"), std::string("\xc3"),
          std::string("\xc0\xaf"), std::string("\xed\xa0\x80"), std::string("\xf4\x90\x80\x80"),
          std::string("a\xe2\x80\xa8")}) {
        const auto checked = check_volume_name(name, std::nullopt);
        ASSERT_THAT(checked, HasCode(error_code::invalid_argument));
        EXPECT_EQ(checked.error().message().find('\n'), std::string::npos);
        EXPECT_TRUE(is_utf8(checked.error().message()));
    }
}

TEST(Names, ACutTextEndsBetweenTwoCharacters) {
    // One, two, three and four bytes.
    const std::string text = "aä€\xf0\x9f\x98\x80z";
    ASSERT_EQ(text.size(), 11U);
    const std::vector<std::string_view> wanted = {
        "",   "a",  "a", "aä", "aä", "aä", "aä€", "aä€", "aä€", "aä€", "aä€\xf0\x9f\x98\x80",
        text, text, text};
    for (std::size_t bytes_max = 0; bytes_max != wanted.size(); ++bytes_max) {
        EXPECT_EQ(cut_text(text, bytes_max), wanted[bytes_max]) << bytes_max;
        EXPECT_TRUE(is_utf8(cut_text(text, bytes_max))) << bytes_max;
    }
    EXPECT_EQ(cut_text(text, std::string::npos), text);
    EXPECT_EQ(cut_text("", 0), "");
    EXPECT_EQ(cut_text("", 5), "");
    EXPECT_EQ(cut_text("ä", 1), "");
    EXPECT_EQ(cut_text(std::string(300, 'x'), 200), std::string(200, 'x'));
    // No UTF-8 at all: there is an end.
    EXPECT_EQ(cut_text("\x80\x80\x80", 2), "");
}

TEST(Sizes, SuffixesAreBinary) {
    EXPECT_EQ(parse_size_bytes("0"), 0U);
    EXPECT_EQ(parse_size_bytes("512"), 512U);
    EXPECT_EQ(parse_size_bytes("1b"), 1U);
    EXPECT_EQ(parse_size_bytes("64K"), 65536U);
    EXPECT_EQ(parse_size_bytes("3MiB"), 3U << 20);
    EXPECT_EQ(parse_size_bytes("3mb"), 3U << 20);
    EXPECT_EQ(parse_size_bytes("10G"), 10ULL << 30);
    EXPECT_EQ(parse_size_bytes("2TiB"), 2ULL << 40);
    EXPECT_EQ(parse_size_bytes("18446744073709551615"), UINT64_MAX);
    EXPECT_EQ(parse_size_bytes("16777215T"), 16777215ULL << 40);
}

TEST(Sizes, WhatIsNoSizeOrTooLargeIsRefused) {
    for (const char* text : {"", "G", "-1", "+1", " 1", "1 ", "1.5G", "0x10", "1E", "1KiBB", "1Ki",
                             "1KB1", "1GG", "K1"}) {
        EXPECT_THAT(parse_size_bytes(text), HasCode(error_code::invalid_argument)) << text;
    }
    EXPECT_THAT(parse_size_bytes("18446744073709551616"), HasCode(error_code::out_of_range));
    EXPECT_THAT(parse_size_bytes("16777216T"), HasCode(error_code::out_of_range));
}

TEST(Sizes, AVolumeHasWholeSectors) {
    EXPECT_THAT(check_volume_size(512), IsOk());
    EXPECT_THAT(check_volume_size(0), HasCode(error_code::invalid_argument));
    EXPECT_THAT(check_volume_size(513), HasCode(error_code::invalid_argument));
    EXPECT_THAT(check_volume_size(volume_size_bytes_max), IsOk());
    EXPECT_THAT(check_volume_size(1ULL << 63), HasCode(error_code::out_of_range));
}

TEST(Sizes, PeopleReadOneDecimal) {
    EXPECT_EQ(readable_size(1023), "1023 B");
    EXPECT_EQ(readable_size(10ULL << 30), "10.0 GiB");
    EXPECT_EQ(readable_size((1ULL << 20) - 1), "1.0 MiB");
    EXPECT_EQ(readable_size(UINT64_MAX), "16.0 EiB");
}

TEST(VolumePath, TheLastComponentIsTheVolume) {
    ASSERT_OK_AND_ASSIGN(const volume_path deep, split_volume_path("/a/b/c"));
    EXPECT_EQ(deep.directory, "/a/b");
    EXPECT_EQ(deep.name, "c");
    ASSERT_OK_AND_ASSIGN(const volume_path bare, split_volume_path("c"));
    EXPECT_EQ(bare.directory, ".");
    ASSERT_OK_AND_ASSIGN(const volume_path root, split_volume_path("/c"));
    EXPECT_EQ(root.directory, "/");
    EXPECT_THAT(split_volume_path(""), HasCode(error_code::invalid_argument));
}

TEST(Decimal, AsTheKernelReadsIt) {
    EXPECT_EQ(parse_decimal("010"), 10U);
    EXPECT_EQ(parse_decimal("+5"), 5U);
    EXPECT_EQ(parse_decimal("18446744073709551615"), UINT64_MAX);
    for (const char* text : {"", "+", "-1", "0x10", "1 ", "99999999999999999999", "++1"}) {
        EXPECT_EQ(parse_decimal(text), std::nullopt) << text;
    }
}

}  // namespace
}  // namespace uthin
