"""What an intake and its workers say to each other, over a socket pair: pickled, since both ends are ours.

Messages go as columns: as objects they take 1.7 us each to be pickled and read, and so 0.4. A batch goes in parts: in one piece its
pickle would take as much memory as the batch itself, once more at either end.
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

    id: UUID  # the same at every try
    messages: Sequence[Message]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The worker is there, and has what it needs from the database."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """The worker tries again; said at each try, so that silence means that it hangs."""

    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """The batch is in the database."""

    id: UUID
    counts: Counter[str]  # as the ledger's columns
    reasons: Counter[str] = field(default_factory=Counter)  # refused readings and messages, by reason
    took: float  # s, of the try that succeeded
    delays: Sequence[float] = ()  # s from the times of some of its readings, which have their own, to the commit


Answer = Ready | Trouble | Committed

_COLUMNS: Final = tuple(field.name for field in fields(Message))
#: Bytes of payload of a part: so much that a call for each costs nothing, and so little that it is no matter what memory it takes.
_PART: Final = 512 * 1024


def send(line: Connection, request: Request) -> None:
    """Say a request. Nobody else may write to the line meanwhile.

    Raises
    ------
    OSError
        The worker is gone.
    """
    parts = list(_parts(request.messages))
    line.send((request.id, len(parts)))
    for part in parts:
        line.send([[getattr(message, name) for message in part] for name in _COLUMNS])


def receive(line: Connection) -> Request:
    """Wait for a request, and take all of it off the line.

    Raises
    ------
    EOFError, OSError
        The intake has closed the line, or is gone.
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
