// One volume as an NBD export on a Unix socket, so that programs and the kernel can use a pool that
// lives in a test, on devices of the test: the lying disk, for example.
//
// Fixed newstyle, simple replies; any export name; FUA, trim and write-zeroes; several connections.
//
// Threads   One for the socket and one for each connection; they end with the object.
// Failures  Requests that fail are answered with EIO. A socket that cannot be made: uri() is empty.
// Source    the NBD protocol document, doc/proto.md.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "uthin/thin.h"

namespace uthin::test {

class nbd_export {
public:
    nbd_export(std::shared_ptr<volume> served, const std::filesystem::path& socket);
    // Connections that are still there are broken off.
    ~nbd_export();
    nbd_export(const nbd_export&) = delete;
    nbd_export& operator=(const nbd_export&) = delete;

    [[nodiscard]] const std::string& uri() const { return uri_; }
    [[nodiscard]] std::uint64_t flushes() const { return flushes_.load(); }

private:
    void accept_all();
    void serve(int connection);
    [[nodiscard]] bool negotiate(int connection) const;
    [[nodiscard]] bool answer_request(int connection, std::vector<std::byte>& buffer);
    [[nodiscard]] result<void> carry_out(std::uint16_t flags, std::uint16_t kind,
                                         std::uint64_t offset, std::span<std::byte> data,
                                         std::uint64_t length);

    const std::shared_ptr<volume> volume_;
    std::string uri_;
    int listener_ = -1;
    std::atomic<std::uint64_t> flushes_ = 0;
    mutex lock_;
    bool ending_ GUARDED_BY(lock_) = false;
    std::vector<int> connections_ GUARDED_BY(lock_);
    std::vector<std::thread> threads_ GUARDED_BY(lock_);
    std::thread acceptor_;
};

}  // namespace uthin::test
