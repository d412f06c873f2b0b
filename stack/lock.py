"""Locks of a home: one process at a time changes it, and any number use its servers."""

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
    """Hold a file's lock; `waiting` is said when somebody else has it. Threads exclude each other as processes do."""
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
    """Take a file's lock without waiting; its descriptor (close it to let go), or None when somebody has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


# POSIX record locks, not flock: a forked child does not inherit them, so a worker process that was forked from a user
# of the servers does not keep the servers alive after that user's death.
_in_use: dict[Path, tuple[int, int]] = {}  # path -> descriptor, how often this process uses it
_in_use_guard = threading.Lock()


def register_use(path: Path) -> None:
    """Note that this process uses the servers, until `release_use` or its death."""
    with _in_use_guard:
        descriptor, count = _in_use.get(path, (-1, 0))
        if count == 0:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.lockf(descriptor, fcntl.LOCK_SH)
        _in_use[path] = (descriptor, count + 1)


def release_use(path: Path) -> bool:
    """Take back one `register_use`; True when no process uses the servers any more."""
    with _in_use_guard:
        descriptor, count = _in_use[path]
        if count > 1:
            _in_use[path] = (descriptor, count - 1)
            return False
        del _in_use[path]
        try:
            # The supervisor holds the lock for microseconds whenever it looks; a second look tells it from a user.
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
    """The supervisor's view of who uses its servers. One object a process: closing the file would drop its locks."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def none_left(self) -> bool:
        if not _nobody_else(self._descriptor):
            return False
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        return True
