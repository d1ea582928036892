#include "support/mutants.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "base/aligned_buffer.h"
#include "base/endian.h"
#include "persistent_data/btree_node.h"
#include "support/matchers.h"
#include "support/metadata_images.h"
#include "thin_metadata/checker.h"

namespace uthin::test {

using persistent_data::block_bytes;
using persistent_data::block_kind;
using persistent_data::const_block_bytes;

namespace {

constexpr std::size_t block_size = metadata_block_size_bytes;
constexpr std::size_t checksum_bytes = 4;
constexpr std::size_t node_header_bytes = 32;

std::optional<block_kind> kind_of(std::uint64_t where, const std::vector<std::byte>& bytes) {
    const const_block_bytes block(bytes.data(), block_size);
    for (const block_kind kind :
         {block_kind::superblock, block_kind::btree_node, block_kind::bitmap, block_kind::index}) {
        if (persistent_data::check_block(kind, metadata_block(where), block)) {
            return kind;
        }
    }
    return std::nullopt;
}

// Notes which blocks are read.
class reading_device final : public block_device {
public:
    reading_device(block_device& below, std::set<std::uint64_t>& seen)
        : below_(below), seen_(seen) {}
    [[nodiscard]] std::string name() const override { return below_.name(); }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override { return below_.size_bytes(); }
    [[nodiscard]] device_capabilities capabilities() const override {
        return below_.capabilities();
    }
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                    std::span<std::byte> buffer) override {
        for (std::uint64_t at = 0; at < buffer.size(); at += block_size) {
            seen_.insert((offset_bytes + at) / block_size);
        }
        return below_.read(offset_bytes, buffer);
    }
    [[nodiscard]] result<void> write(std::uint64_t, std::span<const std::byte>) override {
        return refusal();
    }
    [[nodiscard]] result<void> flush() override { return {}; }
    [[nodiscard]] result<void> discard(std::uint64_t, std::uint64_t) override { return refusal(); }
    [[nodiscard]] result<void> write_zeroes(std::uint64_t, std::uint64_t) override {
        return refusal();
    }

private:
    static std::unexpected<error> refusal() {
        return fail(error_code::read_only, "this device is only read");
    }
    block_device& below_;
    std::set<std::uint64_t>& seen_;
};

std::set<std::uint64_t> blocks_in_use(block_device& image) {
    std::set<std::uint64_t> seen;
    reading_device device(image, seen);
    const auto view = thin_metadata::open_offline(device, {});
    EXPECT_OK(view);
    if (view) {
        EXPECT_OK(thin_metadata::check_metadata(**view, {}));
    }
    return seen;
}

}  // namespace

mutant_source::mutant_source(const std::string& scenario) : name_(scenario) {
    const auto device = load_corpus_metadata(scenario);
    if (device == nullptr) {
        return;
    }
    const auto size = device->size_bytes();
    EXPECT_OK(size);
    block_count_ = *size / block_size;
    image_ = io::sparse_image(*size);
    std::vector<std::byte> bytes(block_size);
    const std::set<std::uint64_t> in_use = blocks_in_use(*device);
    for (std::uint64_t where = 0; where < block_count_; ++where) {
        EXPECT_OK(device->read(where * block_size, bytes));
        if (std::all_of(bytes.begin(), bytes.end(),
                        [](std::byte b) { return b == std::byte{0}; })) {
            continue;
        }
        image_.write(where * block_size, bytes);
        if (const auto kind = kind_of(where, bytes); kind && in_use.contains(where)) {
            used_.push_back({.where = where, .kind = *kind});
        }
    }
}

mutant_source::open_block mutant_source::pick(io::sparse_image& image,
                                              random_generator& random) const {
    // The few blocks of which much depends are taken more often than their number says.
    open_block open;
    const bool any = !random.one_in(3);
    do {
        open.block = used_[random.below(used_.size())];
    } while (!any && open.block.kind == block_kind::btree_node && !random.one_in(8));
    open.bytes.resize(block_size);
    image.read(open.block.where * block_size, open.bytes);
    return open;
}

std::uint64_t mutant_source::strange_number(random_generator& random) const {
    switch (random.below(8)) {
        case 0: return 0;
        case 1: return UINT64_MAX - random.below(2);
        case 2: return 1ULL << random.below(64);
        case 3: return (1ULL << random.below(64)) - 1;
        case 4: return block_count_ - random.below(3);
        case 5: return random.next();
        default: return used_[random.below(used_.size())].where;
    }
}

std::string mutant_source::change_word(open_block& open, random_generator& random) const {
    const std::uint64_t number = strange_number(random);
    const bool is_long = random.one_in(2);
    const std::size_t width = is_long ? 8 : 4;
    const std::size_t at = checksum_bytes + 4 * random.below((block_size - 16) / 4);
    std::array<std::byte, 8> raw{};
    store_le(raw.data(), number);
    std::memcpy(open.bytes.data() + at, raw.data(), width);
    return fmt::format("{} bytes at {} = {}", width, at, number);
}

std::string mutant_source::change_superblock(open_block& open, random_generator& random) const {
    // Flags, magic, version, time, transaction, held root, space map roots, trees, sizes.
    constexpr std::array<std::size_t, 21> fields = {4,   16,  32,  40,  44,  48,  56,
                                                    64,  72,  80,  88,  192, 200, 208,
                                                    216, 320, 328, 336, 340, 344, 352};
    const std::size_t at = fields[random.below(fields.size())];
    const std::uint64_t number = strange_number(random);
    std::array<std::byte, 8> raw{};
    store_le(raw.data(), number);
    std::memcpy(open.bytes.data() + at, raw.data(), at == 340 || at % 8 != 0 ? 4 : 8);
    return fmt::format("superblock field at {} = {}", at, number);
}

std::string mutant_source::change_node(open_block& open, random_generator& random) const {
    const auto entries = load_le<std::uint32_t>(open.bytes.data() + 16);
    const auto entries_max = load_le<std::uint32_t>(open.bytes.data() + 20);
    const auto value_size = load_le<std::uint32_t>(open.bytes.data() + 24);
    const std::uint64_t number = strange_number(random);
    if (random.one_in(3) || entries == 0 || value_size > 24) {
        // Flags, own number, entries, their limit, size of values.
        constexpr std::array<std::size_t, 5> fields = {4, 8, 16, 20, 24};
        const std::size_t at = fields[random.below(fields.size())];
        const std::uint64_t near =
            load_le<std::uint32_t>(open.bytes.data() + at) + random.below(3) - 1;
        store_le(open.bytes.data() + at,
                 static_cast<std::uint32_t>(random.one_in(2) ? near : number));
        return fmt::format("node field at {} = {}", at, random.one_in(2) ? near : number);
    }
    const std::size_t index = random.below(entries);
    const std::size_t key_at = node_header_bytes + 8 * index;
    const std::size_t value_at =
        node_header_bytes + 8 * std::size_t{entries_max} + value_size * index;
    const bool is_key = random.one_in(3);
    const std::size_t at = is_key ? key_at : value_at;
    if (at + 8 > block_size) {
        return change_word(open, random);
    }
    std::array<std::byte, 8> raw{};
    const auto old = load_le<std::uint64_t>(open.bytes.data() + at);
    const std::uint64_t made = random.one_in(3)   ? old + random.below(5) - 2
                               : random.one_in(2) ? number << 24 | (old & 0xffffff)
                                                  : number;
    store_le(raw.data(), made);
    std::memcpy(open.bytes.data() + at, raw.data(),
                std::min<std::size_t>(8, is_key ? 8 : value_size));
    return fmt::format("{} {} = {} (was {})", is_key ? "key" : "value", index, made, old);
}

std::string mutant_source::change(open_block& open, io::sparse_image& image,
                                  random_generator& random) const {
    switch (random.below(8)) {
        case 0: {
            const std::size_t bit = random.below(8 * block_size);
            open.bytes[bit / 8] ^= std::byte{1} << (bit % 8);
            return fmt::format("bit {}", bit);
        }
        case 1: return change_word(open, random);
        case 2: {
            const open_block other = pick(image, random);
            open.bytes = other.bytes;
            return fmt::format("content of block {}", other.block.where);
        }
        case 3: {
            open_block other = pick(image, random);
            std::swap(open.bytes, other.bytes);
            persistent_data::prepare_block(other.block.kind, metadata_block(other.block.where),
                                           block_bytes(other.bytes.data(), block_size));
            image.write(other.block.where * block_size, other.bytes);
            return fmt::format("swapped with block {}", other.block.where);
        }
        default: break;
    }
    return open.block.kind == block_kind::superblock   ? change_superblock(open, random)
           : open.block.kind == block_kind::btree_node ? change_node(open, random)
                                                       : change_word(open, random);
}

mutant_source::mutant mutant_source::mutate(random_generator& random) const {
    io::sparse_image image = image_;
    std::string recipe;
    for (std::uint64_t left = 1 + random.below(3); left != 0; --left) {
        open_block open = pick(image, random);
        const std::string what = change(open, image, random);
        const bool is_repaired = !random.one_in(10);
        if (is_repaired) {
            const auto own_number = load_le<std::uint64_t>(open.bytes.data() + 8);
            const block_bytes bytes(open.bytes.data(), block_size);
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

// ---- text

namespace {

std::string changed_number(const std::string& text, random_generator& random) {
    const std::size_t from = random.below(text.size());
    const std::size_t at = text.find_first_of("0123456789", from);
    if (at == std::string::npos) {
        return text;
    }
    const std::size_t end = std::min(text.find_first_not_of("0123456789", at), text.size());
    constexpr std::array numbers = {"0",
                                    "1",
                                    "4294967295",
                                    "4294967296",
                                    "16777216",
                                    "16777215",
                                    "18446744073709551615",
                                    "18446744073709551616",
                                    "1099511627776",
                                    "9223372036854775807",
                                    "-1",
                                    "",
                                    "99999999999999999999999"};
    const std::string made = !random.one_in(3) ? std::to_string(random.below(2000))
                                               : numbers[random.below(numbers.size())];
    return text.substr(0, at) + made + text.substr(end);
}

std::string changed_lines(const std::string& text, random_generator& random) {
    std::vector<std::string> lines;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
        lines.push_back(text.substr(at, end - at));
        at = end;
    }
    const std::size_t one = random.below(lines.size());
    const std::size_t other = random.below(lines.size());
    switch (random.below(3)) {
        case 0: lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(one)); break;
        case 1: std::swap(lines[one], lines[other]); break;
        default:
            lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(one), lines[other]);
            break;
    }
    std::string made;
    for (const std::string& line : lines) {
        made += line;
    }
    return made;
}

}  // namespace

std::string mutated_text(std::string text, random_generator& random) {
    for (std::uint64_t left = 1 + random.below(3); left != 0 && !text.empty(); --left) {
        switch (random.below(8)) {
            case 0: text[random.below(text.size())] = static_cast<char>(random.below(256)); break;
            case 1: text.resize(random.below(text.size())); break;
            case 2: {
                const std::size_t at = random.below(text.size());
                text.erase(at, 1 + random.below(40));
                break;
            }
            case 3:
            case 4: text = changed_lines(text, random); break;
            default: text = changed_number(text, random); break;
        }
    }
    return text;
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
