// How far a long command has come, on one line of a terminal. Not a terminal: nothing.
//
// Threads   One.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace uthin::tools {

class progress_bar {
public:
    // On stderr.
    progress_bar(std::string what, std::uint64_t total_bytes);
    ~progress_bar();
    progress_bar(const progress_bar&) = delete;
    progress_bar& operator=(const progress_bar&) = delete;

    // Redraws a few times a second.
    void show(std::uint64_t done_bytes);

private:
    void draw(std::uint64_t done_bytes);

    const std::string what_;
    const std::uint64_t total_bytes_;
    const bool visible_;
    const std::chrono::nanoseconds begun_;
    std::chrono::nanoseconds drawn_{0};
};

}  // namespace uthin::tools
