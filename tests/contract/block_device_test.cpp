// What every block_device promises (include/uthin/block_device.h), asked of each of them.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/random.h"
#include "io/crash_device.h"
#include "io/delay_device.h"
#include "io/fault_device.h"
#include "io/file_device.h"
#include "io/memory_device.h"
#include "io/open.h"
#include "support/matchers.h"
#include "support/paths.h"
#include "support/seed.h"

namespace uthin::test {
namespace {

constexpr std::uint64_t device_bytes = 2 << 20;

// A device, what it stands on, and how to take it all down. Members die from last to first.
struct subject {
    std::shared_ptr<void> below;
    std::unique_ptr<block_device> device;
    std::string skip_reason;
    std::string failure;
};

struct removed_file {
    explicit removed_file(std::string name) : path(std::move(name)) {}
    ~removed_file() { ::unlink(path.c_str()); }
    const std::string path;
};

std::shared_ptr<removed_file> fresh_file(const std::string& folder) {
    static std::atomic<int> serial{0};
    return std::make_shared<removed_file>(
        fmt::format("{}/contract-{}-{}.img", folder, ::getpid(), ++serial));
}

subject on_file(const std::string& folder, bool direct) {
    subject made;
    const auto file = fresh_file(folder);
    io::open_options options;
    options.direct = direct;
    options.create_size_bytes = device_bytes;
    auto opened = io::file_device::open(file->path, options);
    made.below = file;
    if (!opened) {
        made.failure = opened.error().to_string();
    } else if (direct && !(*opened)->direct()) {
        made.skip_reason = folder + " does not take O_DIRECT";
    } else {
        made.device = std::move(*opened);
    }
    return made;
}

struct loop_disk {
    explicit loop_disk(std::shared_ptr<removed_file> backing) : file(std::move(backing)) {
        const std::string command =
            fmt::format("truncate -s {} {} && losetup --show -f {} 2>/dev/null", device_bytes,
                        file->path, file->path);
        if (FILE* const output = ::popen(command.c_str(), "r"); output != nullptr) {
            char line[64] = {};
            if (std::fgets(line, sizeof line, output) != nullptr) {
                path = std::string(line, std::strcspn(line, "\n"));
            }
            ::pclose(output);
        }
    }
    ~loop_disk() {
        if (!path.empty()) {
            EXPECT_EQ(std::system(("losetup -d " + path).c_str()), 0);
        }
    }
    std::shared_ptr<removed_file> file;
    std::string path;
};

subject on_loop_disk(bool direct) {
    subject made;
    const auto disk = std::make_shared<loop_disk>(fresh_file(test::bin_dir()));
    made.below = disk;
    if (disk->path.empty()) {
        made.skip_reason = "no loop device can be made here";
        return made;
    }
    io::open_options options;
    options.direct = direct;
    auto opened = io::open_device(disk->path, options);
    if (opened) {
        made.device = std::move(*opened);
    } else {
        made.failure = opened.error().to_string();
    }
    return made;
}

struct nbd_server {
    // `whole_blocks`: it answers nothing but whole 4 KiB.
    explicit nbd_server(bool whole_blocks) : socket(fresh_file("/tmp")) {
        const std::string size = std::to_string(device_bytes);
        pid = ::fork();
        if (pid == 0 && whole_blocks) {
            ::execlp("nbdkit", "nbdkit", "--exit-with-parent", "-f", "-U", socket->path.c_str(),
                     "--filter=blocksize-policy", "memory", size.c_str(), "blocksize-minimum=4096",
                     "blocksize-error-policy=error", nullptr);
            ::_exit(127);
        }
        if (pid == 0) {
            ::execlp("nbdkit", "nbdkit", "--exit-with-parent", "-f", "-U", socket->path.c_str(),
                     "memory", size.c_str(), nullptr);
            ::_exit(127);
        }
    }
    ~nbd_server() {
        if (pid > 0) {
            ::kill(pid, SIGTERM);
            ::waitpid(pid, nullptr, 0);
        }
    }
    std::shared_ptr<removed_file> socket;
    pid_t pid = -1;
};

subject on_nbd(bool whole_blocks) {
    subject made;
    if (std::system("command -v nbdkit >/dev/null 2>&1") != 0) {
        made.skip_reason = "nbdkit is not installed";
        return made;
    }
    const auto server = std::make_shared<nbd_server>(whole_blocks);
    made.below = server;
    const std::string uri = "nbd+unix:///?socket=" + server->socket->path;
    auto opened = io::open_device(uri, {});
    for (int i = 0; i < 1000 && !opened; ++i) {  // until it listens
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        opened = io::open_device(uri, {});
    }
    if (opened) {
        made.device = std::move(*opened);
    } else {
        made.failure = opened.error().to_string();
    }
    return made;
}

subject on_memory() {
    subject made;
    made.device = std::make_unique<io::memory_device>(device_bytes);
    return made;
}

subject through_wrappers() {
    struct stack {
        io::memory_device memory{device_bytes};
        io::fault_plan plan;
        manual_clock time;
        io::fault_device faulty{memory, plan};
    };
    const auto below = std::make_shared<stack>();
    auto delayed = std::make_unique<io::delay_device>(below->faulty, below->time);
    subject made;
    made.below = below;
    made.device = std::move(delayed);
    return made;
}

// The domain owns its devices; the contract is asked through a wrapper that passes all on.
subject on_crash_device() {
    struct stack {
        io::crash_domain domain;
        io::fault_plan plan;
    };
    const auto below = std::make_shared<stack>();
    subject made;
    made.device = std::make_unique<io::fault_device>(below->domain.add_device("disk", device_bytes),
                                                     below->plan);
    made.below = below;
    return made;
}

subject on_image() {
    subject made;
    made.device = std::make_unique<io::image_device>("image", io::sparse_image(device_bytes));
    return made;
}

struct implementation {
    const char* name;
    std::function<subject()> make;
};

void PrintTo(const implementation& which, std::ostream* out) {
    *out << which.name;
}

class BlockDevice : public ::testing::TestWithParam<implementation> {
protected:
    void SetUp() override {
        subject_ = GetParam().make();
        ASSERT_EQ(subject_.failure, "");
        if (subject_.device == nullptr) {
            GTEST_SKIP() << subject_.skip_reason;
        }
    }
    block_device& device() { return *subject_.device; }

    std::vector<std::byte> random_bytes(std::size_t size_bytes) {
        std::vector<std::byte> bytes(size_bytes);
        for (std::byte& byte : bytes) {
            byte = static_cast<std::byte>(random_.next());
        }
        return bytes;
    }
    std::vector<std::byte> contents() {
        std::vector<std::byte> bytes(device_bytes);
        EXPECT_OK(device().read(0, bytes));
        return bytes;
    }

    subject subject_;
    random_generator random_{seed()};
};

TEST_P(BlockDevice, ReadsZerosWhereNothingWasWritten) {
    EXPECT_EQ(contents(), std::vector<std::byte>(device_bytes));
    ASSERT_OK_AND_ASSIGN(const std::uint64_t size_bytes, device().size_bytes());
    EXPECT_EQ(size_bytes, device_bytes);
    EXPECT_FALSE(device().name().empty());
}

TEST_P(BlockDevice, AlignedMemoryReadsBackWhatWasWritten) {
    aligned_buffer out(64 << 10);
    const auto bytes = random_bytes(out.size());
    std::memcpy(out.data(), bytes.data(), bytes.size());
    ASSERT_OK(device().write(128 << 10, out.span()));
    ASSERT_OK(device().flush());
    aligned_buffer in(64 << 10);
    ASSERT_OK(device().read(128 << 10, in.span()));
    EXPECT_EQ(std::memcmp(in.data(), out.data(), in.size()), 0);
}

// Any offset, length and memory alignment, every operation that changes bytes, against a vector.
TEST_P(BlockDevice, RandomOperationsMatchAModel) {
    std::vector<std::byte> model(device_bytes);
    const device_capabilities can = device().capabilities();
    for (int step = 0; step < 600; ++step) {
        const std::uint64_t length = random_.one_in(10)  ? random_.below(300 << 10)
                                     : random_.one_in(2) ? random_.below(9000)
                                                         : 512 * random_.below(32);
        std::uint64_t offset = random_.below(device_bytes - length + 1);
        if (random_.one_in(2)) {
            offset = offset / 512 * 512;
        }
        const auto at = model.begin() + static_cast<std::ptrdiff_t>(offset);
        const auto end = at + static_cast<std::ptrdiff_t>(length);
        switch (random_.below(6)) {
            case 0: {
                ASSERT_OK(device().write_zeroes(offset, length));
                std::fill(at, end, std::byte{0});
                break;
            }
            case 1: {
                if (can.can_discard && can.discard_zeroes) {
                    ASSERT_OK(device().discard(offset, length));
                    std::fill(at, end, std::byte{0});
                }
                break;
            }
            case 2: {
                const auto bytes = random_bytes(length);
                ASSERT_OK(device().write_fua(offset, bytes));
                std::copy(bytes.begin(), bytes.end(), at);
                break;
            }
            case 3: {
                std::vector<std::byte> seen(length);
                ASSERT_OK(device().read(offset, seen));
                ASSERT_TRUE(std::equal(seen.begin(), seen.end(), at)) << "step " << step;
                break;
            }
            default: {
                const auto bytes = random_bytes(length);
                ASSERT_OK(device().write(offset, bytes));
                std::copy(bytes.begin(), bytes.end(), at);
            }
        }
    }
    ASSERT_OK(device().flush());
    EXPECT_EQ(contents(), model);
}

TEST_P(BlockDevice, RefusesIoBeyondTheEndAndChangesNothing) {
    const auto before = random_bytes(device_bytes);
    ASSERT_OK(device().write(0, before));
    std::vector<std::byte> bytes(4096, std::byte{0xAA});
    for (const std::uint64_t offset :
         {device_bytes - 4095, device_bytes, device_bytes + 4096, UINT64_MAX - 4095, UINT64_MAX}) {
        EXPECT_THAT(device().read(offset, bytes), HasCode(error_code::out_of_range));
        EXPECT_THAT(device().write(offset, bytes), HasCode(error_code::out_of_range));
        EXPECT_THAT(device().write_fua(offset, bytes), HasCode(error_code::out_of_range));
        EXPECT_THAT(device().write_zeroes(offset, 4096), HasCode(error_code::out_of_range));
        EXPECT_THAT(device().discard(offset, 4096), HasCode(error_code::out_of_range));
    }
    EXPECT_THAT(device().write_zeroes(0, UINT64_MAX), HasCode(error_code::out_of_range));
    EXPECT_EQ(contents(), before);
    ASSERT_OK_AND_ASSIGN(const std::uint64_t size_bytes, device().size_bytes());
    EXPECT_EQ(size_bytes, device_bytes);
}

TEST_P(BlockDevice, AcceptsEmptyTransfers) {
    EXPECT_OK(device().read(0, {}));
    EXPECT_OK(device().write(device_bytes, {}));
    EXPECT_OK(device().write_zeroes(device_bytes, 0));
    EXPECT_OK(device().run({}));
    EXPECT_OK(device().flush());
}

TEST_P(BlockDevice, ABatchDoesAllOfItsPieces) {
    constexpr std::size_t piece_bytes = 4096;
    constexpr std::size_t piece_count = 300;  // more than a ring takes at once
    aligned_buffer out(piece_count * piece_bytes);
    const auto bytes = random_bytes(out.size());
    std::memcpy(out.data(), bytes.data(), bytes.size());
    std::vector<io_op> ops;
    for (std::size_t i = 0; i < piece_count; ++i) {
        ops.push_back(
            {io_kind::write, i * piece_bytes, out.span().subspan(i * piece_bytes, piece_bytes)});
    }
    ASSERT_OK(device().run(ops));
    aligned_buffer in(out.size());
    for (std::size_t i = 0; i < piece_count; ++i) {
        ops[i] = {io_kind::read, i * piece_bytes, in.span().subspan(i * piece_bytes, piece_bytes)};
    }
    std::reverse(ops.begin(), ops.end());
    ASSERT_OK(device().run(ops));
    EXPECT_EQ(std::memcmp(in.data(), bytes.data(), bytes.size()), 0);
}

TEST_P(BlockDevice, ABatchTakesPiecesOfAnyAlignment) {
    std::vector<std::byte> model(device_bytes);
    std::vector<std::vector<std::byte>> memory;
    std::vector<io_op> ops;
    std::uint64_t offset = 0;
    for (int i = 0; i < 100; ++i) {
        memory.push_back(random_bytes(1 + random_.below(6000)));
        std::copy(memory.back().begin(), memory.back().end(),
                  model.begin() + static_cast<std::ptrdiff_t>(offset));
        ops.push_back({io_kind::write, offset, memory.back()});
        offset += memory.back().size() + random_.below(3);
    }
    ASSERT_OK(device().run(ops));
    EXPECT_EQ(contents(), model);
}

TEST_P(BlockDevice, ABatchWithABadPieceStillDoesTheOthers) {
    aligned_buffer first(4096);
    aligned_buffer bad(4096);
    aligned_buffer last(4096);
    std::memset(first.data(), 1, first.size());
    std::memset(last.data(), 2, last.size());
    const io_op ops[] = {{io_kind::write, 0, first.span()},
                         {io_kind::write, device_bytes, bad.span()},
                         {io_kind::write, 4096, last.span()}};
    EXPECT_THAT(device().run(ops), HasCode(error_code::out_of_range));
    const auto seen = contents();
    EXPECT_EQ(seen[0], std::byte{1});
    EXPECT_EQ(seen[8191], std::byte{2});
}

TEST_P(BlockDevice, DiscardIsUnsupportedExactlyWhenItSaysSo) {
    ASSERT_OK(device().write(0, random_bytes(64 << 10)));
    const result<void> discarded = device().discard(0, 64 << 10);
    const device_capabilities can = device().capabilities();
    if (!can.can_discard) {
        EXPECT_THAT(discarded, HasCode(error_code::unsupported));
        return;
    }
    EXPECT_OK(discarded);
    if (can.discard_zeroes) {
        EXPECT_EQ(contents(), std::vector<std::byte>(device_bytes));
    }
}

TEST_P(BlockDevice, GrowingKeepsBytesAndAddsZerosOrIsUnsupported) {
    const auto before = random_bytes(device_bytes);
    ASSERT_OK(device().write(0, before));
    EXPECT_OK(device().grow(device_bytes / 2));
    ASSERT_OK_AND_ASSIGN(std::uint64_t size_bytes, device().size_bytes());
    EXPECT_EQ(size_bytes, device_bytes);
    const result<void> grown = device().grow(device_bytes + (1 << 20));
    if (!grown) {
        EXPECT_THAT(grown, HasCode(error_code::unsupported));
        return;
    }
    ASSERT_OK_AND_ASSIGN(size_bytes, device().size_bytes());
    EXPECT_GE(size_bytes, device_bytes + (1 << 20));
    EXPECT_EQ(contents(), before);
    std::vector<std::byte> added(1 << 20, std::byte{1});
    ASSERT_OK(device().read(device_bytes, added));
    EXPECT_EQ(added, std::vector<std::byte>(1 << 20));
    EXPECT_OK(device().write(device_bytes + 1000, std::span(added).first(10000)));
    EXPECT_OK(device().flush());
}

// Four threads own every fourth byte range of the same sectors; nobody's bytes may get lost.
TEST_P(BlockDevice, ConcurrentWritesInsideOneSectorKeepEachOther) {
    constexpr std::uint64_t span_bytes = 8192;
    constexpr std::uint64_t piece_bytes = 100;  // never a whole sector
    std::vector<std::thread> threads;
    std::atomic<int> failures{0};
    for (unsigned t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            for (int round = 1; round <= 20; ++round) {
                const std::vector<std::byte> bytes(
                    piece_bytes, static_cast<std::byte>(16 * t + unsigned(round)));
                for (std::uint64_t at = t * piece_bytes; at + piece_bytes <= span_bytes;
                     at += 4 * piece_bytes) {
                    failures += device().write(at, bytes) ? 0 : 1;
                }
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(failures, 0);
    const auto seen = contents();
    for (std::uint64_t at = 0; at + piece_bytes <= span_bytes; ++at) {
        const auto owner = static_cast<unsigned>(at / piece_bytes % 4);
        if (at / piece_bytes * piece_bytes + piece_bytes <= span_bytes) {
            ASSERT_EQ(seen[at], static_cast<std::byte>(16 * owner + 20)) << "at " << at;
        }
    }
}

// A whole-sector write that ended must not be undone by a neighbour's read-modify-write.
TEST_P(BlockDevice, AlignedAndUnalignedWritersOfOneSectorKeepEachOther) {
    std::atomic<bool> stop{false};
    std::atomic<int> failures{0};
    std::thread unaligned([&] {
        const std::vector<std::byte> bytes(10, std::byte{0xEE});
        while (!stop) {
            failures += device().write(0, bytes) ? 0 : 1;
        }
    });
    aligned_buffer out(4096);
    aligned_buffer in(4096);
    for (int round = 1; round <= 200; ++round) {
        std::memset(out.data(), round & 0x7F, out.size());
        failures += device().write(0, out.span()) ? 0 : 1;
        failures += device().read(0, in.span()) ? 0 : 1;
        if (std::memcmp(in.data() + 10, out.data() + 10, 4086) != 0) {
            ADD_FAILURE() << "round " << round;
            break;
        }
    }
    stop = true;
    unaligned.join();
    EXPECT_EQ(failures, 0);
}

TEST_P(BlockDevice, ConcurrentFlushesAllEnd) {
    std::vector<std::thread> threads;
    std::atomic<int> failures{0};
    for (unsigned t = 0; t < 6; ++t) {
        threads.emplace_back([&, t] {
            const std::vector<std::byte> bytes(4096, static_cast<std::byte>(t));
            for (int i = 0; i < 5; ++i) {
                failures += device().write(t * 4096, bytes) ? 0 : 1;
                failures += device().flush() ? 0 : 1;
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(failures, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Of, BlockDevice,
    ::testing::Values(
        implementation{"FileDirect", [] { return on_file(test::bin_dir(), true); }},
        implementation{"FileBufferedOnTmpfs", [] { return on_file("/dev/shm", false); }},
        implementation{"FileBuffered", [] { return on_file(test::bin_dir(), false); }},
        implementation{"DiskDirect", [] { return on_loop_disk(true); }},
        implementation{"DiskBuffered", [] { return on_loop_disk(false); }},
        implementation{"Nbd", [] { return on_nbd(false); }},
        implementation{"NbdWholeBlocks", [] { return on_nbd(true); }},
        implementation{"Memory", on_memory},
        implementation{"FaultAndDelayWrappers", through_wrappers},
        implementation{"Crash", on_crash_device}, implementation{"Image", on_image}),
    [](const ::testing::TestParamInfo<implementation>& of) { return std::string(of.param.name); });

}  // namespace
}  // namespace uthin::test
