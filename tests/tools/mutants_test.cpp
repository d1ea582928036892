// What stands behind the thin_* tools, on metadata, XML and pack files that are damaged with good
// checksums: nothing crashes or hangs, and what the check accepts can be dumped, restored and
// checked again.
//
// A mutant is its number and the seed: UTHIN_SEED=S UTHIN_MUTANT=N runs that one alone.
#include <zlib.h>

#include <cstdlib>

#include <fmt/format.h>

#include "support/mapping_recorder.h"
#include "support/matchers.h"
#include "support/mutants.h"
#include "support/seed.h"
#include "support/tier.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/device_copy.h"
#include "thin_metadata/difference.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/free_space.h"
#include "thin_metadata/leak_repair.h"
#include "thin_metadata/pack.h"
#include "thin_metadata/pool_usage.h"
#include "thin_metadata/restorer.h"
#include "thin_metadata/reverse_map.h"
#include "thin_metadata/salvage.h"
#include "thin_metadata/shrink.h"
#include "thin_metadata/xml_reader.h"
#include "thin_metadata/xml_writer.h"

namespace uthin {
namespace {

using test::mapping_recorder;
using test::mutant_source;

constexpr unsigned seconds_max = 10;
constexpr std::uint64_t image_blocks = 1024;

std::uint64_t mutant_count() {
    return test::tier() == 0 ? 300 : 20'000;
}

// Packing a whole image takes long.
constexpr std::uint64_t slow_share = 10;

const std::vector<mutant_source>& held_sources() {
    static const std::vector<mutant_source> all = [] {
        std::vector<mutant_source> made;
        made.emplace_back("metasnap-held");
        made.emplace_back("k612-metasnap-held");
        return made;
    }();
    return all;
}

const std::vector<mutant_source>& sources() {
    static const std::vector<mutant_source> all = [] {
        std::vector<mutant_source> made;
        for (const char* scenario : {"deletes", "snap-break-64k", "snap-wide-64", "metasnap-held",
                                     "snap-chain-50-64k", "crash-1-64k", "random-1-64k"}) {
            made.emplace_back(scenario);
        }
        return made;
    }();
    return all;
}

// Calls `body(random, number)` for every mutant, with a generator of its own.
template <class Body>
void for_each_mutant(const Body& body, std::uint64_t count = mutant_count()) {
    const char* const one = std::getenv("UTHIN_MUTANT");
    const std::uint64_t first = one != nullptr ? std::strtoull(one, nullptr, 0) : 0;
    const std::uint64_t end = one != nullptr ? first + 1 : count;
    fmt::print("seed: UTHIN_SEED={}, mutants {} to {}\n", test::seed(), first, end - 1);
    for (std::uint64_t number = first; number < end && !testing::Test::HasFailure(); ++number) {
        random_generator random(test::seed() * 0x9e3779b97f4a7c15 + number);
        body(random, number);
    }
}

// The same with a damaged image.
template <class Body>
void for_each_image(const Body& body, const std::vector<mutant_source>& from = sources(),
                    std::uint64_t count = mutant_count()) {
    const auto with_image = [&](random_generator& random, std::uint64_t number) {
        const mutant_source& source = from[random.below(from.size())];
        const auto mutant = source.mutate(random);
        const std::string recipe = fmt::format("UTHIN_MUTANT={} {}", number, mutant.recipe);
        SCOPED_TRACE(recipe);
        const test::recipe_guard guard(recipe, seconds_max);
        body(*mutant.device, random);
    };
    for_each_mutant(with_image, count);
}

class nowhere final : public thin_metadata::mapping_sink {
public:
    result<void> begin_pool(const thin_metadata::pool_header&) override { return {}; }
    result<void> begin_shared(std::string_view) override { return {}; }
    result<void> end_shared() override { return {}; }
    result<void> begin_device(const thin_device_info& device) override {
        devices.push_back(device.id);
        return {};
    }
    result<void> run(const mapping_run&) override { return {}; }
    result<void> reference(std::string_view) override { return {}; }
    result<void> end_device() override { return {}; }
    result<void> end_pool() override { return {}; }
    std::vector<device_id> devices;
};

result<bool> is_accepted(block_device& image) {
    const auto view = UTHIN_TRY(thin_metadata::open_offline(image, {}));
    return UTHIN_TRY(thin_metadata::check_metadata(*view, {})).is_clean();
}

result<std::string> xml_of(block_device& image) {
    const auto view = UTHIN_TRY(thin_metadata::open_offline(image, {}));
    std::string text;
    thin_metadata::xml_writer writer(
        [&text](std::string_view piece) -> result<void> {
            text += piece;
            return {};
        },
        thin_metadata::dump_dialect::v1);
    UTHIN_TRY(thin_metadata::dump_metadata(*view, writer, {.shared_pieces = true}));
    return text;
}

result<void> restore(std::string_view text, thin_metadata::mapping_sink& sink) {
    const auto input = [&text](std::span<char> buffer) -> result<std::size_t> {
        const std::size_t got = text.copy(buffer.data(), buffer.size());
        text.remove_prefix(got);
        return got;
    };
    return thin_metadata::read_xml(input, sink, {});
}

using device_tables = std::map<std::uint64_t, mapping_recorder::mapping_table>;
result<device_tables> tables_of(block_device& image) {
    const auto view = UTHIN_TRY(thin_metadata::open_offline(image, {}));
    mapping_recorder recorder;
    UTHIN_TRY(thin_metadata::dump_metadata(*view, recorder, {}));
    device_tables tables;
    for (auto& [id, device] : recorder.devices) {
        tables[id] = std::move(device.mappings);
    }
    return tables;
}

// ---- check, dump, restore

TEST(Mutants, WhatTheCheckAcceptsDumpsRestoresAndChecksAgain) {
    std::uint64_t accepted = 0;
    std::uint64_t refused = 0;
    for_each_image([&](block_device& image, random_generator&) {
        const auto verdict = is_accepted(image);
        if (!verdict || !*verdict) {
            ++refused;
            return;
        }
        ++accepted;
        const auto text = xml_of(image);
        ASSERT_OK(text);
        io::image_device copy("copy",
                              io::sparse_image(2 * image_blocks * metadata_block_size_bytes));
        thin_metadata::restorer restorer(copy, {});
        ASSERT_OK(restore(*text, restorer));
        const auto again = is_accepted(copy);
        ASSERT_OK(again);
        EXPECT_TRUE(*again);
        ASSERT_OK_AND_ASSIGN(const auto before, tables_of(image));
        ASSERT_OK_AND_ASSIGN(const auto after, tables_of(copy));
        EXPECT_TRUE(before == after);
    });
    fmt::print("accepted {}, refused {}\n", accepted, refused);
    // A run in which either never happens tests nothing.
    if (std::getenv("UTHIN_MUTANT") == nullptr) {
        EXPECT_GT(accepted, 0U);
        EXPECT_GT(refused, accepted);
    }
}

TEST(Mutants, TheCheckOfAMetadataSnapshotEnds) {
    const auto read_snapshot = [](block_device& image, random_generator&) {
        const auto view = thin_metadata::open_offline(image, {.metadata_snapshot = true});
        if (view) {
            (void)thin_metadata::check_metadata(**view, {});
            nowhere sink;
            (void)thin_metadata::dump_metadata(**view, sink, {.shared_pieces = true});
            (void)thin_metadata::measure_usage(**view, {});
        }
    };
    for_each_image(read_snapshot, held_sources());
}

TEST(Mutants, DumpingEnds) {
    for_each_image([&](block_device& image, random_generator& random) {
        const auto text = xml_of(image);
        const auto view = thin_metadata::open_offline(image, {});
        if (view) {
            nowhere sink;
            const auto dumped = thin_metadata::dump_metadata(**view, sink, {});
            // Both walks see the same damage, or none.
            if (text) {
                EXPECT_OK(dumped);
            }
            (void)thin_metadata::dump_metadata(**view, sink, {.skip_mappings = random.one_in(2)});
        }
    });
}

TEST(Mutants, RestoringXmlEndsAndWhatItMakesChecksClean) {
    std::vector<std::string> texts;
    for (const char* scenario : {"discard-passdown-64k", "snap-break-64k", "metasnap-held"}) {
        const mutant_source source(scenario);
        io::image_device device(scenario, source.image());
        ASSERT_OK_AND_ASSIGN(std::string text, xml_of(device));
        texts.push_back(std::move(text));
    }
    std::uint64_t restored = 0;
    for_each_mutant([&](random_generator& random, std::uint64_t number) {
        const std::string text = test::mutated_text(texts[random.below(texts.size())], random);
        const std::string recipe = fmt::format("UTHIN_MUTANT={} of XML", number);
        SCOPED_TRACE(recipe);
        const test::recipe_guard guard(recipe, seconds_max);
        io::image_device image("image", io::sparse_image(image_blocks * metadata_block_size_bytes));
        thin_metadata::restorer restorer(image, {});
        if (!restore(text, restorer)) {
            return;
        }
        ++restored;
        const auto verdict = is_accepted(image);
        ASSERT_OK(verdict);
        // One block mapped twice in one device is legal, and so is all else that gets this far.
        EXPECT_TRUE(*verdict) << text.substr(0, 2000);
    });
    fmt::print("restored {}\n", restored);
    if (std::getenv("UTHIN_MUTANT") == nullptr) {
        EXPECT_GT(restored, mutant_count() / 50);
    }
}

// ---- repair

TEST(Mutants, WhatARepairMakesAlwaysChecksClean) {
    std::uint64_t repaired = 0;
    for_each_image([&](block_device& image, random_generator&) {
        const auto plan = thin_metadata::salvage::plan(image, {});
        if (!plan) {
            return;
        }
        io::image_device output("output",
                                io::sparse_image(4 * image_blocks * metadata_block_size_bytes));
        thin_metadata::restorer restorer(output, {});
        const auto sent = (*plan)->send(restorer, {.shared_pieces = true});
        if (!sent) {
            // The superblock may ask for more than any output has room for, and for sizes that no
            // pool has.
            EXPECT_THAT(sent.error().code(),
                        testing::AnyOf(error_code::no_metadata_space, error_code::invalid_argument))
                << sent.error().to_string();
            return;
        }
        ++repaired;
        const auto verdict = is_accepted(output);
        ASSERT_OK(verdict);
        EXPECT_TRUE(*verdict);
    });
    fmt::print("repaired {}\n", repaired);
    if (std::getenv("UTHIN_MUTANT") == nullptr) {
        EXPECT_GT(repaired, mutant_count() / 2);
    }
}

// Nothing but counts that are too high, as thin_check decides it.
bool has_only_leaks(const thin_metadata::check_report& report) {
    std::uint64_t leaks = 0;
    for (const auto& finding : report.findings) {
        leaks += finding.code == thin_metadata::check_code::count_too_high ||
                         finding.code == thin_metadata::check_code::count_beyond_end
                     ? 1U
                     : 0U;
    }
    return report.fatal == 0 && report.repairable != 0 && leaks == report.repairable;
}

TEST(Mutants, LeaksAreMendedWithoutLosingAnything) {
    std::uint64_t mended = 0;
    for_each_image([&](block_device& image, random_generator&) {
        const auto report = [&image]() -> result<thin_metadata::check_report> {
            const auto view = UTHIN_TRY(thin_metadata::open_offline(image, {}));
            return thin_metadata::check_metadata(*view, {});
        }();
        if (!report || !has_only_leaks(*report)) {
            return;
        }
        ++mended;
        ASSERT_OK_AND_ASSIGN(const auto before, tables_of(image));
        ASSERT_OK(thin_metadata::repair_leaks(image, {}));
        ASSERT_OK_AND_ASSIGN(const bool accepted, is_accepted(image));
        EXPECT_TRUE(accepted);
        ASSERT_OK_AND_ASSIGN(const auto after, tables_of(image));
        EXPECT_TRUE(before == after);
    });
    fmt::print("mended {}\n", mended);
    if (std::getenv("UTHIN_MUTANT") == nullptr) {
        EXPECT_GT(mended, 0U);
    }
}

// ---- the readers

TEST(Mutants, ListingUsageEnds) {
    for_each_image([&](block_device& image, random_generator& random) {
        const auto view = thin_metadata::open_offline(image, {});
        if (view) {
            (void)thin_metadata::measure_usage(
                **view, {.walk_mappings = !random.one_in(4), .deleted = {device_id(1)}});
        }
    });
}

TEST(Mutants, DifferencesEnd) {
    for_each_image([&](block_device& image, random_generator& random) {
        const auto view = thin_metadata::open_offline(image, {});
        if (!view) {
            return;
        }
        nowhere list;
        (void)thin_metadata::dump_metadata(**view, list, {.skip_mappings = true});
        for (int pair = 0; pair < 3 && !list.devices.empty(); ++pair) {
            const auto left = thin_metadata::mapping_root_of(
                **view, list.devices[random.below(list.devices.size())]);
            const auto right = thin_metadata::mapping_root_of(
                **view, list.devices[random.below(list.devices.size())]);
            if (left && right) {
                const auto ignore = [](const thin_metadata::difference_run&) {
                    return result<void>();
                };
                (void)thin_metadata::find_differences(**view, *left, *right, ignore);
            }
        }
    });
}

TEST(Mutants, ReverseMappingEnds) {
    for_each_image([&](block_device& image, random_generator& random) {
        const auto view = thin_metadata::open_offline(image, {});
        if (view) {
            const data_block begin(random.below(1000));
            (void)thin_metadata::reverse_mappings(
                **view, {{begin, begin + random.next() % 5000}},
                [](const thin_metadata::reverse_run&) { return result<void>(); });
        }
    });
}

TEST(Mutants, TheToolsThatTouchDataEnd) {
    for_each_image([&](block_device& image, random_generator&) {
        const auto view = thin_metadata::open_offline(image, {});
        if (!view) {
            return;
        }
        (void)thin_metadata::list_free_data(**view, [](const auto&) { return result<void>(); });
        thin_metadata::shrink_survey survey;
        if (thin_metadata::dump_metadata(**view, survey, {.shared_pieces = true})) {
            const auto plan = survey.plan(300);
            if (plan) {
                nowhere sink;
                thin_metadata::shrink_filter filter(sink, *plan);
                EXPECT_OK(thin_metadata::dump_metadata(**view, filter, {.shared_pieces = true}));
            }
        }
        (void)thin_metadata::mapped_end_bytes(**view, device_id(1));
    });
}

// ---- pack

using bytes = std::vector<std::byte>;

result<void> unpack(std::span<const std::byte> from, io::image_device& image) {
    const auto input = [&from](std::span<std::byte> buffer) -> result<std::size_t> {
        const std::size_t got = std::min(buffer.size(), from.size());
        std::copy_n(from.begin(), got, buffer.begin());
        from = from.subspan(got);
        return got;
    };
    std::uint64_t allowed = 0;
    return thin_metadata::unpack_metadata(
        input,
        {.resize = [&](std::uint64_t blocks) -> result<void> {
             allowed = blocks;
             return {};
         },
         .write = [&](std::uint64_t block, std::span<const std::byte> content) -> result<void> {
             EXPECT_LT(block, allowed);
             EXPECT_EQ(content.size(), metadata_block_size_bytes);
             return block < image_blocks ? image.write(block * metadata_block_size_bytes, content)
                                         : result<void>();
         },
         .flush = []() -> result<void> { return {}; }});
}

// The header, and the plain text of the only chunk.
struct open_pack {
    bytes header;
    bytes plain;
};

open_pack opened(const bytes& pack) {
    constexpr std::size_t header_bytes = 32;
    open_pack open{.header = bytes(pack.begin(), pack.begin() + header_bytes), .plain = {}};
    open.plain.resize(8U << 20);
    uLongf plain_bytes = open.plain.size();
    EXPECT_EQ(uncompress(reinterpret_cast<Bytef*>(open.plain.data()), &plain_bytes,
                         reinterpret_cast<const Bytef*>(pack.data() + header_bytes + 8),
                         pack.size() - header_bytes - 8),
              Z_OK);
    open.plain.resize(plain_bytes);
    return open;
}

bytes closed(const open_pack& open) {
    uLongf packed_bytes = compressBound(open.plain.size());
    bytes packed(packed_bytes);
    EXPECT_EQ(compress2(reinterpret_cast<Bytef*>(packed.data()), &packed_bytes,
                        reinterpret_cast<const Bytef*>(open.plain.data()), open.plain.size(), 1),
              Z_OK);
    packed.resize(packed_bytes);
    bytes pack = open.header;
    std::array<std::byte, 8> length{};
    store_le(length.data(), std::uint64_t{packed_bytes});
    pack.insert(pack.end(), length.begin(), length.end());
    pack.insert(pack.end(), packed.begin(), packed.end());
    return pack;
}

// Instructions of every kind behind one another, as 1.x writes them.
void put_instructions(bytes& plain, random_generator& random) {
    const std::size_t at = random.below(plain.size());
    for (std::size_t index = 0; index < 64 && at + index < plain.size(); ++index) {
        plain[at + index] = static_cast<std::byte>(random.below(12) << 4 | random.below(16));
    }
}

TEST(Mutants, UnpackingEndsAndStaysInsideTheImage) {
    std::vector<open_pack> packs;
    for (const char* scenario : {"deletes", "snap-break-64k", "metasnap-held"}) {
        const mutant_source source(scenario);
        io::image_device device(scenario, source.image());
        bytes pack;
        ASSERT_OK(thin_metadata::pack_metadata(
            device, [&pack](std::span<const std::byte> piece) -> result<void> {
                pack.insert(pack.end(), piece.begin(), piece.end());
                return {};
            }));
        packs.push_back(opened(pack));
    }
    for_each_mutant([&](random_generator& random, std::uint64_t number) {
        open_pack open = packs[random.below(packs.size())];
        for (std::uint64_t left = 1 + random.below(3); left != 0; --left) {
            switch (random.below(5)) {
                case 0:
                    open.header[16 + random.below(16)] ^= std::byte{1} << random.below(8);
                    break;
                case 1: open.plain.resize(1 + random.below(open.plain.size())); break;
                case 2: put_instructions(open.plain, random); break;
                default:
                    open.plain[random.below(open.plain.size())] =
                        static_cast<std::byte>(random.below(256));
                    break;
            }
        }
        bytes pack = closed(open);
        if (random.one_in(4)) {
            pack[random.below(pack.size())] ^= std::byte{1} << random.below(8);
        }
        const std::string recipe = fmt::format("UTHIN_MUTANT={} of a pack", number);
        SCOPED_TRACE(recipe);
        const test::recipe_guard guard(recipe, seconds_max);
        io::image_device image("image", io::sparse_image(image_blocks * metadata_block_size_bytes));
        (void)unpack(pack, image);
    });
}

TEST(Mutants, PackingKeepsEveryBlockThatVerifies) {
    const auto pack_and_compare = [](block_device& image, random_generator&) {
        bytes pack;
        ASSERT_OK(thin_metadata::pack_metadata(
            image, [&pack](std::span<const std::byte> piece) -> result<void> {
                pack.insert(pack.end(), piece.begin(), piece.end());
                return {};
            }));
        io::image_device copy("copy", io::sparse_image(image_blocks * metadata_block_size_bytes));
        ASSERT_OK(unpack(pack, copy));
        EXPECT_EQ(is_accepted(image).value_or(false), is_accepted(copy).value_or(false));
    };
    for_each_image(pack_and_compare, held_sources(), mutant_count() / slow_share);
}

}  // namespace
}  // namespace uthin
