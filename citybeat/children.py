"""Commands that `citybeat up` runs as child processes, and the progress that they report.

The kernel ends a child with its parent, and a child reads its settings from the same environment.
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

#: s that a child has to end by itself; ingest needs most of it to drain.
_PATIENCE: Final = 15.0
_TAIL: Final = 2_000  # characters kept of a child's standard error


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
    """A child process ended on its own."""


class Child:
    """One `citybeat …` process. JSON lines on its standard output are merged into `said`; other output is for error messages."""

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
        """Check that the process still runs.

        Raises
        ------
        ChildError
            It has ended; the message quotes the end of its standard error.
        """
        if self._process.poll() is not None:
            self._join()
            raise ChildError(f"{self.name} ended with status {self._process.returncode}: {self.last_words or 'no output'}")

    def terminate(self) -> None:
        """Ask the process to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> int:
        """Wait until the process has ended, and kill it if it does not end in time.

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
        """The end of its standard error."""
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
    """Ask all children to end, then wait for each."""
    for child in children:
        child.terminate()
    for child in children:
        child.wait()
