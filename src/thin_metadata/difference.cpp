#include "thin_metadata/difference.h"

#include <fmt/format.h>

#include "persistent_data/btree.h"
#include "thin_metadata/difference_joiner.h"

namespace uthin::thin_metadata {

using persistent_data::btree_cursor;

result<metadata_block> mapping_root_of(metadata_view& view, device_id device) {
    const auto root = UTHIN_TRY(persistent_data::btree_lookup_u64(
        view.source(), metadata_block(view.superblock().data_mapping_root), device.value()));
    if (!root) {
        return fail(error_code::not_found, fmt::format("there is no device {}", device.value()));
    }
    return metadata_block(*root);
}

result<void> find_differences(metadata_view& view, metadata_block left_root,
                              metadata_block right_root, const difference_function& each) {
    btree_cursor left(view.source(), left_root, 8);
    btree_cursor right(view.source(), right_root, 8);
    UTHIN_TRY_CTX(left.seek(0), "left mapping tree");
    UTHIN_TRY_CTX(right.seek(0), "right mapping tree");
    difference_joiner runs(each);
    while (!left.at_end() || !right.at_end()) {
        const bool takes_left = !left.at_end() && (right.at_end() || left.key() <= right.key());
        const bool takes_right = !right.at_end() && (left.at_end() || right.key() <= left.key());
        difference_run next;
        next.count = 1;
        if (takes_left) {
            next.begin = virtual_block(left.key());
            next.left = mapping_block(left.value_u64());
            next.kind = difference_kind::left_only;
            UTHIN_TRY_CTX(left.next(), "left mapping tree");
        }
        if (takes_right) {
            next.begin = virtual_block(right.key());
            next.right = mapping_block(right.value_u64());
            next.kind = !takes_left               ? difference_kind::right_only
                        : next.left == next.right ? difference_kind::same
                                                  : difference_kind::different;
            UTHIN_TRY_CTX(right.next(), "right mapping tree");
        }
        UTHIN_TRY(runs.add(next));
    }
    return runs.flush();
}

}  // namespace uthin::thin_metadata
