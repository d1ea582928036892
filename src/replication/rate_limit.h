// A sink that takes no more than so many bytes in a second.
//
// Invariants
//   RL1  In any span of t seconds at most rate * t bytes pass, and those of one burst: what a tenth
//        of a second carries, but at least one byte.
// Threads   One.
// Failures  Those of the sink behind it.
#pragma once

#include "base/clock.h"
#include "replication/stream_writer.h"

namespace uthin::replication {

class rate_limit final : public byte_sink {
public:
    // Both outlive it.
    rate_limit(byte_sink& sink, std::uint64_t bytes_per_second, clock& time)
        : sink_(sink),
          bytes_per_second_(bytes_per_second),
          time_(time),
          free_at_(time.monotonic()) {}

    [[nodiscard]] result<void> write(std::span<const std::byte> bytes) override;

private:
    [[nodiscard]] result<void> write_slice(std::span<const std::byte> bytes);

    byte_sink& sink_;
    const std::uint64_t bytes_per_second_;
    clock& time_;
    std::chrono::nanoseconds free_at_;  // when all that was written has had its time
};

}  // namespace uthin::replication
