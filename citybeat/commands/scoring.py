"""`citybeat simulate score`: reads a file of truth and the database; `simulator/` compares them."""

import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table

from citybeat import context
from citybeat.devices.batch import FOREVER, MICROSECOND, MINUTE, Int64
from citybeat.devices.catalogue import Catalogue
from citybeat.devices.errors import Reason
from citybeat.devices.ledger import Counts
from citybeat.devices.registry.snapshot import MEMORY, Registry
from citybeat.ingest.judging.decode import decode
from citybeat.ingest.judging.message import Message
from citybeat.simulator.errors import TruthError
from citybeat.simulator.faults.rows import REASON_CODES
from citybeat.simulator.score.books import COUNTS, Account, Actual, Expected
from citybeat.simulator.score.labels import LABELS, Names, delivered, timed
from citybeat.simulator.score.matching import STORED
from citybeat.simulator.score.parts import Parts
from citybeat.simulator.score.refusals import Refusals
from citybeat.simulator.score.scorer import Scorer
from citybeat.simulator.score.tallies import Limits, Sensors
from citybeat.simulator.score.truthfile import TruthFile
from citybeat.simulator.score.verdict import KindScore, Score, Spread, verdict
from citybeat.storage.db.connection import Connection
from citybeat.storage.reads import scoring
from citybeat.storage.registry import records as registries

#: Rows of a part, the unit that is in memory at once: some 150 MB with all derived arrays.
PART: Final = 500_000
#: Approximate number of readings in one statement: a slice of time whose pages stay in memory while it is read by series.
SLICE: Final = 2_000_000
#: One claimed time in so many is kept, to divide time into slices with equally many readings.
_SAMPLED: Final = 64
#: us. Readings received up to this long before the first one was sent belong to the run: two clocks differ.
_EARLY: Final = MICROSECOND
#: s between queries of ingest's progress.
_LOOK: Final = 0.2


def score(
    path: Path,
    connection: Connection,
    *,
    catalogue: Catalogue,
    limits: Limits,
    max_bytes: int,
    patience: float,
    part: int = PART,
) -> Score:
    """Compare a file of truth with a database.

    Parameters
    ----------
    path : Path
    connection : Connection
        In autocommit mode.
    catalogue : Catalogue
        Ingest's.
    limits : Limits
        Ingest's.
    max_bytes : int
        Largest payload that ingest decodes.
    patience : float
        s to wait for ingest without progress, while the ledger has fewer readings than the broker accepted.
    part : int
        Rows in memory at once.

    Raises
    ------
    TruthError, StorageError
    """
    file = TruthFile(path)
    about, count = file.about, max(1, math.ceil(file.rows / part))
    expected = Expected(about.last_seq)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="citybeat-score-")))
        truth, stored = Parts(LABELS, count, directory, "truth"), Parts(STORED, count, directory, "stored")
        stack.callback(truth.close)
        stack.callback(stored.close)
        claimed: list[Int64] = []
        for rows in file.blocks():
            expected.add(rows, file.boots)
            truth.add(rows, rows["series"] % count)
            times = rows["claimed"][timed(rows) & delivered(rows)]
            claimed.append(np.append(times[::_SAMPLED], times.min()) if len(times) else times)  # copies: blocks are not kept
        names = file.names
        if expected.begun == FOREVER:
            raise TruthError(f"{path}: no reading was sent, so there is nothing to score")
        _wait(connection, names.sources, expected.received(), expected.begun, patience)
        known = registries.load(connection, catalogue)
        with scoring.snapshot(connection):
            actual, refusals = _accounts(connection, names, about.last_seq, expected.begun, max_bytes)
            seen = scoring.numbers(connection, names.sources, since=expected.begun // MINUTE * MINUTE)
            edges = _edges(claimed, expected.begun, file.rows)
            for rows in _stored(connection, names, known, edges, expected.begun - _EARLY):
                stored.add(rows, rows["series"] % count)
        scorer = Scorer(_sensors(names, known), limits, refusals, names)
        for labels, rows in zip(truth, stored, strict=True):
            scorer.part(labels, rows)
        scorer.finish()
    accounts = expected.settle(names, actual, seen, scorer.findings)
    return verdict(scorer, accounts, scenario=about.scenario, seed=about.seed, readings=file.rows)


def _wait(connection: Connection, sources: Sequence[str], wanted: int, since: int, patience: float) -> None:
    """Wait until ingest has received all that the broker accepted, or makes no progress any more."""
    last, moved = -1, time.monotonic()
    while (now := scoring.received(connection, sources, since=since)) < wanted:
        if now != last:
            last, moved = now, time.monotonic()
        elif time.monotonic() - moved > patience:
            break
        time.sleep(_LOOK)


def _edges(claimed: Sequence[Int64], begun: int, rows: int) -> list[int]:
    """Ends of slices of time with about equally many readings, from the first time that was sent to the end of time."""
    times = np.concatenate([*claimed, np.array([begun], np.int64)])
    slices = max(1, math.ceil(rows / SLICE))
    cuts = np.quantile(times, np.arange(slices) / slices, method="lower").astype(np.int64)
    return [*np.unique(cuts).tolist(), int(FOREVER)]


def _stored(
    connection: Connection, names: Names, known: Registry, edges: Sequence[int], since: int
) -> Iterator[np.ndarray[Any, Any]]:
    ids = [known.series.get(pair, 0) for pair in names.series]
    place = np.zeros(max(ids, default=0) + 1, np.int64)
    place[ids] = np.arange(len(ids))
    for series, columns in scoring.readings(connection, sorted(set(ids) - {0}), edges, since=since):
        rows = np.empty(len(series), STORED)
        rows["series"] = place[series]
        for name in ("time", "received_at", "value", "flags"):
            rows[name] = columns[name]
        yield rows


def _sensors(names: Names, known: Registry) -> Sensors:
    ids = np.array([known.series.get(pair, 0) for pair in names.series], np.int64)
    metrics = list(dict.fromkeys(metric for _, metric in names.series))
    place = {metric: i for i, metric in enumerate(metrics)}
    return Sensors(
        memory=known.memory[ids],
        interval=known.memory[ids] // MEMORY,
        stuck_after=known.stuck_after[ids],
        may_repeat=known.may_repeat[ids],
        metric=np.array([place[metric] for _, metric in names.series], np.int32),
        metrics=metrics,
    )


def _accounts(
    connection: Connection, names: Names, last_seq: Mapping[tuple[str, str], int], begun: int, max_bytes: int
) -> tuple[dict[str, Actual], Refusals]:
    """Counts of the database by source, and its refusals by message and reading."""
    boots = {pair: place for place, pair in enumerate(names.boots)}
    entries: list[tuple[int, int, int, int]] = []
    reasons: dict[str, Counter[Reason]] = {}
    for page in scoring.refused(connection, names.sources, since=begun // MINUTE * MINUTE):
        messages = [
            Message(topic=row.topic, payload=row.payload, received_at=row.received_at, redelivered=False, qos=1, mid=0, epoch=0)
            for row in page
        ]
        read = decode(messages, max_bytes=max_bytes).decoded  # for the numbers of the messages alone
        for row, boot, seq in zip(page, read.boot, read.seq.tolist(), strict=True):
            place = boots.get((row.source, boot), -1)
            for index, reason in row.refused:
                if index is not None:
                    entries.append((place, seq, index, REASON_CODES[Reason(reason)]))
                    reasons.setdefault(row.source, Counter())[Reason(reason)] += 1
    columns = np.array(entries, np.int64).reshape(-1, 4)
    refusals = Refusals(
        columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3], [last_seq.get(pair, -1) for pair in names.boots]
    )
    counts = scoring.ledger(connection, names.sources, since=begun)
    actual = {source: Actual(counts=counts.get(source, Counts()), reasons=reasons.get(source, {})) for source in names.sources}
    return actual, refusals


# --- for people ------------------------------------------------------------------------------------------------------------------


def show(score: Score) -> None:
    """Print a score as tables."""
    console = context.wide_console()
    title = f"{score.scenario or 'a run'}, seed {score.seed}: {score.readings:,} readings"
    table = Table(title=title, title_justify="left")
    table.add_column("fault")
    for name in (
        "of",
        "found",
        "recall",
        "precision",
        "left out",
        "delay s: median",
        "p95",
        "max",
        "readings: median",
        "p95",
        "max",
    ):
        table.add_column(name, justify="right")
    for kind in score.kinds:
        table.add_row(*_cells(kind))
    console.print(table)
    flags = Table(title="readings by flag", title_justify="left")
    flags.add_column("flag")
    for name in ("flagged", "right", "aftermath", "wrong", "precision", "aftermath counted as wrong"):
        flags.add_column(name, justify="right")
    for flag in score.flags:
        counts = (f"{count:,}" for count in (flag.flagged, flag.right, flag.aftermath, flag.wrong))
        flags.add_row(flag.flag, *counts, _rate(flag.precision), _rate(flag.strict))
    console.print(flags)
    differences = Table(title="ledger: truth / database, where they differ", title_justify="left")
    differences.add_column("source")
    for name in COUNTS:
        differences.add_column(name, justify="right")
    for account in score.accounts:
        differences.add_row(account.source, *_sides(account))
    console.print(differences)
    alarms = (
        f"false alarms: {score.false_alarms:,} of {score.clean:,} clean readings, {score.false_alarm_rate:.4%}"
        f" ({score.aftermath:,} more followed a faulty reading that was not flagged)"
    )
    lines = [
        alarms,
        *(f"  {what}: {count:,}" + "".join(f"\n    {one}" for one in examples) for what, (count, examples) in score.notes.items()),
        "the ledger agrees to the reading" if not score.disagreements else "the ledger DISAGREES:",
        *(
            f"  {finding.source}: {finding.what} ({finding.count:,})" + "".join(f"\n    {one}" for one in finding.examples)
            for finding in score.disagreements
        ),
        *(f"MISSED: {sentence}" for sentence in score.missed),
        *(["every limit is met"] if not score.missed else []),
    ]
    console.print("\n".join(lines), markup=False, highlight=False)


def _cells(kind: KindScore) -> list[str]:
    name = kind.kind if kind.kind.endswith(kind.unit) else f"{kind.kind} ({kind.unit})"
    return [
        name,
        f"{kind.of:,}",
        f"{kind.found:,}",
        _rate(kind.recall),
        _rate(kind.precision),
        f"{kind.left_out:,}" if kind.left_out else "",
        *_spread(kind.delay_seconds),
        *_spread(kind.delay_readings),
    ]


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.2%}"


def _spread(spread: Spread | None) -> list[str]:
    return ["", "", ""] if spread is None else [f"{value:,.0f}" for value in (spread.median, spread.p95, spread.max)]


def _sides(account: Account) -> list[str]:
    pairs = [(account.truth[name], account.database[name]) for name in COUNTS]
    return [f"{truth:,}" if truth == database else f"{truth:,} / {database:,}" for truth, database in pairs]
