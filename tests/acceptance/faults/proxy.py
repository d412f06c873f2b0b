"""A TCP proxy on 127.0.0.1 that breaks connections in the ways that networks do. It knows bytes, and no protocol.

Each connection through it is a `_Link`: two sockets, and a pump for each direction, in an event loop in a thread of its own. Every
public method may be called from any thread, and has taken effect when it returns.

A black hole is one for the kernels at both ends: a socket filter on the proxy's sockets drops every packet that arrives, before TCP
sees it. So nothing is acknowledged, not even a keep-alive probe, which a proxy that merely stopped reading would still answer.
"""

import asyncio
import contextlib
import ctypes
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal

Direction = Literal["to server", "to client"]

_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # <asm-generic/socket.h>
_DROP_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # one instruction of classic BPF: return 0 bytes
_CHUNK = 65_536  # bytes a read
_SLOW_CHUNK = 1_024  # bytes a read of a slow link: small, so that its rate is even
_PATIENCE = 30.0  # s


class Trap:
    """Waits for bytes in one direction, and holds them back until told what to do with them.

    Parameters
    ----------
    pattern : bytes
        What to wait for; it may come in pieces.
    direction : Direction
    marker : bytes
        Only in connections whose client has sent this in its first kilobyte.
    skip : int
        How many occurrences pass before it springs.
    """

    def __init__(self, pattern: bytes, direction: Direction, *, marker: bytes = b"", skip: int = 0) -> None:
        self.direction = direction
        self._pattern = pattern
        self._marker = marker
        self._skip = skip
        self._sprung = threading.Event()
        self._verdict: asyncio.Future[bool] | None = None  # made in the proxy's loop when it springs; True: let it pass
        self._loop: asyncio.AbstractEventLoop | None = None

    def wait(self, patience: float = _PATIENCE) -> None:
        """Wait until it has sprung: the bytes are held back from here on."""
        assert self._sprung.wait(patience), f"{self._pattern!r} was not seen within {patience} s"

    def cut(self) -> None:
        """Reset the connection; the bytes go nowhere."""
        self._decide(passes=False)

    def release(self) -> None:
        """Let the bytes pass, as if nothing had been."""
        self._decide(passes=True)

    def find(self, link: "_Link", tail: bytes, data: bytes) -> int | None:
        """Where in `data`, of which `tail` came just before, what it waits for begins; not before 0. None: not there."""
        if self._sprung.is_set() or self._marker not in link.opening:
            return None
        text, start = tail[len(tail) - min(len(tail), len(self._pattern) - 1) :] + data, 0
        offset = len(text) - len(data)
        while (place := text.find(self._pattern, start)) >= 0:
            if self._skip == 0:
                return max(0, place - offset)
            self._skip -= 1
            start = place + len(self._pattern)
        return None

    async def spring(self) -> bool:
        self._loop = asyncio.get_running_loop()
        self._verdict = self._loop.create_future()
        self._sprung.set()
        return await self._verdict

    def _decide(self, *, passes: bool) -> None:
        assert self._loop is not None
        assert self._verdict is not None
        verdict = self._verdict
        self._loop.call_soon_threadsafe(lambda: verdict.done() or verdict.set_result(passes))


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.sockets = (client, server)
        self.opening = b""  # the first kilobyte that the client sent
        self.lost = False  # in a black hole, for good
        self.ended = 0  # directions that were closed in an orderly way
        self.tasks: list[asyncio.Task[None]] = []  # that use its sockets


class Proxy:
    """Listens on a free port, and passes everything on to `target` on 127.0.0.1.

    Parameters
    ----------
    target : int
        TCP port.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.passed: dict[Direction, int] = {"to server": 0, "to client": 0}  # bytes, over all connections
        self._links: set[_Link] = set()
        self._traps: list[Trap] = []
        self._rate: float | None = None  # bytes/s in each direction of each connection
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener = _listening(0)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy to {target}", daemon=True)
        self._thread.start()
        self._do(self._listen)

    # --- what a network does to connections

    def cut(self) -> int:
        """Reset every connection, at both ends; how many. New ones work."""

        def cut() -> int:
            links = [link for link in self._links if not link.lost]
            for link in links:
                self._drop(link)
            return len(links)

        return self._do(cut)

    def lose(self) -> int:
        """Put every connection into a black hole, for good; how many. New ones work: half-open, as after a router's restart."""

        def lose() -> int:
            links = [link for link in self._links if not link.lost]
            for link in links:
                link.lost = True
                _filter(*link.sockets)
            return len(links)

        return self._do(lose)

    def stall(self) -> None:
        """Drop every packet, of new connections too, until `resume`: then TCP goes on where it was, if both ends still want to."""

        def stall() -> None:
            self._flowing.clear()
            _filter(self._listener, *(one for link in self._links for one in link.sockets))

        self._do(stall)

    def resume(self) -> None:
        """End a `stall`."""

        def resume() -> None:
            self._flowing.set()
            _unfilter(self._listener, *(one for link in self._links if not link.lost for one in link.sockets))

        self._do(resume)

    def refuse(self) -> None:
        """Refuse new connections, until `accept`; those that there are go on."""
        self._do(self._deafen)

    def accept(self) -> None:
        """End a `refuse`."""

        def accept() -> None:
            self._listener = _listening(self.port)
            self._listen()

        self._do(accept)

    def slow(self, rate: float | None) -> None:
        """Pass at most so many bytes a second, in each direction of each connection; None: as many as come."""
        self._do(lambda: setattr(self, "_rate", rate))

    def trap(self, trap: Trap) -> Trap:
        """Set a trap; it springs once."""
        self._do(lambda: self._traps.append(trap))
        return trap

    def heal(self) -> None:
        """End everything that was done; what is lost stays lost, and is closed."""
        self.slow(None)
        self.resume()

        def heal() -> None:
            self._traps.clear()
            for link in [link for link in self._links if link.lost]:
                _unfilter(*link.sockets)
                self._drop(link)

        self._do(heal)

    def close(self) -> None:
        """Reset everything, and end the thread."""

        async def close() -> None:
            self._deafen()
            for link in list(self._links):
                self._drop(link)
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(_PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    # --- in the loop

    def _do(self, function: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(_PATIENCE)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _listen(self) -> None:
        self._accepting = self._spawn(self._accept(self._listener))

    def _deafen(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
        self._close(self._listener)

    def _drop(self, link: _Link, *, reset: bool = True) -> None:
        self._links.discard(link)
        for task in link.tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for one in link.sockets:
            if reset:
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._close(one)

    def _close(self, one: socket.socket) -> None:
        # A task that is cancelled lets go of its socket one turn later; by then another connection may have its descriptor.
        if one.fileno() >= 0:
            self._loop.remove_reader(one.fileno())
            self._loop.remove_writer(one.fileno())
        one.close()

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = await self._loop.sock_accept(listener)
            self._spawn(self._serve(client))

    async def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        link = _Link(client, server)
        link.tasks = [task for task in [asyncio.current_task()] if task is not None]
        self._links.add(link)
        try:
            for one in link.sockets:
                one.setblocking(False)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(server, ("127.0.0.1", self._target))
        except OSError:
            self._drop(link)  # nobody listens there
            return
        link.tasks = [
            self._spawn(self._pump(link, client, server, "to server")),
            self._spawn(self._pump(link, server, client, "to client")),
        ]

    async def _pump(self, link: _Link, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        tail = b""
        try:
            while True:
                data = await self._loop.sock_recv(source, _CHUNK if self._rate is None else _SLOW_CHUNK)
                await self._flowing.wait()
                if link.lost:
                    return
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    link.ended += 1
                    if link.ended == len(link.sockets):
                        self._drop(link, reset=False)
                    return
                if direction == "to server" and len(link.opening) < 1024:
                    link.opening += data[:1024]
                held = self._trapped(link, tail, data, direction)
                tail = (tail + data)[-1024:]
                if held is not None:
                    trap, place = held
                    await self._loop.sock_sendall(sink, data[:place])
                    data = data[place:]
                    if not await trap.spring():
                        self._drop(link)
                        return
                if self._rate is not None:
                    await asyncio.sleep(len(data) / self._rate)
                if link.lost:
                    return
                await self._loop.sock_sendall(sink, data)
                self.passed[direction] += len(data)
        except OSError:
            if not link.lost:
                self._drop(link)

    def _trapped(self, link: _Link, tail: bytes, data: bytes, direction: Direction) -> tuple[Trap, int] | None:
        for trap in self._traps:
            if trap.direction == direction and (place := trap.find(link, tail, data)) is not None:
                self._traps.remove(trap)
                return trap, place
        return None


def _listening(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    made.listen(64)
    made.setblocking(False)
    return made


def _filter(*sockets: socket.socket) -> None:
    program = struct.pack("HP", 1, ctypes.addressof(_DROP_ALL))
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)


def _unfilter(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(FileNotFoundError):  # it has none
            one.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
