// SQLite that fails when it is told to: at the n-th access to a file, or at the n-th statement.
//
// Threads   One connection at a time.
// Failures  What SQLite tells: the codes that a broken disk, a full file system or another process
//           would give.
// Source    SQLite documentation: sqlite3_vfs, sqlite3_io_methods, sqlite3_auto_extension,
//           sqlite3_trace_v2, sqlite3_interrupt, sqlite3_set_authorizer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

struct sqlite3_vfs;

namespace uthin::test {

// Counts, and fails one of them or all from there on.
class nth_fault {
public:
    // Counts from 1, from now on.
    void arm(std::uint64_t nth, bool for_ever);
    void disarm() noexcept { armed_ = false; }
    [[nodiscard]] bool strikes() noexcept;
    [[nodiscard]] std::uint64_t injected() const noexcept { return injected_; }

private:
    bool armed_ = false;
    bool for_ever_ = false;
    std::uint64_t nth_ = 0;
    std::uint64_t seen_ = 0;
    std::uint64_t injected_ = 0;
};

enum class file_access : std::uint8_t { open, read, write, truncate, sync, size, lock, remove };
inline constexpr std::uint32_t all_accesses = 0xff;
[[nodiscard]] constexpr std::uint32_t only(file_access kind) {
    return 1U << static_cast<std::uint32_t>(kind);
}

struct file_fault {
    std::uint64_t nth = 1;
    bool for_ever = false;
    std::uint32_t kinds = all_accesses;  // those that are counted and fail
    int status = 0;                      // SQLite's code; 0: the I/O error of the kind
    bool torn = false;                   // half of a write that fails is there
};

// The system's file access, which fails when it is told to. Registered under a name of its own
// until it is destroyed.
class failing_vfs {
public:
    failing_vfs();
    ~failing_vfs();
    failing_vfs(const failing_vfs&) = delete;
    failing_vfs& operator=(const failing_vfs&) = delete;

    [[nodiscard]] const std::string& name() const noexcept { return name_; }
    void arm(const file_fault& fault);
    void disarm() noexcept { counter_.disarm(); }
    [[nodiscard]] std::uint64_t injected() const noexcept { return counter_.injected(); }

    // For its functions: 0, or what this access fails with.
    [[nodiscard]] int status_of(file_access kind) noexcept;
    [[nodiscard]] bool tears() const noexcept { return fault_.torn; }
    [[nodiscard]] sqlite3_vfs* system() const noexcept { return system_; }

private:
    const std::string name_;
    sqlite3_vfs* const system_;
    std::unique_ptr<sqlite3_vfs> vfs_;
    file_fault fault_;
    nth_fault counter_;
};

enum class statement_stage : std::uint8_t {
    compiled,  // is not understood: each part of it counts
    run,       // is interrupted where it begins
};

// The statements of every connection that is opened while it exists. One at a time.
class failing_statements {
public:
    failing_statements();
    ~failing_statements();
    failing_statements(const failing_statements&) = delete;
    failing_statements& operator=(const failing_statements&) = delete;

    void arm(statement_stage stage, std::uint64_t nth, bool for_ever);
    void disarm() noexcept;
    [[nodiscard]] std::uint64_t injected() const noexcept;

    // For its functions.
    [[nodiscard]] nth_fault& of(statement_stage stage) noexcept {
        return stage == statement_stage::run ? run_ : compiled_;
    }

private:
    nth_fault compiled_;
    nth_fault run_;
};

}  // namespace uthin::test
