// SHA-256 against the example of its standard.
#include "replication/digest.h"

#include <fmt/format.h>

#include <string>

#include "support/matchers.h"

namespace uthin::replication {
namespace {

TEST(Digest, IsTheOneOfTheStandardsExampleInAnyPieces) {
    const std::string text = "abc";
    for (std::size_t cut = 0; cut <= text.size(); ++cut) {
        ASSERT_OK_AND_ASSIGN(digest sum, digest::begin());
        ASSERT_OK(sum.add(std::as_bytes(std::span(text).first(cut))));
        ASSERT_OK(sum.add(std::as_bytes(std::span(text).subspan(cut))));
        ASSERT_OK_AND_ASSIGN(const digest_value value, sum.finish());
        std::string hex;
        for (const std::byte byte : value) {
            hex += fmt::format("{:02x}", static_cast<unsigned>(byte));
        }
        EXPECT_EQ(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}

}  // namespace
}  // namespace uthin::replication
