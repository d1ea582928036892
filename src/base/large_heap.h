// Memory for programs that run for a moment and use a few dozen MiB: one heap that is not given
// back, at its beginning in huge pages.
//
// A page fault for each 4 KiB was up to half of a tool's CPU time in a virtual machine.
#pragma once

namespace uthin {

// For main(), before there is a second thread. Changes nothing where malloc is not glibc's.
void use_large_heap() noexcept;

}  // namespace uthin
