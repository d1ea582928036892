// A small pool in memory for targets that need one: the same one for each input.
//
//   vol       1 MiB, some of it written; vol@1 is a snapshot of it
//   other     an empty one
//
// Threads   One. The pool is never started, so that all of it runs on the caller's thread.
// Failures  A broken promise when it cannot be made or closed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fuzz/target.h"
#include "io/sparse_image.h"
#include "pool/pool_directory.h"

namespace uthin::fuzz {

class pool_input {
public:
    pool_input();
    // Closes it and has it checked.
    ~pool_input();
    pool_input(const pool_input&) = delete;
    pool_input& operator=(const pool_input&) = delete;

    [[nodiscard]] pool_service& service() { return *service_; }
    // What clients can see, in words.
    [[nodiscard]] std::string appearance();
    [[nodiscard]] bytes content(const std::string& name);

private:
    io::image_device metadata_;
    io::image_device data_;
    std::unique_ptr<pool_directory> pool_;
    std::unique_ptr<pool_service> service_;
};

// An external origin of 1 MiB, whatever its name.
[[nodiscard]] std::unique_ptr<block_device> any_origin();

}  // namespace uthin::fuzz
