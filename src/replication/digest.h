// SHA-256 of bytes that arrive in pieces.
//
// Threads   One.
// Failures  out_of_memory; failed when the cryptographic library refuses.
// Source    FIPS 180-4; computed by libcrypto.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "replication/stream_format.h"
#include "uthin/error.h"

namespace uthin::replication {

using digest_value = std::array<std::byte, digest_bytes>;

class digest {
public:
    [[nodiscard]] static result<digest> begin();
    digest(digest&&) noexcept;
    digest& operator=(digest&&) noexcept;
    ~digest();

    [[nodiscard]] result<void> add(std::span<const std::byte> bytes);
    // Of what was added until now.
    [[nodiscard]] result<digest_value> so_far() const;
    // Once.
    [[nodiscard]] result<digest_value> finish();

private:
    struct impl;
    explicit digest(std::unique_ptr<impl> state);
    std::unique_ptr<impl> impl_;
};

}  // namespace uthin::replication
