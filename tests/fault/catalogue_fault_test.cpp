// Every call of the catalogue with the n-th access to its files failing, or the n-th statement, for
// every n, once and for ever.
//
// Whatever fails: the call has happened or says that it failed, naming the file. What is still read
// from the same object is the old or the new state. After a failure that is no refusal every change
// is refused until the catalogue is opened anew (CT4). Opened anew on healthy files it holds the
// old or the new state, the new one after a success, the old one when no file had failed; and it
// takes changes again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <vector>

#include <fmt/format.h>

#include "base/result.h"
#include "pool/catalogue.h"
#include "support/failing_sqlite.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::file_access;
using test::file_fault;
using test::HasCode;
using test::IsOk;
using test::statement_stage;
using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* pool_uuid = "pool-1";

volume_record record_of(std::uint64_t id, std::string name) {
    volume_record record;
    record.uuid = fmt::format("uuid-{}", id);
    record.identity = {device_id(id), 3, 100 + id};
    record.name = std::move(name);
    record.size_bytes = 512 * (id + 1);
    record.labels = {{"a", "1"}, {"b", ""}};
    return record;
}

intent intent_of(intent_kind kind, const volume_record& volume, const device_identity& hidden) {
    intent what;
    what.kind = kind;
    what.volume = volume;
    what.hidden = hidden;
    return what;
}

std::string text_of(const volume_record& volume) {
    std::string text = fmt::format(
        "{} {}/{}/{} '{}' {} '{}' {} {}:", volume.uuid, volume.identity.id.value(),
        volume.identity.creation_time, volume.identity.creation_transaction_id, volume.name,
        volume.size_bytes, volume.external_origin, volume.reserved_bytes, volume.limit_bytes);
    for (const auto& [key, value] : volume.labels) {
        text += fmt::format(" {}={}", key, value);
    }
    return text + "\n";
}

// All that a catalogue holds.
result<std::string> text_of(catalogue& names) {
    std::string text;
    const catalogue::contents contents = UTHIN_TRY(names.read_all());
    for (const volume_record& volume : contents.volumes) {
        text += text_of(volume);
    }
    for (const intent& what : contents.intents) {
        text +=
            fmt::format("{} kind {} hides {}/{}/{} {}", what.number, static_cast<int>(what.kind),
                        what.hidden.id.value(), what.hidden.creation_time,
                        what.hidden.creation_transaction_id, text_of(what.volume));
    }
    for (const volume_record& volume : UTHIN_TRY(names.limited_volumes())) {
        text += "limited " + text_of(volume);
    }
    if (const auto lease = UTHIN_TRY(names.lease())) {
        text += fmt::format("lease {} {}", lease->owner, lease->expires_unix_seconds);
    }
    return text;
}

// The intents of the base, by number.
constexpr std::int64_t creation = 1;  // of "pending", device 4
constexpr std::int64_t old_root = 2;  // of "b", rolled back
constexpr std::int64_t deletion = 3;  // of device 20
constexpr std::int64_t transfer = 4;  // device 21

// A catalogue with something of everything; with the table of limits or without.
result<void> fill(catalogue& names, bool limited) {
    for (const auto& [id, name] : {std::pair{1, "a"}, {2, "b"}, {3, "c"}}) {
        UTHIN_TRY(names.adopt(record_of(static_cast<std::uint64_t>(id), name)));
    }
    volume_record smaller = record_of(2, "b");
    smaller.size_bytes = 512;
    std::vector<intent> all = {
        intent_of(intent_kind::create, record_of(4, "pending"), {}),
        intent_of(intent_kind::rollback, smaller, {device_id(19), 4, 5}),
        intent_of(intent_kind::reap, {}, {device_id(20), 4, 6}),
        intent_of(intent_kind::reap, {}, {device_id(21), 4, 7}),
    };
    UTHIN_TRY(names.begin(all));
    volume_record sent = record_of(21, "sent");
    UTHIN_TRY(names.keep(transfer, sent));
    UTHIN_TRY(names.set_lease(metadata_snapshot_lease{"a reader", 1'900'000'000}));
    return limited ? names.set_limits("uuid-1", 512, 1024) : result<void>();
}

struct call {
    const char* name;
    std::function<result<void>(catalogue&)> act;
    bool changes = true;
};

result<intent> pending(catalogue& names, std::int64_t number) {
    for (const intent& what : UTHIN_TRY(names.intents())) {
        if (what.number == number) {
            return what;
        }
    }
    return fail(error_code::not_found, "no such intent");
}

std::function<result<void>(catalogue&)> resolving(std::int64_t number, bool happened) {
    return [=](catalogue& names) -> result<void> {
        const intent_outcome outcome{UTHIN_TRY(pending(names, number)), happened};
        return names.resolve(std::span(&outcome, 1));
    };
}

const std::vector<std::string>& stale_c() {
    static const std::vector<std::string> uuids = {"uuid-3"};
    return uuids;
}

std::vector<call> begun_and_resolved() {
    return {
        {"begin a creation in the place of a stale one",
         [](catalogue& names) {
             volume_record fresh = record_of(5, "c");
             fresh.limit_bytes = 4096;
             intent what = intent_of(intent_kind::create, fresh, {});
             return names.begin(std::span(&what, 1), stale_c());
         }},
        {"begin a deletion and a rollback",
         [](catalogue& names) {
             std::vector<intent> both = {
                 intent_of(intent_kind::reap, {}, record_of(1, "a").identity),
                 intent_of(intent_kind::rollback, record_of(3, "c"), {device_id(22), 9, 9})};
             return names.begin(both);
         }},
        {"resolve a creation", resolving(creation, true)},
        {"resolve a creation that did not happen", resolving(creation, false)},
        {"resolve a rollback", resolving(old_root, true)},
        {"resolve a rollback that did not happen", resolving(old_root, false)},
        {"resolve a deletion", resolving(deletion, true)},
        {"resolve a deletion that goes on", resolving(deletion, false)},
        {"resolve a transfer", resolving(transfer, true)},
        {"publish a transfer in the place of a volume",
         [](catalogue& names) {
             const std::int64_t number = transfer;
             volume_record volume = record_of(21, "a");
             volume.uuid = "uuid-1";
             volume.reserved_bytes = 1024;
             intent old = intent_of(intent_kind::reap, {}, record_of(1, "a").identity);
             return names.publish(std::span(&number, 1), std::span(&volume, 1), std::span(&old, 1),
                                  stale_c());
         }},
        {"keep a hidden device",
         [](catalogue& names) { return names.keep(deletion, record_of(20, "kept")); }},
        {"forget a transfer", [](catalogue& names) { return names.forget(transfer); }},
    };
}

std::vector<call> other_changes() {
    return {
        {"set_labels",
         [](catalogue& names) {
             return names.set_labels("uuid-1", {{"x", "1"}, {"y", "2"}});
         }},
        {"drop_origin",
         [](catalogue& names) {
             return names.drop_origin("uuid-2", {{"z", ""}});
         }},
        {"rename", [](catalogue& names) { return names.rename("uuid-1", "z"); }},
        {"resize", [](catalogue& names) { return names.resize("uuid-1", 1U << 20); }},
        {"set_limits", [](catalogue& names) { return names.set_limits("uuid-2", 0, 512); }},
        {"set_limits to none", [](catalogue& names) { return names.set_limits("uuid-1", 0, 0); }},
        {"set_lease",
         [](catalogue& names) {
             return names.set_lease(metadata_snapshot_lease{"another", 1'900'000'001});
         }},
        {"set_lease to none", [](catalogue& names) { return names.set_lease(std::nullopt); }},
        {"adopt", [](catalogue& names) { return names.adopt(record_of(7, "c"), stale_c()); }},
    };
}

std::vector<call> readings() {
    const auto same = [](const auto& found, const char* name) -> result<void> {
        if (!UTHIN_TRY(found)) {
            return fail(error_code::corrupt, "the volume is not found");
        }
        if ((*found)->name != name) {
            return fail(error_code::corrupt, "another volume is found");
        }
        return {};
    };
    return {
        {"read everything",
         [](catalogue& names) -> result<void> {
             UTHIN_TRY(text_of(names));
             return {};
         },
         false},
        {"find by name", [=](catalogue& names) { return same(names.find_name("a"), "a"); }, false},
        {"find by device",
         [=](catalogue& names) { return same(names.find_device(device_id(2)), "b"); }, false},
        {"find by uuid",
         [=](catalogue& names) { return same(names.find_uuid("uuid-4"), "pending"); }, false},
        {"find the limited",
         [](catalogue& names) -> result<void> {
             UTHIN_TRY(names.limited_volumes());
             return {};
         },
         false},
        {"read the lease",
         [](catalogue& names) -> result<void> {
             UTHIN_TRY(names.lease());
             return {};
         },
         false},
    };
}

std::vector<call> all_calls() {
    std::vector<call> all = begun_and_resolved();
    for (auto& part : {other_changes(), readings()}) {
        all.insert(all.end(), part.begin(), part.end());
    }
    return all;
}

// What fails.
struct failure {
    const char* name;
    std::function<void(test::failing_vfs&, test::failing_statements&, std::uint64_t nth)> arm;
    bool of_files;
};

std::vector<failure> failures() {
    const auto file = [](const char* name, file_fault fault) {
        return failure{name,
                       [=](test::failing_vfs& vfs, test::failing_statements&, std::uint64_t nth) {
                           file_fault armed = fault;
                           armed.nth = nth;
                           vfs.arm(armed);
                       },
                       true};
    };
    const auto statement = [](const char* name, statement_stage stage, bool for_ever) {
        return failure{name,
                       [=](test::failing_vfs&, test::failing_statements& statements,
                           std::uint64_t nth) { statements.arm(stage, nth, for_ever); },
                       false};
    };
    const std::uint32_t growing = test::only(file_access::write);
    return {
        file("an access fails once", {}),
        file("every access fails", {.for_ever = true}),
        file("writes are torn", {.for_ever = true, .torn = true}),
        file("the file system is full",
             {.for_ever = true, .kinds = growing, .status = SQLITE_FULL}),
        file("a sync fails once", {.kinds = test::only(file_access::sync)}),
        statement("a statement fails once", statement_stage::run, false),
        statement("every statement fails", statement_stage::run, true),
        statement("a statement is not understood once", statement_stage::compiled, false),
        statement("no statement is understood", statement_stage::compiled, true),
    };
}

class CatalogueFault : public testing::TestWithParam<bool> {
protected:
    CatalogueFault() {
        auto made = catalogue::create(base_, pool_uuid, {});
        EXPECT_THAT(made, IsOk());
        EXPECT_THAT(fill(**made, GetParam()), IsOk());
        const auto text = text_of(**made);
        EXPECT_THAT(text, IsOk());
        base_text_ = text.value_or("");
    }
    void begin_anew() const {
        std::filesystem::remove(path_ + "-journal");
        std::filesystem::copy_file(base_, path_, std::filesystem::copy_options::overwrite_existing);
    }
    [[nodiscard]] result<std::unique_ptr<catalogue>> open() const {
        return catalogue::open(path_, pool_uuid, {.read_only = false, .vfs_name = vfs_.name()});
    }
    void heal() {
        vfs_.disarm();
        statements_.disarm();
    }
    [[nodiscard]] std::uint64_t injected() const {
        return vfs_.injected() + statements_.injected();
    }
    std::string text_after(const call& of) {
        begin_anew();
        auto opened = open();
        EXPECT_THAT(opened, IsOk());
        EXPECT_THAT(of.act(**opened), IsOk()) << of.name;
        return text_of(**opened).value_or("");
    }
    // What is there now, on healthy files.
    std::string text_anew() {
        auto opened = open();
        EXPECT_THAT(opened, IsOk());
        if (!opened) {
            return {};
        }
        const auto text = text_of(**opened);
        EXPECT_THAT(text, IsOk());
        EXPECT_THAT((*opened)->rename("uuid-2", "renamed"), IsOk());
        EXPECT_EQ((*opened)->find_name("renamed").value()->uuid, "uuid-2");
        return text.value_or("");
    }
    // Nothing at all where what failed could not be undone.
    void expect_only_old_or_new(catalogue& names, const std::string& after, bool healthy) {
        const auto text = text_of(names);
        if (text) {
            EXPECT_TRUE(*text == base_text_ || *text == after) << *text;
        } else if (healthy) {
            EXPECT_THAT(text.error().message(), HasSubstr("close the pool and open it again"));
        }
    }
    bool survives(const call& of, const failure& what, std::uint64_t nth, const std::string& after);

    test::failing_statements statements_;
    test::failing_vfs vfs_;
    test::temporary_directory directory_;
    std::string base_ = directory_.path() / "base.db";
    std::string path_ = directory_.path() / "catalog.db";
    std::string base_text_;
};

// False: the call made fewer accesses.
bool CatalogueFault::survives(const call& of, const failure& what, std::uint64_t nth,
                              const std::string& after) {
    SCOPED_TRACE(fmt::format("{}: {}, {}", of.name, what.name, nth));
    begin_anew();
    auto opened = open();
    EXPECT_THAT(opened, IsOk());
    catalogue& names = **opened;
    what.arm(vfs_, statements_, nth);
    const result<void> outcome = of.act(names);
    expect_only_old_or_new(names, after, false);
    const bool struck = injected() != 0;
    heal();
    if (!outcome) {
        EXPECT_TRUE(struck);
        EXPECT_THAT(outcome.error().message(), StartsWith(path_));
        EXPECT_THAT(
            outcome.error().code(),
            testing::AnyOf(error_code::io_error, error_code::no_data_space, error_code::not_found));
    }
    expect_only_old_or_new(names, after, true);
    // A reading that failed, and a change that could not begin, have touched nothing.
    const result<void> next = names.set_lease(metadata_snapshot_lease{"a reader", 1'900'000'000});
    if (outcome) {
        EXPECT_THAT(next, IsOk());
    } else if (!next) {
        EXPECT_TRUE(of.changes);
        EXPECT_THAT(next, HasCode(error_code::io_error));
        EXPECT_THAT(next.error().message(), HasSubstr("close the pool and open it again"));
    }
    opened->reset();
    std::string found = text_anew();
    if (outcome && std::string_view(of.name) == "set_lease to none") {
        return struck;  // the lease has just been set again
    }
    if (outcome && std::string_view(of.name) != "set_lease") {
        EXPECT_EQ(found, after);
    } else if (!what.of_files) {
        EXPECT_EQ(found, base_text_);
    }
    EXPECT_TRUE(found == base_text_ || found == after) << found;
    return struck;
}

TEST_P(CatalogueFault, EveryCallHappensOrSaysThatItFailed) {
    constexpr std::uint64_t accesses_max = 2000;
    std::uint64_t cases = 0;
    for (const call& of : all_calls()) {
        const std::string after = text_after(of);
        EXPECT_EQ(of.changes && after == base_text_,
                  std::string_view(of.name) == "resolve a deletion that goes on" ||
                      (!GetParam() && std::string_view(of.name) == "set_limits to none"))
            << of.name;
        for (const failure& what : failures()) {
            std::uint64_t nth = 1;
            while (survives(of, what, nth, after) && !HasFailure()) {
                ++nth;
                ASSERT_LT(nth, accesses_max);
            }
            cases += nth;
            ASSERT_FALSE(HasFailure());
        }
    }
    std::printf("catalogue faults: runs=%llu\n", static_cast<unsigned long long>(cases));
}

TEST_P(CatalogueFault, OpeningChangesNothingAndSaysWhyItFailed) {
    for (const failure& what : failures()) {
        for (std::uint64_t nth = 1;; ++nth) {
            SCOPED_TRACE(fmt::format("{}, {}", what.name, nth));
            begin_anew();
            what.arm(vfs_, statements_, nth);
            auto opened = open();
            const bool struck = injected() != 0;
            heal();
            if (!opened) {
                EXPECT_TRUE(struck);
                EXPECT_THAT(opened.error().message(), StartsWith(path_));
            } else {
                EXPECT_EQ(text_of(**opened).value_or("?"), base_text_);
                opened->reset();
            }
            EXPECT_EQ(text_anew(), base_text_);
            ASSERT_FALSE(HasFailure());
            if (!struck) {
                break;
            }
        }
    }
}

TEST_P(CatalogueFault, AFailedCreationIsRefusedOrDoneAnew) {
    for (const failure& what : failures()) {
        for (std::uint64_t nth = 1;; ++nth) {
            SCOPED_TRACE(fmt::format("{}, {}", what.name, nth));
            std::filesystem::remove(path_);
            std::filesystem::remove(path_ + "-journal");
            const catalogue_options options{.read_only = false, .vfs_name = vfs_.name()};
            what.arm(vfs_, statements_, nth);
            auto made = catalogue::create(path_, pool_uuid, options);
            const bool struck = injected() != 0;
            heal();
            if (!made) {
                EXPECT_TRUE(struck);
                EXPECT_THAT(made.error().message(), StartsWith(path_));
                made = catalogue::create(path_, pool_uuid, options);
            }
            if (made) {
                EXPECT_THAT(fill(**made, GetParam()), IsOk());
                made->reset();
            } else {
                EXPECT_THAT(made, HasCode(error_code::already_exists));
                auto opened = open();
                ASSERT_THAT(opened, IsOk());
                EXPECT_THAT(fill(**opened, GetParam()), IsOk());
            }
            EXPECT_EQ(text_anew(), base_text_);
            ASSERT_FALSE(HasFailure());
            if (!struck) {
                break;
            }
        }
    }
}

// The journal of a change that was cut off, which the next opening has to play back; and again,
// when that fails.
TEST_P(CatalogueFault, ACutOffChangeIsUndoneByAnOpeningThatMayFailItself) {
    const call publishing = begun_and_resolved()[9];
    const std::string after = text_after(publishing);
    bool cut = true;
    for (std::uint64_t nth = 1; cut; ++nth) {
        bool struck = true;
        for (std::uint64_t second = 1; struck; ++second) {
            SCOPED_TRACE(fmt::format("cut at {}, opening at {}", nth, second));
            begin_anew();
            auto opened = open();
            ASSERT_THAT(opened, IsOk());
            vfs_.arm({.nth = nth, .for_ever = true, .torn = second % 2 != 0});
            (void)publishing.act(**opened);
            cut = vfs_.injected() != 0;
            opened->reset();
            vfs_.arm({.nth = second});
            auto again = open();
            struck = vfs_.injected() != 0;
            heal();
            again = fail(error_code::cancelled, "closed");
            const std::string found = text_anew();
            EXPECT_TRUE(found == base_text_ || found == after) << found;
            ASSERT_FALSE(HasFailure());
        }
    }
}

INSTANTIATE_TEST_SUITE_P(WithLimits, CatalogueFault, testing::Bool());

// A code that a caller acts on differently is told by it.
TEST(CatalogueCodes, WhatSqliteTellsBecomesAnErrorOfItsKind) {
    test::failing_vfs vfs;
    const test::temporary_directory directory;
    const std::string path = directory.path() / "catalog.db";
    const catalogue_options options{.read_only = false, .vfs_name = vfs.name()};
    struct told {
        file_access access;
        int status;
        error_code code;
    };
    for (const told& one : {told{file_access::write, SQLITE_FULL, error_code::no_data_space},
                            told{file_access::write, SQLITE_READONLY, error_code::read_only},
                            told{file_access::write, SQLITE_NOMEM, error_code::out_of_memory},
                            told{file_access::read, SQLITE_CORRUPT, error_code::corrupt},
                            told{file_access::read, SQLITE_NOTADB, error_code::corrupt},
                            told{file_access::lock, SQLITE_BUSY, error_code::busy},
                            told{file_access::lock, SQLITE_LOCKED, error_code::busy},
                            told{file_access::open, SQLITE_CANTOPEN, error_code::not_found},
                            told{file_access::write, SQLITE_IOERR_WRITE, error_code::io_error}}) {
        SCOPED_TRACE(fmt::format("status {}", one.status));
        std::filesystem::remove(path);
        std::filesystem::remove(path + "-journal");
        ASSERT_THAT(catalogue::create(path, pool_uuid, options), IsOk());
        vfs.arm(
            {.nth = 1, .for_ever = true, .kinds = test::only(one.access), .status = one.status});
        auto opened = catalogue::open(path, pool_uuid, options);
        if (one.access != file_access::write) {
            EXPECT_THAT(opened, HasCode(one.code));
        } else {
            ASSERT_THAT(opened, IsOk());
            EXPECT_THAT((*opened)->adopt(record_of(1, "a")), HasCode(one.code));
        }
        vfs.disarm();
    }
}

}  // namespace
}  // namespace uthin
