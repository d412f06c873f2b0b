"""Where a stream stands: what was told, and what was not.

Rows of `outbox` are told in order of (transaction, id). A transaction's row can come after those of later transactions, so readers
go up to a frontier below which nothing can come any more (`outbox_frontier`, migration 0014), and a position is enough to go on.
A stream that begins where an answer of /v1/latest ends is another matter: what that answer's snapshot had not seen is behind its
frontier, between rows that it had seen. Such a cursor names what it had not seen.

Law: pure.
"""

import base64
import binascii
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self

import orjson

#: An id above all others: behind every row of a transaction.
LAST: Final = 2**63 - 1
#: Transactions that may be under way in a cursor; more connections no server of ours has.
_RUNNING: Final = 1000


class Position(NamedTuple):
    """Of a row of `outbox`."""

    xact: int
    id: int


class CursorError(ValueError):
    """A text that is no cursor of ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """Behind a position; of what lies behind it, only transactions from `until` on, and those in `running`, are new.

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
    until: int = 0  # transactions from this on were not seen; 0: from the position on
    running: tuple[int, ...] = ()  # nor were these, below it

    @classmethod
    def of_snapshot(cls, text: str) -> Self:
        """What `stream_cursor()` of migration 0014 says."""
        generation, until, running = text.split(":")
        under_way = tuple(sorted(int(xact) for xact in running.split(",") if xact))
        first = min(under_way, default=int(until))
        return cls(generation=generation, position=Position(first - 1, LAST), until=int(until), running=under_way)

    @classmethod
    def below(cls, generation: str, frontier: int) -> Self:
        """Behind everything below a frontier."""
        return cls(generation=generation, position=Position(frontier - 1, LAST))

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` made of one.

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
        """Whether a row is new to whoever has come so far."""
        return row > self.position and (row.xact >= self.until or row.xact in self.running)

    def at(self, row: Position) -> Self:
        """When everything up to a row was told, too."""
        if row.xact >= self.until:  # all that were under way in the snapshot are behind it
            return replace(self, position=row, until=0, running=())
        return replace(self, position=row, running=tuple(xact for xact in self.running if xact >= row.xact))

    def lost(self, floor: Position) -> bool:
        """Whether something that is new to it may have been dropped, all up to `floor` being gone."""
        if floor <= self.position:
            return False
        return floor.xact >= self.until or any(xact <= floor.xact for xact in self.running)


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LAST
