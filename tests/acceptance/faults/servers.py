"""The servers of a tree, and what can befall them: killed, stopped, started again on the same port with the same data."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from citybeat import stack
from citybeat.stack.model import MOSQUITTO, TIMESCALEDB
from citybeat.stack.process import identify, send, wait_gone

_PATIENCE = 30.0  # s for a server to end


class Machinery:
    """TimescaleDB and Mosquitto of one home."""

    def __init__(self, settings: stack.StackSettings) -> None:
        self._settings = settings

    def kill_broker(self) -> float:
        """SIGKILL: everything since its last autosave is gone. When, by time.monotonic."""
        return self._end(MOSQUITTO, signal.SIGKILL)

    def stop_broker(self) -> float:
        """SIGTERM: it writes its store, and ends."""
        return self._end(MOSQUITTO, signal.SIGTERM)

    def crash_database(self) -> float:
        """Immediate shutdown: sessions are dropped where they are, nothing is written; the next start recovers from the log."""
        return self._end(TIMESCALEDB, signal.SIGQUIT)

    @contextmanager
    def frozen(self, backend: int) -> Iterator[None]:
        """SIGSTOP for a session of PostgreSQL, by the process id that it has for itself; after the block it goes on."""
        session = identify(self._outside(backend))
        assert session is not None
        os.kill(session.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            send(session, signal.SIGCONT)

    def revive(self) -> None:
        """Start what does not run, and wait until it answers."""
        with stack.running(self._settings, lambda _: None):
            pass  # the tree uses them: they stay

    def _outside(self, pid: int) -> int:
        """The process id here of one that a server sees: in its sandbox it has another one."""
        namespace = Path(f"/proc/{self._pid(TIMESCALEDB)}/ns/pid").readlink()
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and (entry / "ns/pid").readlink() == namespace:
                    (line,) = [line for line in (entry / "status").read_text().splitlines() if line.startswith("NSpid:")]
                    if int(line.split()[-1]) == pid:
                        return int(entry.name)
        raise AssertionError(f"no process {pid} in the database's sandbox")

    def _pid(self, name: str) -> int:
        (pid,) = [server.pid for server in stack.status(self._settings) if server.name == name]
        assert pid is not None, f"{name} does not run"
        return pid

    def _end(self, name: str, number: signal.Signals) -> float:
        server = identify(self._pid(name))
        assert server is not None
        at = time.monotonic()
        os.kill(server.pid, number)
        assert wait_gone(server, _PATIENCE), f"{name} did not end at {number.name}"
        return at
