// Ownership (reliability: P7): two processes, one process twice, and every path to one file.
#include "io/lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin::test {
namespace {

using io::acquire_ownership;
using io::lock_mode;

class Ownership : public ::testing::Test {
protected:
    void SetUp() override {
        path_ = (folder_.path() / "device").string();
        std::ofstream(path_) << "something";
    }

    // Runs `body` in a child; the exit status is what it returns.
    static int in_child(const std::function<int()>& body) {
        const pid_t child = ::fork();
        if (child == 0) {
            ::_exit(body());
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }

    // 0: the other process got it; else the error code, plus 100 if the message lacks the path.
    static int try_in_child(const std::string& path, lock_mode mode) {
        return in_child([&] {
            const auto held = acquire_ownership(path, mode);
            if (held) {
                return 0;
            }
            const bool names_path = held.error().message().find(path) != std::string::npos;
            return static_cast<int>(held.error().code()) + (names_path ? 0 : 100);
        });
    }

    // A process that owns `path_` until it is killed.
    pid_t start_owner(lock_mode mode) {
        int ready[2];
        EXPECT_EQ(::pipe(ready), 0);
        const pid_t child = ::fork();
        if (child == 0) {
            const auto held = acquire_ownership(path_, mode);
            const char answer = held ? 'y' : 'n';
            static_cast<void>(!::write(ready[1], &answer, 1));
            for (;;) {
                ::pause();
            }
        }
        char answer = 0;
        EXPECT_EQ(::read(ready[0], &answer, 1), 1);
        EXPECT_EQ(answer, 'y');
        ::close(ready[0]);
        ::close(ready[1]);
        return child;
    }
    static void kill_owner(pid_t child) {
        ASSERT_GT(child, 0);
        ::kill(child, SIGKILL);
        ::waitpid(child, nullptr, 0);
    }

    static constexpr int busy = static_cast<int>(error_code::busy);
    temporary_directory folder_;
    std::string path_;
};

TEST_F(Ownership, ASecondProcessIsRefusedAndToldWhy) {
    const pid_t owner = start_owner(lock_mode::exclusive);
    const auto refused = acquire_ownership(path_, lock_mode::exclusive);
    ASSERT_THAT(refused, HasCode(error_code::busy));
    EXPECT_NE(refused.error().message().find(path_), std::string::npos);
    EXPECT_NE(refused.error().message().find("another process"), std::string::npos);
    EXPECT_THAT(acquire_ownership(path_, lock_mode::shared), HasCode(error_code::busy));
    kill_owner(owner);
    EXPECT_OK(acquire_ownership(path_, lock_mode::exclusive)) << "free as soon as the owner died";
}

TEST_F(Ownership, ASecondOpenInOneProcessIsRefused) {
    {
        ASSERT_OK_AND_ASSIGN(const auto held, acquire_ownership(path_, lock_mode::exclusive));
        EXPECT_THAT(acquire_ownership(path_, lock_mode::exclusive), HasCode(error_code::busy));
        EXPECT_THAT(acquire_ownership(path_, lock_mode::shared), HasCode(error_code::busy));
    }
    EXPECT_OK(acquire_ownership(path_, lock_mode::exclusive));
}

TEST_F(Ownership, SharedOwnersKeepOutAnExclusiveOne) {
    ASSERT_OK_AND_ASSIGN(auto first, acquire_ownership(path_, lock_mode::shared));
    ASSERT_OK_AND_ASSIGN(auto second, acquire_ownership(path_, lock_mode::shared));
    EXPECT_EQ(try_in_child(path_, lock_mode::exclusive), busy);
    first.reset();
    EXPECT_THAT(acquire_ownership(path_, lock_mode::exclusive), HasCode(error_code::busy));
    second.reset();
    EXPECT_OK(acquire_ownership(path_, lock_mode::exclusive));
}

TEST_F(Ownership, SharedOwnersInTwoProcessesGetAlong) {
    const pid_t owner = start_owner(lock_mode::shared);
    EXPECT_OK(acquire_ownership(path_, lock_mode::shared));
    EXPECT_THAT(acquire_ownership(path_, lock_mode::exclusive), HasCode(error_code::busy));
    kill_owner(owner);
}

TEST_F(Ownership, LinksLeadToTheSameOwner) {
    const std::string symbolic = (folder_.path() / "symbolic").string();
    const std::string hard = (folder_.path() / "hard").string();
    std::filesystem::create_symlink(path_, symbolic);
    std::filesystem::create_hard_link(path_, hard);
    const pid_t owner = start_owner(lock_mode::exclusive);
    EXPECT_THAT(acquire_ownership(symbolic, lock_mode::exclusive), HasCode(error_code::busy));
    EXPECT_THAT(acquire_ownership(hard, lock_mode::exclusive), HasCode(error_code::busy));
    kill_owner(owner);
    ASSERT_OK_AND_ASSIGN(const auto held, acquire_ownership(symbolic, lock_mode::exclusive));
    EXPECT_THAT(acquire_ownership(hard, lock_mode::exclusive), HasCode(error_code::busy));
}

// Classic record locks would be lost here.
TEST_F(Ownership, ClosingAnotherDescriptorOfTheFileLosesNothing) {
    ASSERT_OK_AND_ASSIGN(const auto held, acquire_ownership(path_, lock_mode::exclusive));
    const int other = ::open(path_.c_str(), O_RDWR);
    ASSERT_GE(other, 0);
    ::close(other);
    const std::string path = path_;
    EXPECT_EQ(in_child([&] {
                  const int mine = ::open(path.c_str(), O_RDWR);
                  struct flock range {};
                  range.l_type = F_WRLCK;
                  return ::fcntl(mine, F_OFD_SETLK, &range) == 0 ? 1 : 0;
              }),
              0);
}

TEST_F(Ownership, ADescriptorForReadingCanOnlyShare) {
    const int descriptor = ::open(path_.c_str(), O_RDONLY);
    ASSERT_GE(descriptor, 0);
    EXPECT_THAT(acquire_ownership(descriptor, path_, lock_mode::exclusive),
                HasCode(error_code::invalid_argument));
    EXPECT_OK(acquire_ownership(descriptor, path_, lock_mode::shared));
    ::close(descriptor);
}

TEST_F(Ownership, ModeNoneOwnsNothing) {
    ASSERT_OK_AND_ASSIGN(const auto nothing, acquire_ownership(path_, lock_mode::none));
    EXPECT_OK(acquire_ownership(path_, lock_mode::exclusive));
}

TEST_F(Ownership, AMissingFileIsNotFound) {
    EXPECT_THAT(acquire_ownership(path_ + "x", lock_mode::exclusive),
                HasCode(error_code::not_found));
}

// Four processes open and close; a counter in shared memory sees every owner.
TEST_F(Ownership, RacingProcessesNeverHaveTwoOwners) {
    void* const page =
        ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(page, MAP_FAILED);
    struct counters {
        std::atomic<int> owners;
        std::atomic<int> successes;
        std::atomic<int> violations;
    };
    auto* const shared = new (page) counters{};
    pid_t children[4];
    for (pid_t& child : children) {
        child = ::fork();
        if (child == 0) {
            for (int owned = 0, tries = 0; owned < 50 && tries < 1000000; ++tries) {
                const auto held = acquire_ownership(path_, lock_mode::exclusive);
                if (!held) {
                    continue;
                }
                if (shared->owners.fetch_add(1) != 0) {
                    ++shared->violations;
                }
                ++shared->successes;
                ++owned;
                --shared->owners;
            }
            ::_exit(0);
        }
    }
    for (const pid_t child : children) {
        ::waitpid(child, nullptr, 0);
    }
    EXPECT_EQ(shared->violations, 0);
    EXPECT_EQ(shared->successes, 200);
    ::munmap(page, 4096);
}

}  // namespace
}  // namespace uthin::test
