// The thin-pool and thin targets of the device-mapper in this process, on the public pool API.
//
// Invariants
//   PT1  One live_pool for each metadata device, as long as a table or a thin needs it.
// Threads   As device_mapper.
// Failures  errno values; of I/O: the pool's errors.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "pool/target_table.h"
#include "support/mapped_device.h"
#include "uthin/pool.h"

namespace uthin::test {

// What all tables and thins of one pool share.
class live_pool {
public:
    live_pool(device_mapper& mapper, mapped_device& owner, std::shared_ptr<block_device> metadata,
              std::shared_ptr<block_device> data, pool_table table);
    ~live_pool();

    [[nodiscard]] mapped_device& owner() { return owner_; }
    [[nodiscard]] const pool_table& table() const { return table_; }
    [[nodiscard]] block_device& data() { return *data_; }
    // Null until the first resume.
    [[nodiscard]] pool* engine() { return engine_.get(); }

    // Reads the superblock, or formats a blank device: what the kernel does when a table is loaded.
    [[nodiscard]] int inspect();
    // `next` becomes what the pool runs with.
    [[nodiscard]] int bind(const pool_table& next);
    void commit();
    [[nodiscard]] int message(const std::string& text);
    [[nodiscard]] std::string status(bool noflush);

    [[nodiscard]] int open_thin(device_id id, std::uint64_t size_bytes,
                                std::shared_ptr<block_device> origin);
    void close_thin(device_id id);
    // Sizes of external origins are read again.
    void resume_thin(device_id id);
    [[nodiscard]] std::shared_ptr<volume> thin(device_id id);

private:
    struct open_thin_entry {
        int tables = 0;
        std::uint64_t size_bytes = 0;
        std::shared_ptr<block_device> origin;
        std::shared_ptr<volume> handle;
    };

    [[nodiscard]] pool_options options_of(const pool_table& table) const;
    [[nodiscard]] int open_engine(const pool_table& table);
    [[nodiscard]] int apply_features(const pool_table& table);
    [[nodiscard]] int apply_sizes(const pool_table& table);
    [[nodiscard]] int open_handle(device_id id, open_thin_entry& entry);

    device_mapper& mapper_;
    mapped_device& owner_;
    const std::shared_ptr<block_device> metadata_;
    const std::shared_ptr<block_device> data_;
    pool_table table_;
    std::uint64_t recorded_data_blocks_ = 0;
    std::uint64_t recorded_metadata_blocks_ = 0;
    std::unique_ptr<pool> engine_;
    std::mutex lock_;
    std::map<device_id, open_thin_entry> thins_;
};

[[nodiscard]] int make_pool_target(device_mapper& mapper, mapped_device& owner,
                                   const target_line& line, std::unique_ptr<target>& made);
[[nodiscard]] int make_thin_target(device_mapper& mapper, const target_line& line,
                                   std::unique_ptr<target>& made);

}  // namespace uthin::test
