// Of a file whose writes follow each other: what to take space for before it is written.
//
// A file system that is given space for a megabyte at once does less than for each page that is
// written into a hole. Writes of several threads may overtake each other.
//
// Invariants
//   SS1  At most ahead_bytes beyond a write, which began near the end of the one before: writes at
//        random take no space.
// Threads   Any.
// Failures  None.
#pragma once

#include <atomic>
#include <cstdint>

namespace uthin::io {

class sequential_space {
public:
    static constexpr std::uint64_t ahead_bytes = 1 << 20;

    struct stretch {
        std::uint64_t begin_bytes = 0;
        std::uint64_t end_bytes = 0;  // begin_bytes: none
    };

    // Before [begin, end) is written.
    [[nodiscard]] stretch wanted(std::uint64_t begin_bytes, std::uint64_t end_bytes) noexcept;

private:
    std::atomic<std::uint64_t> taken_until_{UINT64_MAX / 2};  // near to nothing
};

}  // namespace uthin::io
