// SQLite's files on the disks of a crash_domain: the database and its journal lose power together
// with a pool's devices.
//
// A file is the domain's device of that name (the last component of the path); it exists when it is
// not empty. Removing it is a resize to 0. Sizes and contents are volatile until xSync.
//
// Threads   As SQLite with NOMUTEX: one connection at a time.
// Failures  SQLite's I/O errors once the power is off; SQLITE_CANTOPEN for a name that the domain
//           does not have.
// Source    SQLite documentation: "OS Interface", sqlite3_vfs, sqlite3_io_methods.
#pragma once

#include <memory>
#include <string>

#include "io/crash_device.h"

struct sqlite3_vfs;

namespace uthin::test {

class crash_vfs {
public:
    // Registers itself under a name of its own until it is destroyed. `lies`: xSync says ok and
    // does nothing.
    explicit crash_vfs(io::crash_domain& domain, bool lies = false);
    ~crash_vfs();
    crash_vfs(const crash_vfs&) = delete;
    crash_vfs& operator=(const crash_vfs&) = delete;

    [[nodiscard]] const std::string& name() const noexcept { return name_; }

    [[nodiscard]] io::crash_device* find(const char* path) const;
    [[nodiscard]] bool lies() const noexcept { return lies_; }

private:
    io::crash_domain& domain_;
    const bool lies_;
    const std::string name_;
    std::unique_ptr<sqlite3_vfs> vfs_;
};

}  // namespace uthin::test
