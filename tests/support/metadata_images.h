// Metadata images for tests of the read side: from files, from the corpus, with planted defects.
//
// Threads   One at a time.
// Failures  Null after a non-fatal GoogleTest failure that says what is missing.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "uthin/block_device.h"

namespace uthin::test {

// The file's bytes in memory.
[[nodiscard]] std::unique_ptr<block_device> load_image(const std::filesystem::path& path);
[[nodiscard]] std::unique_ptr<block_device> load_corpus_metadata(const std::string& scenario);
// One of those that make_defect_images.py makes (once for each program).
[[nodiscard]] std::unique_ptr<block_device> load_defect_image(const std::string& name);
[[nodiscard]] std::vector<std::string> defect_image_names();

}  // namespace uthin::test
