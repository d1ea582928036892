// What only a misbehaving kernel, or a power cut, shows. The program's own pread, pwritev2,
// fdatasync, fsync and rename stand before the C library's: they call the kernel, or do what a test
// has asked for.
#include "io/file_device.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/aligned_buffer.h"
#include "io/durable_file.h"
#include "io/stream_file.h"
#include "io/uring_batch.h"
#include "support/matchers.h"
#include "support/paths.h"
#include "support/temporary_directory.h"

namespace {

struct kernel_behaviour {
    std::atomic<std::size_t> bytes_max{SIZE_MAX};  // of one transfer
    std::atomic<int> interrupted_every{0};         // EINTR at every n-th transfer
    std::atomic<int> transfers{0};
    std::atomic<int> flush_errno{0};  // once
    std::atomic<int> write_errno{0};  // once
    std::atomic<int> read_errno{0};   // once
    std::atomic<int> flushes{0};
    std::atomic<int> durable_writes{0};
    std::atomic<int> flush_delay_ms{0};
    std::atomic<long> last_flush{0};  // SYS_fsync or SYS_fdatasync
    std::atomic<int> flushes_before_rename{-1};
};
kernel_behaviour kernel;

bool interrupted() {
    const int n = ++kernel.transfers;
    const int every = kernel.interrupted_every;
    if (every != 0 && n % every == 0) {
        errno = EINTR;
        return true;
    }
    return false;
}

int flush(long call, int descriptor) {
    ++kernel.flushes;
    kernel.last_flush = call;
    if (kernel.flush_delay_ms != 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(kernel.flush_delay_ms));
    }
    if (const int wanted = kernel.flush_errno.exchange(0); wanted != 0) {
        errno = wanted;
        return -1;
    }
    return static_cast<int>(::syscall(call, descriptor));
}

}  // namespace

extern "C" ssize_t pread(int descriptor, void* memory, size_t length, off_t offset) {
    if (interrupted()) {
        return -1;
    }
    if (const int wanted = kernel.read_errno.exchange(0); wanted != 0) {
        errno = wanted;
        return -1;
    }
    return ::syscall(SYS_pread64, descriptor, memory, std::min(length, kernel.bytes_max.load()),
                     offset);
}

extern "C" ssize_t pwritev2(int descriptor, const iovec* pieces, int count, off_t offset,
                            int flags) {
    if (interrupted()) {
        return -1;
    }
    if (const int wanted = kernel.write_errno.exchange(0); wanted != 0) {
        errno = wanted;
        return -1;
    }
    kernel.durable_writes += (flags & RWF_DSYNC) != 0 ? 1 : 0;
    iovec piece = pieces[0];
    piece.iov_len = std::min(piece.iov_len, kernel.bytes_max.load());
    return ::syscall(SYS_pwritev2, descriptor, count == 1 ? &piece : pieces, count, offset, 0,
                     flags);
}

extern "C" int fdatasync(int descriptor) {
    return flush(SYS_fdatasync, descriptor);
}

extern "C" int fsync(int descriptor) {
    return flush(SYS_fsync, descriptor);
}

extern "C" int rename(const char* from, const char* to) noexcept {
    kernel.flushes_before_rename = kernel.flushes.load();
    return static_cast<int>(::syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

namespace uthin::test {
namespace {

constexpr std::uint64_t device_bytes = 1 << 20;

class FileDevice : public ::testing::TestWithParam<bool> {
protected:
    void SetUp() override {
        path_ = test::bin_dir() + "/file-device-" + std::to_string(::getpid()) + ".img";
        ::unlink(path_.c_str());
        device_ = open({.direct = GetParam(), .create_size_bytes = device_bytes});
        ASSERT_NE(device_, nullptr);
        if (GetParam() && !device_->direct()) {
            GTEST_SKIP() << "no O_DIRECT here";
        }
        kernel.flushes = 0;
        kernel.durable_writes = 0;
    }
    // By the file, of the file system.
    [[nodiscard]] std::uint64_t used_bytes() const {
        struct stat status {};
        EXPECT_EQ(::stat(path_.c_str(), &status), 0);
        return static_cast<std::uint64_t>(status.st_blocks) * 512;
    }
    void TearDown() override {
        kernel.bytes_max = SIZE_MAX;
        kernel.interrupted_every = 0;
        kernel.flush_errno = 0;
        kernel.write_errno = 0;
        kernel.read_errno = 0;
        kernel.flush_delay_ms = 0;
        device_.reset();
        ::unlink(path_.c_str());
    }
    std::unique_ptr<io::file_device> open(const io::open_options& options) const {
        auto opened = io::file_device::open(path_, options);
        EXPECT_THAT(opened, IsOk());
        return opened ? std::move(*opened) : nullptr;
    }

    std::string path_;
    std::unique_ptr<io::file_device> device_;
    std::vector<std::byte> bytes_ = std::vector<std::byte>(65536, std::byte{0x5A});
};

TEST_P(FileDevice, ShortAndInterruptedTransfersAreContinued) {
    kernel.bytes_max = 4096;
    kernel.interrupted_every = 3;
    kernel.transfers = 0;
    aligned_buffer out(65536);
    std::fill_n(out.data(), out.size(), std::byte{0x77});
    ASSERT_OK(device_->write(4096, out.span()));
    EXPECT_GE(kernel.transfers, 16);
    ASSERT_OK(device_->write(100001, bytes_));
    std::vector<std::byte> seen(65536);
    ASSERT_OK(device_->read(4096, seen));
    EXPECT_TRUE(std::equal(seen.begin(), seen.end(), out.data()));
    ASSERT_OK(device_->read(100001, seen));
    EXPECT_EQ(seen, bytes_);
}

TEST_P(FileDevice, AfterAFailedFlushEveryFlushFailsUntilReopened) {
    ASSERT_OK(device_->write(0, bytes_));
    kernel.flush_errno = EIO;
    EXPECT_THAT(device_->flush(), HasCode(error_code::io_error));
    EXPECT_THAT(device_->flush(), HasCode(error_code::io_error)) << "the kernel would say ok now";
    EXPECT_THAT(device_->write_fua(0, bytes_), HasCode(error_code::io_error));
    EXPECT_EQ(device_->flush().error().os_errno(), EIO);
    EXPECT_EQ(kernel.flushes, 1) << "and it is not asked again";
    device_.reset();
    device_ = open({});
    EXPECT_OK(device_->flush());
}

TEST_P(FileDevice, AFailedFuaWriteCountsAsAFailedFlushUnlessSpaceRanOut) {
    aligned_buffer out(4096);
    kernel.write_errno = ENOSPC;
    EXPECT_EQ(device_->write_fua(0, out.span()).error().os_errno(), ENOSPC);
    EXPECT_OK(device_->flush());
    EXPECT_OK(device_->write_fua(0, out.span()));
    if (device_->direct()) {
        kernel.write_errno = EIO;
    } else {
        kernel.flush_errno = EIO;
    }
    EXPECT_THAT(device_->write_fua(0, out.span()), HasCode(error_code::io_error));
    EXPECT_THAT(device_->flush(), HasCode(error_code::io_error));
}

// Nothing was written: one sector that cannot be read must not stop every volume.
TEST_P(FileDevice, AFuaWriteThatCouldNotBeginLosesNothing) {
    ASSERT_OK(device_->write(0, bytes_));
    if (device_->direct()) {
        kernel.read_errno = EIO;  // of what surrounds it in its sector
        EXPECT_THAT(device_->write_fua(100, std::span(bytes_).first(10)),
                    HasCode(error_code::io_error));
        EXPECT_OK(device_->flush());
        aligned_buffer out(4096);
        kernel.write_errno = EINVAL;
        EXPECT_EQ(device_->write_fua(0, out.span()).error().os_errno(), EINVAL);
    }
    EXPECT_OK(device_->flush());
    EXPECT_OK(device_->write_fua(100, std::span(bytes_).first(10)));
}

TEST_P(FileDevice, AFuaWriteReachesTheMedium) {
    aligned_buffer out(4096);
    ASSERT_OK(device_->write_fua(0, out.span()));
    EXPECT_EQ(kernel.durable_writes + kernel.flushes, 1);
}

// FI4: whoever arrives during a flush waits for the next one; all of those share it.
TEST_P(FileDevice, FlushesThatWaitTogetherShareOne) {
    kernel.flush_delay_ms = 200;
    std::vector<std::thread> threads;
    std::atomic<int> failures{0};
    threads.emplace_back([&] { failures += device_->flush() ? 0 : 1; });
    while (kernel.flushes == 0) {
        std::this_thread::yield();
    }
    for (int i = 0; i < 5; ++i) {
        threads.emplace_back([&] { failures += device_->flush() ? 0 : 1; });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(failures, 0);
    EXPECT_EQ(kernel.flushes, 2);
}

TEST_P(FileDevice, AllWaitersOfAFailedFlushAreTold) {
    kernel.flush_delay_ms = 100;
    kernel.flush_errno = EIO;
    std::vector<std::thread> threads;
    std::atomic<int> failures{0};
    for (int i = 0; i < 5; ++i) {
        threads.emplace_back([&] { failures += device_->flush() ? 0 : 1; });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(failures, 5);
}

TEST_P(FileDevice, ANewSizeIsFlushedWithTheData) {
    ASSERT_OK(device_->flush());
    EXPECT_EQ(kernel.last_flush, SYS_fdatasync);
    ASSERT_OK(device_->grow(2 * device_bytes));
    ASSERT_OK(device_->flush());
    EXPECT_EQ(kernel.last_flush, SYS_fsync);
    ASSERT_OK(device_->flush());
    EXPECT_EQ(kernel.last_flush, SYS_fdatasync);
}

TEST_P(FileDevice, AFileThatGrewElsewhereIsNoticed) {
    ASSERT_EQ(::truncate(path_.c_str(), 2 * device_bytes), 0);
    ASSERT_OK_AND_ASSIGN(const std::uint64_t size_bytes, device_->size_bytes());
    EXPECT_EQ(size_bytes, 2 * device_bytes);
    EXPECT_OK(device_->write(2 * device_bytes - 65536, bytes_));
    ASSERT_OK(device_->flush());
}

TEST_P(FileDevice, ReadingAFileThatWasCutShortElsewhereIsAnErrorNotGarbage) {
    ASSERT_EQ(::truncate(path_.c_str(), device_bytes / 2), 0);
    EXPECT_THAT(device_->read(device_bytes - 65536, bytes_), HasCode(error_code::io_error));
    EXPECT_THAT(device_->read(device_bytes, bytes_), HasCode(error_code::out_of_range));
}

TEST_P(FileDevice, AFileOfOddSizeKeepsItsSize) {
    device_.reset();
    ASSERT_EQ(::truncate(path_.c_str(), 10007), 0);
    device_ = open({});
    EXPECT_FALSE(device_->direct());
    ASSERT_OK(device_->write(10000, std::span(bytes_).first(7)));
    EXPECT_THAT(device_->write(10000, std::span(bytes_).first(8)),
                HasCode(error_code::out_of_range));
    std::vector<std::byte> seen(7);
    ASSERT_OK(device_->read(10000, seen));
    EXPECT_EQ(seen[6], std::byte{0x5A});
    ASSERT_OK_AND_ASSIGN(const std::uint64_t size_bytes, device_->size_bytes());
    EXPECT_EQ(size_bytes, 10007);
}

TEST_P(FileDevice, AnEmptyFileCanBeOpenedAndGrown) {
    device_.reset();
    ASSERT_EQ(::truncate(path_.c_str(), 0), 0);
    device_ = open({.direct = GetParam()});
    EXPECT_THAT(device_->read(0, bytes_), HasCode(error_code::out_of_range));
    ASSERT_OK(device_->grow(device_bytes));
    EXPECT_OK(device_->write(0, bytes_));
}

TEST_P(FileDevice, DiscardGivesTheSpaceBack) {
    if (!device_->capabilities().can_discard) {
        GTEST_SKIP() << "no holes in files here";
    }
    ASSERT_OK(device_->write(0, std::vector<std::byte>(device_bytes, std::byte{1})));
    ASSERT_OK(device_->flush());
    EXPECT_GE(used_bytes(), device_bytes);
    ASSERT_OK(device_->discard(0, device_bytes));
    EXPECT_LT(used_bytes(), device_bytes / 2);
}

// Through the page cache; around it the zeros take their place.
TEST_P(FileDevice, ZeroingAHoleLeavesItAndZeroingDataZeroesIt) {
    if (!device_->capabilities().can_discard) {
        GTEST_SKIP() << "no holes in files here";
    }
    const bool keeps_holes = !device_->direct();
    ASSERT_OK(device_->write_zeroes(0, device_bytes));
    ASSERT_OK(device_->flush());
    if (keeps_holes) {
        EXPECT_EQ(used_bytes(), 0U);
    }
    // A hole before data, data, and what only ends in a hole.
    ASSERT_OK(device_->write(8192, std::vector<std::byte>(4096, std::byte{1})));
    ASSERT_OK(device_->write_zeroes(0, 8192 + 512));
    ASSERT_OK(device_->write_zeroes(8192 + 1024, 65536));
    std::vector<std::byte> page(4096);
    ASSERT_OK(device_->read(8192, page));
    for (std::size_t i = 0; i < page.size(); ++i) {
        ASSERT_EQ(page[i], i / 512 == 1 ? std::byte{1} : std::byte{0}) << i;
    }
}

TEST_P(FileDevice, SpaceIsTakenWithoutAWordAboutIt) {
    if (!device_->capabilities().can_discard) {
        GTEST_SKIP() << "no holes in files here";
    }
    const std::vector<std::byte> page(4096, std::byte{1});
    ASSERT_OK(device_->write(64 << 10, page));
    ASSERT_OK(device_->flush());
    device_->take_space(32 << 10, 128 << 10);
    EXPECT_GE(used_bytes(), 128U << 10);
    EXPECT_LE(used_bytes(), 192U << 10);
    std::vector<std::byte> bytes(128 << 10);
    ASSERT_OK(device_->read(32 << 10, bytes));
    for (std::size_t at = 0; at < bytes.size(); at += 4096) {
        ASSERT_EQ(bytes[at], at == 32 << 10 ? std::byte{1} : std::byte{0}) << at;
    }
    // A hint that cannot be followed is none.
    const std::uint64_t before = used_bytes();
    device_->take_space(device_bytes - 4096, 8192);
    device_->take_space(device_bytes * 2, 4096);
    EXPECT_EQ(used_bytes(), before);
    EXPECT_EQ(device_->size_bytes().value(), device_bytes);
}

INSTANTIATE_TEST_SUITE_P(Of, FileDevice, ::testing::Values(true, false),
                         [](const ::testing::TestParamInfo<bool>& of) {
                             return of.param ? std::string("Direct") : std::string("Buffered");
                         });

// ---- names

class FlushOrder : public ::testing::Test {
protected:
    FlushOrder() {
        kernel.flushes = 0;
        kernel.flushes_before_rename = -1;
    }
    const temporary_directory folder_;
    const std::string path_ = folder_.path() / "file";
};

TEST_F(FlushOrder, AReplacedFileIsDurableBeforeItsNameLeadsToIt) {
    ASSERT_OK(io::replace_file(path_, "content"));
    EXPECT_EQ(kernel.flushes_before_rename, 1);
    EXPECT_EQ(kernel.flushes, 2) << "the name is to last, too";
}

TEST_F(FlushOrder, AFileThatCannotBeFlushedDoesNotGetTheName) {
    ASSERT_OK(io::replace_file(path_, "old"));
    kernel.flushes_before_rename = -1;
    kernel.flush_errno = EIO;
    EXPECT_FALSE(io::replace_file(path_, "new"));
    EXPECT_EQ(kernel.flushes_before_rename, -1);
    EXPECT_EQ(io::read_file(path_, 100).value(), "old");
}

TEST_F(FlushOrder, AStreamIsDurableBeforeItsNameLeadsToIt) {
    ASSERT_OK_AND_ASSIGN(auto file, io::new_file::create(path_));
    ASSERT_OK(file.write(std::vector<std::byte>(100)));
    ASSERT_OK(file.publish());
    EXPECT_EQ(kernel.flushes_before_rename, 1);
    EXPECT_EQ(kernel.flushes, 2) << "the name is to last, too";
}

TEST(UringBatch, DoesABatchOrSaysThatItCannot) {
    temporary_directory folder;
    const std::string path = (folder.path() / "file").string();
    std::ofstream(path).close();
    ASSERT_EQ(::truncate(path.c_str(), 1 << 20), 0);
    const int descriptor = ::open(path.c_str(), O_RDWR);
    ASSERT_GE(descriptor, 0);
    std::vector<std::vector<std::byte>> memory;
    std::vector<io_op> ops;
    for (std::uint64_t i = 0; i < 200; ++i) {
        memory.emplace_back(4096, static_cast<std::byte>(i));
        ops.push_back({io_kind::write, i * 4096, memory.back()});
    }
    const result<void> written = io::run_uring_batch(descriptor, path, ops);
    if (!written && written.error().code() == error_code::unsupported) {
        ::close(descriptor);
        GTEST_SKIP() << written.error().to_string();
    }
    ASSERT_OK(written);
    for (io_op& op : ops) {
        op.kind = io_kind::read;
        std::fill(op.buffer_bytes.begin(), op.buffer_bytes.end(), std::byte{0xFF});
    }
    ASSERT_OK(io::run_uring_batch(descriptor, path, ops));
    for (std::size_t i = 0; i < 200; ++i) {
        EXPECT_EQ(memory[i], std::vector<std::byte>(4096, static_cast<std::byte>(i)));
    }
    // A piece beyond the end is an error, and the others are done all the same.
    std::vector<std::byte> beyond(4096);
    ops.insert(ops.begin(), io_op{io_kind::read, 1 << 20, beyond});
    std::fill(memory[199].begin(), memory[199].end(), std::byte{0xFF});
    EXPECT_THAT(io::run_uring_batch(descriptor, path, ops), HasCode(error_code::io_error));
    EXPECT_EQ(memory[199][0], static_cast<std::byte>(199));
    // So is one that only begins before the end: its transfer is short.
    const io_op across{io_kind::read, (1 << 20) - 2048, beyond};
    EXPECT_THAT(io::run_uring_batch(descriptor, path, {&across, 1}), HasCode(error_code::io_error));
    ::close(descriptor);
}

TEST(UringBatch, SeveralThreadsHaveTheirOwnRings) {
    temporary_directory folder;
    const std::string path = (folder.path() / "file").string();
    std::ofstream(path).close();
    ASSERT_OK_AND_ASSIGN(const auto device, io::file_device::open(path, {}));
    ASSERT_OK(device->grow(1 << 20));
    std::vector<std::thread> threads;
    std::atomic<int> failures{0};
    for (unsigned t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            std::vector<std::byte> out(32 * 4096, static_cast<std::byte>(t + 1));
            std::vector<std::byte> in(32 * 4096);
            for (int round = 0; round < 20; ++round) {
                std::vector<io_op> ops;
                for (std::uint64_t i = 0; i < 32; ++i) {
                    ops.push_back({io_kind::write, (t * 32 + i) * 4096,
                                   std::span(out).subspan(i * 4096, 4096)});
                }
                failures += device->run(ops) ? 0 : 1;
                for (std::uint64_t i = 0; i < 32; ++i) {
                    ops[i] = {io_kind::read, (t * 32 + i) * 4096,
                              std::span(in).subspan(i * 4096, 4096)};
                }
                failures += device->run(ops) ? 0 : 1;
                failures += in == out ? 0 : 1;
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(failures, 0);
}

}  // namespace
}  // namespace uthin::test
