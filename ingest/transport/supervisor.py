"""Worker processes, seen from the intake: started, tied to their lanes, and started again when they die or hang."""

import logging
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final, Protocol

from citybeat.ingest.transport.partition import Partition

_LOG: Final = logging.getLogger(__name__)
#: s until a worker that died is started again: at once after an accident, slowly while something is wrong for long.
_BACK_OFF: Final = (0.0, 0.5, 2.0, 5.0, 15.0)
#: s that a worker must have lived for its death to be an accident.
_ACCIDENT: Final = 60.0


class Process(Protocol):
    """What is needed of a `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


#: Starts a worker that finds its line at this file descriptor.
Spawn = Callable[[int], Process]


class Worker:
    """The process of one lane. For the main thread: the kernel ties a child to the thread that started it."""

    def __init__(self, number: int, lane: Partition, spawn: Spawn) -> None:
        self._number: Final = number
        self._lane: Final = lane
        self._spawn: Final = spawn
        self._process: Process | None = None
        self._started_at = 0.0
        self._next_at = 0.0
        self._failures = 0
        #: How often it was started again.
        self.restarts = 0

    @property
    def is_up(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def tend(self) -> None:
        """See to it that it runs."""
        now = time.monotonic()
        if self._process is not None:
            if self._lane.worker_hangs:
                _LOG.error("worker %d (process %d) has not said a word for long; it is killed", self._number, self._process.pid)
                self._process.kill()
                self._process.wait()
            status = self._process.poll()
            if status is None:
                return
            self._process = None
            self._failures = 0 if now - self._started_at > _ACCIDENT else self._failures + 1
            pause = _BACK_OFF[min(self._failures, len(_BACK_OFF) - 1)]
            self._next_at = now + pause
            self.restarts += 1
            _LOG.error("worker %d ended with status %d; it is started again in %.1f s", self._number, status, pause)
        if now >= self._next_at:
            self._start()

    def wait(self, timeout: float) -> None:
        """Wait until it has ended, after its lane closed the line; kill it if it does not."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout)
        except Exception:  # of whatever kind a process that does not end in time is
            _LOG.warning("worker %d is killed in the middle of a batch; the broker or the spool still has it", self._number)
            self._process.kill()
            self._process.wait()
        self._process = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = self._spawn(theirs.fileno())
        self._started_at = time.monotonic()
        self._lane.attach(Connection(ours.detach()))
