// A pool that this process serves: its volumes as exports, its control socket.
//
// Invariants
//   SP1  The size of an export is fixed when it is opened; growth shows when it is opened again.
//   SP2  No thread exists before start() and none after stop().
//
// Threads   exports, open_export: any, between start and stop. The rest: one thread.
//
// Failures  Those of opening a pool directory; busy when another process serves the pool.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "uthin/error.h"
#include "uthin/pool.h"

namespace uthin::frontends {

// Names the export of a transfer; no name of a volume holds a slash.
inline constexpr const char* transfer_export_prefix = "transfer/";

struct served_pool_options {
    std::string directory;
    bool read_only = false;
    unsigned wait_s = 10;         // for another process to let go of the pool
    std::string nbd_socket_path;  // told to clients of the control socket; empty: none
};

struct export_entry {
    std::string name;
    std::string description;
};

struct opened_export {
    std::shared_ptr<volume> content;
    std::uint64_t size_bytes = 0;
    bool writable = false;
    std::string description;
    // What the export says of its blocks; empty: what the volume says.
    std::function<result<std::vector<volume_extent>>(
        std::uint64_t offset_bytes, std::uint64_t length_bytes, std::size_t extents_max)>
        extents{};
};

class served_pool {
public:
    // Takes the locks; starts nothing.
    [[nodiscard]] static result<std::unique_ptr<served_pool>> open(
        const served_pool_options& options);
    ~served_pool();
    served_pool(const served_pool&) = delete;
    served_pool& operator=(const served_pool&) = delete;

    // The engine's threads, the control socket, and a thread that deletes what has expired.
    [[nodiscard]] result<void> start();
    // Ends the control socket, commits, closes the pool.
    [[nodiscard]] result<void> stop();

    [[nodiscard]] result<std::vector<export_entry>> exports();
    [[nodiscard]] result<opened_export> open_export(const std::string& name, bool read_only);
    [[nodiscard]] uthin::pool& engine() noexcept;

private:
    struct impl;
    // "B@since-A"; absent: no such pair.
    [[nodiscard]] result<std::optional<opened_export>> open_since(const std::string& name);
    explicit served_pool(std::unique_ptr<impl> state);
    std::unique_ptr<impl> impl_;
};

}  // namespace uthin::frontends
