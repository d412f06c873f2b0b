"""Runs `citybeat` with a clock that can be set: `python -m tests.acceptance.faults.clock FILE ARGUMENT…`.

FILE holds what is added to the time of day, and may change at any moment. It is the process's own clock that jumps, as on a machine
whose clock is set; the monotonic one goes on, and so does the database's. Done in Python: libfaketime is not on every machine, and
shifts the monotonic clock too unless told not to.
"""

import mmap
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

_OFFSET = struct.Struct("<q")  # ns


def set_clock(file: Path, seconds: float) -> None:
    """Set the clock of a process that runs with this file, or will."""
    with file.open("r+b" if file.exists() else "w+b") as stream:
        stream.write(_OFFSET.pack(int(seconds * 1e9)))


def main() -> None:
    file = Path(sys.argv[1])
    with file.open("rb") as stream:
        offset = mmap.mmap(stream.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)
    time.time_ns = _shifted(time.time_ns, offset)
    time.time = _in_seconds(time.time_ns)
    sys.argv = ["citybeat", *sys.argv[2:]]
    from citybeat.cli import main as run  # noqa: PLC0415 - everything it imports has to find the other clock

    run()


def _shifted(real: Callable[[], int], offset: mmap.mmap) -> Callable[[], int]:
    return lambda: real() + _OFFSET.unpack_from(offset)[0]


def _in_seconds(nanoseconds: Callable[[], int]) -> Callable[[], float]:
    return lambda: nanoseconds() / 1e9


if __name__ == "__main__":
    main()
