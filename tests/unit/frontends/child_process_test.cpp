// Programs that say something, take nothing, fail or do not end.
#include "frontends/child_process.h"

#include <gmock/gmock.h>
#include <valgrind/valgrind.h>

#include <csignal>

#include "base/clock.h"
#include "support/matchers.h"

namespace uthin::frontends {
namespace {

using test::HasCode;
using testing::HasSubstr;
using namespace std::chrono_literals;

std::vector<std::string> shell(const std::string& line) {
    return {"sh", "-c", line};
}

TEST(ChildProcess, IsFedAndHeard) {
    ASSERT_OK_AND_ASSIGN(auto child, child_process::start(shell("wc -c; echo done >&2")));
    const std::vector<std::byte> bytes(1U << 20, std::byte{'x'});
    ASSERT_OK(child.write(bytes, 10s));
    ASSERT_OK_AND_ASSIGN(const std::string said, child.finish(10s));
    EXPECT_EQ(said, "1048576\ndone\n");
}

TEST(ChildProcess, ItsFailureIsItsLastLineThatIsNoToken) {
    const auto failed =
        run_program(shell("echo first; echo 'the cause' >&2; echo 'token abc'; exit 3"), 10s);
    ASSERT_THAT(failed, HasCode(error_code::io_error));
    EXPECT_EQ(failed.error().message(), "the cause");
}

TEST(ChildProcess, AProgramThatIsMissingIsNotFound) {
    if (RUNNING_ON_VALGRIND != 0) {
        GTEST_SKIP() << "valgrind gives a child of posix_spawn() memory of its own, so that it "
                        "cannot say why it failed";
    }
    EXPECT_THAT(run_program({"/nowhere/program"}, 10s), HasCode(error_code::not_found));
}

TEST(ChildProcess, OneThatTakesNothingIsGivenUpAndEnded) {
    const auto begin = system_clock().monotonic();
    {
        ASSERT_OK_AND_ASSIGN(auto child, child_process::start({"sleep", "60"}));
        const std::vector<std::byte> bytes(1U << 20);
        EXPECT_THAT(child.write(bytes, 200ms), HasCode(error_code::cancelled));
    }
    EXPECT_LT(system_clock().monotonic() - begin, 20s);
}

TEST(ChildProcess, OneThatEndsEarlyIsNoticed) {
    ASSERT_OK_AND_ASSIGN(
        auto child, child_process::start(shell("head -c 10 > /dev/null; echo no >&2; exit 1")));
    const std::vector<std::byte> bytes(1U << 20);
    // SIGPIPE is ignored by the program, not by this test.
    struct sigaction ignore {};
    struct sigaction before {};
    ignore.sa_handler = SIG_IGN;
    ::sigaction(SIGPIPE, &ignore, &before);
    result<void> written;
    for (int i = 0; i < 100 && written; ++i) {
        written = child.write(bytes, 10s);
    }
    ::sigaction(SIGPIPE, &before, nullptr);
    EXPECT_THAT(written, HasCode(error_code::io_error));
    const auto finished = child.finish(10s);
    ASSERT_FALSE(finished);
    EXPECT_EQ(finished.error().message(), "no");
}

}  // namespace
}  // namespace uthin::frontends
