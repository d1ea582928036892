#include "support/mutants.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>

#include <fmt/format.h>

#include "base/endian.h"
#include "base/zero.h"
#include "support/matchers.h"
#include "support/metadata_images.h"

namespace uthin::test {

namespace {

constexpr std::size_t block_size = metadata_block_size_bytes;

}  // namespace

mutant_source::mutant_source(const std::string& scenario) : name_(scenario) {
    const auto device = load_corpus_metadata(scenario);
    if (device == nullptr) {
        return;
    }
    const auto size = device->size_bytes();
    EXPECT_OK(size);
    image_ = io::sparse_image(*size);
    std::vector<std::byte> bytes(block_size);
    for (std::uint64_t where = 0; where < *size / block_size; ++where) {
        EXPECT_OK(device->read(where * block_size, bytes));
        if (!is_zero(bytes)) {
            image_.write(where * block_size, bytes);
        }
    }
    auto used = blocks_in_use(*device);
    EXPECT_OK(used);
    changer_ =
        block_changer(used ? std::move(*used) : std::vector<used_block>(), *size / block_size);
}

mutant_source::mutant mutant_source::mutate(random_generator& random) const {
    io::sparse_image image = image_;
    std::string recipe;
    for (std::uint64_t left = 1 + random.below(3); left != 0; --left) {
        block_changer::open_block open = changer_.pick(image, random);
        const std::string what = changer_.change(open, image, random);
        const bool is_repaired = !random.one_in(10);
        if (is_repaired) {
            const auto own_number = load_le<std::uint64_t>(open.bytes.data() + 8);
            const persistent_data::block_bytes bytes(open.bytes.data(), block_size);
            persistent_data::prepare_block(open.block.kind, metadata_block(open.block.where),
                                           bytes);
            if (random.one_in(20)) {
                // A checksum that fits a wrong number.
                persistent_data::prepare_block(open.block.kind, metadata_block(own_number + 1),
                                               bytes);
            }
        }
        image.write(open.block.where * block_size, open.bytes);
        recipe += fmt::format("; block {}: {}{}", open.block.where, what,
                              is_repaired ? "" : ", checksum left");
    }
    return {.device = std::make_unique<io::image_device>(name_, std::move(image)),
            .recipe = name_ + recipe};
}

// ---- crashes

namespace {

constexpr std::array guarded = {SIGALRM, SIGABRT, SIGSEGV, SIGFPE};
std::array<char, 1024> shown_recipe{};
std::array<struct sigaction, guarded.size()> former{};

void tell_recipe(int signal) {
    const char* const why = signal == SIGALRM ? "\nhangs: " : "\ncrashes: ";
    (void)!::write(STDERR_FILENO, why, std::strlen(why));
    (void)!::write(STDERR_FILENO, shown_recipe.data(), std::strlen(shown_recipe.data()));
    (void)!::write(STDERR_FILENO, "\n", 1);
    // A fault happens again when this returns, and goes where it would have gone.
    for (std::size_t index = 0; index < guarded.size(); ++index) {
        ::sigaction(guarded[index], &former[index], nullptr);
    }
    if (signal == SIGALRM || signal == SIGABRT) {
        std::raise(signal);
    }
}

bool install_handlers() {
    // The stack may be what has run out.
    static std::array<std::byte, 64 << 10> other_stack;
    stack_t stack{};
    stack.ss_sp = other_stack.data();
    stack.ss_size = other_stack.size();
    ::sigaltstack(&stack, nullptr);
    struct sigaction action {};
    action.sa_handler = tell_recipe;
    action.sa_flags = SA_ONSTACK;
    for (std::size_t index = 0; index < guarded.size(); ++index) {
        ::sigaction(guarded[index], &action, &former[index]);
    }
    return true;
}

}  // namespace

recipe_guard::recipe_guard(const std::string& recipe, unsigned seconds_max) {
    const std::size_t length = std::min(recipe.size(), shown_recipe.size() - 1);
    std::copy_n(recipe.begin(), length, shown_recipe.begin());
    shown_recipe[length] = '\0';
    [[maybe_unused]] static const bool installed = install_handlers();
    ::alarm(seconds_max);
}

recipe_guard::~recipe_guard() {
    ::alarm(0);
}

}  // namespace uthin::test
