"""Which device and metric readings are of, for many of them. Pure.

Gateways send the same names in the same order, message after message. So a message's names are carried as one text, and whoever
has looked up the text's names once knows what they came to (`ingest.judging.resolve`). A list of 50,000 fresh strings would cost
more: they fill the processor's cache while the rest is parsed, and each is hashed, looked up and dropped on its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Self

import numpy as np

from citybeat.devices.batch import Int64
from citybeat.devices.wire.columns import text

#: Readings of a message, on average, from which on their names are a text: for fewer it takes as long as it saves.
_MANY: Final = 16
#: Separates names; no name in a text has it.
_END: Final = "\n"


@dataclass(frozen=True, slots=True)
class Names:
    """Device and metric of readings that stand together."""

    count: int
    text: str  # of one whole message: device, metric, device, metric, ..., a line each; "": the lists have them
    listed: tuple[list[str], list[str]] = ([], [])

    @classmethod
    def of(cls, device: list[str], metric: list[str]) -> Self:
        """As lists."""
        return cls(len(device), "", (device, metric))

    def lists(self) -> tuple[list[str], list[str]]:
        """Devices and metrics."""
        if not self.text:
            return self.listed
        lines = self.text.split(_END)
        return lines[::2], lines[1::2]


def is_lines(names: Sequence[Any]) -> bool:
    """Whether these names can be lines of a text.

    Raises
    ------
    NotPlainError
        One is no string.
    """
    return _END not in text(names)


def named(device: list[str], metric: list[str], counts: Sequence[int]) -> list[Names]:
    """Names of the readings of messages that follow each other.

    Parameters
    ----------
    device, metric : list of str
        Of every reading. None has a line's end in it.
    counts : sequence of int
        Readings of each message.
    """
    if len(device) < _MANY * len(counts):
        return [Names.of(device, metric)]
    lines = device + metric
    lines[::2], lines[1::2] = device, metric
    out, start = [], 0
    for count in counts:
        end = start + 2 * count
        out.append(Names(count, _END.join(lines[start:end])))
        start = end
    return out


def from_text(lines: str, ends: Int64, counts: Sequence[int]) -> list[Names]:
    """The same from a text.

    Parameters
    ----------
    lines : str
        Device, metric, device, metric, ..., each with a line's end behind it.
    ends : (n,) int64
        Where the line of each metric ends.
    counts : sequence of int
        Readings of each message.
    """
    if len(ends) < _MANY * len(counts):
        both = lines.split(_END)
        return [Names.of(both[:-1:2], both[1::2])]
    out, start = [], 0
    for count, end in zip(counts, ends[np.cumsum(counts) - 1].tolist(), strict=True):
        out.append(Names(count, lines[start:end]))
        start = end + 1
    return out


def flat(pieces: Iterable[Names]) -> tuple[list[str], list[str]]:
    """Devices and metrics of all pieces."""
    lists = [names.lists() for names in pieces]
    return list(chain.from_iterable(device for device, _ in lists)), list(chain.from_iterable(metric for _, metric in lists))
