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
#include "support/block_changes.h"

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
    std::string name_;
    io::sparse_image image_;
    block_changer changer_;
};

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
