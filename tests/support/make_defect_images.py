#!/usr/bin/env python3
"""Small metadata images, each with one planted defect: the matrix of docs/format.md 16 and more.

usage: make_defect_images.py DIRECTORY      writes DIRECTORY/NAME.img; the names are what the tests expect.
"""
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "oracle"))
from mkimage import BS, build, csum, ie  # noqa: E402

BOTTOM, DETAILS, TOP, DATA_BITMAP, DATA_OVERFLOW, DATA_INDEX, METADATA_OVERFLOW = 9, 7, 6, 8, 5, 4, 2
MAPPINGS = [(i, struct.pack("<Q", i << 24)) for i in range(3)]
IMAGES = {}


def image(function):
    IMAGES[function.__name__] = function
    return function


def base(**options):
    return build(ndata=100, mode="snap", **options)


def node(w, where, leaf, value_size, items, **options):
    w.b[where] = bytearray(BS)
    w.node(where, leaf, value_size, items, **options)
    return w


def patched(w, where, kind, form, *pairs):
    """Sets fields at offsets, then makes the checksum right."""
    for offset, value in pairs:
        struct.pack_into(form, w.b[where], offset, value)
    struct.pack_into("<I", w.b[where], 0, csum(bytes(w.b[where]), kind))
    return w


def details(*devices):
    return [(i, struct.pack("<QQII", *values)) for i, values in devices]


def deep(n1, n2, second_key=None, first_key=0, gap=0):
    """Devices 1 and 2 share a tree of two leaves with n1 and n2 mappings."""
    w = build(ndata=1000, mode="snap")
    left, right = w.alloc(), w.alloc()
    items = [(first_key + i, struct.pack("<Q", i << 24)) for i in range(n1 + n2)]
    w.node(left, True, 8, items[:n1])
    w.node(right, True, 8, items[n1:])
    second = items[n1][0] if second_key is None else second_key
    node(w, BOTTOM, False, 8, [(items[0][0] - gap, struct.pack("<Q", left)), (second, struct.pack("<Q", right))])
    total = n1 + n2
    node(w, DETAILS, True, 24, details((1, (total, 0, 0, 1)), (2, (total, 0, 1, 1))))
    recount(w, [1 if i < total else 0 for i in range(1000)])
    return w


def recount(w, data):
    """Both space maps after w.rc and `data`."""
    w.bitmap(DATA_BITMAP, data)
    node(w, DATA_INDEX, True, 16, [(0, ie(DATA_BITMAP, data))])
    counts = [w.rc.get(b, 0) for b in range(w.n)]
    w.bitmap(3, counts)
    w.b[1][16:32] = ie(3, counts)
    w.seal(1, "index")
    overflow = sorted((b, struct.pack("<I", c)) for b, c in w.rc.items() if c > 2)
    node(w, METADATA_OVERFLOW, True, 4, overflow)
    struct.pack_into("<Q", w.b[0], 64 + 8, sum(1 for c in data if c))
    struct.pack_into("<Q", w.b[0], 192 + 8, sum(1 for c in counts if c))
    w.seal(0, "superblock")


# ---- healthy
IMAGES["clean"] = base
IMAGES["clean_deep"] = lambda: deep(100, 100)
IMAGES["clean_minimum_fill"] = lambda: deep(84, 84)
IMAGES["clean_low_parent_key"] = lambda: deep(100, 100, first_key=10, gap=5)
IMAGES["clean_held"] = lambda: build(ndata=100, mode="held")
IMAGES["clean_fresh"] = lambda: build(ndata=0, mode="fresh")
IMAGES["needs_check"] = lambda: base(flags=1)

# ---- metadata space map
IMAGES["metadata_leak_1"] = lambda: base(leak=500)
IMAGES["metadata_leak_2"] = lambda: base(leak2=500)
IMAGES["metadata_count_low"] = lambda: base(under="bot")
IMAGES["held_not_counted"] = lambda: build(ndata=100, mode="held-noinc")
IMAGES["metadata_nr_free"] = lambda: patched(base(), 1, "index", "<I", (24, 1))
IMAGES["metadata_none_free_before"] = lambda: patched(base(), 1, "index", "<I", (28, 4000))
IMAGES["metadata_nr_allocated"] = lambda: base(nalloc_off=1)
IMAGES["metadata_index_garbage"] = lambda: base(idxgarbage=1)
IMAGES["metadata_count_beyond_end"] = lambda: patched(base(), 3, "bitmap", "<B", (16 + 4000, 0x80))
IMAGES["metadata_stale_overflow"] = lambda: node(base(), METADATA_OVERFLOW, True, 4, [(50, struct.pack("<I", 7))])
IMAGES["metadata_missing_overflow"] = lambda: patched(base(), 3, "bitmap", "<B", (16 + 100, 0x03))
IMAGES["metadata_map_too_long"] = lambda: patched(base(), 0, "superblock", "<Q", (192, 5000))
IMAGES["metadata_bitmap_checksum"] = lambda: broken(base(), 3)
IMAGES["metadata_index_checksum"] = lambda: broken(base(), 1)
IMAGES["metadata_bitmap_shared"] = lambda: patched(base(), 1, "index", "<Q", (16, DATA_BITMAP))

# ---- data space map
IMAGES["data_counts_low"] = lambda: patched(base(), DATA_BITMAP, "bitmap", "<B", (16, 0))
IMAGES["data_leak_1"] = lambda: patched(base(), DATA_BITMAP, "bitmap", "<B", (20, 0xaa))
IMAGES["data_leak_2"] = lambda: patched(base(), DATA_BITMAP, "bitmap", "<B", (20, 0x55))
IMAGES["data_count_beyond_end"] = lambda: patched(base(), DATA_BITMAP, "bitmap", "<B", (16 + 26, 0x80))
IMAGES["data_stale_overflow"] = lambda: node(base(), DATA_OVERFLOW, True, 4, [(50, struct.pack("<I", 7))])
IMAGES["data_small_overflow"] = lambda: node(
    patched(base(), DATA_BITMAP, "bitmap", "<B", (16, 0x2b)), DATA_OVERFLOW, True, 4, [(0, struct.pack("<I", 1))])
IMAGES["data_missing_overflow"] = lambda: patched(base(), DATA_BITMAP, "bitmap", "<B", (16, 0x2b))
IMAGES["data_nr_allocated"] = lambda: patched(base(), 0, "superblock", "<Q", (64 + 8, 77))
IMAGES["data_nr_free_truncated"] = lambda: node(
    base(), DATA_INDEX, True, 16, [(0, ie(DATA_BITMAP, [1, 1, 1] + [0] * 97, trunc=100))])
IMAGES["data_index_missing"] = lambda: node(base(), DATA_INDEX, True, 16, [])
IMAGES["data_index_extra"] = lambda: patched(base(), 0, "superblock", "<Q", (64, 0))
IMAGES["data_index_checksum"] = lambda: broken(base(), DATA_INDEX)
IMAGES["data_bitmap_checksum"] = lambda: broken(base(), DATA_BITMAP)
IMAGES["data_overflow_checksum"] = lambda: broken(base(), DATA_OVERFLOW)
IMAGES["data_map_too_long"] = lambda: patched(base(), 0, "superblock", "<Q", (64, 1 << 62))

# ---- nodes
IMAGES["max_entries_low"] = lambda: node(base(), BOTTOM, True, 8, MAPPINGS, mx=126)
IMAGES["max_entries_odd"] = lambda: node(base(), BOTTOM, True, 8, MAPPINGS, mx=254)
IMAGES["node_flags_3"] = lambda: patched(base(), BOTTOM, "node", "<I", (4, 3))
IMAGES["node_flags_0"] = lambda: patched(base(), BOTTOM, "node", "<I", (4, 0))
IMAGES["node_padding"] = lambda: patched(base(), BOTTOM, "node", "<I", (28, 77))
IMAGES["node_slack"] = lambda: patched(base(), BOTTOM, "node", "<B", (4090, 9))
IMAGES["keys_out_of_order"] = lambda: node(base(), BOTTOM, True, 8, [MAPPINGS[0], MAPPINGS[2], MAPPINGS[1]])
IMAGES["value_size"] = lambda: node(base(), BOTTOM, True, 4, [(0, bytes(4))])
IMAGES["too_many_entries"] = lambda: patched(base(), BOTTOM, "node", "<I", (16, 253))
IMAGES["node_number"] = lambda: patched(base(), BOTTOM, "node", "<Q", (8, 12))
IMAGES["underfull_left"] = lambda: deep(83, 100)
IMAGES["underfull_right"] = lambda: deep(100, 1)
IMAGES["high_parent_key"] = lambda: deep(100, 100, second_key=101)
IMAGES["loop"] = lambda: node(base(), BOTTOM, False, 8, [(0, struct.pack("<Q", BOTTOM))])
IMAGES["pointer_beyond_device"] = lambda: node(base(), BOTTOM, False, 8, [(0, struct.pack("<Q", 1 << 50))])
IMAGES["empty_internal"] = lambda: node(base(), BOTTOM, False, 8, [])
IMAGES["root_is_details"] = lambda: node(
    base(), TOP, True, 8, [(1, struct.pack("<Q", BOTTOM)), (2, struct.pack("<Q", DETAILS))])


def broken(w, where):
    w.b[where][0] ^= 0xff
    return w


IMAGES["bottom_checksum"] = lambda: broken(base(), BOTTOM)
IMAGES["top_checksum"] = lambda: broken(base(), TOP)
IMAGES["details_checksum"] = lambda: broken(base(), DETAILS)


@image
def second_leaf_checksum():
    w = deep(100, 100)
    return broken(w, w.next - 1)


@image
def uneven_depth():
    w = deep(100, 100)
    extra = w.alloc()
    right = w.next - 2
    w.node(extra, False, 8, [(100, struct.pack("<Q", right))])
    left = right - 1
    node(w, BOTTOM, False, 8, [(0, struct.pack("<Q", left)), (100, struct.pack("<Q", extra))])
    recount(w, [1 if i < 200 else 0 for i in range(1000)])
    return w


@image
def too_deep():
    w = base()
    chain = [w.alloc() for _ in range(20)]
    node(w, BOTTOM, False, 8, [(0, struct.pack("<Q", chain[0]))])
    for at, below in zip(chain, chain[1:]):
        w.node(at, False, 8, [(0, struct.pack("<Q", below))])
    w.node(chain[-1], True, 8, MAPPINGS)
    recount(w, [1, 1, 1] + [0] * 97)
    return w


# ---- devices
IMAGES["details_lack_device"] = lambda: node(base(), DETAILS, True, 24, details((1, (3, 0, 0, 1))))
IMAGES["top_lacks_device"] = lambda: node(base(), DETAILS, True, 24, details(
    (1, (3, 0, 0, 1)), (2, (3, 0, 1, 1)), (3, (0, 0, 1, 1))))
IMAGES["mapped_blocks"] = lambda: node(base(), DETAILS, True, 24, details((1, (3, 0, 0, 1)), (2, (4, 0, 1, 1))))
IMAGES["device_times"] = lambda: node(base(), DETAILS, True, 24, details((1, (3, 0, 0, 1)), (2, (3, 0, 9, 9))))
IMAGES["device_time_order"] = lambda: node(base(), DETAILS, True, 24, details((1, (3, 0, 1, 0)), (2, (3, 0, 1, 1))))
IMAGES["device_transaction"] = lambda: node(base(), DETAILS, True, 24, details((1, (3, 9, 0, 1)), (2, (3, 0, 1, 1))))
IMAGES["mapping_beyond_data"] = lambda: node(base(), BOTTOM, True, 8, [(0, struct.pack("<Q", 5000 << 24))] + MAPPINGS[1:])
IMAGES["mapping_time"] = lambda: node(base(), BOTTOM, True, 8, [(0, struct.pack("<Q", 9))] + MAPPINGS[1:])
IMAGES["data_block_mapped_twice"] = lambda: node(base(), BOTTOM, True, 8, [MAPPINGS[0], (1, MAPPINGS[0][1]), MAPPINGS[2]])


@image
def large_device_id():
    w = node(base(), DETAILS, True, 24, details((1, (3, 0, 0, 1)), (1 << 24, (3, 0, 1, 1))))
    return node(w, TOP, True, 8, [(1, struct.pack("<Q", BOTTOM)), (1 << 24, struct.pack("<Q", BOTTOM))])


# ---- superblock
IMAGES["superblock_magic"] = lambda: base(magic=1)
IMAGES["superblock_number"] = lambda: base(sbloc=5)
IMAGES["superblock_checksum"] = lambda: broken(base(), 0)
IMAGES["superblock_blank"] = lambda: blank(base())
IMAGES["superblock_version_1"] = lambda: base(version=1)
IMAGES["superblock_version_3"] = lambda: base(version=3)
IMAGES["superblock_incompat"] = lambda: base(incompat=4)
IMAGES["superblock_compat_ro"] = lambda: base(compat_ro=4)
IMAGES["superblock_compat"] = lambda: base(compat=4)
IMAGES["superblock_flags"] = lambda: base(flags=6)
IMAGES["superblock_metadata_block_size"] = lambda: base(mbs=16)
IMAGES["superblock_metadata_nr_blocks"] = lambda: base(mnr=7)
IMAGES["superblock_data_block_size"] = lambda: base(dbs=100)
IMAGES["superblock_time"] = lambda: patched(base(), 0, "superblock", "<I", (44, 1 << 24))
IMAGES["superblock_tail"] = lambda: patched(base(), 0, "superblock", "<B", (500, 1))
IMAGES["held_uncounted_garbage"] = lambda: patched(base(), 0, "superblock", "<Q", (56, 600))
IMAGES["held_beyond_device"] = lambda: patched(base(), 0, "superblock", "<Q", (56, 1 << 40))
IMAGES["held_is_a_node"] = lambda: patched(base(), 0, "superblock", "<Q", (56, BOTTOM))


def blank(w):
    w.b[0] = bytearray(BS)
    return w


@image
def held_broken():
    w = build(ndata=100, mode="held")
    return broken(w, struct.unpack_from("<Q", w.b[0], 56)[0])


def main():
    os.makedirs(sys.argv[1], exist_ok=True)
    for name, make in IMAGES.items():
        make().save(os.path.join(sys.argv[1], name + ".img"))
    print(len(IMAGES), "images")


if __name__ == "__main__":
    main()
