// A frozen state of the metadata to read from: a read view of a live pool, a metadata snapshot, an
// offline image.
//
// Invariants
//   MV1  Every block reachable from the roots is the one that the superblock's commit wrote, until
//   expired().
// Threads   Any; several threads may read one view.
// Failures  view_expired after the owner revoked it; what was read before is to be thrown away.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "persistent_data/block_source.h"
#include "thin_metadata/superblock.h"
#include "uthin/block_device.h"

namespace uthin::thin_metadata {

class subtree_memo;

class metadata_view {
public:
    metadata_view() = default;
    metadata_view(const metadata_view&) = delete;
    metadata_view& operator=(const metadata_view&) = delete;
    virtual ~metadata_view() = default;

    [[nodiscard]] virtual persistent_data::block_source& source() = 0;
    [[nodiscard]] virtual const disk_superblock& superblock() const = 0;
    // A metadata snapshot publishes no space maps.
    [[nodiscard]] virtual bool has_space_maps() const = 0;
    [[nodiscard]] virtual bool expired() const = 0;
    // Of a live pool: the transaction whose commit this is, and what is remembered of its nodes.
    [[nodiscard]] virtual std::uint64_t transaction() const { return 0; }
    [[nodiscard]] virtual subtree_memo* memo() { return nullptr; }
};

struct offline_options {
    std::uint64_t cache_bytes = 8ULL << 20;
    // Follow the held root of block 0. not_found when none is held.
    bool metadata_snapshot = false;
    // Take this superblock instead of block 0's, for repair by hand.
    const disk_superblock* superblock_override = nullptr;
    // Read these trees instead of those that the superblock, or the metadata snapshot's, names.
    std::optional<std::uint64_t> mapping_root = std::nullopt;
    std::optional<std::uint64_t> details_root = std::nullopt;
};

// A view of metadata that nobody in this process writes. `device` outlives it. Nothing is ever
// written. wrong_block, corrupt (superblock), not_found.
[[nodiscard]] result<std::unique_ptr<metadata_view>> open_offline(block_device& device,
                                                                  const offline_options& options);

}  // namespace uthin::thin_metadata
