// Nodes of mapping trees that own all that is below them, remembered from one measurement to the
// next.
//
// Invariants
//   SB1  An entry is right as long as it is there: what is below a node can get another owner only
//        after the node itself was copied while it was shared, or gave its pointers to another node
//        and lives on, or its block was used anew. All are reported by the writer, before anybody
//        can see a state in which they happened.
//   SB2  Memory: 8 bytes for each metadata block that was reported or remembered, in pages.
// Threads   Any; one mutex, a leaf.
// Failures  None.
#pragma once

#include <cstdint>
#include <optional>

#include "base/mutex.h"
#include "base/paged_array.h"
#include "uthin/units.h"

namespace uthin::thin_metadata {

class subtree_memo {
public:
    // The mappings below the node, if it is known to own them all.
    [[nodiscard]] std::optional<std::uint64_t> find(metadata_block node) const;
    // As seen in the state that the commit of `transaction` made.
    void remember(metadata_block node, std::uint64_t mappings, std::uint64_t transaction);
    // SB1, in the open transaction `transaction`.
    void changed(metadata_block node, std::uint64_t transaction);
    // The same for every node.
    void changed_everywhere(std::uint64_t transaction);

private:
    struct entry {
        std::uint32_t mappings_plus_one = 0;  // 0: not known
        std::uint32_t changed_in = 0;
    };

    mutable mutex lock_;
    paged_array<entry, 4096> entries_ GUARDED_BY(lock_){metadata_blocks_max};
    std::uint64_t all_changed_in_ GUARDED_BY(lock_) = 0;
};

}  // namespace uthin::thin_metadata
