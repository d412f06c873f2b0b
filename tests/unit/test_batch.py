"""Rows of a batch, picked by number and by mask."""

import numpy as np
import pytest

from citybeat.devices.batch import Batch

COLUMNS = {"time": "q", "received_at": "q", "series": "i", "value": "d", "flags": "h", "message": "i", "index": "i"}


def numbered(rows):
    """A batch whose columns all tell which rows it has."""
    return Batch(**{name: np.array(rows, code) for name, code in COLUMNS.items()})


def rows_of(batch):
    found = [getattr(batch, name).tolist() for name in COLUMNS]
    assert all(column == found[0] for column in found)
    return found[0]


@pytest.mark.parametrize("mask", [[True] * 4, [True, False, True, True], [False] * 4, []])
def test_a_mask_picks_the_rows_that_it_has(mask):
    batch = numbered(range(len(mask)))
    picked = batch.take(np.array(mask, np.bool_))
    assert rows_of(picked) == [row for row, chosen in enumerate(mask) if chosen]
    assert (picked is batch) == all(mask)  # nothing is copied for nothing


@pytest.mark.parametrize("rows", [[1, 1, 1], [2, 0, 1], [0, 1, 2], [0]])
def test_numbers_pick_rows_in_their_order(rows):
    assert rows_of(numbered(range(3)).take(np.array(rows))) == rows
