"""A Mosquitto with settings of one's own, which a test may kill and start again; and a way to one that breaks."""

import contextlib
import socket
import subprocess
import threading
import time
from pathlib import Path

from citybeat.stack.process import free_port
from citybeat.stack.sandbox import Sandbox, choose

PATIENCE = 20.0  # s


class OwnBroker:
    """At 127.0.0.1; anybody may connect, unless the settings say otherwise.

    Parameters
    ----------
    root : Path
        The private root.
    place : Path
        An empty directory.
    settings : str
        Lines of mosquitto.conf.
    files : dict
        Files that the settings name as /config/NAME.
    """

    def __init__(
        self, root: Path, place: Path, settings: str = "allow_anonymous true", files: dict[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        for name in ("config", "store"):
            (place / name).mkdir()
        for name, text in (files or {}).items():
            (place / "config" / name).write_text(text)
        lines = [f"listener {self.port} 127.0.0.1", settings, "set_tcp_nodelay true", "persistence_location /store/"]
        (place / "config" / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self._log = place / "log"
        self._box: Sandbox = choose(root, place)
        self._box.prepare()
        for name in ("config", "store"):
            self._box.own(place / name)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = self._box.popen(["/usr/sbin/mosquitto", "-c", "/config/mosquitto.conf"], stdout=log)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < deadline, self._log.read_text()
                assert self._process.poll() is None, self._log.read_text()
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """At once, as the kernel or a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None


class Cutter:
    """A way to a port on which every connection ends after so many bytes, until there were enough such ends."""

    def __init__(self, port: int, after: int = 40_000, times: int = 5) -> None:
        self._to, self._after, self._left = port, after, times
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets = [self._listener]

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        for each in self._sockets:
            each.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += (near, far)
            for pair in ((near, far, self._after), (far, near, None)):
                self._threads.append(threading.Thread(target=self._pump, args=pair))
                self._threads[-1].start()

    def _pump(self, a, b, limit):
        count = 0
        with contextlib.suppress(OSError):
            while data := a.recv(4096):
                count += len(data)
                b.sendall(data)
                if limit is not None and count > limit and self._left > 0:
                    self._left -= 1
                    break
        for each in (a, b):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
