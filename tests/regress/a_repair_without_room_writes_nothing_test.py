#!/usr/bin/env python3
"""thin_repair took an output for large enough that had room for leaves nearly full; those beside shared ones may be
a third full only. Then it wrote until there was no room, and what the output had held was gone. (Found by reading.)"""
import os
import subprocess
import tempfile

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
BLOCK = 4096
PIECES, PIECE = 350, 84  # as many leaves of their own, and as many shared ones; 84 is the least that a leaf holds
DATA_BLOCKS = 2 * PIECES * PIECE


def run(tool, *words):
    return subprocess.run([os.path.join(BIN, tool), *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          timeout=60)


def piece(number, data):
    return (f'<range_mapping origin_begin="{number * PIECE}" data_begin="{data * PIECE}" length="{PIECE}" '
            'time="0"/>\n')


def device(number, mappings, pieces):
    return (f'<device dev_id="{number}" mapped_blocks="{mappings}" transaction="0" creation_time="0" snap_time="0">\n'
            f'{"".join(pieces)}</device>\n')


def xml():
    """device 1: a shared piece, one of its own, a shared one and so on; device 2: the shared ones"""
    shared = [f'<ref name="{index}"/>\n' for index in range(PIECES)]
    own = [piece(2 * index + 1, PIECES + index) for index in range(PIECES)]
    return "".join([
        '<superblock uuid="" time="0" transaction="1" version="2" data_block_size="128" ',
        f'nr_data_blocks="{DATA_BLOCKS}">\n',
        *(f'<def name="{index}">\n{piece(2 * index, index)}</def>\n' for index in range(PIECES)),
        device(1, 2 * PIECES * PIECE, [part for pair in zip(shared, own) for part in pair]),
        device(2, PIECES * PIECE, shared), "</superblock>\n"])


def pattern(blocks):
    return b"what was here before".ljust(64, b".") * (blocks * BLOCK // 64)


def main():
    with tempfile.TemporaryDirectory() as folder:
        text, source, output = (os.path.join(folder, name) for name in ("xml", "source", "output"))
        with open(text, "w") as f:
            f.write(xml())
        with open(source, "wb") as f:
            f.truncate(4 << 20)
        restored = run("thin_restore", "-i", text, "-o", source)
        assert restored.returncode == 0, restored

        def repair(blocks):
            with open(output, "wb") as f:
                f.write(pattern(blocks))
            ran = run("thin_repair", "-i", source, "-o", output)
            if ran.returncode == 0:
                assert run("thin_check", output).returncode == 0, blocks
                return True
            assert ran.returncode == 64 and ran.stderr.count(b"\n") == 1, (blocks, ran)
            assert b"out of metadata space" in ran.stderr, (blocks, ran)
            with open(output, "rb") as f:
                assert f.read() == pattern(blocks), f"{blocks} blocks: written over"
            return False

        # Both as if each mapping was counted once, and for each device.
        needed = [8 + DATA_BLOCKS // 16320 + mappings // 252 for mappings in (DATA_BLOCKS, DATA_BLOCKS * 3 // 2)]
        taken_as_enough = [blocks + blocks // 8 + 64 + 4 * 2 for blocks in needed]
        too_few, enough = taken_as_enough[0], 2 * PIECES + 100
        assert not repair(too_few)
        assert repair(enough)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            if repair(middle):
                enough = middle
            else:
                too_few = middle
        assert max(taken_as_enough) < too_few and 2 * PIECES < enough, (taken_as_enough, enough)
        assert repair(enough) and not repair(too_few) and not repair(max(taken_as_enough))


main()
