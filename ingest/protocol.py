"""What an intake and its workers say to each other, over a socket pair: pickled, since both ends are ours.

Messages go as columns: as objects they take 1.7 us each to be pickled and read, and so 0.4.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final
from uuid import UUID

from ingest.message import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A batch to be written. The next one is sent when this one is answered."""

    id: UUID  # the same at every try
    messages: Sequence[Message]

    def __reduce__(self) -> tuple[Any, ...]:
        columns = tuple([getattr(message, name) for message in self.messages] for name in _COLUMNS)
        return _request, (self.id, columns)


_COLUMNS: Final = tuple(field.name for field in fields(Message))


def _request(batch_id: UUID, columns: tuple[list[Any], ...]) -> Request:
    return Request(id=batch_id, messages=list(map(Message, *columns)))


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
