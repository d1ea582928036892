// The version of the library and the programs.
#pragma once

namespace uthin {

inline constexpr const char* version_string = "1.0.0";

}  // namespace uthin
