// The lying disk: devices with a volatile cache, recorded so that the power can be cut afterwards
// at any operation, with any part of what was not yet flushed lost or torn.
//
//   crash_domain domain;                          // several disks on one power supply
//   crash_device& metadata = domain.add_device("metadata", size);
//   ... run the engine on the devices ...
//   power_cut cut(domain.history());
//   for (std::size_t k = 0; k <= cut.operation_count(); ++k) {
//       cut.move_to(k);                           // operations [0, k) completed, k may be in
//       flight for (const crash_choice& choice : cut.choices(options)) {
//           crash_state state = cut.materialize(choice);
//           auto metadata_after = state.open("metadata");
//           ...
//
// Any durable store can take part: a file (a journal, a database) is a crash_device too, written
// by offset, resized with resize(), removed by resize(0).
//
// Invariants
//   CD1  All operations of a domain have one order; each is atomic at its place in it.
//   CD2  After a cut at k every write before a completed flush of its device is there, every
//        completed FUA write is there, and of the others any units, each unit old or new.
//   CD3  A unit that several pending writes cover holds the newest one that survived.
//   CD4  After power_off() or stop_after() nothing changes any more: every call is io_error.
//
// Threads   Domain and devices: any. Observers are called under the domain's lock, in CD1's order;
//           they must not call the domain or its devices. power_cut: one thread.
//
// Failures  out_of_range beyond the end; io_error once the power is off.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "io/crash_states.h"
#include "io/operation.h"
#include "io/sparse_image.h"
#include "uthin/block_device.h"

namespace uthin::io {

class crash_domain;

// One change or flush of a device; reads are not recorded.
struct recorded_operation {
    std::size_t device_index = 0;
    operation_kind kind = operation_kind::write;
    bool fua = false;
    std::uint64_t offset_bytes = 0;
    std::uint64_t length_bytes = 0;                      // resize: the new size
    std::shared_ptr<const std::vector<std::byte>> data;  // writes only
};

// What an observer sees, after the operation took effect.
struct observed_operation {
    std::uint64_t sequence = 0;  // index in the history; for a read, of the next operation
    std::size_t device_index = 0;
    std::string_view device_name;
    operation_kind kind = operation_kind::write;
    bool fua = false;
    std::uint64_t offset_bytes = 0;
    std::uint64_t length_bytes = 0;
    std::span<const std::byte> data;        // writes and reads
    const sparse_image* content = nullptr;  // the device as its user sees it; copy it to keep it
};

class crash_device final : public block_device {
public:
    [[nodiscard]] std::string name() const override { return name_; }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override;
    [[nodiscard]] device_capabilities capabilities() const override;
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                    std::span<std::byte> buffer) override;
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) override;
    [[nodiscard]] result<void> flush() override;
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) override;
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes) override;
    [[nodiscard]] result<void> write_fua(std::uint64_t offset_bytes,
                                         std::span<const std::byte> buffer) override;
    [[nodiscard]] result<void> grow(std::uint64_t size_bytes) override;
    // A file's truncation or extension: volatile until the next flush, like a write.
    [[nodiscard]] result<void> resize(std::uint64_t size_bytes);

    [[nodiscard]] std::size_t index() const noexcept { return index_; }
    // The contents as the user of the device sees them, O(1).
    [[nodiscard]] sparse_image image() const;

private:
    friend class crash_domain;
    crash_device(crash_domain& domain, std::size_t index, std::string name, sparse_image image)
        : domain_(domain), index_(index), name_(std::move(name)), current_(std::move(image)) {}

    crash_domain& domain_;
    const std::size_t index_;
    const std::string name_;
    sparse_image current_;  // guarded by the domain's lock
};

// The recording up to some moment; independent of the domain that made it.
struct crash_history {
    std::vector<std::string> device_names;
    std::vector<sparse_image> base;  // durable contents before operation 0
    std::vector<recorded_operation> operations;
};

// What the disks held when power came back.
class crash_state {
public:
    explicit crash_state(std::vector<std::string> names, std::vector<sparse_image> images)
        : names_(std::move(names)), images_(std::move(images)) {}

    [[nodiscard]] const std::vector<std::string>& names() const noexcept { return names_; }
    [[nodiscard]] const sparse_image& image(std::size_t device_index) const {
        return images_.at(device_index);
    }
    // Fresh devices; each call starts from the state again.
    [[nodiscard]] std::unique_ptr<image_device> open(std::string_view name) const;
    [[nodiscard]] std::unique_ptr<image_device> open(std::size_t device_index) const;

private:
    std::vector<std::string> names_;
    std::vector<sparse_image> images_;
};

class crash_domain {
public:
    using observer = std::function<void(const observed_operation&)>;

    crash_domain() = default;
    // A new life of the disks in `state`, for cuts during recovery.
    explicit crash_domain(const crash_state& state);
    crash_domain(const crash_domain&) = delete;
    crash_domain& operator=(const crash_domain&) = delete;
    ~crash_domain();

    // The domain owns its devices. Names are unique. Add them before the first operation.
    crash_device& add_device(std::string name, std::uint64_t size_bytes);
    crash_device& add_device(std::string name, sparse_image durable);
    // nullptr if there is none.
    [[nodiscard]] crash_device* find(std::string_view name);

    // Operations recorded so far. What was acknowledged before a call of sequence() that returned n
    // is in every state of a cut at k >= n.
    [[nodiscard]] std::uint64_t sequence() const;
    [[nodiscard]] crash_history history() const;
    // Declares all contents durable and forgets the recording.
    void forget_history();

    void observe(observer callback);

    // From now on every operation fails, and none has an effect.
    void power_off();
    // The same, after `operation_count` more recorded operations.
    void stop_after(std::uint64_t operation_count);
    void power_on();

private:
    friend class crash_device;
    [[nodiscard]] result<void> powered() const REQUIRES(lock_);
    [[nodiscard]] result<void> record(crash_device& device, recorded_operation operation);
    void notify(const crash_device& device, const recorded_operation& operation,
                std::span<const std::byte> data, std::uint64_t sequence) REQUIRES(lock_);

    mutable mutex lock_;
    std::vector<std::unique_ptr<crash_device>> devices_ GUARDED_BY(lock_);
    std::vector<sparse_image> base_ GUARDED_BY(lock_);
    std::vector<recorded_operation> operations_ GUARDED_BY(lock_);
    std::vector<observer> observers_ GUARDED_BY(lock_);
    std::optional<std::uint64_t> operations_left_ GUARDED_BY(lock_);
};

// A moment in a history at which the power fails.
class power_cut {
public:
    explicit power_cut(crash_history history);

    [[nodiscard]] std::size_t operation_count() const noexcept {
        return history_.operations.size();
    }
    // Operations [0, k) have completed; operation k, if there is one, may be in flight. Moving
    // forwards costs the operations in between, moving backwards starts again.
    void move_to(std::size_t operation_index);

    // The writes that the cut may lose, in order. Indexes in a choice refer to these.
    [[nodiscard]] const std::vector<losable_write>& writes() const noexcept { return writes_; }
    [[nodiscard]] const recorded_operation& operation_of(std::size_t write_index) const {
        return history_.operations[pending_[write_index]];
    }
    [[nodiscard]] std::vector<crash_choice> choices(const crash_state_options& options) const {
        return enumerate_crash_choices(writes_, options);
    }
    // How much the disks write at once: 512 or 4096 bytes.
    void set_atomic_unit(std::uint32_t unit_size_bytes) {
        unit_bytes_ = unit_size_bytes;
        list_pending();
    }

    // Costs the surviving writes, not the size of the disks.
    [[nodiscard]] crash_state materialize(const crash_choice& choice) const;

private:
    void complete(std::size_t operation_index);
    void list_pending();

    crash_history history_;
    std::uint32_t unit_bytes_ = 512;
    std::size_t position_ = 0;
    std::vector<sparse_image> durable_;            // per device, at its last completed flush
    std::vector<sparse_image> current_;            // per device, with everything
    std::vector<std::vector<std::size_t>> cache_;  // per device, operations since that flush
    std::vector<std::size_t> pending_;             // all devices' caches and the one in flight
    std::vector<losable_write> writes_;
};

}  // namespace uthin::io
