"""Messages that wait for their worker: queued by the network thread, taken in batches by a partition's thread."""

import threading
import time
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from citybeat.devices.batch import MICROSECOND
from citybeat.ingest.judging.message import Message

#: Topics whose inbox is cached: more than a city has sources. Senders may use any number of topics; this bounds the cache.
_TOPICS: Final = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSize:
    """Limits of a batch."""

    #: messages. At one reading each, a transaction of 5,000 rows costs little more than its fixed part.
    messages: int = 5_000
    #: bytes of payload; about 110,000 readings in messages of 100. With half of it a transaction's fixed part, and pages of an
    #: index that a batch touches whatever its size, take an eighth of the speed of live traffic, and a fifth of that of catching
    #: up. With twice as much acknowledgements come later, and a batch needs more memory.
    bytes: int = 8 * 1024 * 1024
    #: s that a batch's first message waits for others: invisible on a dashboard, and enough to avoid a commit for each message.
    #: Time that it waited while the previous batch was being written counts.
    linger: float = 0.03


class Inbox:
    """A queue of one producer and one consumer, in order of arrival.

    Putting never blocks, for a blocked network thread would stop answering pings. `Inboxes` enforces the bound in bytes.
    """

    def __init__(self) -> None:
        self._queue: Final[deque[Message]] = deque()
        self._ready: Final = threading.Event()
        self._lock: Final = threading.Lock()  # of the queue and its size together
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def bytes(self) -> int:
        """Bytes of payload that wait."""
        return self._bytes

    def put(self, messages: Sequence[Message]) -> None:
        """Add messages."""
        with self._lock:
            self._queue.extend(messages)
            self._bytes += sum(len(message.payload) for message in messages)
        if not self._ready.is_set():
            self._ready.set()

    def take(self, size: BatchSize, timeout: float) -> list[Message]:
        """Take the next batch, in order of arrival; empty after `timeout` seconds without a message."""
        deadline = time.monotonic() + timeout
        while self._ready.wait(max(0.0, deadline - time.monotonic())):
            if len(self._queue) < size.messages and self._bytes < size.bytes:
                time.sleep(self._wanting(size.linger))
            self._ready.clear()  # before `pop`: a message that arrives from here on sets it again
            batch = self.pop(size)
            if self._queue:
                self._ready.set()
            if batch:  # else the previous batch took the message that had set the event
                return batch
        return []

    def _wanting(self, linger: float) -> float:
        """Seconds that the oldest message has still to wait; between 0 and `linger`, even if the clock was set."""
        with self._lock:
            received = self._queue[0].received_at if self._queue else 0
        return min(max(0.0, linger - (time.time_ns() // 1000 - received) / MICROSECOND), linger)

    def pop(self, size: BatchSize) -> list[Message]:
        """Take what is there, at most a batch, without waiting."""
        batch: list[Message] = []
        total = 0
        with self._lock:
            while self._queue and len(batch) < size.messages and total < size.bytes:
                message = self._queue.popleft()
                batch.append(message)
                total += len(message.payload)
            self._bytes -= total
        return batch

    def put_back(self, batch: Sequence[Message]) -> None:
        """Return the batch that was taken last to the front of the queue."""
        with self._lock:
            self._queue.extendleft(reversed(batch))
            self._bytes += sum(len(message.payload) for message in batch)
        self._ready.set()


class Inboxes:
    """One inbox for each worker; a source's messages all go to the same one, since order, state and numbers belong to a source.

    Parameters
    ----------
    count : int
        Number of workers.
    max_bytes : int
        Bytes of payload that may wait in all inboxes together.
    """

    def __init__(self, count: int, *, max_bytes: int) -> None:
        self.each: Final = tuple(Inbox() for _ in range(count))
        self._max_bytes: Final = max_bytes
        self._places: Final[dict[str, int]] = {}  # by topic

    def __len__(self) -> int:
        return sum(map(len, self.each))

    @property
    def bytes(self) -> int:
        """Bytes of payload that wait."""
        return sum(inbox.bytes for inbox in self.each)

    def put(self, messages: Sequence[Message]) -> int:
        """Add messages to the inboxes of their sources, in order, as long as there is room; returns how many were added."""
        parts: list[list[Message]] = [[] for _ in self.each]
        waiting, taken = self.bytes, 0
        for message in messages:
            size = len(message.payload)
            # A message larger than the limit must not wait for ever: it is taken when nothing else waits.
            if waiting and waiting + size > self._max_bytes:
                break
            waiting += size
            taken += 1
            parts[self._place(message.topic)].append(message)
        for inbox, part in zip(self.each, parts, strict=True):
            if part:
                inbox.put(part)
        return taken

    def _place(self, topic: str) -> int:
        """Number of the inbox of a topic's source."""
        if len(self.each) == 1:
            return 0
        place = self._places.get(topic)
        if place is None:
            source = topic.split("/", 3)[2:3]
            place = zlib.crc32("".join(source).encode()) % len(self.each)
            if len(self._places) >= _TOPICS:
                self._places.clear()
            self._places[topic] = place
        return place
