"""The ledger that the truth expects, differences from it, and the small parts that carry rows there."""

from dataclasses import replace

import numpy as np
import pytest

from citybeat.devices.batch import FOREVER, NEVER
from citybeat.devices.errors import Reason
from citybeat.devices.ledger import Counts
from citybeat.simulator.errors import TruthError
from citybeat.simulator.faults.rows import FAULT_CODES, OUTCOME_CODES, REASON_CODES
from citybeat.simulator.score.books import COUNTS, Actual, Expected
from citybeat.simulator.score.labels import LABELS, Names, labels
from citybeat.simulator.score.parts import Parts
from citybeat.simulator.score.refusals import Refusals
from citybeat.simulator.score.telling import Findings
from citybeat.simulator.score.truthfile import TruthFile
from tests import truths

NAMES = Names(series=[("a", "t")], boots=[("gw-1", "b0"), ("gw-2", "b0"), ("gw-1", "b1")], sources=["gw-1", "gw-2"])
LAST = {("gw-1", "b0"): 5, ("gw-2", "b0"): 1, ("gw-1", "b1"): -1}


def settled(rows, actual, seen):
    expected = Expected(LAST)
    for row in range(len(rows)):  # however the blocks are cut
        expected.add(rows[row : row + 1], NAMES.boots)
    findings = Findings(NAMES)
    accounts = expected.settle(NAMES, actual, seen, findings)
    return expected, accounts, [(f.source, f.what, f.count, f.examples) for f in findings.all()]


def day():
    """Six messages of gw-1 (two readings, a lost one, one that cannot be read, one of each other outcome), two of gw-2."""
    rows = labels(10, seq=[0, 0, 1, 2, 3, 4, 5, 5, 0, 1], index=[0, 1, 0, 0, 0, 0, 0, 1, 0, 0])
    rows["source"] = rows["boot"] = [0] * 8 + [1] * 2
    outcomes = ["stored", "stored", "lost", "undecodable", "missing", "quarantined", "conflict", "duplicate", "stored", "stored"]
    rows["outcome"] = [OUTCOME_CODES[name] for name in outcomes]
    rows["reason"][5] = REASON_CODES[Reason.BAD_NAME]
    rows["sent_at"] = 100 + np.arange(10)
    rows["sent_at"][2] = NEVER
    return rows


RIGHT = {
    "gw-1": Actual(
        counts=Counts(received=6, stored=2, duplicate=1, conflict=1, missing=1, quarantined=1, undecodable=1),
        reasons={Reason.BAD_NAME: 1, Reason.CONFLICT: 1},
    ),
    "gw-2": Actual(counts=Counts(received=2, stored=2), reasons={}),
}
SEEN = {("gw-1", "b0"): [(0, 1), (3, 6)], ("gw-2", "b0"): [(0, 2)]}


def test_books_that_agree():
    expected, accounts, found = settled(day(), RIGHT, SEEN)
    assert found == []
    assert (expected.received(), expected.begun) == (8, 100)
    assert [tuple(account.truth[name] for name in COUNTS) for account in accounts] == [
        (6, 2, 1, 1, 1, 1, 1, 1),
        (2, 2, 0, 0, 0, 0, 0, 0),
    ]
    assert all(account.truth == account.database for account in accounts)
    assert Expected({}).begun == FOREVER


def test_what_differs_is_told_by_source():
    wrong = RIGHT | {"gw-2": Actual(counts=Counts(received=2, stored=1, duplicate=1), reasons={})}
    _, _, found = settled(day(), wrong, SEEN)
    assert found == [
        ("gw-2", "duplicate: the truth has 0, the database 1", 1, ()),
        ("gw-2", "stored: the truth has 2, the database 1", 1, ()),
    ]


def test_messages_by_their_numbers():
    # Number 2 cannot be read, so it says nothing whether it is there; 1 was lost, and came; 4 did not.
    _, accounts, found = settled(
        day(), RIGHT, {("gw-1", "b0"): [(0, 4), (5, 6)], ("gw-2", "b0"): [(1, 2)], ("gw-1", "x"): [(7, 9)]}
    )
    assert found == [
        ("gw-1", "messages of a start ('x') that the truth does not know: something else was sent meanwhile", 2, ()),
        ("gw-1", "messages that should be lost, and came", 1, ("gw-1 b0 message 1",)),
        ("gw-1", "messages that should have come, and did not", 1, ("gw-1 b0 message 4",)),
        ("gw-2", "lost: the truth has 0, the database 1", 1, ()),
        ("gw-2", "messages that should have come, and did not", 1, ("gw-2 b0 message 0",)),
    ]
    assert (accounts[0].truth["lost"], accounts[0].database["lost"]) == (1, 1)


def test_reasons_but_for_what_found_no_room():
    def with_reasons(reasons, overflow=0):
        changed = Actual(counts=replace(RIGHT["gw-1"].counts, overflow=overflow), reasons=reasons)
        return settled(day(), RIGHT | {"gw-1": changed}, SEEN)[2]

    assert with_reasons({}, overflow=1) == []
    assert [what for _, what, _, _ in with_reasons({Reason.TOO_OLD: 1})] == [
        "quarantined as bad_name: the truth has 1, the database 0",
        "quarantined as too_old: the truth has 0, the database 1",
    ]


@pytest.mark.parametrize("count", [1, 3])
def test_parts_keep_their_rows_in_order(tmp_path, count):
    parts = Parts(LABELS, count, tmp_path, "rows")
    rows = labels(100, series=np.arange(100) % 7)
    for start in range(0, 100, 30):
        block = rows[start : start + 30]
        parts.add(block, block["series"] % count)
    found = list(parts)
    parts.close()
    assert [part["seq"].tolist() for part in found] == [
        [i for i in range(100) if i % 7 % count == number] for number in range(count)
    ]
    assert all((tmp_path / f"rows-{i}").stat().st_size == 0 for i in range(count) if count > 1)


def test_refusals_beyond_what_was_sent_are_nobodys():
    boot, seq, index, reason = np.array([[0, 0, 1, -1, 0], [2, 9, 3, 0, 2], [0, 0, 5, 0, 1], [7, 7, 8, 9, 6]])
    refusals = Refusals(boot, seq, index, reason, [5, 5])
    asked = refusals.take(np.array([0, 0, 1, 0, 1]), np.array([2, 9, 3, 2, 3]), np.array([0, 0, 5, 9, 4]))
    assert asked.tolist() == [7, -1, 8, -1, -1]
    assert refusals.left().tolist() == [4]
    empty = np.empty(0, np.int64)
    assert Refusals(empty, empty, empty, empty, []).take(empty, empty, empty).tolist() == []


def test_a_truth_file_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr("citybeat.simulator.score.truthfile.BLOCK", 3)
    rows = [
        {"source": f"gw-{i % 2}", "boot": "b", "seq": i, "index": 0, "device": f"d{i % 3}", "metric": "t", "time": i, "claimed": i}
        | {"sent_at": i, "value": float(i), "outcome": "stored", "acknowledged": True}
        for i in range(10)
    ]
    rows[4] |= {
        "claimed": None,
        "seq": None,
        "sent_at": None,
        "value": None,
        "fault": "stuck",
        "delivery": "lost",
        "reason": "empty",
    }
    file = TruthFile(truths.write(tmp_path / "truth.parquet", rows, sources={("gw-0", "b"): 8, ("gw-1", "b"): None}))
    blocks = list(file.blocks())
    assert [len(block) for block in blocks] == [3, 3, 3, 1]
    read = np.concatenate(blocks)
    assert [file.names.series[place] for place in read["series"]] == [(f"d{i % 3}", "t") for i in range(10)]
    assert [file.names.boots[place] for place in read["boot"]] == [(f"gw-{i % 2}", "b") for i in range(10)]
    assert [file.names.sources[place] for place in read["source"]] == [f"gw-{i % 2}" for i in range(10)]
    assert read["time"].tolist() == list(range(10))
    strange = read[4]
    assert (strange["claimed"], strange["sent_at"], strange["seq"], strange["event"]) == (NEVER, NEVER, -1, -1)
    assert np.isnan(strange["value"])
    assert (strange["fault"], strange["delivery"], strange["reason"]) == (
        FAULT_CODES["stuck"],
        FAULT_CODES["lost"],
        REASON_CODES[Reason.EMPTY],
    )
    assert file.about.last_seq == {("gw-0", "b"): 8, ("gw-1", "b"): -1}


def test_a_file_that_lacks_a_column(tmp_path):
    import pyarrow as pa  # noqa: PLC0415 - only here
    import pyarrow.parquet  # noqa: PLC0415

    path = tmp_path / "truth.parquet"
    pyarrow.parquet.write_table(pa.table({"source": ["a"]}), path)
    with pytest.raises(TruthError, match="no truth file: it has no column 'acknowledged'"):
        TruthFile(path)
