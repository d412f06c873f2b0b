"""A worker process: receives batches over its connection, writes them, and answers, until the connection is closed.

It has the pipeline, with the state of the sources of its partition, and runs housekeeping. It knows neither broker nor spool.
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
#: s between two checks of the registry's notifications and of threads, while no batch comes.
_IDLE: Final = 0.2
#: s between two attempts to reach the database.
_AGAIN: Final = 0.5
#: s between two rounds of log lines about refusals, and sources named in one round: a city of wrong clocks must not fill a disk.
_LOG_EVERY: Final = 10.0
_SOURCES: Final = 20
#: Readings of a batch whose delay is reported: enough for percentiles.
_SAMPLE: Final = 20


class Remarks:
    """Log lines about refusals: for each source how many, and why. The refused content is not logged; it is in quarantine."""

    def __init__(self) -> None:
        self._refused: Counter[tuple[str, str]] = Counter()
        self._logged_at = -_LOG_EVERY

    def note(self, written: BatchResult) -> None:
        """Count the refusals of a batch."""
        self._refused.update(written.refused)

    def say(self, now: float) -> None:
        """Log the refusals counted so far, unless the last log is recent; `now` is in s of any monotonic clock."""
        if not self._refused or now - self._logged_at < _LOG_EVERY:
            return
        self._logged_at = now
        sources: dict[str, Counter[str]] = {}
        for (source, reason), count in self._refused.items():
            sources.setdefault(source, Counter())[reason] += count
        self._refused.clear()
        ordered = sorted(sources.items(), key=lambda entry: -entry[1].total())
        for source, reasons in ordered[:_SOURCES]:
            _LOG.warning("refused", extra={"source": source, "count": reasons.total(), "reasons": _listed(reasons)})
        if len(ordered) > _SOURCES:
            rest = sum((reasons for _, reasons in ordered[_SOURCES:]), Counter[str]())
            others = {"sources": len(ordered) - _SOURCES, "count": rest.total(), "reasons": _listed(rest)}
            _LOG.warning("refused from more sources", extra=others)


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())


def serve(line: Connection, pipeline: Pipeline, housekeeper: Housekeeper) -> None:
    """Write the batches that come over a connection, until it is closed.

    Parameters
    ----------
    line : Connection
        To the worker's partition; see `ingest.transport.ipc`.
    pipeline : Pipeline
        Not open yet.
    housekeeper : Housekeeper
        Not started yet.

    Raises
    ------
    HousekeepingError
        One of its threads died.
    StorageError
        The database refuses a batch for a reason that trying again does not remove.
    """
    spare_the_collector()
    keep_freed_memory()

    def closed() -> bool:
        return line.poll(0)  # nothing is sent before a batch is answered, so this is the end of the connection

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
                _LOG.info("worker stopped while the database was unavailable")
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
        line.send(Trouble(why=str(exc)))  # shown by /readyz
        raise
    except (EOFError, ConnectionError):
        _LOG.debug("the connection to the partition is closed")
    finally:
        housekeeper.stop()
        pipeline.close()


def _open(pipeline: Pipeline, line: Connection) -> None:
    """Try to open the pipeline, and report the outcome."""
    try:
        pipeline.open()
    except (DatabaseUnavailableError, TransientError) as exc:
        line.send(Trouble(why=str(exc)))
        line.poll(_AGAIN)  # returns early for a batch, or at the end of the connection
    else:
        line.send(Ready())


def _delays(written: BatchResult) -> list[float]:
    """Seconds from a reading's time to its commit, of a sample of the readings that are not late and have a time."""
    stored = written.stored
    if stored is None or len(stored) == 0:
        return []
    rows = np.flatnonzero((stored.flags & np.int16(Flag.LATE | Flag.CLOCK)) == 0)
    rows = rows[:: max(1, len(rows) // _SAMPLE)]
    now = time.time_ns() // 1000
    delays: list[float] = ((now - stored.time[rows]) / MICROSECOND).tolist()
    return delays
