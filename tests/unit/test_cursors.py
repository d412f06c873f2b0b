"""Cursors against a plain set of what was seen."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citybeat.storage.reads.cursors import LAST, Cursor, CursorError, Position

small = st.integers(1, 12)
positions = st.builds(Position, small, st.integers(1, 4))
snapshots = st.builds(
    lambda until, running: (until, sorted({xact for xact in running if xact < until})), st.integers(2, 12), st.lists(small)
)
ROWS = [Position(xact, number) for xact in range(1, 13) for number in range(1, 5)]


def of(snapshot):
    until, running = snapshot
    return Cursor.of_snapshot(f"gen:{until}:{','.join(map(str, running))}")


@given(snapshots, st.lists(positions, max_size=6))
def test_a_cursor_is_the_set_of_what_it_misses(snapshot, steps):
    """Going on row by row, in order, takes away exactly the rows up to there; and a text is the same cursor."""
    until, running = snapshot
    missing = {row for row in ROWS if row.xact >= until or row.xact in running}
    cursor = of(snapshot)
    for step in [None, *sorted(steps)]:
        if step is not None and step > cursor.position:
            missing = {row for row in missing if row > step}
            cursor = cursor.at(step)
        assert {row for row in ROWS if cursor.misses(row)} == missing
        assert Cursor.parse(str(cursor)) == cursor


@given(snapshots, positions)
def test_nothing_is_lost_unnoticed(snapshot, floor):
    cursor = of(snapshot)
    dropped = [row for row in ROWS if row <= floor and cursor.misses(row)]
    assert not dropped or cursor.lost(floor)
    if floor.xact < snapshot[0] and not any(xact <= floor.xact for xact in snapshot[1]):
        assert not cursor.lost(floor)


@given(positions, positions)
def test_a_plain_cursor_has_lost_what_is_behind_it_and_dropped(position, floor):
    cursor = Cursor(generation="gen", position=position)
    assert cursor.lost(floor) == (floor > position)


def test_below_a_frontier_everything_was_told():
    cursor = Cursor.below("gen", 7)
    assert [cursor.misses(Position(xact, LAST)) for xact in (6, 7)] == [False, True]


@given(st.one_of(st.text(max_size=40), st.binary(max_size=30).map(lambda raw: raw.hex())))
def test_what_is_no_cursor_is_refused(text):
    try:
        cursor = Cursor.parse(text)
    except CursorError:
        return
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"[]",
        b'["gen",1]',
        b'["gen",1,2,3]',
        b'["gen",1,true]',
        b'["gen",-1,2]',
        b'["gen",1,2.0]',
        b"[1,1,2]",
        b'["gen",1,2,3,4]',
        b'["gen",1,2,3,["x"]]',
        b'["gen",1,9223372036854775808]',
        b'["gen",1,2,3,[' + b",".join([b"1"] * 1001) + b"]]",
    ],
)
def test_wrong_content(content):
    with pytest.raises(CursorError):
        Cursor.parse(base64.urlsafe_b64encode(content).decode().rstrip("="))
