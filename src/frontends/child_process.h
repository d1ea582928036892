// Another program, fed through its standard input and heard through its standard output.
//
// Invariants
//   CP1  When the object goes, the program has ended: it is asked to, and killed if it does not.
// Threads   One.
// Failures  not_found: no such program. cancelled: it took nothing for too long. io_error: it ended
//           early, or with another status than 0; the message holds its last line of output.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "frontends/unix_socket.h"
#include "uthin/error.h"

namespace uthin::frontends {

class child_process {
public:
    // Its standard error goes where its output goes.
    [[nodiscard]] static result<child_process> start(const std::vector<std::string>& arguments);
    child_process(child_process&& other) noexcept;
    child_process& operator=(child_process&&) = delete;
    ~child_process();

    // cancelled when it takes nothing for so long.
    [[nodiscard]] result<void> write(std::span<const std::byte> bytes,
                                     std::chrono::milliseconds stall_timeout);
    // The end of its input; waits until it has ended. Everything it said.
    [[nodiscard]] result<std::string> finish(std::chrono::milliseconds stall_timeout);
    // What it has said until now.
    [[nodiscard]] const std::string& output() const noexcept { return output_; }

private:
    child_process(pid_t pid, descriptor input, descriptor output)
        : pid_(pid), input_(std::move(input)), from_child_(std::move(output)) {}
    // What can be read without waiting; false at the end.
    bool take_output();
    void end_it();

    pid_t pid_ = -1;
    descriptor input_;
    descriptor from_child_;
    std::string output_;
};

// Without input.
[[nodiscard]] result<std::string> run_program(const std::vector<std::string>& arguments,
                                              std::chrono::milliseconds timeout);

}  // namespace uthin::frontends
