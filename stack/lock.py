"""Locks of a home: one process at a time changes it, and any number of processes use its servers."""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from citybeat.stack.model import Say


@contextlib.contextmanager
def exclusive(path: Path, say: Say | None = None, waiting: str = "") -> Iterator[None]:
    """Hold the lock of a file; `say(waiting)` is called if another process or thread has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if say is not None and waiting:
                say(waiting)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def try_exclusive(path: Path) -> int | None:
    """Take the lock of a file without waiting. Returns a descriptor that releases the lock when closed, or None if it is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


# POSIX record locks, not flock: a forked child does not inherit them, so that it does not keep the servers alive after the death of
# the process that uses them.
_in_use: dict[Path, tuple[int, int]] = {}  # path -> descriptor, number of uses in this process
_in_use_guard = threading.Lock()


def register_use(path: Path) -> None:
    """Register this process as a user of the servers, until `release_use` or its death."""
    with _in_use_guard:
        descriptor, count = _in_use.get(path, (-1, 0))
        if count == 0:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.lockf(descriptor, fcntl.LOCK_SH)
        _in_use[path] = (descriptor, count + 1)


def release_use(path: Path) -> bool:
    """Undo one `register_use`. Returns True if no process uses the servers any more."""
    with _in_use_guard:
        descriptor, count = _in_use[path]
        if count > 1:
            _in_use[path] = (descriptor, count - 1)
            return False
        del _in_use[path]
        try:
            # The supervisor holds the lock for microseconds whenever it checks; trying again tells it from a user.
            for _ in range(3):
                if _nobody_else(descriptor):
                    return True
                time.sleep(0.005)
            return False
        finally:
            os.close(descriptor)


def _nobody_else(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class Users:
    """The supervisor's check for users of its servers. One object in a process: closing the file would drop its locks."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def none_left(self) -> bool:
        if not _nobody_else(self._descriptor):
            return False
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        return True
