// Metadata images with damage that a checksum does not tell: a few small changes of blocks in use,
// most of them with the checksum made good again. A seed and a number are the whole recipe.
//
// Threads   One at a time.
// Failures  Of loading: reported to GoogleTest.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "io/sparse_image.h"
#include "persistent_data/validator.h"

namespace uthin::test {

// An image whose blocks in use (those that a check reads), and what they are, are known.
class mutant_source {
public:
    // Metadata of the corpus.
    explicit mutant_source(const std::string& scenario);

    [[nodiscard]] const std::string& name() const noexcept { return name_; }
    [[nodiscard]] const io::sparse_image& image() const noexcept { return image_; }

    struct mutant {
        std::unique_ptr<io::image_device> device;
        std::string recipe;  // what was done, for people
    };
    // 1 to 3 changes.
    [[nodiscard]] mutant mutate(random_generator& random) const;

private:
    struct used_block {
        std::uint64_t where = 0;
        persistent_data::block_kind kind = persistent_data::block_kind::btree_node;
    };
    struct open_block {
        used_block block;
        std::vector<std::byte> bytes;
    };

    [[nodiscard]] open_block pick(io::sparse_image& image, random_generator& random) const;
    [[nodiscard]] std::uint64_t strange_number(random_generator& random) const;
    // Each returns what it did.
    [[nodiscard]] std::string change(open_block& open, io::sparse_image& image,
                                     random_generator& random) const;
    [[nodiscard]] std::string change_node(open_block& open, random_generator& random) const;
    [[nodiscard]] std::string change_word(open_block& open, random_generator& random) const;
    [[nodiscard]] std::string change_superblock(open_block& open, random_generator& random) const;

    std::string name_;
    io::sparse_image image_;
    std::uint64_t block_count_ = 0;
    std::vector<used_block> used_;
};

// `text` with 1 to 3 changes: of bytes, numbers, lines.
[[nodiscard]] std::string mutated_text(std::string text, random_generator& random);

// While it lives: a crash, or more than `seconds_max`, says `recipe` on stderr and ends the
// process.
class recipe_guard {
public:
    recipe_guard(const std::string& recipe, unsigned seconds_max);
    ~recipe_guard();
    recipe_guard(const recipe_guard&) = delete;
    recipe_guard& operator=(const recipe_guard&) = delete;
};

}  // namespace uthin::test
