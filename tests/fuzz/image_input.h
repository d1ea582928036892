// A metadata image as the input of a target: a few blocks, written down without their zeros and
// without what follows from the rest: block number and checksum. A changed byte of the input so is
// a change that no checksum tells; blocks whose checksum is left alone are there too.
//
//   {u16 blocks of the device, u8 length of the parameters, parameters}, then for each block
//   {u16 block number, u8 seal, u8 pieces}, for each piece {u16 zeros before it, u16 length, bytes}
//
// Any bytes are such an image.
//
// Threads   Plain values.
// Failures  None.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "fuzz/target.h"
#include "io/sparse_image.h"
#include "persistent_data/validator.h"

namespace uthin::fuzz {

// How a block gets its checksum: the kind of block that it passes for, or not at all.
struct seal {
    static constexpr std::uint8_t none = 0;
    static constexpr std::uint8_t kinds_end = 5;  // 1 + block_kind
    static constexpr std::uint8_t keeps_number = 0x80;
    std::uint8_t value = none;

    [[nodiscard]] static seal of(persistent_data::block_kind kind) {
        return {static_cast<std::uint8_t>(1 + static_cast<std::uint8_t>(kind))};
    }
    [[nodiscard]] bool has_kind() const noexcept { return kind_number() != none; }
    [[nodiscard]] persistent_data::block_kind kind() const noexcept {
        return static_cast<persistent_data::block_kind>(kind_number() - 1);
    }
    [[nodiscard]] std::uint8_t kind_number() const noexcept {
        return static_cast<std::uint8_t>(value & ~keeps_number) % kinds_end;
    }
};

struct image_input {
    static constexpr std::uint64_t device_blocks_max = 1024;

    std::uint64_t device_blocks = 1;
    bytes parameters;  // decisions of the target
    io::sparse_image image;
    std::map<std::uint64_t, seal> blocks;

    [[nodiscard]] std::unique_ptr<io::image_device> device() const {
        return std::make_unique<io::image_device>("fuzz", image);
    }
};

[[nodiscard]] image_input decode_image(std::span<const std::byte> input);
[[nodiscard]] bytes encode_image(const image_input& image);

// Pools of several shapes, each with the parameters given.
[[nodiscard]] std::vector<bytes> image_seeds(std::span<const bytes> parameters);
// A device that has one of these on it, as it is.
[[nodiscard]] bytes encode_device(block_device& device, std::span<const std::byte> parameters);
// Changes of blocks in use as in support/block_changes.h, of seals, of parameters, of places.
[[nodiscard]] bytes mutated_image(std::span<const std::byte> input, random_generator& random);

}  // namespace uthin::fuzz
