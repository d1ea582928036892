#include "support/metadata_images.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <span>

#include "io/memory_device.h"
#include "support/corpus.h"
#include "support/image_check.h"
#include "support/paths.h"
#include "support/temporary_directory.h"

namespace uthin::test {
namespace {

const std::filesystem::path& defect_directory() {
    static const temporary_directory directory;
    static const bool is_made = [] {
        const std::string script = source_dir() + "/tests/support/make_defect_images.py";
        const command_output made = run_command("python3 " + shell_quoted(script) + " " +
                                                shell_quoted(directory.path().string()));
        EXPECT_EQ(made.status, 0) << made.text;
        return made.status == 0;
    }();
    (void)is_made;
    return directory.path();
}

}  // namespace

std::unique_ptr<block_device> load_image(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::error_code failure;
    const std::uintmax_t size_bytes = std::filesystem::file_size(path, failure);
    if (!file || failure) {
        ADD_FAILURE() << "cannot read " << path;
        return nullptr;
    }
    auto device = std::make_unique<io::memory_device>(size_bytes, path.filename().string());
    std::vector<char> piece(1 << 20);
    for (std::uint64_t at = 0; at < size_bytes; at += piece.size()) {
        const std::size_t length = std::min<std::uint64_t>(piece.size(), size_bytes - at);
        file.read(piece.data(), static_cast<std::streamsize>(length));
        const auto bytes = std::as_bytes(std::span<const char>(piece.data(), length));
        // Holes stay holes.
        if (std::any_of(bytes.begin(), bytes.end(), [](std::byte b) { return b != std::byte{}; }) &&
            !device->write(at, bytes)) {
            ADD_FAILURE() << "cannot copy " << path;
            return nullptr;
        }
    }
    return device;
}

std::unique_ptr<block_device> load_corpus_metadata(const std::string& scenario) {
    const auto loaded = load_corpus(scenario);
    if (!loaded) {
        ADD_FAILURE() << loaded.error().to_string();
        return nullptr;
    }
    const temporary_directory directory;
    const std::filesystem::path path = directory.path() / "metadata.img";
    if (const auto unpacked = loaded->unpack("metadata.img", path); !unpacked) {
        ADD_FAILURE() << unpacked.error().to_string();
        return nullptr;
    }
    return load_image(path);
}

std::unique_ptr<block_device> load_defect_image(const std::string& name) {
    return load_image(defect_directory() / (name + ".img"));
}

std::vector<std::string> defect_image_names() {
    std::vector<std::string> names;
    for (const auto& file : std::filesystem::directory_iterator(defect_directory())) {
        names.push_back(file.path().stem().string());
    }
    std::sort(names.begin(), names.end());
    return names;
}

}  // namespace uthin::test
