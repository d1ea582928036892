// Opening and using files where the kernel refuses, and a file that looks like a disk. As in
// file_device_test.cpp, the program's own system calls stand before the C library's: they ask the
// kernel, or do what a test has asked for.
#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <liburing.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "io/file_device.h"
#include "io/uring_batch.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace {

// Calls of one kind: the n-th from now on fails, or all from there on.
struct call_fault {
    std::atomic<int> nth{0};  // 0: none
    std::atomic<int> os_errno{0};
    std::atomic<bool> for_ever{false};

    void arm(int which, int with, bool ever = false) {
        os_errno = with;
        for_ever = ever;
        nth = which;
    }
    bool strikes() {
        if (nth == 0) {
            return false;
        }
        if (nth > 1) {
            --nth;
            return false;
        }
        if (!for_ever) {
            nth = 0;
        }
        errno = os_errno;
        return true;
    }
};
call_fault opening;  // of the files of a test
call_fault examining;
call_fault lengthening;
call_fault punching;
call_fault control;  // fcntl
call_fault locking;
call_fault submitting;
call_fault ring_making;
call_fault disk_size;
call_fault disk_sector;
call_fault disk_zeroing;
call_fault disk_discarding;

// One file that looks like a disk.
struct pretended_disk {
    std::atomic<ino_t> inode{0};  // 0: none
    std::atomic<int> sector_bytes{4096};
    std::atomic<int> is_write_protected{0};
    std::string limits;  // in the place of /sys/dev/block
    std::vector<std::pair<std::uint64_t, std::uint64_t>> discarded;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> zeroed;
};
pretended_disk disk;
constexpr unsigned disk_major = 240;  // for experiments
constexpr unsigned disk_minor = 251;

void make_disk_of(struct stat* status) {
    if (disk.inode != 0 && status->st_ino == disk.inode) {
        status->st_mode = S_IFBLK | 0600;
        status->st_rdev = ::makedev(disk_major, disk_minor);
    }
}

bool is_disk(int descriptor) {
    struct stat status {};
    return disk.inode != 0 && ::syscall(SYS_fstat, descriptor, &status) == 0 &&
           status.st_ino == disk.inode;
}

int control_disk(int descriptor, unsigned long request, void* argument) {
    auto* const range = static_cast<std::uint64_t*>(argument);
    switch (request) {
        case BLKGETSIZE64: {
            if (disk_size.strikes()) {
                return -1;
            }
            struct stat status {};
            ::syscall(SYS_fstat, descriptor, &status);
            *range = static_cast<std::uint64_t>(status.st_size);
            return 0;
        }
        case BLKSSZGET:
            if (disk_sector.strikes()) {
                return -1;
            }
            *static_cast<int*>(argument) = disk.sector_bytes;
            return 0;
        case BLKROGET: *static_cast<int*>(argument) = disk.is_write_protected; return 0;
        case BLKDISCARD:
        case BLKZEROOUT:
            if (request == BLKDISCARD ? disk_discarding.strikes() : disk_zeroing.strikes()) {
                return -1;
            }
            (request == BLKDISCARD ? disk.discarded : disk.zeroed).emplace_back(range[0], range[1]);
            return static_cast<int>(::syscall(SYS_fallocate, descriptor,
                                              FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range[0],
                                              range[1]));
        default: errno = ENOTTY; return -1;
    }
}

}  // namespace

extern "C" int open(const char* path, int flags, ...) {
    std::va_list rest;
    va_start(rest, flags);
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (disk.inode != 0) {
        const std::string limits = fmt::format("/sys/dev/block/{}:{}/", disk_major, disk_minor);
        if (std::strncmp(path, limits.c_str(), limits.size()) == 0) {
            const std::string there = disk.limits + "/" + (path + limits.size());
            return static_cast<int>(::syscall(SYS_openat, AT_FDCWD, there.c_str(), flags, mode));
        }
    }
    if (std::strstr(path, "uthin-test") != nullptr && opening.strikes()) {
        return -1;
    }
    return static_cast<int>(::syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}

// What the fortified headers make of a call whose flags are not known.
extern "C" int __open_2(const char* path, int flags) {
    return open(path, flags);
}

extern "C" int fstat(int descriptor, struct stat* status) noexcept {
    if (examining.strikes()) {
        return -1;
    }
    const int done = static_cast<int>(::syscall(SYS_fstat, descriptor, status));
    if (done == 0) {
        make_disk_of(status);
    }
    return done;
}

extern "C" int stat(const char* path, struct stat* status) noexcept {
    const int done = static_cast<int>(::syscall(SYS_stat, path, status));
    if (done == 0) {
        make_disk_of(status);
    }
    return done;
}

extern "C" int ftruncate(int descriptor, off_t length) noexcept {
    return lengthening.strikes() ? -1
                                 : static_cast<int>(::syscall(SYS_ftruncate, descriptor, length));
}

extern "C" int fallocate(int descriptor, int mode, off_t begin, off_t length) {
    return punching.strikes()
               ? -1
               : static_cast<int>(::syscall(SYS_fallocate, descriptor, mode, begin, length));
}

extern "C" int fcntl(int descriptor, int command, ...) {
    std::va_list rest;
    va_start(rest, command);
    void* const argument = va_arg(rest, void*);
    va_end(rest);
    const bool locks = command == F_OFD_SETLK || command == F_SETLK;
    if (locks ? locking.strikes() : control.strikes()) {
        return -1;
    }
    return static_cast<int>(::syscall(SYS_fcntl, descriptor, command, argument));
}

extern "C" int ioctl(int descriptor, unsigned long request, ...) noexcept {
    std::va_list rest;
    va_start(rest, request);
    void* const argument = va_arg(rest, void*);
    va_end(rest);
    if (is_disk(descriptor)) {
        return control_disk(descriptor, request, argument);
    }
    return static_cast<int>(::syscall(SYS_ioctl, descriptor, request, argument));
}

extern "C" int io_uring_submit_and_wait(struct io_uring* ring, unsigned count) {
    if (submitting.strikes()) {
        return -errno;
    }
    static const auto real = reinterpret_cast<decltype(&io_uring_submit_and_wait)>(
        ::dlsym(RTLD_NEXT, "io_uring_submit_and_wait"));
    return real(ring, count);
}

extern "C" int io_uring_queue_init(unsigned entries, struct io_uring* ring, unsigned flags) {
    if (ring_making.strikes()) {
        return -errno;
    }
    static const auto real =
        reinterpret_cast<decltype(&io_uring_queue_init)>(::dlsym(RTLD_NEXT, "io_uring_queue_init"));
    return real(entries, ring, flags);
}

namespace uthin::test {
namespace {

using io::file_device;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

constexpr std::uint64_t file_bytes = 1 << 20;

class FileOpen : public testing::Test {
protected:
    FileOpen() {
        const std::vector<char> bytes(file_bytes, 'x');
        std::ofstream(path_).write(bytes.data(), file_bytes);
    }
    ~FileOpen() override {
        for (call_fault* const one :
             {&opening, &examining, &lengthening, &punching, &control, &locking, &submitting,
              &disk_size, &disk_sector, &disk_zeroing, &disk_discarding}) {
            one->nth = 0;
        }
        disk.inode = 0;
        disk.limits.clear();
    }
    [[nodiscard]] result<std::unique_ptr<file_device>> open(const io::open_options& options = {
                                                                .direct = false}) const {
        return file_device::open(path_, options);
    }
    void expect_refused(const io::open_options& options, error_code code, const char* why) const {
        const auto opened = open(options);
        ASSERT_THAT(opened, HasCode(code));
        EXPECT_THAT(opened.error().message(), HasSubstr(path_));
        EXPECT_THAT(opened.error().message(), HasSubstr(why));
    }
    static std::size_t count_of(block_device& device, char what) {
        std::vector<std::byte> bytes(file_bytes);
        EXPECT_OK(device.read(0, bytes));
        return static_cast<std::size_t>(std::ranges::count(bytes, static_cast<std::byte>(what)));
    }

    const temporary_directory folder_;
    const std::string path_ = folder_.path() / "file";
};

TEST_F(FileOpen, WhatTheKernelRefusesIsSaidWithARemedy) {
    const struct {
        int os_errno;
        error_code code;
        const char* why;
    } refusals[] = {{EACCES, error_code::not_permitted, "ask for permission"},
                    {EPERM, error_code::not_permitted, "read and written"},
                    {EBUSY, error_code::busy, "is in use"},
                    {EROFS, error_code::read_only, "read-only file system"},
                    {EMFILE, error_code::io_error, "cannot be opened"}};
    for (const auto& one : refusals) {
        opening.arm(1, one.os_errno);
        expect_refused({}, one.code, one.why);
    }
    opening.arm(1, EACCES);
    expect_refused({.read_only = true}, error_code::not_permitted, "may not be read;");
    EXPECT_OK(open());
}

TEST_F(FileOpen, AFileThatCannotBeExaminedIsNotOpened) {
    examining.arm(1, EIO);
    expect_refused({}, error_code::io_error, "cannot be opened");
    for (int nth = 2; nth <= 4; ++nth) {  // by its owner's registry, for its size, for its disk
        examining.arm(nth, EIO);
        expect_refused({}, error_code::io_error, "");
        EXPECT_EQ(examining.nth, 0) << nth;
    }
    control.arm(1, EIO);
    expect_refused({}, error_code::io_error, "cannot be opened");
    EXPECT_OK(open()) << "nothing is owned by an opening that failed";
}

TEST_F(FileOpen, ALockThatIsNotToBeHadIsSaidPrecisely) {
    const struct {
        int os_errno;
        error_code code;
        const char* why;
    } refusals[] = {{EAGAIN, error_code::busy, "is owned by another process"},
                    {EACCES, error_code::busy, "is owned by another process"},
                    {EBADF, error_code::invalid_argument, "can only be owned shared"},
                    {ENOLCK, error_code::unsupported, "a file system without locks"},
                    {EINVAL, error_code::unsupported, "a file system without locks"},
                    {EOPNOTSUPP, error_code::unsupported, "a file system without locks"},
                    {EIO, error_code::io_error, "cannot be locked"}};
    for (const auto& one : refusals) {
        locking.arm(1, one.os_errno);
        expect_refused({}, one.code, one.why);
    }
    EXPECT_OK(open());
}

TEST_F(FileOpen, AFileThatCannotBeMadeWholeIsNotLeftBehind) {
    std::filesystem::remove(path_);
    const io::open_options making{.create_size_bytes = file_bytes};
    lengthening.arm(1, ENOSPC);
    const auto too_long = open(making);
    ASSERT_THAT(too_long, HasCode(error_code::io_error));
    EXPECT_EQ(too_long.error().os_errno(), ENOSPC);
    opening.arm(1, EACCES);
    expect_refused(making, error_code::not_permitted, "ask for permission");
    opening.arm(2, EMFILE);
    EXPECT_THAT(open(making), HasCode(error_code::io_error)) << "the directory cannot be flushed";
    const auto huge = open({.create_size_bytes = UINT64_MAX});
    ASSERT_FALSE(huge);
    EXPECT_EQ(huge.error().os_errno(), EFBIG);
    expect_refused({.read_only = true, .create_size_bytes = 1}, error_code::invalid_argument,
                   "cannot be made read-only");
    EXPECT_FALSE(std::filesystem::exists(path_));
    EXPECT_OK(open(making));
}

TEST_F(FileOpen, WithoutDirectIoItGoesThroughThePageCache) {
    // F_SETFL after opening, F_GETFL and F_SETFL of the probe.
    for (const int nth : {2, 3}) {
        control.arm(nth, EINVAL);
        ASSERT_OK_AND_ASSIGN(const auto device, open({.direct = true}));
        EXPECT_FALSE(device->direct());
        EXPECT_EQ(count_of(*device, 'x'), file_bytes);
    }
}

TEST_F(FileOpen, ZerosAreMadeByTheFileSystemOrWritten) {
    ASSERT_OK_AND_ASSIGN(const auto device, open());
    punching.arm(1, EOPNOTSUPP);  // no zeroing, but holes
    ASSERT_OK(device->write_zeroes(4096, 4096));
    EXPECT_EQ(count_of(*device, '\0'), 4096U);
    punching.arm(1, EOPNOTSUPP, true);
    ASSERT_OK(device->write_zeroes(8192, 300000));
    punching.nth = 0;
    EXPECT_EQ(count_of(*device, '\0'), 304096U);
    punching.arm(1, EINTR);
    ASSERT_OK(device->write_zeroes(512 << 10, 4096));
    EXPECT_EQ(count_of(*device, '\0'), 308192U);
    punching.arm(1, EIO);
    const auto failed = device->write_zeroes(0, 4096);
    ASSERT_THAT(failed, HasCode(error_code::io_error));
    EXPECT_THAT(failed.error().message(), HasSubstr("zeroing of 4096 bytes at offset 0"));
    ASSERT_OK(device->write_zeroes(0, 0));
}

TEST_F(FileOpen, ADiscardThatFailsIsToldAndOneThatIsNotToBeHadIsRefused) {
    {
        ASSERT_OK_AND_ASSIGN(const auto device, open());
        punching.arm(1, EIO);
        const auto failed = device->discard(0, 4096);
        ASSERT_THAT(failed, HasCode(error_code::io_error));
        EXPECT_THAT(failed.error().message(), HasSubstr("discard of 4096 bytes"));
        EXPECT_EQ(count_of(*device, 'x'), file_bytes);
    }
    punching.arm(1, EOPNOTSUPP);
    ASSERT_OK_AND_ASSIGN(const auto device, open());
    EXPECT_FALSE(device->capabilities().can_discard);
    EXPECT_FALSE(device->capabilities().fast_write_zeroes);
    EXPECT_THAT(device->discard(0, 4096), HasCode(error_code::unsupported));
}

TEST_F(FileOpen, AFileThatCannotGrowStaysAsLongAsItWas) {
    {
        ASSERT_OK_AND_ASSIGN(const auto device, open());
        lengthening.arm(1, ENOSPC);
        const auto failed = device->grow(2 * file_bytes);
        ASSERT_THAT(failed, HasCode(error_code::io_error));
        EXPECT_EQ(failed.error().os_errno(), ENOSPC);
        EXPECT_EQ(device->size_bytes().value(), file_bytes);
        EXPECT_THAT(device->grow(UINT64_MAX), HasCode(error_code::invalid_argument));
        EXPECT_OK(device->grow(file_bytes));
        examining.arm(1, EIO);
        EXPECT_THAT(device->grow(2 * file_bytes), HasCode(error_code::io_error));
        examining.arm(1, EIO);
        EXPECT_THAT(device->size_bytes(), HasCode(error_code::io_error));
    }
    ASSERT_OK_AND_ASSIGN(const auto reader,
                         open({.read_only = true, .lock = io::lock_mode::shared}));
    EXPECT_THAT(reader->grow(2 * file_bytes), HasCode(error_code::read_only));
}

// ---- a disk

class Disk : public FileOpen {
protected:
    Disk() {
        struct stat status {};
        EXPECT_EQ(::stat(path_.c_str(), &status), 0);
        disk.sector_bytes = 4096;
        disk.is_write_protected = 0;
        disk.discarded.clear();
        disk.zeroed.clear();
        disk.limits = folder_.path() / "limits";
        set_limits("queue", 1);
        disk.inode = status.st_ino;
    }
    void set_limits(const std::string& where, int to) {
        std::filesystem::create_directories(disk.limits + "/" + where);
        for (const char* name : {"rotational", "discard_max_bytes", "write_zeroes_max_bytes"}) {
            std::ofstream(disk.limits + "/" + where + "/" + name) << to << "\n";
        }
    }
};

TEST_F(Disk, TellsWhatTheKernelTellsOfIt) {
    {
        ASSERT_OK_AND_ASSIGN(const auto device, open());
        EXPECT_EQ(device->size_bytes().value(), file_bytes);
        EXPECT_TRUE(device->capabilities().rotational);
        EXPECT_TRUE(device->capabilities().can_discard);
        EXPECT_FALSE(device->capabilities().discard_zeroes);
        EXPECT_TRUE(device->capabilities().fast_write_zeroes);
        EXPECT_THAT(device->grow(2 * file_bytes), HasCode(error_code::unsupported));
        EXPECT_THAT(open(), HasCode(error_code::busy));
    }
    set_limits("queue", 0);
    ASSERT_OK_AND_ASSIGN(const auto device, open());
    EXPECT_FALSE(device->capabilities().rotational);
    EXPECT_FALSE(device->capabilities().can_discard);
    EXPECT_THAT(device->discard(0, 4096), HasCode(error_code::unsupported));
}

TEST_F(Disk, APartitionHasTheLimitsOfItsDisk) {
    std::filesystem::remove_all(disk.limits + "/queue");
    {
        ASSERT_OK_AND_ASSIGN(const auto device, open());
        EXPECT_FALSE(device->capabilities().can_discard) << "nobody says that it can";
    }
    disk.limits += "/partition";
    std::filesystem::create_directories(disk.limits);
    set_limits("../queue", 1);
    ASSERT_OK_AND_ASSIGN(const auto device, open());
    EXPECT_TRUE(device->capabilities().can_discard);
    std::ofstream(disk.limits + "/../queue/rotational").close();  // says nothing
    EXPECT_FALSE(file_device::open(path_, {.read_only = true, .lock = io::lock_mode::none})
                     .value()
                     ->capabilities()
                     .rotational);
}

TEST_F(Disk, DiscardsWholeSectorsOnly) {
    ASSERT_OK_AND_ASSIGN(const auto device, open());
    ASSERT_OK(device->discard(4000, 10000));
    EXPECT_THAT(disk.discarded, ElementsAre(Pair(4096, 8192)));
    EXPECT_EQ(count_of(*device, 'x'), file_bytes - 8192);
    ASSERT_OK(device->discard(5000, 3000)) << "less than one sector is left alone";
    EXPECT_EQ(disk.discarded.size(), 1U);
    disk_discarding.arm(1, EIO);
    EXPECT_THAT(device->discard(0, 4096), HasCode(error_code::io_error));
}

TEST_F(Disk, ZerosOddEndsByWriting) {
    ASSERT_OK_AND_ASSIGN(const auto device, open());
    ASSERT_OK(device->write_zeroes(4000, 10000));
    EXPECT_THAT(disk.zeroed, ElementsAre(Pair(4096, 8192)));
    EXPECT_EQ(count_of(*device, '\0'), 10000U);
    ASSERT_OK(device->write_zeroes(100, 50)) << "inside of one sector";
    EXPECT_EQ(count_of(*device, '\0'), 10050U);
    for (const int os_errno : {EOPNOTSUPP, EINVAL, ENOTTY}) {
        disk_zeroing.arm(1, os_errno);
        ASSERT_OK(device->write_zeroes(65536, 8192));
        EXPECT_EQ(count_of(*device, '\0'), 18242U);
    }
    EXPECT_EQ(disk.zeroed.size(), 1U);
    disk_zeroing.arm(1, EIO);
    const auto failed = device->write_zeroes(65536, 8192);
    ASSERT_THAT(failed, HasCode(error_code::io_error));
    EXPECT_THAT(failed.error().message(), HasSubstr("zeroing of 8192 bytes at offset 65536"));
}

TEST_F(Disk, IsRefusedWhenItCannotBeUsedSafely) {
    disk.is_write_protected = 1;
    expect_refused({}, error_code::read_only, "write-protected");
    EXPECT_OK(open({.read_only = true, .lock = io::lock_mode::shared}));
    disk.is_write_protected = 0;
    disk.sector_bytes = 0;
    expect_refused({}, error_code::io_error, "its sector size cannot be learned");
    disk.sector_bytes = 512;
    disk_sector.arm(1, EIO);
    expect_refused({}, error_code::io_error, "its sector size cannot be learned");
    disk_size.arm(1, EIO);
    expect_refused({}, error_code::io_error, "its size cannot be learned");
    opening.arm(1, EBUSY);
    expect_refused({.claim_disk = true}, error_code::busy, "is in use");
    EXPECT_OK(open());
}

// ---- io_uring

class Ring : public FileOpen {
protected:
    Ring() {
        for (std::uint64_t i = 0; i < 100; ++i) {
            ops_.push_back({io_kind::read, i * 4096, std::span(memory_).subspan(i * 4096, 4096)});
        }
    }
    [[nodiscard]] result<void> run() {
        std::ranges::fill(memory_, std::byte{0});
        return io::run_uring_batch(descriptor_, path_, ops_);
    }
    ~Ring() override { ::close(descriptor_); }

    const int descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    std::vector<std::byte> memory_ = std::vector<std::byte>(100 * 4096);
    std::vector<io_op> ops_;
};

TEST_F(Ring, ABatchGoesOnAfterAnInterruption) {
    if (const auto tried = run(); !tried && tried.error().code() == error_code::unsupported) {
        GTEST_SKIP() << tried.error().to_string();
    }
    for (const int os_errno : {EINTR, EAGAIN, EBUSY}) {
        submitting.arm(1, os_errno);
        ASSERT_OK(run());
        EXPECT_EQ(std::ranges::count(memory_, std::byte{'x'}), 100 * 4096);
    }
}

TEST_F(Ring, OneThatBreaksIsAnErrorAndNotUsedAgain) {
    if (const auto tried = run(); !tried && tried.error().code() == error_code::unsupported) {
        GTEST_SKIP() << tried.error().to_string();
    }
    for (const int nth : {1, 2}) {  // before anything is submitted, and in the middle
        submitting.arm(nth, EBADF);
        const auto broken = run();
        ASSERT_THAT(broken, HasCode(error_code::io_error));
        EXPECT_THAT(broken.error().message(), HasSubstr("io_uring failed"));
        ASSERT_OK(run());
        EXPECT_EQ(std::ranges::count(memory_, std::byte{'x'}), 100 * 4096);
    }
}

// In a process of its own: it is not tried again.
TEST_F(Ring, WithoutOneEachPieceIsTransferredAlone) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    const auto in_child = [this] {
        ring_making.arm(1, ENOSYS, true);
        const auto refused = run();
        const bool says_so = !refused && refused.error().code() == error_code::unsupported;
        auto device = open();
        if (!says_so || !device || !(*device)->run(ops_)) {
            std::exit(1);
        }
        std::exit(std::ranges::count(memory_, std::byte{'x'}) == 100 * 4096 ? 0 : 2);
    };
    EXPECT_EXIT(in_child(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace uthin::test
