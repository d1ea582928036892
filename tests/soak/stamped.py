"""What a volume may hold: a stamp for each cell of 4 KiB, and what else the rules of a volume allow.

A cell holds the value of the last request that was issued to it (`now`; 0 is zeros), or one of `others`:
a part of a block that was discarded reads as it did and from some moment on as zeros. After SIGKILL it may
also hold a value from before a request that no completed flush followed (`unflushed`)."""
import struct

CELL = 4096
BLOCK = 64 << 10
CELLS_PER_BLOCK = BLOCK // CELL
ZEROS = bytes(CELL)
NOTHING = frozenset()


def cell_bytes(volume, cell, stamp):
    return struct.pack("<QQ", volume << 48 | cell, stamp) * (CELL // 16) if stamp else ZEROS


def stamp_of(volume, cell, piece):
    """None: torn, or another place's bytes"""
    if piece == ZEROS:
        return 0
    stamp = struct.unpack_from("<Q", piece, 8)[0]
    return stamp if piece == cell_bytes(volume, cell, stamp) else None


def stamps_of(volume, first_cell, data):
    return [stamp_of(volume, first_cell + at // CELL, data[at:at + CELL]) for at in range(0, len(data), CELL)]


class Violation(Exception):
    pass


class Change:
    """One request: what its cells hold afterwards. `partly`: zeros may come later, or never."""

    def __init__(self, cells, stamp, partly=False):
        self.cells, self.stamp, self.partly = cells, stamp, partly


class Content:
    """Of one volume or snapshot; `volume` is the number that its cells bear."""

    def __init__(self, volume, cells):
        self.volume = volume
        self.now = [0] * cells
        self.others = {}
        self.unflushed = {}

    def copy(self):
        made = Content(self.volume, 0)
        made.now, made.others, made.unflushed = self.now[:], dict(self.others), dict(self.unflushed)
        return made

    def allowed(self, cell):
        return self.others.get(cell, NOTHING) | {self.now[cell]}

    def apply(self, change):
        for cell in change.cells:
            if change.partly:
                self.others[cell] = self.others.get(cell, NOTHING) | {0}
            else:
                self.unflushed[cell] = self.unflushed.get(cell, NOTHING) | self.allowed(cell)
                self.others.pop(cell, None)
                self.now[cell] = change.stamp

    def flushed(self):
        self.unflushed.clear()

    def resize(self, cells):
        if cells > len(self.now):
            self.now += [0] * (cells - len(self.now))
        del self.now[cells:]
        for values in (self.others, self.unflushed):
            for cell in [cell for cell in values if cell >= cells]:
                del values[cell]

    def allow_after_kill(self):
        for cell, values in self.unflushed.items():
            self.others[cell] = self.others.get(cell, NOTHING) | values
        self.unflushed.clear()

    def expect(self, what, first_cell, found):
        """`found`: stamps of the cells from first_cell on"""
        for cell, stamp in enumerate(found, first_cell):
            if stamp != self.now[cell] and stamp not in self.others.get(cell, NOTHING):
                held = "torn or foreign bytes" if stamp is None else f"stamp {stamp}"
                raise Violation(f"{what}: the cell at {cell * CELL} holds {held}, allowed are "
                                f"{sorted(self.allowed(cell))}")

    def settle(self, found):
        """It was read as a whole and was legal: from now on it is that."""
        self.now, self.others, self.unflushed = found, {}, {}


def expect_prefix(what, before, changes, found):
    """`found` is `before` with a whole number of `changes` done, the first ones."""
    touched = {cell for change in changes for cell in change.cells}
    for cell, stamp in enumerate(found):
        if cell not in touched and stamp not in before.allowed(cell):
            before.expect(what, cell, [stamp])
    state = before.copy()
    for change in [None, *changes]:
        if change is not None:
            state.apply(change)
        if all(found[cell] in state.allowed(cell) for cell in touched):
            return
    raise Violation(f"{what}: holds no whole number of the {len(changes)} requests that ran beside it")
