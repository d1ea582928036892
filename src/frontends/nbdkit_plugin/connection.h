// One NBD client's view of one volume.
//
// Invariants
//   CN1  At most held_requests_max requests of a connection wait for space at a time, the rest get
//        ENOSPC: so the client's trim that would make room is still read.
//   CN2  A fast zero is either done by unmapping or refused before anything changed.
//
// Threads   Any number at once; each call blocks until it is done.
//
// Failures  Those of class volume.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "frontends/served_pool.h"
#include "uthin/pool.h"
#include "uthin/thin.h"

namespace uthin::frontends {

class connection {
public:
    // Half of the threads that nbdkit gives to a connection by default.
    static constexpr std::uint32_t held_requests_max = 8;

    [[nodiscard]] static std::unique_ptr<connection> open(opened_export opened, pool& engine);

    [[nodiscard]] std::uint64_t size_bytes() const noexcept { return opened_.size_bytes; }
    [[nodiscard]] const std::string& description() const noexcept { return opened_.description; }
    // What is written without reading the rest of a sector of the data device.
    [[nodiscard]] std::uint32_t preferred_block_bytes() const noexcept;
    [[nodiscard]] bool writable() const noexcept { return opened_.writable; }
    [[nodiscard]] bool can_trim() const noexcept { return writable(); }
    [[nodiscard]] bool rotational() const;

    [[nodiscard]] result<void> read(std::uint64_t offset_bytes, std::span<std::byte> buffer);
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes, std::span<const std::byte> buffer,
                                     bool fua);
    [[nodiscard]] result<void> flush();
    [[nodiscard]] result<void> trim(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                    bool fua);
    [[nodiscard]] result<bool> zeroing_is_fast(std::uint64_t offset_bytes,
                                               std::uint64_t length_bytes, zero_options options);
    [[nodiscard]] result<void> zero(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                    zero_options options);
    [[nodiscard]] result<std::vector<volume_extent>> extents(std::uint64_t offset_bytes,
                                                             std::uint64_t length_bytes,
                                                             std::size_t extents_max);

private:
    connection(opened_export opened, pool& engine) : opened_(std::move(opened)), engine_(engine) {}

    const opened_export opened_;
    pool& engine_;
    hold_limit holds_{held_requests_max};  // CN1
};

}  // namespace uthin::frontends
