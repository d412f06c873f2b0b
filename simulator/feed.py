"""Feeds of sources: messages numbered with `seq` 0, 1, 2, … under a `boot` that is new at each start, and their ledger.

A `Feed` is independent of MQTT: it hands payloads to a `Transport`, which `simulator.publisher` implements, and tests replace.
"""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol, Self

from citybeat.devices.wire import reports
from citybeat.simulator.errors import PublishError
from citybeat.simulator.faults.rows import Rows

#: s to wait for the last acknowledgements.
DRAIN_TIMEOUT: Final = 15.0


class Receipt:
    """The broker's answer to one message."""

    __slots__ = ("acknowledged", "sent_at")

    def __init__(self) -> None:
        self.sent_at = time.time_ns() // 1000  # us since 1970 UTC
        self.acknowledged: bool | None = None  # None: nothing yet


class Transport(Protocol):
    """A source's connection. Counts are of acknowledged messages, unless they say otherwise."""

    sent: int  # messages handed over
    sent_readings: int
    acknowledged_messages: int
    acknowledged_readings: int
    refused_messages: int
    refused_readings: int
    refused: Counter[str]  # messages, by the broker's reason

    def publish(self, channel: str, payload: bytes, *, readings: int) -> Receipt:
        """Send a payload; block while too much is unacknowledged."""

    def drain(self, timeout: float) -> bool:
        """Wait until everything is answered; False after `timeout` seconds."""

    def drop(self) -> None:
        """Break the connection as a bad network does. It comes back by itself; what was published meanwhile is sent in order."""

    def close(self) -> None:
        """Publish `offline` and disconnect."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceReport:
    """Ledger of one source: what it sent, and the broker's answers."""

    source: str
    boot: str  # distinguishes this start of the source from others; of several, the last one
    last_seq: int | None  # the highest number used up in it; None: nothing was sent
    messages: int  # acknowledged
    readings: int  # acknowledged
    refused_messages: int
    refused_readings: int
    refused: dict[str, int]  # messages, by the broker's reason
    unacknowledged_messages: int  # sent, and neither acknowledged nor refused when the run ended
    unacknowledged_readings: int
    boots: tuple[tuple[str, int | None], ...] = ()  # all starts, each with the highest number used up in it

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class SentReport:
    """Ledger of all sources: the common part of the reports of a run and of a replay."""

    elapsed: float  # s
    complete: bool  # every message was answered before the end
    sources: tuple[SourceReport, ...]

    @property
    def messages(self) -> int:
        """Acknowledged messages."""
        return sum(source.messages for source in self.sources)

    @property
    def readings(self) -> int:
        """Acknowledged readings, nulls and sentinels included."""
        return sum(source.readings for source in self.sources)

    @property
    def refused_messages(self) -> int:
        """Messages that the broker refused; each source names the reasons."""
        return sum(source.refused_messages for source in self.sources)

    @property
    def refused_readings(self) -> int:
        """Readings in refused messages."""
        return sum(source.refused_readings for source in self.sources)

    @property
    def unacknowledged_readings(self) -> int:
        """Readings that were sent and not answered, so that their outcome is unknown."""
        return sum(source.unacknowledged_readings for source in self.sources)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            **asdict(self),
            "messages": self.messages,
            "readings": self.readings,
            "refused_messages": self.refused_messages,
            "refused_readings": self.refused_readings,
            "unacknowledged_readings": self.unacknowledged_readings,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Progress of a run or a replay."""

    elapsed: float  # s since the start
    time: int | None  # us since 1970 UTC: simulated time, or the newest time of the recording; None: nothing yet
    sent_messages: int
    sent_readings: int
    messages: int  # acknowledged
    readings: int  # acknowledged
    refused_messages: int
    rejected_rows: int = 0  # of a recording
    file: str = ""  # that is being replayed

    @classmethod
    def of(cls, feeds: "Mapping[str, Feed]", *, elapsed: float, time: int | None, rejected_rows: int = 0, file: str = "") -> Self:
        """Add up the ledgers of feeds."""
        links = [feed.transport for feed in feeds.values()]
        return cls(
            elapsed=elapsed,
            time=time,
            sent_messages=sum(link.sent for link in links),
            sent_readings=sum(link.sent_readings for link in links),
            messages=sum(link.acknowledged_messages for link in links),
            readings=sum(link.acknowledged_readings for link in links),
            refused_messages=sum(link.refused_messages for link in links),
            rejected_rows=rejected_rows,
            file=file,
        )


class Feed:
    """Feed of one source: numbers its messages and sends them."""

    def __init__(self, source: str, transport: Transport, *, boot: str) -> None:
        self.source = source
        self.boot = boot
        self.transport = transport
        self._seq = 0
        self._boots: dict[str, int | None] = {boot: None}

    @property
    def next_seq(self) -> int:
        """Number of the next message."""
        return self._seq

    def send(self, readings: Any, count: int) -> None:
        """Send a report, a list of reports, or columns, with `count` readings in it. A number is used up only by what was sent."""
        self.transport.publish("readings", reports.encode(readings, seq=self._seq, boot=self.boot), readings=count)
        self.used(self.boot, self._seq)

    def used(self, boot: str, seq: int) -> None:
        """Note that a number is used up, under this boot or a new one."""
        self.boot = boot if boot not in self._boots else self.boot
        highest = self._boots.get(boot)
        self._boots[boot] = seq if highest is None else max(seq, highest)
        last = self._boots[self.boot]
        self._seq = 0 if last is None else last + 1

    def report(self) -> SourceReport:
        """Return the ledger so far."""
        link = self.transport
        return SourceReport(
            source=self.source,
            boot=self.boot,
            last_seq=self._seq - 1 if self._seq else None,
            messages=link.acknowledged_messages,
            readings=link.acknowledged_readings,
            refused_messages=link.refused_messages,
            refused_readings=link.refused_readings,
            refused=dict(link.refused),
            unacknowledged_messages=link.sent - link.acknowledged_messages - link.refused_messages,
            unacknowledged_readings=link.sent_readings - link.acknowledged_readings - link.refused_readings,
            boots=tuple(self._boots.items()),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A message with its readings; or readings that never went into one."""

    source: str
    boot: str  # "": in no message
    seq: int | None  # None: it has none, or none that can be read
    rows: Rows
    sent_at: int | None  # us since 1970 UTC; None: never
    receipt: Receipt | None  # None: nothing was sent


class Record(Protocol):
    """Receiver of the truth (`simulator.faults.truth`)."""

    def add(self, entry: Entry) -> None:
        """Add a message that was sent, or was not."""

    def describe(self, about: Mapping[str, Any]) -> None:
        """Set the description of the run; the last call counts."""


Connector = Callable[[str, str | None], Transport]  # source, password


def require(sources: Sequence[str], passwords: Mapping[str, str | None]) -> None:
    """Check that there are credentials for all sources.

    Raises
    ------
    PublishError
        A source has no entry in `passwords`.
    """
    unknown = [source for source in sources if source not in passwords]
    if unknown:
        raise PublishError(f"no credentials for source {', '.join(sorted(unknown))}")


@contextmanager
def connected(sources: Sequence[str], passwords: Mapping[str, str | None], connect: Connector) -> Iterator[dict[str, Feed]]:
    """Connect sources, and yield their feeds; the connections are closed at the end, whatever happens.

    Raises
    ------
    PublishError
        A source has no entry in `passwords`, or cannot be connected.
    """
    require(sources, passwords)
    with ExitStack() as stack:
        feeds: dict[str, Feed] = {}
        for source in sources:
            transport = connect(source, passwords[source])
            stack.callback(transport.close)
            feeds[source] = Feed(source, transport, boot=secrets.token_hex(4))
        yield feeds


def drain(feeds: Mapping[str, Feed], timeout: float = DRAIN_TIMEOUT) -> bool:
    """Wait for the answers to all feeds, `timeout` seconds altogether; return whether all came."""
    deadline = time.monotonic() + timeout
    complete = True
    for feed in feeds.values():
        complete &= feed.transport.drain(max(0.0, deadline - time.monotonic()))
    return complete
