#include "support/device_mapper.h"

#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>

#include "io/memory_device.h"
#include "pool/names.h"
#include "pool/target_words.h"
#include "support/mapped_device.h"
#include "support/pool_targets.h"
#include "uthin/units.h"

namespace uthin::test {

namespace {

constexpr std::string_view device_folder = "/dev/";
constexpr std::string_view mapper_folder = "/dev/mapper/";

// What the block layer makes of an error.
int errno_of(const error& why) {
    switch (why.code()) {
        case error_code::no_data_space: return ENOSPC;
        case error_code::unsupported: return EOPNOTSUPP;
        default: return EIO;
    }
}

// Passes on to a device at an offset; flakey ones refuse writes.
class linear_target final : public target {
public:
    linear_target(target_line line, std::shared_ptr<block_device> below,
                  std::shared_ptr<mapped_device> holds, std::uint64_t shift, bool writes_fail)
        : target(std::move(line)),
          below_(std::move(below)),
          holds_(std::move(holds)),
          shift_(shift),
          writes_fail_(writes_fail) {
        if (holds_ != nullptr) {
            holds_->hold();
        }
    }
    ~linear_target() override {
        if (holds_ != nullptr) {
            holds_->let_go();
        }
    }

    result<void> read(std::uint64_t offset, std::span<std::byte> buffer) override {
        return below_->read(shift_ + offset, buffer);
    }
    result<void> write(std::uint64_t offset, std::span<const std::byte> buffer) override {
        return writes_fail_ ? refusal() : below_->write(shift_ + offset, buffer);
    }
    result<void> discard(std::uint64_t offset, std::uint64_t length) override {
        return writes_fail_ ? refusal() : below_->discard(shift_ + offset, length);
    }
    result<void> flush() override { return writes_fail_ ? refusal() : below_->flush(); }
    [[nodiscard]] bool can_discard() const override { return below_->capabilities().can_discard; }
    [[nodiscard]] bool fits() const override {
        return shift_ + length_bytes() <= *below_->size_bytes();
    }

private:
    static result<void> refusal() {
        return fail(error_code::io_error, "the device was told to fail writes");
    }

    const std::shared_ptr<block_device> below_;
    const std::shared_ptr<mapped_device> holds_;
    const std::uint64_t shift_;
    const bool writes_fail_;
};

class error_target final : public target {
public:
    using target::target;
    result<void> read(std::uint64_t, std::span<std::byte>) override { return refusal(); }
    result<void> write(std::uint64_t, std::span<const std::byte>) override { return refusal(); }
    result<void> discard(std::uint64_t, std::uint64_t) override { return refusal(); }
    result<void> flush() override { return {}; }  // the kernel sends it none
    [[nodiscard]] bool can_discard() const override { return false; }

private:
    static result<void> refusal() { return fail(error_code::io_error, "an error device"); }
};

// Passes on what is not in a list of bad blocks; these cannot be read once that is enabled, until
// they are written.
class dust_target final : public target {
public:
    dust_target(target_line line, std::unique_ptr<linear_target> below, std::uint64_t block_bytes)
        : target(std::move(line)), below_(std::move(below)), block_bytes_(block_bytes) {}

    result<void> read(std::uint64_t offset, std::span<std::byte> buffer) override {
        {
            const std::lock_guard held(lock_);
            const auto at = bad_.lower_bound(offset / block_bytes_);
            if (enabled_ && at != bad_.end() && *at * block_bytes_ < offset + buffer.size()) {
                return fail(error_code::io_error, "a bad block");
            }
        }
        return below_->read(offset, buffer);
    }
    result<void> write(std::uint64_t offset, std::span<const std::byte> buffer) override {
        {
            const std::lock_guard held(lock_);
            if (enabled_) {
                bad_.erase(
                    bad_.lower_bound(offset / block_bytes_),
                    bad_.lower_bound((offset + buffer.size() + block_bytes_ - 1) / block_bytes_));
            }
        }
        return below_->write(offset, buffer);
    }
    result<void> discard(std::uint64_t offset, std::uint64_t length) override {
        return below_->discard(offset, length);
    }
    result<void> flush() override { return below_->flush(); }
    [[nodiscard]] bool can_discard() const override { return below_->can_discard(); }
    [[nodiscard]] bool fits() const override { return below_->fits(); }

    int message(const std::string& text) override {
        const std::vector<std::string> words = split_target_words(text);
        const std::lock_guard held(lock_);
        if (words.size() == 2 && words[0] == "addbadblock" && parse_decimal(words[1])) {
            return bad_.insert(*parse_decimal(words[1])).second ? 0 : EINVAL;
        }
        if (words.size() != 1 ||
            (words[0] != "enable" && words[0] != "disable" && words[0] != "quiet")) {
            return EINVAL;
        }
        if (words[0] != "quiet") {
            enabled_ = words[0] == "enable";
        }
        return 0;
    }

private:
    const std::unique_ptr<linear_target> below_;
    const std::uint64_t block_bytes_;
    std::mutex lock_;
    std::set<std::uint64_t> bad_;
    bool enabled_ = false;
};

// "linear DEVICE SECTOR", "flakey DEVICE SECTOR UP DOWN 1 error_writes" with UP 0, "dust DEVICE
// SECTOR BLOCK-BYTES".
int make_linear_target(device_mapper& mapper, const target_line& line,
                       std::unique_ptr<target>& made) {
    const bool flakey = line.target == "flakey";
    const bool dust = line.target == "dust";
    if (flakey ? line.words.size() != 6 || line.words[2] != "0" || line.words[5] != "error_writes"
               : line.words.size() != (dust ? 3U : 2U)) {
        return EINVAL;
    }
    const auto shift = parse_decimal(line.words[1]);
    auto below = mapper.find(line.words[0]);
    if (!shift || below == nullptr) {
        return below == nullptr ? ENODEV : EINVAL;
    }
    auto linear =
        std::make_unique<linear_target>(line, std::move(below), mapper.find_mapped(line.words[0]),
                                        *shift * sector_size_bytes, flakey);
    if (dust) {
        const auto block_bytes = parse_decimal(line.words[2]);
        if (!block_bytes || *block_bytes < sector_size_bytes) {
            return EINVAL;
        }
        made = std::make_unique<dust_target>(line, std::move(linear), *block_bytes);
    } else {
        made = std::move(linear);
    }
    return 0;
}

// parse_target_line wants a start of 0: later targets of a table are checked for gaps here.
int parse_lines(const std::string& table, std::vector<target_line>& lines) {
    std::uint64_t next_sector = 0;
    for (std::size_t at = 0; at <= table.size();) {
        const std::size_t end = std::min(table.find(';', at), table.size());
        std::string text = table.substr(at, end - at);
        at = end + 1;
        std::vector<std::string> words = split_target_words(text);
        if (words.empty() && at > table.size() && !lines.empty()) {
            break;
        }
        const auto start = words.empty() ? std::nullopt : parse_decimal(words[0]);
        if (!start || *start != next_sector) {
            return EINVAL;
        }
        auto line = parse_target_line("0" + text.substr(text.find(words[0]) + words[0].size()));
        if (!line) {
            return EINVAL;
        }
        line->start_sector = next_sector;
        next_sector += line->length_sectors;
        lines.push_back(std::move(*line));
    }
    return 0;
}

bool is_pool(const std::shared_ptr<target_list>& table) {
    return table != nullptr && table->front()->line().target == "thin-pool";
}

}  // namespace

int make_targets(device_mapper& mapper, mapped_device& owner, const std::string& table,
                 std::shared_ptr<target_list>& made) {
    std::vector<target_line> lines;
    if (const int refused = parse_lines(table, lines); refused != 0) {
        return refused;
    }
    auto targets = std::make_shared<target_list>();
    for (const target_line& line : lines) {
        const bool pool = line.target == "thin-pool";
        if ((pool && lines.size() != 1) || (is_pool(owner.live()) && !pool)) {
            return EINVAL;
        }
        std::unique_ptr<target> one;
        int refused = EINVAL;
        if (pool) {
            refused = make_pool_target(mapper, owner, line, one);
        } else if (line.target == "thin") {
            refused = make_thin_target(mapper, line, one);
        } else if (line.target == "linear" || line.target == "flakey" || line.target == "dust") {
            refused = make_linear_target(mapper, line, one);
        } else if (line.target == "error") {
            one = std::make_unique<error_target>(line);
            refused = 0;
        }
        if (refused != 0) {
            return refused;
        }
        targets->push_back(std::move(one));
    }
    made = std::move(targets);
    return 0;
}

device_mapper::device_mapper(table_dialect dialect) : dialect_(dialect) {
}

// Devices that others stand on go last.
device_mapper::~device_mapper() {
    while (!devices_.empty()) {
        const std::size_t before = devices_.size();
        for (auto at = devices_.begin(); at != devices_.end();) {
            at = at->second->held() ? std::next(at) : devices_.erase(at);
        }
        if (devices_.size() == before) {
            devices_.clear();
        }
    }
}

void device_mapper::make_disk(const std::string& name, std::uint64_t size_sectors) {
    add_disk(name, std::make_shared<io::memory_device>(size_sectors * sector_size_bytes, name));
}

void device_mapper::add_disk(const std::string& name, std::shared_ptr<block_device> disk) {
    const std::lock_guard held(lock_);
    disks_[name] = std::move(disk);
}

std::shared_ptr<mapped_device> device_mapper::named(const std::string& name) const {
    const std::lock_guard held(lock_);
    const auto at = devices_.find(name);
    return at == devices_.end() ? nullptr : at->second;
}

std::shared_ptr<mapped_device> device_mapper::find_mapped(std::string_view path) const {
    return path.starts_with(mapper_folder) ? named(std::string(path.substr(mapper_folder.size())))
                                           : nullptr;
}

std::shared_ptr<block_device> device_mapper::find(std::string_view path) const {
    if (auto found = find_mapped(path)) {
        return found;
    }
    if (!path.starts_with(device_folder)) {
        return nullptr;
    }
    const std::lock_guard held(lock_);
    const auto at = disks_.find(std::string(path.substr(device_folder.size())));
    return at == disks_.end() ? nullptr : at->second;
}

std::map<std::string, std::shared_ptr<mapped_device>> device_mapper::devices() const {
    const std::lock_guard held(lock_);
    return devices_;
}

// ---- tables

int device_mapper::create(const std::string& name, const std::string& table) {
    if (named(name) != nullptr) {
        return EBUSY;
    }
    {
        const std::lock_guard held(lock_);
        devices_[name] = std::make_shared<mapped_device>(name);
    }
    int refused = load(name, table);
    if (refused == 0) {
        refused = resume(name);
    }
    if (refused != 0) {
        static_cast<void>(remove(name));
    }
    return refused;
}

int device_mapper::load(const std::string& name, const std::string& table) {
    const auto device = named(name);
    if (device == nullptr) {
        return ENXIO;
    }
    std::shared_ptr<target_list> made;
    if (const int refused = make_targets(*this, *device, table, made); refused != 0) {
        return refused;
    }
    // Later tables are checked when they are swapped in.
    if (device->live() == nullptr && !fit(*made)) {
        return EINVAL;
    }
    device->set_waiting(std::move(made));
    return 0;
}

int device_mapper::clear(const std::string& name) {
    const auto device = named(name);
    if (device == nullptr) {
        return ENXIO;
    }
    device->set_waiting(nullptr);
    return 0;
}

int device_mapper::suspend(const std::string& name) {
    const auto device = named(name);
    return device == nullptr ? ENXIO : device->suspend();
}

int device_mapper::resume(const std::string& name) {
    const auto device = named(name);
    return device == nullptr ? ENXIO : device->resume();
}

int device_mapper::remove(const std::string& name) {
    const auto device = named(name);
    if (device == nullptr) {
        return ENXIO;
    }
    if (device->held()) {
        return EBUSY;
    }
    const std::lock_guard held(lock_);
    devices_.erase(name);
    return 0;
}

int device_mapper::message(const std::string& name, std::uint64_t sector, const std::string& text) {
    const auto device = named(name);
    if (device == nullptr) {
        return ENXIO;
    }
    const auto table = device->live();
    if (table == nullptr || split_target_words(text).empty()) {
        return EINVAL;
    }
    for (const auto& one : *table) {
        if (sector >= one->line().start_sector &&
            sector < one->line().start_sector + one->line().length_sectors) {
            return one->message(text);
        }
    }
    return EINVAL;
}

namespace {

std::string lines_of(const mapped_device& device, bool noflush, bool table) {
    std::string text;
    const bool frozen = noflush || device.suspended();
    for (const auto& one : *device.live()) {
        const target_line& line = one->line();
        text += (text.empty() ? "" : "\n") + std::to_string(line.start_sector) + " " +
                std::to_string(line.length_sectors) + " " + line.target + " " +
                (table ? one->table() : one->status(frozen));
    }
    return text;
}

}  // namespace

int device_mapper::status(const std::string& name, bool noflush, std::string& text) {
    const auto device = named(name);
    if (device == nullptr || device->live() == nullptr) {
        return ENXIO;
    }
    text = lines_of(*device, noflush, false);
    return 0;
}

int device_mapper::table(const std::string& name, std::string& text) {
    const auto device = named(name);
    if (device == nullptr || device->live() == nullptr) {
        return ENXIO;
    }
    text = lines_of(*device, true, true);
    return 0;
}

int device_mapper::events(const std::string& name, std::uint64_t& count) {
    const auto device = named(name);
    if (device == nullptr) {
        return ENXIO;
    }
    count = device->events();
    return 0;
}

// ---- I/O

namespace {

std::shared_ptr<block_device> either(const device_mapper& from, const std::string& name) {
    auto found = from.find(std::string(mapper_folder) + name);
    return found != nullptr ? found : from.find(std::string(device_folder) + name);
}

}  // namespace

std::int64_t device_mapper::read(const std::string& name, std::uint64_t sector,
                                 std::span<std::byte> buffer) {
    const auto device = either(*this, name);
    if (device == nullptr) {
        return -ENOENT;
    }
    const std::uint64_t size = *device->size_bytes();
    const std::uint64_t offset = sector * sector_size_bytes;
    const std::uint64_t count = offset >= size ? 0 : std::min(size - offset, buffer.size());
    if (count == 0) {
        return 0;
    }
    const auto done = device->read(offset, buffer.first(count));
    return done ? static_cast<std::int64_t>(count) : -errno_of(done.error());
}

std::int64_t device_mapper::write(const std::string& name, std::uint64_t sector,
                                  std::span<const std::byte> buffer) {
    const auto device = either(*this, name);
    if (device == nullptr) {
        return -ENOENT;
    }
    const std::uint64_t size = *device->size_bytes();
    const std::uint64_t offset = sector * sector_size_bytes;
    if (offset >= size) {
        return -ENOSPC;
    }
    const std::uint64_t count = std::min(size - offset, buffer.size());
    const auto done = device->write(offset, buffer.first(count));
    return done ? static_cast<std::int64_t>(count) : -errno_of(done.error());
}

int device_mapper::discard(const std::string& name, std::uint64_t sector,
                           std::uint64_t length_sectors) {
    const auto device = either(*this, name);
    if (device == nullptr) {
        return ENOENT;
    }
    const std::uint64_t begin = sector * sector_size_bytes;
    const std::uint64_t length = length_sectors * sector_size_bytes;
    if (!device->capabilities().can_discard) {
        return EOPNOTSUPP;
    }
    if (begin + length > *device->size_bytes()) {
        return EINVAL;
    }
    const auto done = device->discard(begin, length);
    return done ? 0 : errno_of(done.error());
}

int device_mapper::flush(const std::string& name) {
    const auto device = either(*this, name);
    if (device == nullptr) {
        return ENOENT;
    }
    const auto done = device->flush();
    return done ? 0 : errno_of(done.error());
}

std::uint64_t device_mapper::size_sectors(const std::string& name) {
    const auto device = either(*this, name);
    return device == nullptr ? 0 : *device->size_bytes() / sector_size_bytes;
}

}  // namespace uthin::test
