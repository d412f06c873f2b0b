"""COPY BINARY against a plain loop over rows (against the server itself: tests/integration/test_pgcopy.py)."""

import struct

import numpy as np
import pytest

from citybeat.devices.batch import FOREVER, NEVER
from citybeat.storage.db import pgcopy
from citybeat.storage.db.pgcopy import RowFormat

FORMAT = RowFormat(i2="int2", i4="int4", at="timestamptz", f8="float8", i8="int8")


def encoded(form, **columns):
    return b"".join(form.blocks(**columns))


EPOCH = 946_684_800_000_000


def plain(columns):
    out = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    for i2, i4, at, f8, i8 in zip(*columns.values(), strict=True):
        moved = at if at in (FOREVER, NEVER) else at - EPOCH
        out += struct.pack(">hihiiiqidiq", 5, 2, i2, 4, i4, 8, moved, 8, f8, 8, i8)
    return out + b"\xff\xff"


@pytest.mark.parametrize("rows_a_block", [1, 7, 1_000_000])
@pytest.mark.parametrize("n", [0, 1, 6, 7, 8, 14, 100])
def test_blocks_of_rows_are_what_a_loop_makes(n, rows_a_block, monkeypatch):
    monkeypatch.setattr(pgcopy, "_BLOCK", rows_a_block * 52)
    rng = np.random.default_rng(n)
    columns = {
        "i2": rng.integers(-(2**15), 2**15, n).tolist(),
        "i4": rng.integers(-(2**31), 2**31, n).tolist(),
        "at": [int(FOREVER) if i % 5 == 3 else int(NEVER) if i % 7 == 5 else i * 10**12 for i in range(n)],
        "f8": rng.normal(size=n).tolist(),
        "i8": rng.integers(-(2**62), 2**62, n).tolist(),
    }
    data = encoded(FORMAT, **columns)
    assert data == plain(columns)
    assert {name: column.tolist() for name, column in FORMAT.decode(data).items()} == columns


@pytest.mark.parametrize("rows", [[], [3], [9, 0, 0, 4, 8, 1, 2, 7], list(range(10))])
def test_rows_can_be_picked(rows, monkeypatch):
    monkeypatch.setattr(pgcopy, "_BLOCK", 3 * 22)
    fmt = RowFormat(at="timestamptz", i4="int4")
    at, i4 = [int(FOREVER), *range(10**15, 10**15 + 9)], list(range(10))
    blocks = list(fmt.blocks(np.array(rows, np.int64), at=at, i4=i4))
    assert b"".join(blocks) == encoded(fmt, at=[at[row] for row in rows], i4=[i4[row] for row in rows])
    assert max(map(len, blocks)) <= 3 * 22
    assert len(blocks) == 2 + (len(rows) + 2) // 3


def test_columns_that_do_not_fit_are_told_before_the_first_block():
    with pytest.raises(ValueError, match="different lengths"):
        RowFormat(a="int2", b="int2").blocks(a=[1], b=[1, 2])


def test_a_block_holds_a_row_however_long_it_is(monkeypatch):
    monkeypatch.setattr(pgcopy, "_BLOCK", 1)
    assert RowFormat(a="int8").decode(encoded(RowFormat(a="int8"), a=[1, 2, 3]))["a"].tolist() == [1, 2, 3]
