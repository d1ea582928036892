// Small changes of metadata blocks that a checksum does not tell: what mutants and fuzzers are made
// of.
//
// Threads   One at a time.
// Failures  Of inspect(): those of the metadata.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/random.h"
#include "io/sparse_image.h"
#include "persistent_data/validator.h"

namespace uthin::test {

struct used_block {
    std::uint64_t where = 0;
    persistent_data::block_kind kind = persistent_data::block_kind::btree_node;
};

// The blocks that a check of sound metadata reads, and what they are, in ascending order.
[[nodiscard]] result<std::vector<used_block>> blocks_in_use(block_device& image);

class block_changer {
public:
    block_changer() = default;
    // `used` is not empty.
    block_changer(std::vector<used_block> used, std::uint64_t block_count)
        : used_(std::move(used)), block_count_(block_count) {}

    struct open_block {
        used_block block;
        std::vector<std::byte> bytes;
    };
    [[nodiscard]] open_block pick(const io::sparse_image& image, random_generator& random) const;
    // One change; the checksum of `open` is left as it was, and `open` is not written back. A block
    // that it is swapped with is. Returns what it did.
    [[nodiscard]] std::string change(open_block& open, io::sparse_image& image,
                                     random_generator& random) const;
    // Numbers that readers may stumble over: limits, powers of two, blocks in use.
    [[nodiscard]] std::uint64_t strange_number(random_generator& random) const;

private:
    [[nodiscard]] std::string change_node(open_block& open, random_generator& random) const;
    [[nodiscard]] std::string change_word(open_block& open, random_generator& random) const;
    [[nodiscard]] std::string change_superblock(open_block& open, random_generator& random) const;

    std::vector<used_block> used_;
    std::uint64_t block_count_ = 0;
};

}  // namespace uthin::test
