#include "schedules/pairs.h"

namespace uthin::test {

namespace {

using kind = request_kind;

// Stamps of clients: each request's are its own.
constexpr std::uint64_t first_clients = 100;
constexpr std::uint64_t second_clients = 200;

request write(std::uint64_t volume, std::uint64_t first, std::uint64_t count, std::uint64_t stamp) {
    return {.kind = kind::write, .volume = volume, .first = first, .count = count, .value = stamp};
}

request write_fua(std::uint64_t volume, std::uint64_t first, std::uint64_t count,
                  std::uint64_t stamp, bool keeps_cache) {
    request one = write(volume, first, count, stamp);
    one.kind = kind::write_fua;
    one.cuts_power = true;
    one.cut_keeps_cache = keeps_cache;
    return one;
}

request read(std::uint64_t volume, std::uint64_t first, std::uint64_t count) {
    return {.kind = kind::read, .volume = volume, .first = first, .count = count};
}

request discard(std::uint64_t volume, std::uint64_t block) {
    return {.kind = kind::discard, .volume = volume, .first = 2 * block, .count = 2};
}

request on_volume(kind what, std::uint64_t volume, std::uint64_t value = 0) {
    return {.kind = what, .volume = volume, .value = value};
}

request durable(kind what, std::uint64_t volume, bool keeps_cache) {
    request one = on_volume(what, volume);
    one.cuts_power = true;
    one.cut_keeps_cache = keeps_cache;
    return one;
}

request on_pool(kind what, std::uint64_t value = 0) {
    return {.kind = what, .value = value};
}

// Half a block or all of it.
request write_some(random_generator& random, std::uint64_t volume, std::uint64_t block,
                   std::uint64_t stamp) {
    const std::uint64_t half = random.below(3);
    return half == 2 ? write(volume, 2 * block, 2, stamp)
                     : write(volume, 2 * block + half, 1, stamp);
}

void add_sometimes(random_generator& random, requests& to, const request& one) {
    if (random.one_in(2)) {
        to.push_back(one);
    }
}

// A hole or a shared block, written by both; each looks at what it gets.
client_plans provision_and_provision(random_generator& random) {
    const std::uint64_t block = 1 + random.below(3);
    client_plans plans;
    plans.first = {write_some(random, 0, block, first_clients), read(0, 2 * block, 2)};
    plans.second = {write_some(random, 0, block, second_clients), read(0, 2 * block, 2)};
    add_sometimes(random, plans.first, write_some(random, 0, block, first_clients + 1));
    return plans;
}

// What the discard frees goes to another volume as soon as it may, while the first client's I/O to
// it may be on its way.
client_plans provision_and_discard(random_generator& random) {
    const std::uint64_t block = random.one_in(2) ? 0 : 1 + random.below(2);
    client_plans plans;
    add_sometimes(random, plans.first, read(0, 2 * block, 2));
    plans.first.push_back(write_some(random, 0, block, first_clients));
    plans.first.push_back(read(0, 2 * block, 2));
    add_sometimes(random, plans.second, write_some(random, 0, block, second_clients + 1));
    plans.second.push_back(discard(0, block));
    add_sometimes(random, plans.second, on_pool(kind::commit));
    plans.second.push_back(write_some(random, 2, 1, second_clients));
    plans.second.push_back(read(2, 2, 2));
    return plans;
}

client_plans break_sharing_and_snapshot(random_generator& random) {
    client_plans plans;
    // Of one instant, over two blocks.
    plans.first = {write(0, random.below(2), 2 + random.below(2), first_clients)};
    plans.first.push_back(write_some(random, 0, 1, first_clients + 1));
    add_sometimes(random, plans.first, write_some(random, 0, 0, first_clients + 2));
    plans.second = {on_volume(kind::snapshot, 0, 5)};
    add_sometimes(random, plans.second, on_volume(kind::snapshot, 0, 6));
    add_sometimes(random, plans.second, on_volume(kind::snapshot, 5, 7));
    return plans;
}

// The pool is full when the first provisioning is done; the next one needs what the discard frees,
// and which the trimmer may be about to discard.
client_plans passdown_and_provision(random_generator& random) {
    client_plans plans;
    plans.first = {discard(0, 0)};
    add_sometimes(random, plans.first, on_pool(kind::commit));
    add_sometimes(random, plans.first, on_pool(kind::trim));
    plans.second = {write_some(random, 2, 1, second_clients),
                    write_some(random, 2, 2, second_clients + 1), read(2, 2, 4)};
    return plans;
}

client_plans delete_and_io(random_generator& random) {
    client_plans plans;
    plans.first = {on_volume(random.one_in(2) ? kind::remove : kind::remove_in_background, 1)};
    add_sometimes(random, plans.first, on_pool(kind::commit));
    if (random.one_in(2)) {
        plans.second = {on_volume(kind::open, 1)};
    }
    plans.second.push_back(write_some(random, 0, 1, second_clients));
    plans.second.push_back(read(0, 2, 2));
    plans.second.push_back(write_some(random, 2, 1, second_clients + 1));
    add_sometimes(random, plans.second, write_some(random, 0, 2, second_clients + 2));
    return plans;
}

client_plans commit_and_io(random_generator& random) {
    client_plans plans;
    plans.first = {durable(kind::commit, 0, random.one_in(2)),
                   durable(kind::commit, 0, random.one_in(2))};
    plans.second = {write_some(random, 0, random.below(3), second_clients),
                    write_some(random, 0, random.below(3), second_clients + 1)};
    add_sometimes(random, plans.second, discard(0, 0));
    plans.second.push_back(write_some(random, 2, 1, second_clients + 2));
    plans.second.push_back(read(2, 2, 2));
    return plans;
}

// The pool's size, or the volume's.
client_plans resize_and_provision(random_generator& random) {
    client_plans plans;
    if (random.one_in(2)) {
        plans.first = {on_pool(kind::grow, 10)};
        plans.second = {write_some(random, 0, 2, second_clients),
                        write_some(random, 0, 3, second_clients + 1),
                        write_some(random, 2, 1, second_clients + 2),
                        write_some(random, 2, 2, second_clients + 3), read(0, 4, 4)};
        return plans;
    }
    plans.first = {on_volume(kind::set_size, 0, 3 + random.below(4)),
                   on_volume(kind::set_size, 0, cells_max)};
    plans.second = {write_some(random, 0, 1 + random.below(3), second_clients),
                    write_some(random, 0, 1 + random.below(3), second_clients + 1),
                    read(0, 2, 1 + random.below(6))};
    return plans;
}

client_plans metadata_snap_and_commit(random_generator& random) {
    client_plans plans;
    plans.first = {on_pool(kind::reserve_metadata_snap)};
    add_sometimes(random, plans.first, on_pool(kind::check_view));
    add_sometimes(random, plans.first, on_pool(kind::release_metadata_snap));
    plans.second = {write_some(random, 0, 2, second_clients), on_pool(kind::commit)};
    plans.second.push_back(random.one_in(2) ? discard(0, 1)
                                            : write_some(random, 0, 1, second_clients + 1));
    plans.second.push_back(durable(kind::flush, 0, random.one_in(2)));
    return plans;
}

client_plans merge_and_write(random_generator& random) {
    const bool down = random.one_in(2);
    client_plans plans;
    plans.first = {on_volume(down ? kind::merge : kind::flatten, small_pool::imaged)};
    const auto write_somewhere = [&](std::uint64_t stamp) {
        return write_some(random, small_pool::imaged, random.below(4), stamp);
    };
    plans.second = {write_somewhere(second_clients), read(small_pool::imaged, 0, cells_max),
                    write_somewhere(second_clients + 1), read(small_pool::imaged, 0, cells_max)};
    return plans;
}

client_plans flush_and_fua(random_generator& random) {
    client_plans plans;
    plans.first = {write_some(random, 0, random.below(3), first_clients),
                   durable(kind::flush, 0, random.one_in(2)),
                   write_some(random, 0, random.below(3), first_clients + 1),
                   durable(kind::flush, 0, random.one_in(2))};
    plans.second = {write_fua(0, random.below(7), 1, second_clients, random.one_in(2)),
                    write_fua(0, random.below(7), 2, second_clients + 1, random.one_in(2)),
                    write_fua(2, random.below(4), 1, second_clients + 2, random.one_in(2))};
    return plans;
}

client_plans close_and_io(random_generator& random) {
    client_plans plans;
    plans.first = {on_pool(kind::close_pool)};
    plans.second = {write_some(random, 0, 1 + random.below(2), second_clients), read(0, 2, 4)};
    add_sometimes(random, plans.second, discard(0, 0));
    add_sometimes(random, plans.second, on_volume(kind::flush, 0));
    plans.second.push_back(write_some(random, 2, random.below(2), second_clients + 1));
    add_sometimes(random, plans.second, write_fua(0, 4, 1, second_clients + 2, false));
    plans.second.back().cuts_power = false;
    // Neither holds a ticket of the volume.
    plans.second.push_back(on_volume(kind::flush, 0));
    add_sometimes(random, plans.second, on_volume(kind::close, 0));
    return plans;
}

// The metadata fails, the pool is read-only, and mostly it is mended.
client_plans mode_change_and_io(random_generator& random) {
    client_plans plans;
    plans.first = {write_some(random, 0, 2, first_clients),
                   on_pool(random.one_in(2) ? kind::break_writes : kind::break_flushes)};
    if (!random.one_in(4)) {
        plans.first.push_back(on_pool(kind::mend));
    }
    plans.second = {write_some(random, 0, random.below(3), second_clients), read(0, 0, 6),
                    write_some(random, 0, random.below(3), second_clients + 1)};
    add_sometimes(random, plans.second, durable(kind::flush, 0, false));
    add_sometimes(random, plans.second,
                  write_fua(0, random.below(6), 1, second_clients + 3, false));
    plans.second.push_back(write_some(random, 2, 1, second_clients + 2));
    return plans;
}

constexpr std::uint64_t mapped = small_pool::mapped_blocks;
// The deliberate bugs of these pairs take hundreds of schedules, those of the others dozens.
constexpr std::uint64_t races_are_rare = 3;

}  // namespace

const std::vector<client_pair>& client_pairs() {
    static const std::vector<client_pair> all{
        {.name = "provision_provision", .plan = provision_and_provision, .times = races_are_rare},
        {.name = "provision_discard",
         .options = {.pool_blocks = mapped + 2},
         .plan = provision_and_discard,
         .may_fail_with = {error_code::no_data_space},
         .times = races_are_rare},
        {.name = "break_sharing_snapshot", .plan = break_sharing_and_snapshot},
        {.name = "passdown_provision",
         .options = {.pool_blocks = mapped + 1},
         .plan = passdown_and_provision},
        {.name = "delete_io", .plan = delete_and_io},
        {.name = "commit_io", .plan = commit_and_io},
        {.name = "resize_provision",
         .options = {.pool_blocks = mapped + 3},
         .plan = resize_and_provision},
        {.name = "metadata_snap_commit", .plan = metadata_snap_and_commit},
        {.name = "merge_write", .options = {.pool_blocks = 12}, .plan = merge_and_write},
        {.name = "flush_fua", .plan = flush_and_fua},
        {.name = "close_io", .plan = close_and_io, .may_fail_with = {error_code::failed}},
        {.name = "mode_change_io",
         .plan = mode_change_and_io,
         .may_fail_with = {error_code::io_error, error_code::read_only, error_code::failed},
         .loses_changes = true},
    };
    return all;
}

}  // namespace uthin::test
