"""Background tasks of the database, in threads with connections of their own: quarter-hours, chunks, retention, sensor states.

Every worker runs them; locks in the database ensure that one of them works at a time. Sensor states are updated, and the outbox is
trimmed, in a separate thread: a sensor that fell silent has to be noticed in seconds, and dropping a month of readings may take
longer.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from citybeat.devices.errors import CitybeatError
from citybeat.storage.batches import ingest_requests, outbox
from citybeat.storage.batches.outbox import Bounds
from citybeat.storage.batches.writer import forget_batches
from citybeat.storage.db.connection import Connection, DatabaseUnavailableError, TransientError, connect
from citybeat.storage.reads import states
from citybeat.storage.rollups import chunks, retention, rollup
from citybeat.storage.rollups.chunks import Sizing
from citybeat.storage.rollups.retention import Policy

_LOG: Final = logging.getLogger(__name__)
#: s between two searches for marked quarter-hours. Nothing waits for one, since readers compute a marked one from the minutes.
_EVERY: Final = 1.0
_REST: Final = rollup.SettleTime()
#: s between two checks of which chunks are to be created ahead: much less than the shortest chunk; a check takes some 20 ms.
_CHUNKS_EVERY: Final = 60.0
#: s between two rounds of retention and of deleting short-lived rows. Horizons of retention move once a day.
_TIDY_EVERY: Final = 3600.0
#: s until a failed round is tried again.
_TIDY_AGAIN: Final = 60.0
#: s between two updates of sensor states, and the least ratio of that pause to the duration of an update. 60,000 sensors take
#: some 0.2 s, so that a state is noticed within 2 s, at the cost of a tenth of a core.
_WATCH_EVERY: Final = 1.5
_WATCH_SHARE: Final = 10.0
#: s between two rounds of trimming the outbox.
_TRIM_EVERY: Final = 10.0
#: s that a stopping process waits for the transactions under way.
_PATIENCE: Final = 5.0


class HousekeepingError(CitybeatError):
    """A thread died, so its tasks are no longer done."""


class Housekeeper:
    """The threads of housekeeping."""

    def __init__(self, url: str, policy: Policy, bounds: Bounds, sizing: Sizing) -> None:
        self._url: Final = url
        self._policy: Final = policy
        self._bounds: Final = bounds
        self._sizing: Final = sizing
        self._stop: Final = threading.Event()
        self._failure: BaseException | None = None
        self._tidy_at = self._chunks_at = time.monotonic()
        self._trim_at = time.monotonic()
        self._threads: Final = [
            threading.Thread(target=self._run, args=(name, keep), name=name, daemon=True)
            for name, keep in (("housekeeping", self._keep), ("watching", self._watch))
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Make sure that the threads live.

        Raises
        ------
        HousekeepingError
        """
        for thread in self._threads:
            if not thread.is_alive():
                raise HousekeepingError(f"the {thread.name} thread died: {self._failure!r}") from self._failure

    def stop(self) -> None:
        """End the threads after their present transactions."""
        self._stop.set()
        until = time.monotonic() + _PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self, name: str, keep: Callable[[Connection], None]) -> None:
        try:
            while not self._stop.is_set():
                try:
                    with connect(self._url, application=f"ingest {name}") as connection:
                        keep(connection)
                except TransientError as exc:
                    _LOG.info("%s will be tried again: %s", name, exc)
                    self._stop.wait(_EVERY)
                except DatabaseUnavailableError as exc:
                    _LOG.debug("%s waits for the database: %s", name, exc)  # the pipeline logs it as a warning
                    self._stop.wait(_EVERY)
        except BaseException as exc:  # kept for `check`
            self._failure = exc
            _LOG.exception("%s failed", name)

    def _keep(self, connection: Connection) -> None:
        while not self._stop.is_set():
            done = rollup.advance(connection, rest=_REST)
            if time.monotonic() >= self._chunks_at:
                for table, (count, length) in chunks.make_ahead(connection, self._sizing).items():
                    _LOG.info("created %d chunks of %s ahead, %s long", count, table, length)
                self._chunks_at = time.monotonic() + _CHUNKS_EVERY
            if time.monotonic() >= self._tidy_at:
                self._tidy_at = time.monotonic() + _TIDY_AGAIN
                forget_batches(connection)
                ingest_requests.forget(connection)
                retention.keep(connection, self._policy)
                self._tidy_at = time.monotonic() + _TIDY_EVERY
            if not done:
                self._stop.wait(_EVERY)

    def _watch(self, connection: Connection) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            states.watch(connection)
            took = time.monotonic() - began
            if began >= self._trim_at:
                outbox.trim(connection, self._bounds)
                self._trim_at = time.monotonic() + _TRIM_EVERY
            self._stop.wait(max(_WATCH_EVERY, _WATCH_SHARE * took))
