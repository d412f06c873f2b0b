"""Load generator: sends many messages over a few connections, in one thread, and measures the broker's answers.

There are two loops. With a rate the loop is open: message k is due at k/rate after the start, whatever happened to those before it.
A message that the broker, a full window or the generator itself holds back is sent as soon as possible, and its latency counts from
the time when it was due as well as from when it was sent: all messages that fell into a stall count it, not one. Without a rate the
loop is closed: each connection keeps its window full.

The thread works in turns: it reads answers, sends messages that are due and have room, and sleeps. Under load it sleeps a
millisecond or more even if answers came meanwhile, since a look at a socket costs as much for one answer as for a hundred;
latencies are known to within that turn.

A lost connection is made again, and what had no answer is sent again (`simulator.load.link`); only if that fails for `patience`
seconds, or the broker refuses the client for good, the run ends early, and its report says why.
"""

import selectors
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from citybeat.devices.batch import Int64
from citybeat.devices.wire.mqtt import Version
from citybeat.simulator.address import address
from citybeat.simulator.errors import PublishError, RefusedError
from citybeat.simulator.load.latency import Histogram
from citybeat.simulator.load.link import Link, Supply
from citybeat.simulator.load.pace import Pace
from citybeat.simulator.load.tally import LoadProgress, LoadReport, Tally

#: Messages of a connection without an answer. A thousand are two turns' worth of what a broker on the same machine takes.
WINDOW: Final = 1000
#: s to wait for the last answers.
DRAIN: Final = 15.0
#: s in which a lost connection is made again.
PATIENCE: Final = 30.0
_RETRY: Final = 1.0  # s between tries
_RETRY_TIMEOUT: Final = 2.0  # s for one of them: everything else waits
TOPIC: Final = "city/v1/{source}/readings"
_SECOND: Final = 1_000_000_000  # ns
#: s a turn takes at least, with a rate and without. At 5,000 messages/s over four connections turns of 1 ms take 0.27 of a core,
#: of 2 ms half of that; it hardly depends on the rate.
TURN_OPEN: Final = 0.002
TURN_CLOSED: Final = 0.005
#: ns below which a turn counts as none. Turns become shorter as long as windows are empty before they are over.
_SHORT: Final = 50_000
#: messages/s up to which a turn follows on each event: latencies are exact, and it takes as much of a core as turns of 2 ms do.
_QUIET: Final = 1_000
#: s of messages that are made ahead with a rate: no reading is older than that when it is sent.
_AHEAD: Final = 0.05
_AHEAD_MOST: Final = 4096
#: Connections up to which select() is used, whose waits are exact to the microsecond; epoll's are to the millisecond.
_FEW: Final = 64
_LONG: Final = 0.1  # s: the longest sleep


@dataclass(frozen=True, kw_only=True, slots=True)
class Sender:
    """One connection."""

    source: str  # stands for {source} in the topic
    password: str | None = field(repr=False, default=None)
    username: str | None = None  # None: the source, if there is a password


def offer(
    *,
    url: str,
    senders: Sequence[Sender],
    supplies: Sequence[Supply],
    rate: float | None = None,
    duration: float | None = None,
    window: int = WINDOW,
    version: Version = Version.V5,
    topic: str = TOPIC,
    ca: str | None = None,
    keep: bool = False,
    patience: float = PATIENCE,
    turn: float | None = None,
    progress: Callable[[LoadProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> LoadReport:
    """Send until `duration` is over, `stop` is set, or the supplies have no more; then wait for the last answers.

    Parameters
    ----------
    url : str
        mqtt://host[:port], or mqtts://.
    senders : sequence of Sender
        A connection each.
    supplies : sequence of Supply
        Messages of each sender: `traffic.Prepared`, `traffic.Traffic`, or another one.
    rate : float, optional
        Messages a second altogether, spread evenly over time and senders; none: as many as are taken.
    duration : float, optional
        Seconds.
    window : int
        Messages of a connection without an answer, at most; the broker's Receive Maximum lowers it.
    version : Version
    topic : str
        With {source}.
    ca : str, optional
        File of certificates for mqtts.
    keep : bool
        Keep the times of every message: some 50 bytes each.
    patience : float
        Seconds in which a lost connection is made again.
    turn : float, optional
        Seconds between looks at the sockets: latencies are known to within that, and longer turns take less of a processor.
        0: at every event. Default: as the rate allows.
    progress : callable, optional
        Called about once a second, in this thread.
    stop : threading.Event, optional

    Returns
    -------
    LoadReport

    Raises
    ------
    PublishError
        The broker is away at the start, or refuses a sender; the URL is malformed.
    ValueError
        The rate or the window is invalid.
    """
    if len(senders) != len(supplies) or not senders:
        raise ValueError("there must be one supply for each sender, and at least one")
    if rate is not None and not rate > 0:
        raise ValueError(f"a rate is above 0, not {rate}")
    to = address(url, version=version, ca=ca)
    links = [
        Link(
            to,
            topic=topic.replace("{source}", sender.source),
            username=sender.username or (None if sender.password is None else sender.source),
            password=sender.password,
            window=window,
        )
        for sender in senders
    ]
    if turn is None:
        turn = TURN_CLOSED if rate is None else (0.0 if rate <= _QUIET else TURN_OPEN)
    run = _Run(links, supplies, rate=rate, duration=duration, keep=keep, patience=patience, turn=turn, progress=progress, stop=stop)
    try:
        for link in links:
            link.connect(time.monotonic_ns())
        return run.go()
    finally:
        for link in links:
            link.close()


class _Run:
    """One run. Arrays are indexed by link."""

    def __init__(
        self,
        links: Sequence[Link],
        supplies: Sequence[Supply],
        *,
        rate: float | None,
        duration: float | None,
        keep: bool,
        patience: float,
        turn: float,
        progress: Callable[[LoadProgress], None] | None,
        stop: threading.Event | None,
    ) -> None:
        n = len(links)
        self._links, self._supplies, self._rate, self._duration = links, supplies, rate, duration
        self._patience, self._progress, self._stop = patience, progress, stop
        self._tally = Tally(keep=keep)
        self._selector: selectors.BaseSelector = selectors.SelectSelector() if n <= _FEW else selectors.DefaultSelector()
        self._registered = np.zeros(n, np.int64)  # the events that a link is registered for
        self._sent = np.zeros(n, np.int64)
        self._room = np.zeros(n, np.int64)
        self._full = np.zeros(n, np.bool_)  # the broker held it back when the last turn ended
        self._opened = np.zeros(n, np.int64)  # ns: when it could last be sent again after it could not
        self._down: dict[int, tuple[int, int]] = {}  # ns: lost since, next try at
        self._ahead = _AHEAD_MOST if rate is None else max(1, min(_AHEAD_MOST, int(rate / n * _AHEAD)))
        self._turn = self._longest = int(turn * _SECOND)
        self._limits = {"rate": 0, "broker": 0, "generator": 0, "connection": 0}  # ns, of all connections together
        self._reconnects = 0
        self._failure: str | None = None
        self._why = ""  # reason of the last lost connection

    # --- the loop

    def go(self) -> LoadReport:
        for link, supply in zip(self._links, self._supplies, strict=True):
            link.prepare(supply, self._ahead, time.time_ns() // 1000)
        start = turned = tended = told = time.monotonic_ns()
        self._pace = Pace(self._rate, len(self._links), start)
        epoch = time.time_ns() - start
        cpu = time.process_time()
        end = None if self._duration is None else start + int(self._duration * _SECOND)
        for i in range(len(self._links)):
            self._register(i)
        marks = (0, 0)
        while True:
            now = time.monotonic_ns()
            self._receive(now, now - turned)
            turned = now
            over = self._over(now, end)
            if self._failure is None:
                self._send(now, self._pace.due(now if end is None else min(now, end - 1)), (now + epoch) // 1000)
            if over:
                break
            self._mend(now)
            if now - tended >= _SECOND:
                tended = now
                self._tend(now)
            if now - told >= _SECOND:
                marks, told = self._tell(now, start, told, marks), now
            self._rest(now, end)
        ended = time.monotonic_ns()
        cpu = time.process_time() - cpu
        messages, readings = self._tally.messages, self._tally.readings
        due = 0 if self._rate is None else int(self._pace.due(now if end is None else min(now, end - 1)).sum())
        self._drain()
        return self._tally.report(
            [link.backlog for link in self._links],
            elapsed=(ended - start) / _SECOND,
            cpu=cpu,
            rate=self._rate,
            due=due,
            acknowledged=(messages, readings),
            sent_bytes=sum(link.sent_bytes for link in self._links),
            limits=self._limits,
            reconnects=self._reconnects,
            failure=self._failure,
            epoch=epoch,
        )

    def _over(self, now: int, end: int | None) -> bool:
        stopped = self._stop is not None and self._stop.is_set()
        exhausted = all(link.exhausted for link in self._links) and all(
            link.backlog.sent == link.backlog.numbered for link in self._links
        )
        return stopped or self._failure is not None or exhausted or (end is not None and now >= end)

    def _receive(self, now: int, passed: int) -> None:
        was_full = self._full.copy()
        ready = self._selector.select(0)
        for key, events in ready:
            i = key.data
            link = self._links[i]
            try:
                if events & selectors.EVENT_READ:
                    told = link.receive(now)
                    if len(told.number):
                        self._tally.answered(i, told, now)
                if events & selectors.EVENT_WRITE:
                    link.flush()
                    self._register(i)
            except OSError as exc:
                self._lose(i, now, str(exc))
            except PublishError as exc:
                self._lose(i, now, str(exc))
                self._failure = str(exc)
            self._look(i, now)
        # Find what limited each connection since the last turn. If a full window is empty now, the generator was too slow.
        full = int(was_full.sum())
        # That does not hold if it slept on the socket itself.
        dry = sum(1 for i in np.flatnonzero(was_full).tolist() if not self._links[i].backlog.waiting) if self._turn > _SHORT else 0
        down = len(self._down)
        rest = len(self._links) - full - down
        for limit, count in (
            ("broker", full - dry),
            ("generator", dry + (rest if self._rate is None else 0)),
            ("rate", 0 if self._rate is None else rest),
            ("connection", down),
        ):
            self._limits[limit] += count * passed
        self._turn = self._turn // 2 if dry else min(self._longest, self._turn + self._turn // 64 + 1000)

    def _look(self, i: int, now: int) -> None:
        """Note the room of a link."""
        link = self._links[i]
        self._room[i] = link.room
        full = link.full
        if self._full[i] and not full:
            self._opened[i] = now
        self._full[i] = full and i not in self._down

    def _send(self, now: int, due: Int64, clock: int) -> None:
        lacking = due - self._sent
        for i in np.flatnonzero((lacking > 0) & (self._room > 0)).tolist():
            count = min(int(lacking[i]), int(self._room[i]))
            self._send_of(i, self._pace.times(i, int(self._sent[i]), count, now), now, clock)

    def _send_of(self, i: int, times: Int64, now: int, clock: int) -> None:
        link = self._links[i]
        try:
            went = link.send(times, self._supplies[i], self._ahead, now, clock)
        except OSError as exc:
            self._lose(i, now, str(exc))
            went = times[: link.backlog.sent - int(self._sent[i])]
        except PublishError as exc:
            self._lose(i, now, str(exc))
            self._failure = str(exc)
            return
        self._sent[i] = link.backlog.sent
        if self._rate is not None and len(went):
            self._tally.sent(went, now, int(self._opened[i]))
        self._look(i, now)
        self._register(i)

    def _rest(self, now: int, end: int | None) -> None:
        """Sleep until there is something to do."""
        wake = now + int(_LONG * _SECOND)
        if end is not None:
            wake = min(wake, end)
        wake = self._pace.next(self._sent, np.flatnonzero(self._room > 0), wake)
        if self._turn:
            time.sleep(max(0, now + self._turn - time.monotonic_ns()) / _SECOND)
        self._selector.select(max(0, wake - time.monotonic_ns()) / _SECOND)

    def _drain(self) -> None:
        """Wait for the last answers."""
        deadline = time.monotonic_ns() + int(DRAIN * _SECOND)
        nothing = np.empty(0, np.int64)
        while self._failure is None and any(link.backlog.waiting for link in self._links):
            now = time.monotonic_ns()
            if now > deadline:
                break
            self._selector.select(_LONG / 10)
            self._receive(now := time.monotonic_ns(), 0)
            for i in np.flatnonzero(self._room > 0).tolist():  # what is to be sent again
                self._send_of(i, nothing, now, 0)
            self._mend(now)

    # --- connections

    def _register(self, i: int) -> None:
        link = self._links[i]
        wanted = 0 if link.wire is None else selectors.EVENT_READ | (selectors.EVENT_WRITE if link.wants_to_write else 0)
        if wanted == self._registered[i]:
            return
        if wanted and self._registered[i]:
            self._selector.modify(link.wire, wanted, i)  # type: ignore[arg-type]
        elif wanted:
            self._selector.register(link.wire, wanted, i)  # type: ignore[arg-type]
        self._registered[i] = wanted
        self._look(i, time.monotonic_ns())

    def _lose(self, i: int, now: int, why: str) -> None:
        link = self._links[i]
        if link.wire is not None:
            self._selector.unregister(link.wire)
        self._registered[i] = 0
        link.lose()
        self._why = why
        self._down.setdefault(i, (now, now))
        self._look(i, now)

    def _mend(self, now: int) -> None:
        """Make lost connections again."""
        if self._failure is not None:
            return
        for i, (since, again) in list(self._down.items()):
            if now < again:
                continue
            try:
                self._links[i].connect(now, _RETRY_TIMEOUT)
            except RefusedError as exc:
                self._failure = str(exc)
            except PublishError as exc:
                if now - since > self._patience * _SECOND:
                    self._failure = f"{exc}; the connection was lost {self._patience:g} s ago: {self._why}"
                self._down[i] = (since, now + int(_RETRY * _SECOND))
            else:
                self._reconnects += 1
                del self._down[i]
                self._opened[i] = time.monotonic_ns()
                self._register(i)
                self._send_of(i, np.empty(0, np.int64), now, 0)

    def _tend(self, now: int) -> None:
        self._tally.flush()
        for i, link in enumerate(self._links):
            try:
                link.tend(now)
            except OSError as exc:
                self._lose(i, now, str(exc))

    # --- progress

    def _tell(self, now: int, start: int, told: int, marks: tuple[int, int]) -> tuple[int, int]:
        tally = self._tally
        passed = (now - told) / _SECOND
        if self._progress is not None:
            self._progress(
                LoadProgress(
                    elapsed=(now - start) / _SECOND,
                    messages_per_s=(tally.messages - marks[0]) / passed,
                    readings_per_s=(tally.readings - marks[1]) / passed,
                    latency=tally.lately.milliseconds(),
                    waiting=sum(link.backlog.waiting for link in self._links),
                    behind=0 if self._rate is None else int(np.maximum(self._pace.due(now) - self._sent, 0).sum()),
                    refused=tally.refused_messages,
                    connected=len(self._links) - len(self._down),
                )
            )
        tally.lately = Histogram()
        return tally.messages, tally.readings
