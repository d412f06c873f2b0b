"""Positions in the stream of the outbox.

Rows of `outbox` are sent in order of (transaction, id). A transaction's row can appear after those of later transactions, so
readers stop at a frontier below which no row can appear any more (`outbox_frontier`, `repeatable/04_streams.sql`), and a position
is enough to go on. A stream that begins behind an answer of /v1/latest needs more: rows that the answer's snapshot did not see lie
behind its frontier, between rows that it saw. Such a cursor names the transactions that the snapshot did not see.

Invariant: pure.
"""

import base64
import binascii
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self

import orjson

#: The largest id: a position behind every row of a transaction.
LAST: Final = 2**63 - 1
#: Maximum number of running transactions in a cursor; no server of ours has more connections.
_RUNNING: Final = 1000


class Position(NamedTuple):
    """Position of a row of `outbox`."""

    xact: int
    id: int


class CursorError(ValueError):
    """A text that is not a cursor of this stream."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """A position; of the rows behind it, only those of transactions from `until` on, and of those in `running`, are new.

    Examples
    --------
    >>> seen = Cursor.of_snapshot("a1:20:17,19")
    >>> [seen.misses(Position(xact, 1)) for xact in (16, 17, 18, 19, 20)]
    [False, True, False, True, True]
    >>> seen.at(Position(17, 1)).misses(Position(17, 1)), Cursor.parse(str(seen)) == seen
    (False, True)
    """

    generation: str  # of the database
    position: Position
    until: int = 0  # transactions from this one on were not seen; 0: from the position on
    running: tuple[int, ...] = ()  # earlier transactions that were not seen

    @classmethod
    def of_snapshot(cls, text: str) -> Self:
        """Read the result of `stream_cursor()` (`repeatable/04_streams.sql`)."""
        generation, until, running = text.split(":")
        under_way = tuple(sorted(int(xact) for xact in running.split(",") if xact))
        first = min(under_way, default=int(until))
        return cls(generation=generation, position=Position(first - 1, LAST), until=int(until), running=under_way)

    @classmethod
    def below(cls, generation: str, frontier: int) -> Self:
        """A cursor behind all rows below a frontier."""
        return cls(generation=generation, position=Position(frontier - 1, LAST))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a cursor from the text that `str` made of it.

        Raises
        ------
        CursorError
        """
        try:
            parts = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
        except (binascii.Error, ValueError):
            parts = None
        if not isinstance(parts, list) or len(parts) not in {3, 5}:
            raise CursorError("not a cursor of this stream; pass the last event's id as it is")
        generation, *numbers = parts[:4]
        running = parts[4] if len(parts) > 4 else []
        if not isinstance(generation, str) or not isinstance(running, list) or len(running) > _RUNNING:
            raise CursorError("not a cursor of this stream; pass the last event's id as it is")
        if any(not _is_number(number) for number in (*numbers, *running)):
            raise CursorError("not a cursor of this stream; pass the last event's id as it is")
        return cls(
            generation=generation,
            position=Position(*numbers[:2]),
            until=numbers[2] if len(parts) > 3 else 0,
            running=tuple(running),
        )

    def __str__(self) -> str:
        parts: list[Any] = [self.generation, *self.position]
        if self.until:
            parts += [self.until, list(self.running)]
        return base64.urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")

    def misses(self, row: Position) -> bool:
        """Return whether a row is new to a reader at this cursor."""
        return row > self.position and (row.xact >= self.until or row.xact in self.running)

    def at(self, row: Position) -> Self:
        """The cursor after everything up to a row was sent."""
        if row.xact >= self.until:  # all transactions that ran during the snapshot are behind it
            return replace(self, position=row, until=0, running=())
        return replace(self, position=row, running=tuple(xact for xact in self.running if xact >= row.xact))

    def lost(self, floor: Position) -> bool:
        """Return whether a row that is new to this cursor may have been dropped, if all rows up to `floor` were."""
        if floor <= self.position:
            return False
        return floor.xact >= self.until or any(xact <= floor.xact for xact in self.running)


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LAST
