// A stream of mappings as the text of thin_dump: XML, or the form made for people.
//
// Invariants
//   XW1  The text is, byte for byte, that of thin_dump 0.9.0 or of 1.x: programs scan it with less
//        than an XML parser (docs/format.md, tools contract).
// Threads   One at a time.
// Failures  Those of the output; after one, nothing more is written.
// Source    Output of thin_dump 0.9.0 and 1.1.0.
#pragma once

#include <functional>
#include <string>

#include "thin_metadata/mapping_stream.h"

namespace uthin::thin_metadata {

// Takes a piece of the text.
using text_output = std::function<result<void>(std::string_view)>;

enum class dump_dialect : std::uint8_t {
    v0_9,  // flags always, a newline at the end; cannot express shared pieces (unsupported)
    v1,    // flags only when set, no newline behind the last tag
};

class text_writer : public mapping_sink {
protected:
    text_writer(text_output output, dump_dialect dialect)
        : output_(std::move(output)), dialect_(dialect) {}

    // Collects pieces to larger ones.
    [[nodiscard]] result<void> write(std::string_view text);
    [[nodiscard]] result<void> flush();
    [[nodiscard]] result<void> check_shared_allowed() const;
    [[nodiscard]] dump_dialect dialect() const noexcept { return dialect_; }

private:
    text_output output_;
    dump_dialect dialect_;
    std::string buffer_;
};

class xml_writer final : public text_writer {
public:
    xml_writer(text_output output, dump_dialect dialect)
        : text_writer(std::move(output), dialect) {}

    [[nodiscard]] result<void> begin_pool(const pool_header& pool) override;
    [[nodiscard]] result<void> begin_shared(std::string_view name) override;
    [[nodiscard]] result<void> end_shared() override;
    [[nodiscard]] result<void> begin_device(const thin_device_info& device) override;
    [[nodiscard]] result<void> run(const mapping_run& run) override;
    [[nodiscard]] result<void> reference(std::string_view name) override;
    [[nodiscard]] result<void> end_device() override;
    [[nodiscard]] result<void> end_pool() override;
};

class human_readable_writer final : public text_writer {
public:
    human_readable_writer(text_output output, dump_dialect dialect)
        : text_writer(std::move(output), dialect) {}

    [[nodiscard]] result<void> begin_pool(const pool_header& pool) override;
    [[nodiscard]] result<void> begin_shared(std::string_view name) override;
    [[nodiscard]] result<void> end_shared() override;
    [[nodiscard]] result<void> begin_device(const thin_device_info& device) override;
    [[nodiscard]] result<void> run(const mapping_run& run) override;
    [[nodiscard]] result<void> reference(std::string_view name) override;
    [[nodiscard]] result<void> end_device() override;
    [[nodiscard]] result<void> end_pool() override;
};

}  // namespace uthin::thin_metadata
