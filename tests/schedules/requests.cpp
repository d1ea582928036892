#include "schedules/requests.h"

#include <algorithm>

#include <fmt/format.h>

namespace uthin::test {

namespace {

// A request that was refused because the pool ended, or broke, or was full, may have done its work.
bool is_undecided(const request& one) {
    return one.failure == error_code::failed || one.failure == error_code::io_error ||
           one.failure == error_code::no_data_space;
}

bool apply_to_cells(volume_content& volume, const request& one, bool takes_effect) {
    const bool fits = one.first + one.count <= volume.size;
    if (one.failure == error_code::out_of_range) {
        return !fits;
    }
    if (one.kind == request_kind::read) {
        return one.failure ||
               (fits && std::equal(one.seen.begin(), one.seen.end(),
                                   volume.cells.begin() + std::ptrdiff_t(one.first)));
    }
    if (takes_effect && !fits) {
        return false;
    }
    if (takes_effect) {
        std::fill_n(volume.cells.begin() + std::ptrdiff_t(one.first), one.count, one.stamp());
    }
    return true;
}

bool apply_to_volume(pool_content& pool, const request& one) {
    volume_content& volume = pool[one.volume];
    const bool gone = !volume.exists || volume.doomed;
    if (one.failure == error_code::not_found) {
        return gone;
    }
    if (one.failure == error_code::busy) {
        return volume.doomed || !volume.exists || volume.open > 0;
    }
    if (one.failure) {
        return true;
    }
    switch (one.kind) {
        case request_kind::open: ++volume.open; return !gone;
        case request_kind::close: --volume.open; return true;
        case request_kind::snapshot:
            pool[one.value] = volume;
            pool[one.value].open = 0;
            return !gone;
        case request_kind::remove:
        case request_kind::remove_in_background: {
            const bool legal = !gone && volume.open == 0;
            volume.exists = false;
            volume.doomed = true;
            return legal;
        }
        case request_kind::set_size:
            for (std::uint64_t cell = one.value; cell < cells_max; ++cell) {
                volume.cells[cell] = 0;
            }
            volume.size = one.value;
            return true;
        default: return true;
    }
}

bool apply(pool_content& pool, const request& one, bool takes_effect) {
    if (one.is_write() || one.kind == request_kind::read) {
        return apply_to_cells(pool[one.volume], one, takes_effect);
    }
    return apply_to_volume(pool, one);
}

class order_search {
public:
    order_search(const requests& first, const requests& second, const pool_content& end)
        : first_(first), second_(second), end_(end) {}

    [[nodiscard]] bool from(const pool_content& now, std::size_t i, std::size_t j) const {
        if (i == first_.size() && j == second_.size()) {
            return is_end(now);
        }
        const bool first_may =
            i < first_.size() && (j == second_.size() || second_[j].ended >= first_[i].begun);
        const bool second_may =
            j < second_.size() && (i == first_.size() || first_[i].ended >= second_[j].begun);
        return (first_may && after(now, first_[i], i + 1, j)) ||
               (second_may && after(now, second_[j], i, j + 1));
    }

private:
    [[nodiscard]] bool after(const pool_content& now, const request& one, std::size_t i,
                             std::size_t j) const {
        for (const bool takes_effect : {true, false}) {
            if (takes_effect != !one.failure && !is_undecided(one)) {
                continue;
            }
            pool_content next = now;
            if (apply(next, one, takes_effect) && from(next, i, j)) {
                return true;
            }
        }
        return false;
    }
    [[nodiscard]] bool is_end(const pool_content& now) const {
        return std::equal(now.begin(), now.end(), end_.begin(),
                          [](const auto& a, const auto& b) { return a.reads_as(b); });
    }

    const requests& first_;
    const requests& second_;
    const pool_content& end_;
};

// Writes at the same time have no order between them, and none of their blocks: one may be first in
// one block and last in the next. Only a snapshot has a write whole or not at all.
requests in_blocks(const requests& list, const requests& others, bool ascending) {
    constexpr std::uint64_t block_cells = block_bytes / cell_bytes;
    const bool is_whole = std::ranges::any_of(
        others, [](const request& one) { return one.kind == request_kind::snapshot; });
    requests pieces;
    for (const request& one : list) {
        const auto first_piece = std::ptrdiff_t(pieces.size());
        const bool divides = !is_whole && one.is_write() && !one.failure;
        const std::uint64_t end = one.first + one.count;
        for (std::uint64_t at = one.first; at < end;) {
            const std::uint64_t next =
                divides ? std::min(end, (at / block_cells + 1) * block_cells) : end;
            pieces.push_back(one);
            pieces.back().first = at;
            pieces.back().count = next - at;
            at = next;
        }
        if (!ascending) {
            std::reverse(pieces.begin() + first_piece, pieces.end());
        }
    }
    return pieces;
}

struct version {
    std::uint64_t stamp;
    std::uint64_t begun;
    std::uint64_t ended;
    bool certain;
    bool is_bound;
};

// A flush is of its volume, a write through of itself.
bool makes_durable(const request& bound, std::uint64_t volume) {
    return bound.kind == request_kind::commit ||
           (bound.kind == request_kind::flush && bound.volume == volume);
}

// Whether a later version than `one` must have taken its place by the time of `bound`.
bool is_superseded(const version& one, const std::vector<version>& all, const request& bound,
                   std::uint64_t volume) {
    return std::ranges::any_of(all, [&](const version& other) {
        return other.certain && one.ended < other.begun &&
               (other.is_bound || (other.ended < bound.begun && makes_durable(bound, volume)));
    });
}

}  // namespace

bool has_serial_order(const pool_content& begin, const requests& first, const requests& second,
                      const pool_content& end) {
    for (const bool ascending : {true, false}) {
        const requests some = in_blocks(first, second, ascending);
        for (const bool others_ascending : {true, false}) {
            const requests others = in_blocks(second, first, others_ascending);
            if (order_search(some, others, end).from(begin, 0, 0)) {
                return true;
            }
        }
    }
    return false;
}

std::string lost_by(const pool_content& begin, const requests& first, const requests& second,
                    const request& bound, const pool_content& found) {
    std::string text;
    for (std::uint64_t number = 0; number < volumes_max; ++number) {
        if (!begin[number].exists || !found[number].exists) {
            continue;
        }
        for (std::uint64_t cell = 0; cell < cells_max; ++cell) {
            std::vector<version> all{{begin[number].cells[cell], 0, 0, true, false}};
            for (const requests* list : {&first, &second}) {
                for (const request& one : *list) {
                    if (one.is_write() && one.volume == number && one.covers(cell) &&
                        one.begun < bound.ended) {
                        const bool is_bound = one.kind == bound.kind && one.begun == bound.begun;
                        all.push_back({one.stamp(), one.begun, one.ended, !one.failure, is_bound});
                    }
                }
            }
            const std::uint64_t stamp = found[number].cells[cell];
            const bool legal = std::ranges::any_of(all, [&](const version& one) {
                return one.stamp == stamp && !is_superseded(one, all, bound, number);
            });
            if (!legal) {
                text += fmt::format(" volume {} cell {} holds {};", number, cell, stamp);
            }
        }
    }
    return text;
}

std::string to_string(const request& one) {
    constexpr std::array<const char*, 24> names{
        "write",        "write fua",     "read",          "discard",
        "set size",     "open",          "close",         "flush",
        "snapshot",     "remove",        "remove slowly", "commit",
        "grow",         "trim",          "reserve snap",  "release snap",
        "check view",   "merge",         "flatten",       "close pool",
        "break writes", "break flushes", "mend",          "fail without space"};
    std::string text = fmt::format("{}..{} {} volume {} cells {}+{} value {}", one.begun, one.ended,
                                   names[static_cast<std::size_t>(one.kind)], one.volume, one.first,
                                   one.count, one.value);
    if (one.failure) {
        text += " -> " + one.message;
    }
    for (const std::uint64_t stamp : one.seen) {
        text += stamp == torn ? " torn" : fmt::format(" {}", stamp);
    }
    return text;
}

std::string to_string(const pool_content& content) {
    std::string text;
    for (std::size_t number = 0; number < volumes_max; ++number) {
        if (!content[number].exists) {
            continue;
        }
        text += fmt::format("  volume {}:", number);
        for (const std::uint64_t stamp : content[number].cells) {
            text += stamp == torn ? " torn" : fmt::format(" {}", stamp);
        }
        text += '\n';
    }
    return text;
}

}  // namespace uthin::test
