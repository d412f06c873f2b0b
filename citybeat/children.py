"""Commands that `citybeat up` runs beside itself, and what they last said.

A child is tied to our life by the kernel, and reads its settings from the same environment as we do.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final

from citybeat import stack
from citybeat.devices.errors import CitybeatError

#: s that a child has to end in by itself: the time ingest takes to drain, and some.
_PATIENCE: Final = 15.0
_TAIL: Final = 2_000  # characters of a failed child's last words


def command(*arguments: str) -> list[str]:
    """The command line of one `citybeat …` process.

    `-P` keeps the current folder off the module search path, so that a `citybeat.py` or `storage.py` that lies there is not run.

    Examples
    --------
    >>> command("api")[1:]
    ['-P', '-m', 'citybeat', 'api']
    """
    return [sys.executable, "-P", "-m", "citybeat", *arguments]


class ChildError(CitybeatError):
    """A part of citybeat ended on its own."""


class Child:
    """One `citybeat …` process. JSON lines of its standard output are merged into `said`; the rest is kept for error messages."""

    def __init__(self, *arguments: str, settings: Mapping[str, str] | None = None) -> None:
        self.name: Final = arguments[0]
        self.said: dict[str, Any] = {}
        self._tail = ""
        self._process: Final = stack.spawn(
            command(*arguments),
            env={**os.environ, **(settings or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._readers: Final = [
            threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._keep, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def check(self) -> None:
        """Make sure that it still runs.

        Raises
        ------
        ChildError
            It ended; the message has its last words.
        """
        if self._process.poll() is not None:
            self._join()
            raise ChildError(f"{self.name} ended with status {self._process.returncode}: {self._tail.strip() or 'without a word'}")

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> int:
        """Wait until it ended, and kill it if it does not.

        Returns
        -------
        int
            Its exit status.
        """
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._join()
        return self._process.returncode

    @property
    def last_words(self) -> str:
        """The end of what it wrote to standard error."""
        return self._tail.strip()

    def _join(self) -> None:
        for reader in self._readers:
            reader.join(1.0)

    def _listen(self, stream: IO[bytes]) -> None:
        for line in stream:
            try:
                self.said.update(json.loads(line))
            except ValueError:
                self._tail = (self._tail + line.decode("utf-8", "replace"))[-_TAIL:]

    def _keep(self, stream: IO[bytes]) -> None:
        for line in stream:
            self._tail = (self._tail + line.decode("utf-8", "replace"))[-_TAIL:]


def stop_all(children: Sequence[Child]) -> None:
    """Ask all of them to end, and wait until they have."""
    for child in children:
        child.terminate()
    for child in children:
        child.wait()
