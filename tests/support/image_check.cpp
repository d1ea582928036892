#include "support/image_check.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "support/paths.h"
#include "support/temporary_directory.h"

namespace uthin::test {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t images_per_command = 200;  // keeps the command line short

// True when the judges are switched off by the environment; says so once.
bool is_switched_off() {
    const char* value = std::getenv("UTHIN_NO_ORACLE");
    static const bool is_off = value != nullptr && std::string_view(value) == "1";
    static const bool is_told = [] {
        if (is_off) {
            std::printf("UTHIN_NO_ORACLE=1: images are not checked by thin_check and decode.py\n");
        }
        return is_off;
    }();
    return is_told;
}

}  // namespace

std::string shell_quoted(const std::string& word) {
    std::string quoted = "'";
    for (const char c : word) {
        quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
    }
    return quoted + "'";
}

command_output run_command(const std::string& shell_command) {
    command_output output;
    std::fflush(nullptr);
    std::FILE* pipe = ::popen(("{ " + shell_command + "\n} 2>&1").c_str(), "r");
    if (pipe == nullptr) {
        return output;
    }
    std::array<char, 4096> piece{};
    while (const std::size_t got = std::fread(piece.data(), 1, piece.size(), pipe)) {
        output.text.append(piece.data(), got);
    }
    const int status = ::pclose(pipe);
    output.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return output;
}

fs::path thin_tools_directory() {
    fs::path directory = fs::path(source_dir()) / ".cache" / "thin-tools-1" / "bin";
    return fs::exists(directory / "thin_check") ? directory : fs::path();
}

void expect_images_are_clean(std::span<const fs::path> metadata) {
    if (is_switched_off()) {
        return;
    }
    const fs::path tools = thin_tools_directory();
    if (tools.empty()) {
        ADD_FAILURE() << "thin_check >= 1.1 is missing: run scripts/fetch-thin-tools";
        return;
    }
    const std::string start =
        fmt::format("{} {}", shell_quoted(source_dir() + "/tests/support/check_images.py"),
                    shell_quoted(tools.string()));
    while (!metadata.empty()) {
        const auto part = metadata.first(std::min(metadata.size(), images_per_command));
        metadata = metadata.subspan(part.size());
        std::string command = start;
        for (const fs::path& image : part) {
            command += fmt::format(" {}", shell_quoted(image.string()));
        }
        const command_output output = run_command(command);
        EXPECT_EQ(output.status, 0) << output.text;
    }
}

void expect_image_is_clean(const fs::path& metadata) {
    expect_images_are_clean(std::span(&metadata, 1));
}

void expect_image_is_clean(std::span<const std::byte> metadata) {
    if (is_switched_off()) {
        return;
    }
    const temporary_directory directory;
    const fs::path image = directory.path() / "metadata";
    std::FILE* file = std::fopen(image.c_str(), "wb");
    ASSERT_NE(file, nullptr) << image;
    const std::size_t written = std::fwrite(metadata.data(), 1, metadata.size(), file);
    ASSERT_EQ(std::fclose(file), 0) << image;
    ASSERT_EQ(written, metadata.size()) << image;
    expect_image_is_clean(image);
}

}  // namespace uthin::test
