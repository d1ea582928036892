// What stands behind the thin_* tools, on metadata, XML and pack files that are damaged with good
// checksums: nothing crashes or hangs, and what the check accepts can be dumped, restored and
// checked again.
//
// A mutant is its number and the seed: UTHIN_SEED=S UTHIN_MUTANT=N runs that one alone.
#include <cstdlib>

#include <fmt/format.h>

#include "support/matchers.h"
#include "support/mutants.h"
#include "support/pack_parts.h"
#include "support/round_trip.h"
#include "support/seed.h"
#include "support/text_changes.h"
#include "support/tier.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/device_copy.h"
#include "thin_metadata/difference.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/free_space.h"
#include "thin_metadata/leak_repair.h"
#include "thin_metadata/pool_usage.h"
#include "thin_metadata/restorer.h"
#include "thin_metadata/reverse_map.h"
#include "thin_metadata/salvage.h"
#include "thin_metadata/shrink.h"

namespace uthin {
namespace {

using test::is_accepted;
using test::mutant_source;
using test::nowhere;
using test::tables_of;
using test::xml_of;

constexpr unsigned seconds_max = 10;
constexpr std::uint64_t image_blocks = 1024;

std::uint64_t mutant_count() {
    return test::tier() == 0 ? 300 : 20'000;
}

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
void for_each_mutant(const Body& body) {
    const char* const one = std::getenv("UTHIN_MUTANT");
    const std::uint64_t first = one != nullptr ? std::strtoull(one, nullptr, 0) : 0;
    const std::uint64_t end = one != nullptr ? first + 1 : mutant_count();
    fmt::print("seed: UTHIN_SEED={}, mutants {} to {}\n", test::seed(), first, end - 1);
    for (std::uint64_t number = first; number < end && !testing::Test::HasFailure(); ++number) {
        random_generator random(test::seed() * 0x9e3779b97f4a7c15 + number);
        body(random, number);
    }
}

// The same with a damaged image.
template <class Body>
void for_each_image(const Body& body, const std::vector<mutant_source>& from = sources()) {
    const auto with_image = [&](random_generator& random, std::uint64_t number) {
        const mutant_source& source = from[random.below(from.size())];
        const auto mutant = source.mutate(random);
        const std::string recipe = fmt::format("UTHIN_MUTANT={} {}", number, mutant.recipe);
        SCOPED_TRACE(recipe);
        const test::recipe_guard guard(recipe, seconds_max);
        body(*mutant.device, random);
    };
    for_each_mutant(with_image);
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
        ASSERT_OK(test::restore_xml(*text, copy));
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
        if (!test::restore_xml(text, image)) {
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

TEST(Mutants, LeaksAreMendedWithoutLosingAnything) {
    std::uint64_t mended = 0;
    for_each_image([&](block_device& image, random_generator&) {
        const auto report = [&image]() -> result<thin_metadata::check_report> {
            const auto view = UTHIN_TRY(thin_metadata::open_offline(image, {}));
            return thin_metadata::check_metadata(*view, {});
        }();
        if (!report || !report->has_only_leaks()) {
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

TEST(Mutants, UnpackingEndsAndStaysInsideTheImage) {
    std::vector<test::open_pack> packs;
    for (const char* scenario : {"deletes", "snap-break-64k", "metasnap-held"}) {
        const mutant_source source(scenario);
        io::image_device device(scenario, source.image());
        ASSERT_OK_AND_ASSIGN(const auto pack, test::packed(device));
        const auto open = test::opened(pack);
        ASSERT_TRUE(open.has_value());
        packs.push_back(*open);
    }
    for_each_mutant([&](random_generator& random, std::uint64_t number) {
        test::open_pack open = packs[random.below(packs.size())];
        for (std::uint64_t left = 1 + random.below(3); left != 0; --left) {
            switch (random.below(5)) {
                case 0:
                    open.header[16 + random.below(16)] ^= std::byte{1} << random.below(8);
                    break;
                case 1: open.plain.resize(1 + random.below(open.plain.size())); break;
                case 2: test::put_instructions(open.plain, random); break;
                default:
                    open.plain[random.below(open.plain.size())] =
                        static_cast<std::byte>(random.below(256));
                    break;
            }
        }
        std::vector<std::byte> pack = test::closed(open);
        if (random.one_in(4)) {
            pack[random.below(pack.size())] ^= std::byte{1} << random.below(8);
        }
        const std::string recipe = fmt::format("UTHIN_MUTANT={} of a pack", number);
        SCOPED_TRACE(recipe);
        const test::recipe_guard guard(recipe, seconds_max);
        io::image_device image("image", io::sparse_image(image_blocks * metadata_block_size_bytes));
        const auto unpacked = test::unpack_into(pack, image);
        EXPECT_TRUE(unpacked || unpacked.error().code() != error_code::failed)
            << unpacked.error().to_string();
    });
}

TEST(Mutants, PackingKeepsEveryBlockThatVerifies) {
    const auto pack_and_compare = [](block_device& image, random_generator&) {
        ASSERT_OK_AND_ASSIGN(const auto pack, test::packed(image));
        io::image_device copy("copy", io::sparse_image(image_blocks * metadata_block_size_bytes));
        ASSERT_OK(test::unpack_into(pack, copy));
        EXPECT_EQ(is_accepted(image).value_or(false), is_accepted(copy).value_or(false));
    };
    for_each_image(pack_and_compare, held_sources());
}

}  // namespace
}  // namespace uthin
