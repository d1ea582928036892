// Reading the fields of a JSON object, for the codec's own files.
//
// Threads   Plain functions.
// Failures  invalid_argument that names the field.
#pragma once

#include <fmt/format.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "frontends/control/codec.h"
#include "pool/names.h"

namespace uthin::frontends {

[[nodiscard]] inline bool fits(const json& value, const std::string&) {
    return value.is_string();
}
[[nodiscard]] inline bool fits(const json& value, bool) {
    return value.is_boolean();
}
[[nodiscard]] inline bool fits(const json& value, std::uint64_t) {
    return value.is_number_unsigned();
}
[[nodiscard]] inline bool fits(const json& value, std::int64_t) {
    return value.is_number_integer() &&
           (!value.is_number_unsigned() || value.get<std::uint64_t>() <= INT64_MAX);
}
[[nodiscard]] inline bool fits(const json& value, const std::vector<std::string>&) {
    if (!value.is_array()) {
        return false;
    }
    for (const json& item : value) {
        if (!item.is_string()) {
            return false;
        }
    }
    return true;
}
[[nodiscard]] inline bool fits(const json& value, const std::map<std::string, std::string>&) {
    if (!value.is_object()) {
        return false;
    }
    for (const json& item : value) {
        if (!item.is_string()) {
            return false;
        }
    }
    return true;
}

// Takes the fields of one object and remembers the first thing that was wrong.
class field_reader {
public:
    explicit field_reader(const json& object) : object_(object) {
        if (!object.is_object()) {
            failure_ = "a JSON object is expected";
        }
    }

    template <class Value>
    void required(const char* name, Value& to) {
        if (const json* value = find(name)) {
            take(*value, name, to);
        } else if (failure_.empty()) {
            failure_ = fmt::format("the field '{}' is missing", name);
        }
    }
    // null is as good as absent.
    template <class Value>
    void optional(const char* name, Value& to) {
        if (const json* value = find(name); value != nullptr && !value->is_null()) {
            take(*value, name, to);
        }
    }
    template <class Value>
    void optional(const char* name, std::optional<Value>& to) {
        if (const json* value = find(name); value != nullptr && !value->is_null()) {
            take(*value, name, to.emplace());
        }
    }
    [[nodiscard]] const json* find(const char* name) {
        known_.insert(name);
        if (!failure_.empty()) {
            return nullptr;
        }
        const auto found = object_.find(name);
        return found == object_.end() ? nullptr : &*found;
    }
    // For requests: whatever was not asked for is a mistake of the caller.
    void refuse_unknown() {
        if (!failure_.empty()) {
            return;
        }
        for (const auto& item : object_.items()) {
            if (!known_.contains(item.key())) {
                failure_ = fmt::format("unknown field '{}'", printable(item.key()));
                return;
            }
        }
    }
    [[nodiscard]] result<void> outcome() const {
        if (!failure_.empty()) {
            return fail(error_code::invalid_argument, failure_);
        }
        return {};
    }

private:
    template <class Value>
    void take(const json& value, const char* name, Value& to) {
        if (fits(value, to)) {
            to = value.get<Value>();
        } else if (failure_.empty()) {
            failure_ = fmt::format("the field '{}' has the wrong type", name);
        }
    }

    const json& object_;
    std::set<std::string> known_;
    std::string failure_;
};

}  // namespace uthin::frontends
