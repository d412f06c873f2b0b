"""A worker process: takes batches over its line, writes them, and answers; until the line is closed.

It has the pipeline, with all that is known of the sources whose lane it serves, and does the housekeeping behind it. It knows
neither broker nor spool.
"""

import logging
import time
from collections import Counter
from multiprocessing.connection import Connection
from typing import Final

import numpy as np

from citybeat.devices.batch import MICROSECOND
from citybeat.devices.errors import CitybeatError
from citybeat.devices.flags import Flag
from citybeat.ingest.transport.ipc import Committed, Ready, Trouble, receive
from citybeat.ingest.writing.commit import BatchResult
from citybeat.ingest.writing.housekeeping import Housekeeper
from citybeat.ingest.writing.memory import keep_freed_memory, spare_the_collector
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.storage.db.connection import DatabaseUnavailableError, StorageError, TransientError

_LOG: Final = logging.getLogger(__name__)
#: s. How soon an idle worker looks at the registry's notifications and its threads.
_IDLE: Final = 0.2
#: s between two tries to reach a database that is away.
_AGAIN: Final = 0.5
#: s between two lines about what was refused, and sources that are named in one go: a city of wrong clocks must not fill a disk.
_SAY_EVERY: Final = 10.0
_SOURCES: Final = 20
#: Readings of a batch whose delay is told: enough for percentiles.
_SAMPLE: Final = 20


class Remarks:
    """What was refused, told now and then: of each source how much, and why. Never what it was: that is in quarantine."""

    def __init__(self) -> None:
        self._refused: Counter[tuple[str, str]] = Counter()
        self._said = -_SAY_EVERY

    def note(self, written: BatchResult) -> None:
        """Take in what a batch came to."""
        self._refused.update(written.refused)

    def say(self, now: float) -> None:
        """Log what has come together, unless that was done a moment ago; `now` is in s, of any clock that only goes on."""
        if not self._refused or now - self._said < _SAY_EVERY:
            return
        self._said = now
        sources: dict[str, Counter[str]] = {}
        for (source, reason), count in self._refused.items():
            sources.setdefault(source, Counter())[reason] += count
        self._refused.clear()
        ordered = sorted(sources.items(), key=lambda entry: -entry[1].total())
        for source, reasons in ordered[:_SOURCES]:
            _LOG.warning("refused", extra={"source": source, "count": reasons.total(), "reasons": _listed(reasons)})
        if len(ordered) > _SOURCES:
            rest = sum((reasons for _, reasons in ordered[_SOURCES:]), Counter[str]())
            told = {"sources": len(ordered) - _SOURCES, "count": rest.total(), "reasons": _listed(rest)}
            _LOG.warning("refused of more sources", extra=told)


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())


def serve(line: Connection, pipeline: Pipeline, housekeeper: Housekeeper) -> None:
    """Write what comes over the line, until it is closed.

    Parameters
    ----------
    line : Connection
        To the intake; see `ingest.transport.ipc`.
    pipeline : Pipeline
        Not open yet.
    housekeeper : Housekeeper
        Not started yet.

    Raises
    ------
    HousekeepingError
        Its thread died.
    StorageError
        The database refuses us, for a reason that trying again does not remove.
    """
    spare_the_collector()
    keep_freed_memory()

    def closed() -> bool:
        return line.poll(0)  # nothing is sent while a batch is under way

    def trouble(exc: CitybeatError) -> None:
        line.send(Trouble(why=str(exc)))

    remarks = Remarks()
    housekeeper.start()
    try:
        while True:
            housekeeper.check()
            pipeline.poll_registry()
            remarks.say(time.monotonic())
            if not pipeline.is_open:
                _open(pipeline, line)
            if not line.poll(_IDLE):
                continue
            request = receive(line)
            began = time.monotonic()
            written = pipeline.process(request.messages, closed, batch_id=request.id, trouble=trouble)
            if written is None:
                _LOG.info("stopped while the database was away")
                return
            remarks.note(written)
            line.send(
                Committed(
                    id=request.id,
                    counts=written.counts,
                    reasons=written.reasons,
                    took=time.monotonic() - began,
                    delays=_delays(written),
                )
            )
    except StorageError as exc:
        line.send(Trouble(why=str(exc)))  # for whoever asks why nothing is stored
        raise
    except (EOFError, ConnectionError):
        _LOG.debug("the intake has closed the line")
    finally:
        housekeeper.stop()
        pipeline.close()


def _open(pipeline: Pipeline, line: Connection) -> None:
    """Try to open the pipeline, and tell."""
    try:
        pipeline.open()
    except (DatabaseUnavailableError, TransientError) as exc:
        line.send(Trouble(why=str(exc)))
        line.poll(_AGAIN)  # a batch, or the end, is not kept waiting
    else:
        line.send(Ready())


def _delays(written: BatchResult) -> list[float]:
    """How long after their times readings were committed: of some that are not late, and have times of their own."""
    stored = written.stored
    if stored is None or len(stored) == 0:
        return []
    rows = np.flatnonzero((stored.flags & np.int16(Flag.LATE | Flag.CLOCK)) == 0)
    rows = rows[:: max(1, len(rows) // _SAMPLE)]
    now = time.time_ns() // 1000
    delays: list[float] = ((now - stored.time[rows]) / MICROSECOND).tolist()
    return delays
