// The mappings of one volume that the hit path finds without a lock: fixed size, set-associative,
// runs of neighbours and runs of whole runs apart from single ones. A block may be kept in more
// than one of these parts, with the same mapping.
//
// Invariants
//   MC1  find() returns a mapping that was published, and no change of it was followed by put(),
//        invalidate() or advance_epoch() before find() began.
//   MC2  Nothing looked up before such a change can be stored after it: what find() leaves behind
//        on a miss is void, for each part, once its line there or the epoch changed.
//   MC3  What is no longer true leaves the single mappings before runs_, and runs_ before
//        long_runs_: who saw a mapping in one of them, and then finds the line of the next one as
//        it was before, has seen a true one and may add it there.
//   MC4  From expect(), before a change is published, to told(), after the calls of MC1 for it, its
//        blocks are not found: who has seen a new mapping in the metadata (and written to it) is
//        not given the old one afterwards.
// Threads   find, fill: any. The others: the executor, after it published the change they are for.
//           What makes a hit safe to *use* is not here: the io_ticket taken before find() keeps a
//           snapshot from making a "not shared" untrue until the write ended, and the data_pin
//           keeps an unmapped block from being given to somebody else.
// Failures  None; an entry may be missing at any time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "pool/mapping_runs.h"
#include "uthin/metadata.h"
#include "uthin/units.h"

namespace uthin::pool_engine {

class mapping_cache {
public:
    // What a miss leaves behind: the state of the lines, read before the caller looks up.
    struct miss {
        std::uint64_t long_run_version = 0;
        std::uint64_t run_version = 0;
        std::uint64_t version = 0;
        std::uint64_t epoch = 0;
    };

    // Single mappings; runs have an eighth as many lines, long ones a 32nd of that.
    explicit mapping_cache(std::uint32_t entries);

    [[nodiscard]] std::optional<lookup_result> find(virtual_block block, miss& on_miss) const;
    // Stores what the caller looked up after find() missed, unless MC2 forbids it.
    void fill(virtual_block block, const miss& from, const lookup_result& mapping);

    void put(virtual_block block, const lookup_result& mapping);
    void invalidate(virtual_block block);
    void invalidate(range<virtual_block> blocks);
    // Every entry dies at once, O(1).
    void advance_epoch();
    // MC4. Others may be missed, too. Expectations add up.
    void expect(range<virtual_block> blocks);
    // Of everything that was expected.
    void told();

private:
    static constexpr std::size_t ways = 3;
    // Two words per mapping:
    //   first   virtual block (48 bits), epoch bits 0..15
    //   second  data block (40 bits), shared (1), valid (1), epoch bits 16..37
    struct entry {
        std::atomic<std::uint64_t> first{0};
        std::atomic<std::uint64_t> second{0};
    };
    // One cache line. `version` is odd while somebody writes to the set.
    struct alignas(64) set {
        std::atomic<std::uint64_t> version{0};
        std::array<entry, ways> entries;
    };
    static_assert(sizeof(set) == 64);

    // Neighbouring blocks share a set, so that what is in use takes few lines of the processor's
    // cache, or go to neighbouring ones, so that a scan fills this one evenly.
    [[nodiscard]] set& set_of(virtual_block block) const noexcept {
        return sets_[block.value() / ways & set_mask_];
    }
    [[nodiscard]] std::optional<lookup_result> find_single(virtual_block block, std::uint64_t epoch,
                                                           std::uint64_t& version) const;
    // Block and its neighbour by `step` are neighbours on the data device, too, as far as known.
    [[nodiscard]] bool continues(virtual_block block, std::int64_t step, std::uint64_t epoch,
                                 const lookup_result& mapping) const;
    // The block was kept in a run: so are neighbours of the same run that were single so far.
    // `kept::whole` if the run became that.
    [[nodiscard]] mapping_runs::kept gather(virtual_block block, std::int64_t step,
                                            std::uint64_t epoch, std::uint64_t& run_version,
                                            const lookup_result& mapping);
    static void remove(set& where, virtual_block block);
    static void store(entry& where, virtual_block block, const lookup_result& mapping,
                      std::uint64_t epoch);
    [[nodiscard]] static entry& victim(set& where, virtual_block block, std::uint64_t epoch);
    [[nodiscard]] static bool matches(std::uint64_t first, std::uint64_t second,
                                      virtual_block block, std::uint64_t epoch);

    std::atomic<std::uint64_t> epoch_{1};
    std::atomic<std::uint64_t> expected_{0};  // a bit for each remainder of blocks by 64
    std::uint64_t set_mask_;
    std::unique_ptr<set[]> sets_;
    mapping_runs runs_;       // of blocks
    mapping_runs long_runs_;  // of whole runs
};

}  // namespace uthin::pool_engine
