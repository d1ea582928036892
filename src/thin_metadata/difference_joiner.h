// Joins differences of neighbouring blocks to the longest runs.
//
// Threads   One.
// Failures  Those of the function that gets the runs.
#pragma once

#include <utility>

#include "thin_metadata/difference.h"

namespace uthin::thin_metadata {

class difference_joiner {
public:
    explicit difference_joiner(const difference_function& each) : each_(each) {}

    [[nodiscard]] result<void> add(const difference_run& next) {
        const bool has_left = next.kind != difference_kind::right_only;
        const bool has_right = next.kind != difference_kind::left_only;
        if (open_.count != 0 && open_.kind == next.kind &&
            open_.begin + open_.count == next.begin &&
            (!has_left || open_.left + open_.count == next.left) &&
            (!has_right || open_.right + open_.count == next.right)) {
            open_.count += next.count;
            return {};
        }
        UTHIN_TRY(flush());
        open_ = next;
        return {};
    }
    [[nodiscard]] result<void> flush() {
        const difference_run done = std::exchange(open_, {});
        return done.count == 0 ? result<void>() : each_(done);
    }

private:
    const difference_function& each_;
    difference_run open_;
};

}  // namespace uthin::thin_metadata
