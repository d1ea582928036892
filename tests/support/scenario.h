// Scenarios: texts that say what is done to pools, run by a real kernel and by uthin alike.
//
// One step on each line, '#' begins a comment. Sectors of 512 bytes everywhere.
// tests/data/scenarios/README.md has the steps. "for NAME FROM TO" ... "end" repeats; {NAME*8+3}
// computes. A step that begins with
// "!Dn" must turn out differently in uthin and in the kernel, for the reason n of
// docs/kernel-differences.md; "!Dn=ERRNO" says how it ends in uthin. With "?" it
// may turn out differently.
//
// The outcome is a text: "NUMBER LINE STEP = ERRNO" for each step that failed or printed something,
// what it printed below it, indented; the steps done at the end. compare_outcomes() knows it.
//
// Threads   One owner; steps in the background run on threads of their own.
// Failures  std::runtime_error for a scenario that cannot be read.
// Source    Plain standard C++: the same file is compiled into the program that runs in the guest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace uthin::test {

// What runs the steps. Calls return 0 or an errno.
class scenario_backend {
public:
    virtual ~scenario_backend() = default;

    virtual int make_disk(const std::string& name, std::uint64_t size_sectors) = 0;
    virtual int create(const std::string& name, const std::string& table) = 0;
    virtual int load(const std::string& name, const std::string& table) = 0;
    virtual int clear(const std::string& name) = 0;
    virtual int suspend(const std::string& name, bool noflush) = 0;
    virtual int resume(const std::string& name) = 0;
    virtual int remove(const std::string& name) = 0;
    virtual int message(const std::string& name, std::uint64_t sector, const std::string& text) = 0;
    virtual int status(const std::string& name, bool noflush, std::string& text) = 0;
    virtual int table(const std::string& name, std::string& text) = 0;
    virtual int events(const std::string& name, std::uint64_t& count) = 0;
    virtual int set_no_space_timeout(std::uint64_t seconds) = 0;
    // Bytes done, or minus an errno.
    virtual std::int64_t read(const std::string& name, std::uint64_t sector,
                              std::span<std::byte> buffer) = 0;
    virtual std::int64_t write(const std::string& name, std::uint64_t sector,
                               std::span<const std::byte> buffer) = 0;
    virtual int discard(const std::string& name, std::uint64_t sector,
                        std::uint64_t length_sectors) = 0;
    virtual int flush(const std::string& name) = 0;
    virtual std::uint64_t size_sectors(const std::string& name) = 0;
    // The metadata on a disk that no pool uses, as lines; or a word by which a later pass finds it.
    virtual std::string dump(const std::string& disk) = 0;
    // A buffer that read() and write() can take.
    virtual std::span<std::byte> buffer(std::size_t bytes) = 0;
};

// "EIO", "0", or the number of an errno without a name here.
[[nodiscard]] std::string errno_word(int error);

// Runs all steps; then maps what is active, removes everything and dumps disk0, if there is one.
[[nodiscard]] std::string run_scenario(const std::string& text, scenario_backend& on);

}  // namespace uthin::test
