// Independent judges of a metadata image: thin_check >= 1.1 and tests/oracle/decode.py.
//
// Both must find the image clean; what they print is the failure's message. The many-image form
// starts Python once and is the one to use in loops.
//
// Threads   Any one at a time.
// Failures  Reported to GoogleTest as non-fatal failures. Missing tools are a failure too, unless
//           UTHIN_NO_ORACLE=1 is in the environment: then nothing is checked, and one line says so.
// Source    scripts/fetch-thin-tools puts the tools into .cache (./dev calls it).
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace uthin::test {

void expect_image_is_clean(const std::filesystem::path& metadata);
void expect_image_is_clean(std::span<const std::byte> metadata);
void expect_images_are_clean(std::span<const std::filesystem::path> metadata);

// The folder of thin_check, thin_dump, ... 1.1; empty when they were not fetched.
[[nodiscard]] std::filesystem::path thin_tools_directory();

// What a shell command prints (both streams) and its exit status, -1 when it did not exit.
struct command_output {
    int status = -1;
    std::string text;
};
[[nodiscard]] command_output run_command(const std::string& shell_command);
// `word` so that the shell takes it as one word.
[[nodiscard]] std::string shell_quoted(const std::string& word);

}  // namespace uthin::test
