#include "thin_metadata/device_finder.h"

#include <algorithm>
#include <map>

namespace uthin::thin_metadata {

namespace {

// All that have, or should have, one number of mappings.
struct equals {
    std::vector<const orphan_node*> roots;
    std::vector<std::uint64_t> devices;
};

}  // namespace

found_roots find_device_roots(std::span<const orphan_node> orphans,
                              std::span<const named_details> wanted) {
    std::map<std::uint64_t, equals> by_mappings;
    for (const named_details& device : wanted) {
        if (device.details.mapped_blocks != 0) {
            by_mappings[device.details.mapped_blocks].devices.push_back(device.id);
        }
    }
    for (const orphan_node& orphan : orphans) {
        if (const auto same = by_mappings.find(orphan.tree.mappings); same != by_mappings.end()) {
            same->second.roots.push_back(&orphan);
        }
    }
    found_roots found;
    for (auto& [mappings, same] : by_mappings) {
        if (same.roots.size() == 1 && same.roots.front()->missing == same.devices.size()) {
            for (const std::uint64_t id : same.devices) {
                found.certain.push_back({.id = id, .root = same.roots.front()->where});
            }
        } else if (!same.roots.empty()) {
            undecided_roots undecided{
                .mappings = mappings, .roots = {}, .devices = std::move(same.devices)};
            for (const orphan_node* root : same.roots) {
                undecided.roots.push_back(root->where);
            }
            found.undecided.push_back(std::move(undecided));
        }
    }
    std::sort(found.certain.begin(), found.certain.end(),
              [](const named_root& a, const named_root& b) { return a.id < b.id; });
    return found;
}

}  // namespace uthin::thin_metadata
