// An NBD server that fails, refuses and breaks off where a test wants it to, and what the device
// makes of it. That a good server is a good device, tests/contract asks.
#include "io/nbd_device.h"

#include <dlfcn.h>
#include <endian.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string_view>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace {

std::atomic<const char*> library_instead{nullptr};

}  // namespace

// Stands before the C library's, as the system calls in file_device_test.cpp.
extern "C" void* dlopen(const char* path, int flags) {
    static const auto real = reinterpret_cast<decltype(&dlopen)>(::dlsym(RTLD_NEXT, "dlopen"));
    const char* const instead = library_instead;
    const bool is_nbd = path != nullptr && std::string_view(path) == "libnbd.so.0";
    return real(is_nbd && instead != nullptr ? instead : path, flags);
}

namespace uthin::test {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Le;

enum request_kind : std::uint16_t { nbd_read, nbd_write, nbd_disconnect, nbd_flush, nbd_trim };
constexpr std::uint16_t nbd_zeroes = 6;

constexpr std::uint16_t has_flags = 1;
constexpr std::uint16_t is_read_only = 2;
constexpr std::uint16_t can_flush = 4;
constexpr std::uint16_t is_rotational = 16;
constexpr std::uint16_t can_trim = 32;
constexpr std::uint16_t can_zero = 64;

struct request {
    std::uint16_t kind = 0;
    std::uint64_t offset = 0;
    std::uint32_t length = 0;
};

enum class answer : std::uint8_t { good, io_error, no_space, break_off };

struct behaviour {
    std::uint64_t size_bytes = 1 << 20;
    std::uint16_t flags = has_flags | can_flush | can_trim | can_zero;
    std::uint32_t length_min = 0;  // 0: the server does not say
    std::uint32_t length_max = 0;
    std::function<answer(const request&)> judge = [](const request&) { return answer::good; };
};

// One client after the other, on a thread of its own. Nothing is kept of what is written beyond the
// first megabyte.
class odd_server {
public:
    explicit odd_server(behaviour how) : how_(std::move(how)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        const std::string path = folder_.path() / "socket";
        std::memcpy(address.sun_path, path.c_str(), path.size());
        listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        EXPECT_EQ(::listen(listener_, 1), 0);
        thread_ = std::thread([this] { serve_all(); });
    }
    ~odd_server() {
        ::shutdown(listener_, SHUT_RDWR);
        thread_.join();
        ::close(listener_);
    }
    odd_server(const odd_server&) = delete;
    odd_server& operator=(const odd_server&) = delete;

    [[nodiscard]] std::string uri() const {
        return "nbd+unix:///?socket=" + (folder_.path() / "socket").string();
    }
    [[nodiscard]] auto open(const io::open_options& options = {}) const {
        return io::nbd_device::open(uri(), options);
    }
    // Lengths of the requests of one kind so far.
    [[nodiscard]] std::vector<std::uint32_t> lengths(std::uint16_t kind) {
        const lock_guard held(lock_);
        std::vector<std::uint32_t> found;
        for (const request& one : seen_) {
            if (one.kind == kind) {
                found.push_back(one.length);
            }
        }
        return found;
    }

private:
    struct [[gnu::packed]] option_reply {
        std::uint64_t magic;
        std::uint32_t option;
        std::uint32_t kind;
        std::uint32_t length;
    };

    static bool receive(int connection, void* into, std::size_t length) {
        return length == 0 ||
               ::recv(connection, into, length, MSG_WAITALL) == static_cast<ssize_t>(length);
    }
    template <class T>
    static T received(int connection, bool& alive) {
        T value{};
        alive = alive && receive(connection, &value, sizeof value);
        return value;
    }
    static void send(int connection, const void* bytes, std::size_t length) {
        static_cast<void>(::send(connection, bytes, length, MSG_NOSIGNAL));
    }
    static void reply(int connection, std::uint32_t option, std::uint32_t kind,
                      const std::vector<std::byte>& data) {
        const option_reply header{htobe64(0x3e889045565a9), htobe32(option), htobe32(kind),
                                  htobe32(static_cast<std::uint32_t>(data.size()))};
        send(connection, &header, sizeof header);
        send(connection, data.data(), data.size());
    }
    template <class... Fields>
    static std::vector<std::byte> packed(Fields... fields) {
        std::vector<std::byte> bytes;
        const auto add = [&bytes](auto field) {
            const auto* const begin = reinterpret_cast<const std::byte*>(&field);
            bytes.insert(bytes.end(), begin, begin + sizeof field);
        };
        (add(fields), ...);
        return bytes;
    }

    void serve_all() {
        int connection = -1;
        while ((connection = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0) {
            if (negotiate(connection)) {
                while (answer_one(connection)) {
                }
            }
            ::close(connection);
        }
    }

    bool negotiate(int connection) const {
        send(connection, "NBDMAGICIHAVEOPT\0\3", 18);
        bool alive = true;
        received<std::uint32_t>(connection, alive);
        while (alive) {
            received<std::uint64_t>(connection, alive);
            const auto option = be32toh(received<std::uint32_t>(connection, alive));
            const auto length = be32toh(received<std::uint32_t>(connection, alive));
            std::vector<std::byte> data(length);
            alive = alive && receive(connection, data.data(), length);
            if (!alive || option == 2) {
                return false;
            }
            if (option != 7) {
                reply(connection, option, 0x80000001, {});
                continue;
            }
            reply(connection, option, 3,
                  packed(htobe16(0), htobe64(how_.size_bytes), htobe16(how_.flags)));
            if (how_.length_min != 0) {
                reply(connection, option, 3,
                      packed(htobe16(3), htobe32(how_.length_min), htobe32(how_.length_min),
                             htobe32(how_.length_max)));
            }
            reply(connection, option, 1, {});
            return true;
        }
        return false;
    }

    bool answer_one(int connection) {
        bool alive = true;
        received<std::uint32_t>(connection, alive);
        received<std::uint16_t>(connection, alive);
        request asked;
        asked.kind = be16toh(received<std::uint16_t>(connection, alive));
        const auto handle = received<std::uint64_t>(connection, alive);
        asked.offset = be64toh(received<std::uint64_t>(connection, alive));
        asked.length = be32toh(received<std::uint32_t>(connection, alive));
        if (!alive || asked.kind == nbd_disconnect) {
            return false;
        }
        const bool has_data = asked.kind == nbd_read || asked.kind == nbd_write;
        std::vector<std::byte> data(has_data ? asked.length : 0);
        if (asked.kind == nbd_write && !receive(connection, data.data(), data.size())) {
            return false;
        }
        {
            const lock_guard held(lock_);
            seen_.push_back(asked);
        }
        const answer given = how_.judge(asked);
        if (given == answer::break_off) {
            return false;
        }
        const std::uint32_t status = given == answer::good ? 0 : given == answer::no_space ? 28 : 5;
        if (status == 0) {
            carry_out(asked, data);
        }
        const auto header = packed(htobe32(0x67446698), htobe32(status), handle);
        send(connection, header.data(), header.size());
        if (asked.kind == nbd_read && status == 0) {
            send(connection, data.data(), data.size());
        }
        return true;
    }

    void carry_out(const request& asked, std::vector<std::byte>& data) {
        if (asked.offset + asked.length > kept_.size()) {
            return;
        }
        const auto at = kept_.begin() + static_cast<std::ptrdiff_t>(asked.offset);
        switch (asked.kind) {
            case nbd_read: std::copy_n(at, data.size(), data.begin()); break;
            case nbd_write: std::copy(data.begin(), data.end(), at); break;
            case nbd_zeroes: std::fill_n(at, asked.length, std::byte{0}); break;
            default: break;
        }
    }

    const behaviour how_;
    temporary_directory folder_;
    int listener_ = -1;
    std::vector<std::byte> kept_ = std::vector<std::byte>(1 << 20, std::byte{0xEE});
    mutex lock_;
    std::vector<request> seen_ GUARDED_BY(lock_);
    std::thread thread_;
};

behaviour failing(std::uint16_t kind, answer with) {
    behaviour how;
    how.judge = [=](const request& one) { return one.kind == kind ? with : answer::good; };
    return how;
}

std::vector<std::byte> filled(std::size_t count, int with = 0x5A) {
    return std::vector<std::byte>(count, static_cast<std::byte>(with));
}

TEST(NbdDevice, AFailureOfTheServerIsOneOfTheDevice) {
    struct call {
        std::uint16_t kind;
        const char* what;
        std::function<result<void>(block_device&)> act;
    };
    auto bytes = filled(8192);
    const io_op reading{io_kind::read, 0, bytes};
    const io_op writing{io_kind::write, 0, bytes};
    const call calls[] = {
        {nbd_read, "read failed", [&](block_device& on) { return on.read(0, bytes); }},
        {nbd_write, "write failed", [&](block_device& on) { return on.write(0, bytes); }},
        {nbd_flush, "flush failed", [](block_device& on) { return on.flush(); }},
        {nbd_trim, "trim failed", [](block_device& on) { return on.discard(0, 8192); }},
        {nbd_zeroes, "write-zeroes failed",
         [](block_device& on) { return on.write_zeroes(0, 8192); }},
        {nbd_read, "a request failed",
         [&](block_device& on) {
             return on.run({&reading, 1});
         }},
        {nbd_write, "a request failed", [&](block_device& on) {
             return on.run({&writing, 1});
         }}};
    for (const call& one : calls) {
        for (const answer with : {answer::io_error, answer::no_space, answer::break_off}) {
            SCOPED_TRACE(one.what);
            const odd_server server(failing(one.kind, with));
            ASSERT_OK_AND_ASSIGN(const auto device, server.open());
            const auto outcome = one.act(*device);
            ASSERT_THAT(outcome, HasCode(error_code::io_error));
            EXPECT_THAT(outcome.error().message(), HasSubstr(server.uri()));
            if (with != answer::break_off) {
                EXPECT_THAT(outcome.error().message(), HasSubstr(one.what));
                EXPECT_EQ(outcome.error().to_errno(), with == answer::no_space ? ENOSPC : EIO);
                // The others still work.
                EXPECT_EQ(device->read(0, bytes).has_value(), one.kind != nbd_read);
            } else {
                // A lost connection stays lost.
                EXPECT_THAT(device->read(0, bytes), HasCode(error_code::io_error));
                EXPECT_THAT(device->write(0, bytes), HasCode(error_code::io_error));
                EXPECT_THAT(device->run({&reading, 1}), HasCode(error_code::io_error));
                EXPECT_THAT(device->flush(), HasCode(error_code::io_error));
            }
        }
    }
}

TEST(NbdDevice, AfterAFailedFlushNoneIsTriedAgain) {
    odd_server server(failing(nbd_flush, answer::io_error));
    ASSERT_OK_AND_ASSIGN(const auto device, server.open());
    EXPECT_THAT(device->flush(), HasCode(error_code::io_error));
    const auto again = device->flush();
    ASSERT_THAT(again, HasCode(error_code::io_error));
    EXPECT_THAT(again.error().message(), HasSubstr("a flush failed before"));
    EXPECT_EQ(server.lengths(nbd_flush).size(), 1U);
}

TEST(NbdDevice, WithoutFlushItIsForReadingOnly) {
    behaviour how;
    how.flags = has_flags;
    odd_server server(how);
    const auto refused = server.open();
    ASSERT_THAT(refused, HasCode(error_code::unsupported));
    EXPECT_THAT(refused.error().message(), HasSubstr("has no FLUSH"));
    ASSERT_OK_AND_ASSIGN(const auto device, server.open({.read_only = true}));
    EXPECT_TRUE(device->capabilities().read_only);
    auto bytes = filled(512, 0);
    ASSERT_OK(device->read(1024, bytes));
    EXPECT_EQ(bytes, filled(512, 0xEE));
    EXPECT_OK(device->flush());
    EXPECT_THAT(server.lengths(nbd_flush), IsEmpty());
}

TEST(NbdDevice, AReadOnlyExportTakesNoChanges) {
    behaviour how;
    how.flags |= is_read_only | is_rotational;
    odd_server server(how);
    EXPECT_THAT(server.open(), HasCode(error_code::read_only));
    ASSERT_OK_AND_ASSIGN(const auto device, server.open({.read_only = true}));
    EXPECT_FALSE(device->capabilities().can_discard);
    EXPECT_FALSE(device->capabilities().fast_write_zeroes);
    EXPECT_TRUE(device->capabilities().rotational);
    auto bytes = filled(512);
    EXPECT_THAT(device->write(0, bytes), HasCode(error_code::read_only));
    EXPECT_THAT(device->discard(0, 512), HasCode(error_code::read_only));
    EXPECT_THAT(device->write_zeroes(0, 512), HasCode(error_code::read_only));
    const io_op op{io_kind::write, 0, bytes};
    EXPECT_THAT(device->run({&op, 1}), HasCode(error_code::read_only));
    EXPECT_THAT(server.lengths(nbd_write), IsEmpty());
}

TEST(NbdDevice, WhatCannotBeOpenedIsRefusedWithTheReason) {
    const odd_server server(behaviour{});
    const auto small = server.open({.size_bytes_min = (1 << 20) + 1});
    ASSERT_THAT(small, HasCode(error_code::invalid_argument));
    EXPECT_THAT(small.error().message(), HasSubstr("1048576 bytes; at least 1048577"));
    EXPECT_THAT(server.open({.create_size_bytes = 4096}), HasCode(error_code::unsupported));
    const auto nobody = io::nbd_device::open("nbd+unix:///?socket=/nowhere/at/all", {});
    ASSERT_THAT(nobody, HasCode(error_code::io_error));
    EXPECT_THAT(nobody.error().message(), HasSubstr("is the server running"));
}

TEST(NbdDevice, RequestsAreAsLargeAsTheServerTakes) {
    behaviour how;
    how.length_min = 4096;
    how.length_max = 16384;
    odd_server server(how);
    ASSERT_OK_AND_ASSIGN(const auto device, server.open());
    EXPECT_EQ(device->capabilities().alignment_bytes, 4096U);
    std::vector<std::byte> out(40960);
    for (std::size_t i = 0; i < out.size(); ++i) {
        out[i] = static_cast<std::byte>(i / 256);
    }
    ASSERT_OK(device->write(4096, out));
    EXPECT_THAT(server.lengths(nbd_write), ElementsAre(16384, 16384, 8192));
    std::vector<std::byte> in(out.size());
    ASSERT_OK(device->read(4096, in));
    EXPECT_EQ(in, out);
    EXPECT_THAT(server.lengths(nbd_read), ElementsAre(16384, 16384, 8192));
    // More than are sent before the first ones have come back.
    std::vector<io_op> ops;
    auto many = filled(100 * 4096);
    for (std::uint64_t i = 0; i < 100; ++i) {
        ops.push_back({io_kind::write, i * 4096, std::span(many).subspan(i * 4096, 4096)});
    }
    ops.push_back({io_kind::write, 100 * 4096ULL, out});
    ASSERT_OK(device->run(ops));
    EXPECT_THAT(server.lengths(nbd_write), Each(Le(16384U)));
    in.assign(100 * 4096, std::byte{});
    ASSERT_OK(device->read(0, in));
    EXPECT_EQ(in, many);
}

// A server that answers nothing but whole blocks.
behaviour strict(std::uint32_t block_bytes) {
    behaviour how;
    how.length_min = block_bytes;
    how.length_max = 4 * block_bytes;
    how.judge = [=](const request& one) {
        return (one.offset | one.length) % block_bytes == 0 ? answer::good : answer::io_error;
    };
    return how;
}

TEST(NbdDevice, PartsOfTheServersBlocksAreReadChangedAndWrittenBack) {
    odd_server server(strict(4096));
    ASSERT_OK_AND_ASSIGN(const auto device, server.open());
    std::vector<std::byte> expected = filled(1 << 20, 0xEE);
    const auto is_as_expected = [&] {
        auto found = filled(expected.size(), 0);
        const auto whole = device->read(0, found);
        EXPECT_OK(whole);
        return found == expected;
    };
    const auto write = [&](std::uint64_t at, std::size_t length, int with) {
        const auto bytes = filled(length, with);
        std::ranges::copy(bytes, expected.begin() + static_cast<std::ptrdiff_t>(at));
        EXPECT_OK(device->write(at, bytes));
        EXPECT_TRUE(is_as_expected()) << at << "+" << length;
    };
    write(512, 512, 1);              // inside of one
    write(4096 + 1024, 3072, 2);     // to the end of one
    write(8192 - 512, 1024, 3);      // of two
    write(12288 - 1, 20 * 4096, 4);  // with more than a request between
    write((1 << 20) - 100, 100, 5);  // at the end
    EXPECT_EQ(server.lengths(nbd_write).size(), 1U + 1 + 2 + (1 + 5 + 1) + 1);
    auto part = filled(10000, 0);
    ASSERT_OK(device->read(12000, part));
    EXPECT_TRUE(std::ranges::equal(part, std::span(expected).subspan(12000, part.size())));

    ASSERT_OK(device->write_zeroes(100, 3 * 4096));
    std::fill_n(expected.begin() + 100, 3 * 4096, std::byte{0});
    EXPECT_TRUE(is_as_expected());
    EXPECT_THAT(server.lengths(nbd_zeroes), ElementsAre(2 * 4096));

    ASSERT_OK(device->discard(100, 3 * 4096));
    ASSERT_OK(device->discard(4097, 4096));
    ASSERT_OK(device->discard(4097, 0));
    EXPECT_THAT(server.lengths(nbd_trim), ElementsAre(2 * 4096));
}

TEST(NbdDevice, PartsOfOneBlockInABatchDoNotDisturbEachOther) {
    odd_server server(strict(4096));
    ASSERT_OK_AND_ASSIGN(const auto device, server.open());
    auto bytes = filled(20 * 512, 7);
    std::vector<io_op> ops;
    for (std::uint64_t i = 0; i < 16; ++i) {
        ops.push_back({io_kind::write, 512 * i, std::span(bytes).subspan(512 * i, 512)});
    }
    auto whole = filled(4096, 8);
    ops.push_back({io_kind::write, 8192, whole});
    auto before = filled(1000, 0);
    ops.push_back({io_kind::read, 100'000, before});
    ASSERT_OK(device->run(ops));
    EXPECT_EQ(before, filled(1000, 0xEE));
    auto found = filled(12288, 0);
    ASSERT_OK(device->read(0, found));
    auto expected = filled(8192, 7);
    expected.insert(expected.end(), whole.begin(), whole.end());
    EXPECT_EQ(found, expected);
}

TEST(NbdDevice, BlockSizesThatNbdDoesNotKnowAreIgnored) {
    behaviour how;
    how.length_min = 1 << 17;
    how.length_max = 1 << 20;
    const odd_server server(how);
    ASSERT_OK_AND_ASSIGN(const auto device, server.open());
    EXPECT_EQ(device->capabilities().alignment_bytes, 1U);
}

TEST(NbdDevice, ABatchWithABadPieceDoesTheOthers) {
    const odd_server server(behaviour{});
    ASSERT_OK_AND_ASSIGN(const auto device, server.open());
    auto first = filled(4096, 1);
    auto beyond = filled(4096, 2);
    auto last = filled(4096, 3);
    const io_op ops[] = {{io_kind::write, 0, first},
                         {io_kind::write, 1 << 20, beyond},
                         {io_kind::write, 8192, last}};
    EXPECT_THAT(device->run(ops), HasCode(error_code::out_of_range));
    auto found = filled(4096, 0);
    ASSERT_OK(device->read(8192, found));
    EXPECT_EQ(found, last);
}

TEST(NbdDevice, DiscardsAndZerosLongerThanARequestAreSplit) {
    behaviour how;
    how.size_bytes = 5ULL << 30;
    odd_server server(how);
    ASSERT_OK_AND_ASSIGN(const auto device, server.open());
    constexpr std::uint32_t gib = 1U << 30;
    ASSERT_OK(device->discard(0, (2ULL << 30) + 4096));
    EXPECT_THAT(server.lengths(nbd_trim), ElementsAre(gib, gib, 4096));
    ASSERT_OK(device->write_zeroes(4096, (1ULL << 30) + 512));
    EXPECT_THAT(server.lengths(nbd_zeroes), ElementsAre(gib, 512));
}

TEST(NbdDevice, WithoutTrimAndZeroesItSaysSoOrWrites) {
    behaviour how;
    how.flags = has_flags | can_flush;
    how.size_bytes = 4 << 20;
    odd_server server(how);
    ASSERT_OK_AND_ASSIGN(const auto device, server.open());
    EXPECT_FALSE(device->capabilities().can_discard);
    EXPECT_FALSE(device->capabilities().fast_write_zeroes);
    EXPECT_THAT(device->discard(0, 4096), HasCode(error_code::unsupported));
    ASSERT_OK(device->write_zeroes(4096, (2 << 20) + 512));
    EXPECT_THAT(server.lengths(nbd_write), ElementsAre(1 << 20, 1 << 20, 512));
    auto found = filled(4096, 1);
    ASSERT_OK(device->read(0, found));
    EXPECT_EQ(found, filled(4096, 0xEE));
    ASSERT_OK(device->write_zeroes(0, 512));
    ASSERT_OK(device->read(0, found));
    EXPECT_EQ(found[511], std::byte{0});
    EXPECT_EQ(found[512], std::byte{0xEE});
    ASSERT_OK(device->write_zeroes(0, 0));
}

// In processes of their own: it is loaded once.
TEST(NbdLibrary, OneThatIsMissingOrTooOldIsSaid) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    const auto opening_with = [](const char* library) {
        library_instead = library;
        const auto opened = io::nbd_device::open("nbd://localhost", {});
        if (!opened && opened.error().code() == error_code::unsupported) {
            std::fprintf(stderr, "%s\n", opened.error().message().c_str());
        }
        std::exit(0);
    };
    EXPECT_EXIT(opening_with("/nowhere/libnbd.so"), testing::ExitedWithCode(0),
                "install the package libnbd0");
    EXPECT_EXIT(opening_with("libc.so.6"), testing::ExitedWithCode(0),
                "libnbd is too old: it has no nbd_aio_command_completed");
}

TEST(NbdDevice, ZerosThatCannotBeWrittenAreAFailure) {
    behaviour how = failing(nbd_write, answer::io_error);
    how.flags = has_flags | can_flush;
    const odd_server server(how);
    ASSERT_OK_AND_ASSIGN(const auto device, server.open());
    EXPECT_THAT(device->write_zeroes(0, 4096), HasCode(error_code::io_error));
}

}  // namespace
}  // namespace uthin::test
