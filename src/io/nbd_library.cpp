#include "io/nbd_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

namespace uthin::io {
namespace {

result<nbd_library> load() {
    void* const loaded = ::dlopen("libnbd.so.0", RTLD_NOW | RTLD_LOCAL);
    if (loaded == nullptr) {
        return fail(error_code::unsupported,
                    fmt::format("NBD needs libnbd; install the package libnbd0 ({})", ::dlerror()));
    }
    nbd_library library;
#define UTHIN_NBD_FIND(name)                                                                \
    library.name = reinterpret_cast<decltype(library.name)>(::dlsym(loaded, "nbd_" #name)); \
    if (library.name == nullptr) {                                                          \
        return fail(error_code::unsupported, "libnbd is too old: it has no nbd_" #name);    \
    }
    UTHIN_NBD_FUNCTIONS(UTHIN_NBD_FIND)
#undef UTHIN_NBD_FIND
    return library;
}

}  // namespace

result<const nbd_library*> load_nbd_library() {
    static const result<nbd_library> library = load();
    if (!library) {
        return std::unexpected(library.error());
    }
    return &*library;
}

}  // namespace uthin::io
