"""Compact form of the device and metric names of many readings. Pure.

Gateways send the same names in the same order, message after message. A message's names are therefore carried as one text, so that
`ingest.judging.resolve` can look up the whole text at once. A list of 50,000 fresh strings would cost more: the strings fill the
processor's cache while the rest is parsed, and each of them is hashed, looked up and freed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Self

import numpy as np

from citybeat.devices.batch import Int64
from citybeat.devices.wire.columns import text

#: Mean readings of a message from which its names are joined to a text: for fewer, joining takes as long as it saves.
_MANY: Final = 16
#: Separates the names of a text; no name contains it.
_END: Final = "\n"


@dataclass(frozen=True, slots=True)
class Names:
    """Device and metric of consecutive readings, as a text or as lists."""

    count: int
    text: str  # names of one whole message: device, metric, device, metric, ..., one on each line; "": `listed` has them
    listed: tuple[list[str], list[str]] = ([], [])

    @classmethod
    def of(cls, device: list[str], metric: list[str]) -> Self:
        """Make names from lists."""
        return cls(len(device), "", (device, metric))

    def lists(self) -> tuple[list[str], list[str]]:
        """Return the devices and the metrics as lists."""
        if not self.text:
            return self.listed
        lines = self.text.split(_END)
        return lines[::2], lines[1::2]


def is_lines(names: Sequence[Any]) -> bool:
    """Tell whether names can be lines of a text.

    Raises
    ------
    NotPlainError
        A name is not a string.
    """
    return _END not in text(names)


def named(device: list[str], metric: list[str], counts: Sequence[int]) -> list[Names]:
    """Make the names of consecutive messages from lists.

    Parameters
    ----------
    device, metric : list of str
        Names of every reading, without line feeds.
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
    """Make the names of consecutive messages from a text.

    Parameters
    ----------
    lines : str
        Device, metric, device, metric, ..., each followed by a line feed.
    ends : (n,) int64
        Position of the line feed after each metric.
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
    """Concatenate the devices and the metrics of all pieces."""
    lists = [names.lists() for names in pieces]
    return list(chain.from_iterable(device for device, _ in lists)), list(chain.from_iterable(metric for _, metric in lists))
