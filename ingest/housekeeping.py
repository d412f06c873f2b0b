"""What has to be done behind the batches, in a thread and with a connection of its own: quarter-hours, retention, and forgetting.

Every ingest has one; the database's locks see to it that one at a time works.
"""

import logging
import threading
import time
from typing import Final

from devices.errors import CitybeatError
from storage import answers, retention, rollup
from storage.database import Connection, DatabaseUnavailableError, TransientError, connect
from storage.retention import Policy
from storage.write import forget_batches

_LOG: Final = logging.getLogger(__name__)
#: s between two looks for marked quarter-hours: nobody waits for one, since readers take a marked one from the minutes.
_EVERY: Final = 1.0
#: s between two rounds of retention and of forgetting what is only needed for a short while. Horizons move once a day.
_TIDY_EVERY: Final = 3600.0
#: s until a round that somebody stood in the way of is tried again.
_TIDY_AGAIN: Final = 60.0
#: s that a stopping process waits for the transaction under way.
_PATIENCE: Final = 5.0


class HousekeepingError(CitybeatError):
    """The thread died; what it does would be left undone without anybody noticing."""


class Housekeeper:
    """The thread. `check` tells whether it lives."""

    def __init__(self, url: str, policy: Policy) -> None:
        self._url: Final = url
        self._policy: Final = policy
        self._stop: Final = threading.Event()
        self._failure: BaseException | None = None
        self._tidy_at = time.monotonic()
        self._thread: Final = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def check(self) -> None:
        """Make sure that it lives.

        Raises
        ------
        HousekeepingError
        """
        if not self._thread.is_alive():
            raise HousekeepingError(f"the housekeeping thread died: {self._failure!r}") from self._failure

    def stop(self) -> None:
        """End after the transaction under way."""
        self._stop.set()
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    with connect(self._url, application="ingest housekeeping") as connection:
                        self._keep(connection)
                except TransientError as exc:
                    _LOG.info("housekeeping, once more: %s", exc)
                    self._stop.wait(_EVERY)
                except DatabaseUnavailableError as exc:
                    _LOG.debug("housekeeping waits for the database: %s", exc)  # the pipeline says so louder
                    self._stop.wait(_EVERY)
        except BaseException as exc:  # kept for `check`
            self._failure = exc
            _LOG.exception("housekeeping failed")

    def _keep(self, connection: Connection) -> None:
        while not self._stop.is_set():
            done = rollup.advance(connection)
            if time.monotonic() >= self._tidy_at:
                self._tidy_at = time.monotonic() + _TIDY_AGAIN
                forget_batches(connection)
                answers.forget(connection)
                retention.keep(connection, self._policy)
                self._tidy_at = time.monotonic() + _TIDY_EVERY
            if not done:
                self._stop.wait(_EVERY)
