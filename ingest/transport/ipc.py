"""Protocol between a partition and its worker over a socket pair: pickled objects, since both ends are this program.

Messages are sent as columns: to pickle and to read one takes 0.4 us so, and 1.7 us as an object. A batch is sent in parts: in one
piece its pickle would take as much memory as the batch itself, once more at either end.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from multiprocessing.connection import Connection
from typing import Final
from uuid import UUID

from citybeat.ingest.judging.message import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A batch to be written. The next one is sent when this one is answered."""

    id: UUID  # the same at every attempt
    messages: Sequence[Message]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The worker runs and has loaded what it needs from the database."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """An attempt failed and the worker tries again. It is sent after each attempt, so that silence means that the worker hangs."""

    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """The batch is in the database."""

    id: UUID
    counts: Counter[str]  # the ledger's columns
    reasons: Counter[str] = field(default_factory=Counter)  # refused readings and messages, by reason
    took: float  # s from receipt by the worker to the commit
    delays: Sequence[float] = ()  # s from the sender's time to the commit, of a sample of readings


Answer = Ready | Trouble | Committed

_COLUMNS: Final = tuple(field.name for field in fields(Message))
#: Bytes of payload in a part: large enough that the number of calls costs nothing, small enough that its memory does not matter.
_PART: Final = 512 * 1024


def send(line: Connection, request: Request) -> None:
    """Send a request. No other thread may write to the connection meanwhile.

    Raises
    ------
    OSError
        The worker has closed the connection, or its process has ended.
    """
    parts = list(_parts(request.messages))
    line.send((request.id, len(parts)))
    for part in parts:
        line.send([[getattr(message, name) for message in part] for name in _COLUMNS])


def receive(line: Connection) -> Request:
    """Wait for a request, and read all of it.

    Raises
    ------
    EOFError, OSError
        The other end has closed the connection, or its process has ended.
    """
    batch_id, parts = line.recv()
    messages: list[Message] = []
    for _ in range(parts):
        messages.extend(map(Message, *line.recv()))
    return Request(id=batch_id, messages=messages)


def _parts(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    start = size = 0
    for end, message in enumerate(messages, 1):
        size += len(message.payload)
        if size >= _PART:
            yield messages[start:end]
            start, size = end, 0
    if start < len(messages):
        yield messages[start:]
