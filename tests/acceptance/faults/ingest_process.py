"""`citybeat ingest` of a case: started as a user starts it, killed, stopped, and looked at from outside."""

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from citybeat import stack
from tests.acceptance.conftest import Process, wait_for

#: s that a stopping ingest may take.
STOP_WITHIN = 10.0


class Ingest:
    """One ingest at a time, with its log.

    Parameters
    ----------
    env : mapping
        The whole environment.
    logs : Path
        Directory; each start has a file of its own there.
    command : sequence of str
        What stands before `ingest`.
    options : sequence of str
        What stands behind it.
    """

    def __init__(self, env: Mapping[str, str], logs: Path, *, command: Sequence[str], options: Sequence[str] = ()) -> None:
        self.env = dict(env)
        self.options = list(options)
        self._logs = logs
        self._command = command
        self._now: Process | None = None

    @property
    def process(self) -> Process:
        assert self._now is not None, "it was not started"
        return self._now

    @property
    def pid(self) -> int:
        return self.process.process.pid

    def start(self, *, wait: bool = True) -> Process:
        """Start it; `wait` until it is subscribed."""
        log = self._logs / f"ingest-{time.monotonic_ns()}.log"
        with log.open("wb") as out:
            process = stack.spawn(
                [*self._command, "ingest", "--stats", *self.options], env=self.env, stdout=out, stderr=subprocess.STDOUT
            )
        self._now = Process(process=process, log=log)
        if wait:
            wait_for(self._ready_or_dead, self.tail)
            assert self.alive, self.tail()
        return self._now

    @property
    def alive(self) -> bool:
        return self._now is not None and self._now.process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def stop(self) -> float:
        """SIGTERM; the seconds that it took. It has to end well."""
        began = time.monotonic()
        status = self.process.stop()
        assert status == 0, f"exit status {status} at SIGTERM:\n{self.tail()}"
        return time.monotonic() - began

    def end(self) -> None:
        """Make sure that it is gone."""
        if self.alive:
            self.process.process.send_signal(signal.SIGKILL)
            self.process.process.wait()

    def children(self) -> list[int]:
        """Process ids of its children, oldest first."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
            except OSError:
                continue  # it has just ended
            if fields and int(fields[1]) == self.pid and fields[0] not in "ZX":
                found.append((int(fields[19]), int(entry.name)))
        return [pid for _, pid in sorted(found)]

    def tail(self) -> str:
        """The end of its log, without the statistics."""
        lines = self.process.log.read_text("utf-8", "replace").splitlines()
        return "\n".join(line for line in lines if not line.startswith("{"))[-3000:]

    def last(self) -> dict[str, object]:
        """The statistics that it printed last."""
        said = self.process.said()
        return said[-1] if said else {}

    def _ready_or_dead(self) -> bool:
        return not self.alive or any(line.get("ready") for line in self.process.said())
