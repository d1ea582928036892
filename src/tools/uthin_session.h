// How a command reaches its pool: through the control socket of the process that has it, or by
// opening it here.
//
// Invariants
//   SE1  A pool is opened here only while nobody else owns it; otherwise the call waits, at most as
//        long as it was told to.
//   SE2  While a long command runs, this process answers on the control socket itself.
//
// Threads   One.
// Failures  busy: another process has the pool and does not answer. Else as opening a pool.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "pool/pool_service.h"
#include "uthin/error.h"

namespace uthin {
class pool_directory;
}

namespace uthin::tools {

enum class session_kind : std::uint8_t {
    inspect,  // changes nothing
    change,   // done at once
    work,     // may take long
    reading,  // may take long and changes nothing
};

class session {
public:
    // Where in-process and remote meet.
    [[nodiscard]] static result<std::unique_ptr<session>> connect(const std::string& directory,
                                                                  session_kind kind,
                                                                  std::chrono::nanoseconds wait);
    ~session();
    session(const session&) = delete;
    session& operator=(const session&) = delete;

    [[nodiscard]] pool_service& service() noexcept;
    // The pool when this process opened it; null when another one has it.
    [[nodiscard]] pool_directory* local() noexcept;
    // Everything is durable afterwards; deletions that this process began have ended.
    [[nodiscard]] result<void> close();

private:
    struct impl;
    explicit session(std::unique_ptr<impl> state);
    std::unique_ptr<impl> impl_;
};

}  // namespace uthin::tools
