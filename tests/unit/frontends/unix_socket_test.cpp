#include "frontends/unix_socket.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin::frontends {
namespace {

// Paths around the 108 bytes of a socket address, and the longest name that a file can have.
class UnixSocket : public ::testing::TestWithParam<std::size_t> {
protected:
    [[nodiscard]] std::string path() const {
        return directory_.path().string() + "/" + std::string(GetParam(), 's');
    }
    test::temporary_directory directory_;
};

TEST_P(UnixSocket, ConnectsToWhoListens) {
    const auto listening = listen_unix(path());
    ASSERT_OK(listening);
    EXPECT_OK(connect_unix(path()));
}

TEST_P(UnixSocket, IsForItsOwnerOnly) {
    const auto listening = listen_unix(path());
    ASSERT_OK(listening);
    struct stat status {};
    ASSERT_EQ(::stat(path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0600U);
}

TEST_P(UnixSocket, IsNotTakenFromWhoListens) {
    const auto listening = listen_unix(path());
    ASSERT_OK(listening);
    const auto second = listen_unix(path());
    EXPECT_THAT(second, test::HasCode(error_code::busy));
    EXPECT_OK(connect_unix(path()));
}

TEST_P(UnixSocket, IsReplacedWhenNobodyListens) {
    { ASSERT_OK(listen_unix(path())); }
    const auto refused = connect_unix(path());
    EXPECT_THAT(refused, test::HasCode(error_code::not_found));
    EXPECT_OK(listen_unix(path()));
}

// Somebody has it, though connecting fails: EPROTOTYPE here, EACCES for another user's.
TEST_P(UnixSocket, DoesNotReplaceASocketOfAnotherKind) {
    const int other = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ASSERT_GE(other, 0);
    const std::string short_path = directory_.path().string() + "/d";
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    ASSERT_LT(short_path.size(), sizeof address.sun_path);
    short_path.copy(address.sun_path, short_path.size());
    ASSERT_EQ(::bind(other, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(std::rename(short_path.c_str(), path().c_str()), 0);
    EXPECT_FALSE(listen_unix(path()));
    struct stat status {};
    ASSERT_EQ(::lstat(path().c_str(), &status), 0);
    ::close(other);
    EXPECT_OK(listen_unix(path())) << "nobody has it any more";
}

TEST_P(UnixSocket, DoesNotReplaceAFile) {
    std::FILE* file = std::fopen(path().c_str(), "w");
    ASSERT_NE(file, nullptr);
    std::fclose(file);
    const auto listening = listen_unix(path());
    EXPECT_THAT(listening, test::HasCode(error_code::already_exists));
    EXPECT_EQ(::access(path().c_str(), F_OK), 0);
}

INSTANTIATE_TEST_SUITE_P(NameLengths, UnixSocket, ::testing::Values(1U, 60U, 120U, 255U));

TEST(UnixSocketErrors, NameWhatIsMissing) {
    const auto listening = listen_unix("/no/such/folder/socket");
    EXPECT_THAT(listening, test::HasCode(error_code::not_found));
    const auto connected = connect_unix("/no/such/folder/socket");
    EXPECT_THAT(connected, test::HasCode(error_code::not_found));
}

}  // namespace
}  // namespace uthin::frontends
