#include "support/directory_driver.h"

#include <algorithm>
#include <array>
#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"
#include "base/result.h"

namespace uthin::test {

namespace {

constexpr std::size_t volumes_max = 5;
constexpr std::uint64_t names_max = 8;
constexpr std::uint64_t data_block_bytes = cells_per_block * cell_bytes;
constexpr std::uint64_t data_blocks_max = 80;

void stamp(std::span<std::byte> bytes, std::uint64_t first_cell, std::uint64_t order) {
    const std::uint64_t first_sector = first_cell * (cell_bytes / sector_size_bytes);
    for (std::size_t at = 0; at < bytes.size(); at += 16) {
        store_le(bytes.data() + at, order);
        store_le<std::uint64_t>(bytes.data() + at + 8, first_sector + at / sector_size_bytes);
    }
}

// The cell as this write made it.
void content_of(const cell_write& write, std::uint64_t cell, std::span<std::byte> bytes) {
    if (write.found != nullptr) {
        std::copy_n(write.found->begin() + static_cast<std::ptrdiff_t>(write.found_offset),
                    bytes.size(), bytes.begin());
    } else if (write.zero) {
        std::fill(bytes.begin(), bytes.end(), std::byte{0});
    } else {
        stamp(bytes, cell, write.order);
    }
}

std::shared_ptr<volume_history> copy_of_present(const volume_history& from) {
    auto copy = std::make_shared<volume_history>();
    for (const auto& cell : from.cells) {
        auto from_here = std::find_if(cell.rbegin(), cell.rend(), [](const cell_write& write) {
                             return !write.maybe;
                         }).base();
        std::vector<cell_write> present(std::prev(from_here), cell.end());
        for (cell_write& write : present) {
            write.begin = 0;
            write.durable_at = write.maybe ? cell_write::never : 0;
        }
        copy->cells.push_back(std::move(present));
    }
    return copy;
}

std::shared_ptr<volume_history> zeros() {
    auto history = std::make_shared<volume_history>();
    history->cells.assign(cells_max, {cell_write{.durable_at = 0, .found = nullptr}});
    return history;
}

// Index of the oldest write that a cut at `operations` may show.
std::size_t oldest_legal(const volume_history& history, const std::vector<cell_write>& writes,
                         std::uint64_t operations) {
    std::uint64_t order = 0;
    for (const volume_history::flushed& flush : history.flushes) {
        order = flush.acknowledged <= operations ? std::max(order, flush.order) : order;
    }
    std::size_t oldest = 0;
    for (std::size_t i = 0; i < writes.size(); ++i) {
        const bool durable = writes[i].order <= order || writes[i].durable_at <= operations;
        if (durable && !writes[i].maybe) {
            oldest = i;
        }
    }
    return oldest;
}

std::string cell_complaint(const volume_history& history, std::uint64_t cell,
                           std::span<const std::byte> found, std::uint64_t operations) {
    const std::vector<cell_write>& writes = history.cells[cell];
    const std::size_t oldest = oldest_legal(history, writes, operations);
    std::array<std::byte, cell_bytes> expected{};
    std::uint32_t right = 0;  // a bit for each sector
    for (std::size_t i = oldest; i < writes.size() && right != 0xFF; ++i) {
        if (i != oldest && writes[i].begin > operations) {
            break;
        }
        content_of(writes[i], cell, expected);
        for (std::uint32_t sector = 0; sector < 8; ++sector) {
            const std::size_t at = std::size_t{sector} * sector_size_bytes;
            if (std::memcmp(found.data() + at, expected.data() + at, sector_size_bytes) == 0) {
                right |= 1U << sector;
            }
        }
    }
    if (right == 0xFF) {
        return {};
    }
    std::size_t sector = 0;
    while ((right >> sector & 1) != 0) {
        ++sector;
    }
    const std::byte* at = found.data() + sector * sector_size_bytes;
    return fmt::format("cell {} sector {} holds write {} of sector {}, expected write {} or later",
                       cell, sector, load_le<std::uint64_t>(at), load_le<std::uint64_t>(at + 8),
                       writes[oldest].order);
}

}  // namespace

const char* to_string(directory_operation operation) {
    constexpr std::array<const char*, directory_operation_count> names = {
        "write",    "write_block", "write_fua", "write_zeroes",  "discard",
        "flush",    "create",      "snapshot",  "snapshot_pair", "remove",
        "rollback", "rename",      "resize",    "grow",          "metadata_snapshot",
        "commit",   "tick",        "let_go",    "transfer"};
    return names[static_cast<std::size_t>(operation)];
}

directory_driver::directory_driver(std::uint64_t seed, std::function<std::uint64_t()> sequence)
    : random_(seed), sequence_(std::move(sequence)) {
}

directory_driver::~directory_driver() = default;

result<void> directory_driver::adopt(std::unique_ptr<pool_directory> pool) {
    pool_ = std::move(pool);
    const pool_report report = UTHIN_TRY(pool_->report());
    now_ = {};
    now_.data_blocks = report.data_blocks;
    now_.held = report.metadata_snapshot_block.has_value();
    now_.holder = report.metadata_snapshot_owner;
    for (const volume_info& info : UTHIN_TRY(pool_->list())) {
        volume_model model{zeros(), info.size_bytes, info.uuid};
        auto bytes = std::make_shared<std::vector<std::byte>>(info.size_bytes);
        const auto opened = UTHIN_TRY(pool_->open_volume(info.name, true));
        UTHIN_TRY(opened->read(0, *bytes));
        for (std::uint64_t cell = 0; cell < info.size_bytes / cell_bytes; ++cell) {
            model.history->cells[cell].back().found = bytes;
            model.history->cells[cell].back().found_offset = cell * cell_bytes;
        }
        now_.volumes.emplace(info.name, std::move(model));
    }
    records_ = {{0, 0, now_}};
    return {};
}

void directory_driver::restart_recording() {
    for (auto& [name, model] : now_.volumes) {
        model.history = copy_of_present(*model.history);
    }
    records_ = {{0, 0, now_}};
    acknowledged_.clear();
}

void directory_driver::record(std::uint64_t begin) {
    records_.push_back({begin, sequence_(), now_});
}

// ---- operations
// ------------------------------------------------------------------------------------------------

directory_operation directory_driver::any_operation() {
    return static_cast<directory_operation>(random_.below(directory_operation_count));
}

std::string directory_driver::any_volume() {
    if (now_.volumes.empty()) {
        return {};
    }
    auto at = now_.volumes.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_.below(now_.volumes.size())));
    return at->first;
}

std::string directory_driver::unused_name() const {
    if (now_.volumes.size() < volumes_max) {
        for (std::uint64_t i = 0; i < names_max; ++i) {
            std::string name = fmt::format("volume-{}", i);
            if (!now_.volumes.contains(name)) {
                return name;
            }
        }
    }
    return {};
}

result<void> directory_driver::step(directory_operation operation) {
    using op = directory_operation;
    if (now_.volumes.empty() && operation != op::create) {
        return {};
    }
    switch (operation) {
        case op::write:
        case op::write_block:
        case op::write_fua: return write_somewhere(operation);
        case op::write_zeroes: return write_zeroes();
        case op::discard: return discard();
        case op::flush: return flush();
        case op::create: return create(unused_name(), 1 + random_.below(cells_max));
        case op::snapshot: return snapshot(any_volume(), unused_name());
        case op::snapshot_pair: return snapshot_pair();
        case op::remove: return remove();
        case op::rollback: return rollback();
        case op::rename: return rename();
        case op::resize: return resize();
        case op::grow: return grow();
        case op::metadata_snapshot: return toggle_metadata_snapshot();
        case op::commit: return commit();
        case op::tick: time_.advance(std::chrono::seconds(2)); return write_somewhere(op::write);
        case op::let_go: open_.clear(); return {};
        case op::transfer: return transfer();
    }
    return {};
}

result<std::shared_ptr<volume>> directory_driver::open(const std::string& name) {
    std::shared_ptr<volume>& slot = open_[name];
    if (slot == nullptr) {
        slot = UTHIN_TRY(pool_->open_volume(name, false));
    }
    return slot;
}

void directory_driver::note_write(const std::string& name, std::uint64_t cell, std::uint64_t count,
                                  bool zero, std::uint64_t order, bool maybe) {
    volume_history& history = *now_.volumes.at(name).history;
    for (std::uint64_t i = cell; i < cell + count; ++i) {
        history.cells[i].push_back(
            {.order = order, .zero = zero, .maybe = maybe, .begin = sequence_(), .found = nullptr});
    }
}

result<void> directory_driver::write(const std::string& name, std::uint64_t cell,
                                     std::uint64_t count, bool fua) {
    const auto opened = UTHIN_TRY(open(name));
    const std::uint64_t order = ++order_;
    std::vector<std::byte> bytes(count * cell_bytes);
    stamp(bytes, cell, order);
    note_write(name, cell, count, false, order);
    UTHIN_TRY(opened->write(cell * cell_bytes, bytes, fua));
    if (fua) {
        durable(name, cell, count);
    }
    return {};
}

result<void> directory_driver::write_somewhere(directory_operation operation) {
    const std::string name = any_volume();
    const std::uint64_t cells = now_.volumes.at(name).size_bytes / cell_bytes;
    std::uint64_t begin = random_.below(cells);
    std::uint64_t count = 1 + random_.below(operation == directory_operation::write ? 3 : 8);
    if (operation == directory_operation::write_block) {
        begin = begin / cells_per_block * cells_per_block;
        count = cells_per_block * (1 + random_.below(2));
    }
    return write(name, begin, std::min(count, cells - begin),
                 operation == directory_operation::write_fua);
}

result<void> directory_driver::write_zeroes() {
    const std::string name = any_volume();
    const auto opened = UTHIN_TRY(open(name));
    const std::uint64_t cells = now_.volumes.at(name).size_bytes / cell_bytes;
    const std::uint64_t begin = random_.below(cells);
    const std::uint64_t count = std::min(1 + random_.below(2 * cells_per_block), cells - begin);
    const zero_options options{.may_unmap = random_.one_in(2), .fua = random_.one_in(4)};
    note_write(name, begin, count, true, ++order_);
    UTHIN_TRY(opened->write_zeroes(begin * cell_bytes, count * cell_bytes, options));
    if (options.fua) {
        durable(name, begin, count);
    }
    return {};
}

// Whole blocks become zeros, parts of blocks stay as they are or become zeros later.
result<void> directory_driver::discard() {
    const std::string name = any_volume();
    const auto opened = UTHIN_TRY(open(name));
    const std::uint64_t cells = now_.volumes.at(name).size_bytes / cell_bytes;
    const std::uint64_t begin = random_.below(cells);
    const std::uint64_t end = std::min(begin + 1 + random_.below(3 * cells_per_block), cells);
    const std::uint64_t first_block = (begin + cells_per_block - 1) / cells_per_block;
    const std::uint64_t end_block = end / cells_per_block;
    if (first_block < end_block) {
        const std::uint64_t from = first_block * cells_per_block;
        const std::uint64_t to = end_block * cells_per_block;
        note_write(name, from, to - from, true, ++order_);
    }
    const std::uint64_t head_end = std::min(end, first_block * cells_per_block);
    note_write(name, begin, head_end - begin, true, ++order_, true);
    const std::uint64_t tail_begin = std::max(head_end, end_block * cells_per_block);
    note_write(name, tail_begin, end - std::min(end, tail_begin), true, ++order_, true);
    return opened->discard(begin * cell_bytes, (end - begin) * cell_bytes);
}

void directory_driver::durable(const std::string& name, std::uint64_t cell, std::uint64_t count) {
    for (std::uint64_t i = cell; i < cell + count; ++i) {
        now_.volumes.at(name).history->cells[i].back().durable_at = sequence_();
    }
    acknowledged_.push_back(sequence_());
}

void directory_driver::flushed(volume_model& model, std::uint64_t order) {
    model.history->flushes.push_back({order, sequence_()});
    acknowledged_.push_back(sequence_());
}

result<void> directory_driver::flush() {
    const std::string name = any_volume();
    const auto opened = UTHIN_TRY(open(name));
    UTHIN_TRY(opened->flush());
    flushed(now_.volumes.at(name), order_);
    return {};
}

result<void> directory_driver::commit() {
    UTHIN_TRY(pool_->engine().commit());
    for (auto& [name, model] : now_.volumes) {
        flushed(model, order_);
    }
    return {};
}

result<void> directory_driver::close() {
    open_.clear();
    UTHIN_TRY(pool_->close());
    for (auto& [name, model] : now_.volumes) {
        flushed(model, order_);
    }
    pool_.reset();
    return {};
}

result<void> directory_driver::create(const std::string& name, std::uint64_t cells) {
    if (name.empty()) {
        return {};
    }
    const std::uint64_t begin = sequence_();
    const volume_info info =
        UTHIN_TRY(pool_->create_volume({.name = name, .size_bytes = cells * cell_bytes}));
    now_.volumes[name] = {zeros(), info.size_bytes, info.uuid};
    record(begin);
    return {};
}

result<void> directory_driver::snapshot(const std::string& origin, const std::string& name) {
    if (name.empty()) {
        return {};
    }
    const std::uint64_t begin = sequence_();
    const auto made = UTHIN_TRY(pool_->create_snapshots({.snapshots = {{origin, name}}}));
    const volume_model& from = now_.volumes.at(origin);
    now_.volumes[name] = {copy_of_present(*from.history), from.size_bytes, made.at(0).uuid};
    record(begin);
    return {};
}

// Of one instant, in one transaction; the second may be of the first.
result<void> directory_driver::snapshot_pair() {
    const std::string first_origin = any_volume();
    const std::string first = unused_name();
    if (first.empty() || now_.volumes.size() + 2 > volumes_max) {
        return {};
    }
    const std::string second_origin = random_.one_in(3) ? first : any_volume();
    now_.volumes[first] = {};
    const std::string second = unused_name();
    now_.volumes.erase(first);
    const std::uint64_t begin = sequence_();
    const auto made = UTHIN_TRY(
        pool_->create_snapshots({.snapshots = {{first_origin, first}, {second_origin, second}}}));
    const volume_model& from = now_.volumes.at(first_origin);
    now_.volumes[first] = {copy_of_present(*from.history), from.size_bytes, made.at(0).uuid};
    const volume_model& other = now_.volumes.at(second_origin);
    now_.volumes[second] = {copy_of_present(*other.history), other.size_bytes, made.at(1).uuid};
    record(begin);
    return {};
}

result<void> directory_driver::remove() {
    const std::string name = any_volume();
    open_.erase(name);
    const std::uint64_t begin = sequence_();
    UTHIN_TRY(pool_->remove({.name = name}));
    now_.volumes.erase(name);
    record(begin);
    return {};
}

result<void> directory_driver::rollback() {
    const std::string name = any_volume();
    const std::string to = any_volume();
    if (name == to) {
        return {};
    }
    if (random_.one_in(2)) {
        open_.erase(name);
    }
    const std::uint64_t begin = sequence_();
    UTHIN_TRY(pool_->rollback({.name = name, .to = to, .force = true}));
    volume_model& model = now_.volumes.at(name);
    const volume_model& from = now_.volumes.at(to);
    model.history = copy_of_present(*from.history);
    model.size_bytes = from.size_bytes;
    record(begin);
    return {};
}

result<void> directory_driver::rename() {
    const std::string name = any_volume();
    const std::string other = unused_name();
    if (other.empty()) {
        return {};
    }
    open_.erase(name);
    const std::uint64_t begin = sequence_();
    UTHIN_TRY(pool_->rename(name, other));
    now_.volumes[other] = now_.volumes.at(name);
    now_.volumes.erase(name);
    record(begin);
    return {};
}

result<void> directory_driver::resize() {
    const std::string name = any_volume();
    volume_model& model = now_.volumes.at(name);
    const std::uint64_t old_cells = model.size_bytes / cell_bytes;
    const std::uint64_t cells = 1 + random_.below(cells_max);
    const std::uint64_t begin = sequence_();
    if (cells < old_cells) {
        note_write(name, cells, old_cells - cells, true, ++order_);
    }
    UTHIN_TRY(pool_->resize(name, cells * cell_bytes));
    if (cells < old_cells) {
        durable(name, cells, old_cells - cells);
    }
    model.size_bytes = cells * cell_bytes;
    record(begin);
    return {};
}

result<void> directory_driver::grow() {
    if (now_.data_blocks + 4 > data_blocks_max) {
        return {};
    }
    const std::uint64_t begin = sequence_();
    UTHIN_TRY(pool_->grow({.data_size_bytes = (now_.data_blocks + 4) * data_block_bytes}));
    now_.data_blocks += 4;
    record(begin);
    return {};
}

result<void> directory_driver::toggle_metadata_snapshot() {
    const std::uint64_t begin = sequence_();
    metadata_snapshot_request request;
    request.action =
        now_.held ? metadata_snapshot_action::release : metadata_snapshot_action::reserve;
    if (!now_.held && random_.one_in(2)) {
        request.lease_s = 1'000'000;
        request.owner = "driver";
    }
    const auto held = UTHIN_TRY(pool_->metadata_snapshot(request));
    now_.held = held.block.has_value();
    now_.holder = now_.held ? request.owner : "";
    record(begin);
    return {};
}

// ---- transfers
// ------------------------------------------------------------------------------------------------

result<void> directory_driver::transfer() {
    const auto left = UTHIN_TRY(pool_->list_transfers());
    if (!left.empty()) {
        if (random_.one_in(2)) {
            return pool_->drop_transfer(left.front().id);
        }
        // What an earlier run left there is not known: all of it is written.
        volume_model model{zeros(), left.front().size_bytes, {}};
        std::vector<std::byte> bytes(model.size_bytes);
        const std::uint64_t order = ++order_;
        stamp(bytes, 0, order);
        UTHIN_TRY(UTHIN_TRY(pool_->open_transfer(left.front().id))->write(0, bytes));
        for (std::uint64_t cell = 0; cell < model.size_bytes / cell_bytes; ++cell) {
            model.history->cells[cell] = {
                {.order = order, .zero = false, .durable_at = 0, .found = nullptr}};
        }
        return publish_transfer(left.front().id, left.front().name, std::move(model));
    }
    const std::string name = random_.one_in(2) ? any_volume() : unused_name();
    return name.empty() ? result<void>() : begin_transfer(name);
}

result<void> directory_driver::begin_transfer(const std::string& name) {
    const std::string base = random_.one_in(4) ? std::string() : any_volume();
    volume_model model{zeros(), (1 + random_.below(cells_max)) * cell_bytes, {}};
    if (!base.empty()) {
        const volume_model& from = now_.volumes.at(base);
        model.history = copy_of_present(*from.history);
        model.size_bytes = random_.one_in(2) ? from.size_bytes : model.size_bytes;
        // Behind the end of the smaller one there is nothing.
        for (std::uint64_t cell = std::min(model.size_bytes, from.size_bytes) / cell_bytes;
             cell < cells_max; ++cell) {
            model.history->cells[cell] = zeros()->cells[cell];
        }
    }
    const transfer_info begun = UTHIN_TRY(pool_->begin_transfer(
        {.name = name, .base = base, .size_bytes = model.size_bytes, .notes = {{"a", "b"}}}));
    UTHIN_TRY(fill_transfer(begun.id, model));
    switch (random_.below(6)) {
        case 0: return {};  // left alone
        case 1: return pool_->drop_transfer(begun.id);
        default: return publish_transfer(begun.id, name, std::move(model));
    }
}

result<void> directory_driver::fill_transfer(const std::string& id, volume_model& model) {
    const auto open = UTHIN_TRY(pool_->open_transfer(id));
    const std::uint64_t cells = model.size_bytes / cell_bytes;
    for (std::uint64_t count = random_.below(4); count > 0; --count) {
        const std::uint64_t cell = random_.below(cells);
        const std::uint64_t order = ++order_;
        std::vector<std::byte> bytes(cell_bytes);
        stamp(bytes, cell, order);
        UTHIN_TRY(open->write(cell * cell_bytes, bytes));
        // Seen only when it is durable.
        model.history->cells[cell] = {
            {.order = order, .zero = false, .durable_at = 0, .found = nullptr}};
        if (random_.one_in(3)) {
            UTHIN_TRY(open->flush());
            UTHIN_TRY(pool_->note_transfer(id, {{"count", std::to_string(count)}}));
        }
    }
    return {};
}

result<void> directory_driver::publish_transfer(const std::string& id, const std::string& name,
                                                volume_model model) {
    open_.erase(name);
    publish_request wanted;
    wanted.name = name;
    if (now_.volumes.contains(name)) {
        const volume_info old = UTHIN_TRY(pool_->show(name));
        wanted.replaces = {old.dev_id, old.creation_time, old.creation_transaction_id,
                           old.size_bytes};
    }
    const bool room = now_.volumes.size() + 1 < volumes_max;
    const std::string other = room && random_.one_in(2) ? unused_name() : std::string();
    wanted.snapshot = other == name ? std::string() : other;
    wanted.labels = {{"published", "yes"}};
    const std::uint64_t begin = sequence_();
    UTHIN_TRY(pool_->publish_transfer(id, wanted));
    model.uuid = UTHIN_TRY(pool_->show(name)).uuid;
    now_.volumes[name] = model;
    if (!wanted.snapshot.empty()) {
        now_.volumes[wanted.snapshot] = {copy_of_present(*model.history), model.size_bytes,
                                         UTHIN_TRY(pool_->show(wanted.snapshot)).uuid};
    }
    record(begin);
    return {};
}

// ---- complaints
// ------------------------------------------------------------------------------------------------

std::string directory_driver::complaint_against(const directory_state& state, pool_directory& pool,
                                                std::uint64_t operations) const {
    const auto report = pool.report();
    const auto listed = pool.list();
    if (!report || !listed) {
        return "cannot be listed: " + (report ? listed.error() : report.error()).to_string();
    }
    if (report->mode != "write" || report->data_blocks != state.data_blocks ||
        report->metadata_snapshot_block.has_value() != state.held ||
        report->metadata_snapshot_owner != state.holder) {
        return fmt::format(
            "mode {}, {} data blocks, metadata snapshot {} of '{}', expected {}, {} of '{}'",
            report->mode, report->data_blocks, report->metadata_snapshot_block.has_value(),
            report->metadata_snapshot_owner, state.data_blocks, state.held, state.holder);
    }
    for (const volume_info& info : *listed) {
        const auto model = state.volumes.find(info.name);
        if (model == state.volumes.end() || model->second.size_bytes != info.size_bytes ||
            model->second.uuid != info.uuid) {
            return fmt::format("volume {} of {} bytes", info.name, info.size_bytes);
        }
    }
    if (listed->size() != state.volumes.size()) {
        return fmt::format("{} volumes, expected {}", listed->size(), state.volumes.size());
    }
    for (const auto& [name, model] : state.volumes) {
        const auto opened = pool.open_volume(name, true);
        if (!opened) {
            return opened.error().to_string();
        }
        std::vector<std::byte> bytes(model.size_bytes);
        if (auto done = (*opened)->read(0, bytes); !done) {
            return done.error().to_string();
        }
        for (std::uint64_t cell = 0; cell < model.size_bytes / cell_bytes; ++cell) {
            const auto found = std::span(bytes).subspan(cell * cell_bytes, cell_bytes);
            if (std::string text = cell_complaint(*model.history, cell, found, operations);
                !text.empty()) {
                return fmt::format("volume {} {}", name, text);
            }
        }
    }
    return {};
}

std::string directory_driver::complaint_after(pool_directory& pool,
                                              std::uint64_t operations) const {
    std::string complaint;
    const directory_record* completed = nullptr;
    std::vector<const directory_record*> allowed;
    for (const directory_record& record : records_) {
        if (record.end <= operations) {
            completed = &record;
        } else if (record.begin <= operations) {
            allowed.push_back(&record);
        }
    }
    allowed.insert(allowed.begin(), completed);
    for (const directory_record* record : allowed) {
        const std::string text = complaint_against(record->state, pool, operations);
        if (text.empty()) {
            return {};
        }
        complaint += (complaint.empty() ? "" : "; or ") + text;
    }
    return complaint;
}

std::uint64_t directory_driver::duties_after(std::uint64_t operations) const {
    std::uint64_t duties = 0;
    for (const directory_record& record : records_) {
        duties += (record.end <= operations ? 1U : 0U) + (record.begin <= operations ? 1U : 0U);
    }
    for (const std::uint64_t acknowledged : acknowledged_) {
        duties += acknowledged <= operations ? 1U : 0U;
    }
    return duties;
}

// What is newest must be there exactly.
std::string directory_driver::live_complaint() {
    directory_state present = now_;
    for (auto& [name, model] : present.volumes) {
        model.history = copy_of_present(*model.history);
    }
    return complaint_against(present, *pool_, cell_write::never - 1);
}

}  // namespace uthin::test
