// Tokens as people copy them.
#include "replication/resume_token.h"

#include "support/matchers.h"

namespace uthin::replication {
namespace {

using test::HasCode;

TEST(ResumeToken, IsReadBackWhateverItsIdsHold) {
    for (const resume_token& token : {resume_token{"0b9c-1", 0, "to", ""},
                                      resume_token{"t.%", UINT64_MAX, "a b.\xc3\xa4%2", "%"}}) {
        const std::string text = to_text(token);
        EXPECT_EQ(text.find_first_of(" /\"'$"), std::string::npos) << text;
        ASSERT_OK_AND_ASSIGN(const resume_token read, parse_resume_token(text));
        EXPECT_EQ(read, token);
    }
}

TEST(ResumeToken, IsRefusedWhenItIsMistyped) {
    const std::string text = to_text({"0b9c", 4096, "to", "from"});
    for (std::size_t at = 0; at < text.size(); ++at) {
        std::string other = text;
        other[at] = other[at] == 'x' ? 'y' : 'x';
        EXPECT_THAT(parse_resume_token(other), HasCode(error_code::invalid_argument)) << other;
        EXPECT_THAT(parse_resume_token(text.substr(0, at)), HasCode(error_code::invalid_argument));
    }
    EXPECT_THAT(parse_resume_token(std::string(5000, '.')), HasCode(error_code::invalid_argument));
}

}  // namespace
}  // namespace uthin::replication
