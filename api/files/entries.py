"""Entries of a file of devices before they are checked, and mistakes with their place in the file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """One mistake in a file."""

    place: str  # line 3; entry 0 (counted from 0, as JSON does); file
    column: str  # or member, with dots; "": the whole entry
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.column, self.message) if part)


#: The place and the column of a member of an entry, by its path.
Where = Callable[[Sequence[str | int]], tuple[str, str]]


class RawEntry(NamedTuple):
    """An entry of a file, as it was read."""

    place: str
    raw: Any
    where: Where
    broken: bool = False  # the line of the device was unreadable and is reported; mistakes in its sensors are still worth reporting
    told: frozenset[tuple[str | int, ...]] = frozenset()  # members whose mistakes are reported already
