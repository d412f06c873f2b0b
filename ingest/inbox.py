"""Messages that wait for the writer: filled by the network thread, emptied in batches by the writer's."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ingest.message import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSize:
    """When a batch is full."""

    #: messages. At one reading each, a transaction of 5,000 rows costs little more than its fixed part.
    messages: int = 5_000
    #: bytes of payload; about 60,000 readings in batches of 100. Longer transactions win no speed, but delay acknowledgements.
    bytes: int = 4 * 1024 * 1024
    #: s to wait for company after a batch's first message: invisible on a dashboard, and enough to spare a commit for each message.
    linger: float = 0.03


class Inbox:
    """A queue of one producer and one consumer.

    It has no bound of its own: the broker sends no more unacknowledged messages than our Receive Maximum. Putting never blocks, for
    a blocked network thread would stop answering pings.
    """

    def __init__(self) -> None:
        self._queue: Final[deque[Message]] = deque()
        self._ready: Final = threading.Event()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, message: Message) -> None:
        """Add a message."""
        self._queue.append(message)
        if not self._ready.is_set():
            self._ready.set()

    def discard(self, unwanted: Callable[[Message], bool]) -> int:
        """Remove messages that will come again; how many. Called by the producer, between two puts."""
        removed = 0
        for _ in range(len(self._queue)):
            try:
                message = self._queue.popleft()
            except IndexError:  # the consumer was faster
                break
            if unwanted(message):
                removed += 1
            else:
                self._queue.append(message)
        return removed

    def take(self, size: BatchSize, timeout: float) -> list[Message]:
        """The next batch, in order of arrival; empty after `timeout` seconds without a message."""
        deadline = time.monotonic() + timeout
        while self._ready.wait(max(0.0, deadline - time.monotonic())):
            if len(self._queue) < size.messages:
                time.sleep(size.linger)
            self._ready.clear()  # before looking: a message that comes from here on sets it again
            batch = self._pop(size)
            if self._queue:
                self._ready.set()
            if batch:  # else the last batch took the message that had set the event
                return batch
        return []

    def _pop(self, size: BatchSize) -> list[Message]:
        batch: list[Message] = []
        total = 0
        while len(batch) < size.messages and total < size.bytes:
            try:
                message = self._queue.popleft()
            except IndexError:
                break
            batch.append(message)
            total += len(message.payload)
        return batch
