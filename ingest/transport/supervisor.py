"""Supervision of worker processes: each is started, connected to its partition, and started again when it dies or hangs."""

import logging
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final, Protocol

from citybeat.ingest.transport.partition import Partition

_LOG: Final = logging.getLogger(__name__)
#: s until a worker that ended is started again: at once after a single failure, slowly while it keeps failing.
_BACK_OFF: Final = (0.0, 0.5, 2.0, 5.0, 15.0)
#: s after which the end of a worker counts as a single failure.
_ACCIDENT: Final = 60.0


class Process(Protocol):
    """The part of `subprocess.Popen` that is used."""

    pid: int

    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


#: Starts a worker process whose connection is at this file descriptor.
Spawn = Callable[[int], Process]


class Worker:
    """The process of one partition. For the main thread: the kernel ends a child with the thread that started it."""

    def __init__(self, number: int, partition: Partition, spawn: Spawn) -> None:
        self._number: Final = number
        self._partition: Final = partition
        self._spawn: Final = spawn
        self._process: Process | None = None
        self._started_at = 0.0
        self._next_at = 0.0
        self._failures = 0
        #: Number of times that the process was started again.
        self.restarts = 0

    @property
    def is_up(self) -> bool:
        """True while the process runs."""
        return self._process is not None and self._process.poll() is None

    def tend(self) -> None:
        """Start the process if it does not run; kill it first if it hangs."""
        now = time.monotonic()
        if self._process is not None:
            if self._partition.worker_hangs:
                _LOG.error("worker %d (process %d) does not answer; it is killed", self._number, self._process.pid)
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
            _LOG.error("worker %d ended with status %d; it will be started again in %.1f s", self._number, status, pause)
        if now >= self._next_at:
            self._start()

    def wait(self, timeout: float) -> None:
        """Wait until the process has ended, after its partition closed the connection; kill it after `timeout` seconds."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout)
        except Exception:  # the time-out of whatever `Process` this is
            _LOG.warning("worker %d did not end and is killed; the broker or the spool still has its batch", self._number)
            self._process.kill()
            self._process.wait()
        self._process = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = self._spawn(theirs.fileno())
        self._started_at = time.monotonic()
        self._partition.attach(Connection(ours.detach()))
