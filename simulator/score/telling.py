"""Findings: differences, with their number at each source and the first few readings. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import NEVER, Int64
from citybeat.devices.clock import from_us, rfc3339
from citybeat.simulator.score.labels import Names

#: Readings that are named of one finding at one source, at most: enough to look one up, few enough to be read.
NAMED: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One kind of difference at one source."""

    what: str
    source: str
    count: int  # readings, unless `what` says otherwise
    examples: tuple[str, ...]


class Findings:
    """Collects findings part by part.

    Parameters
    ----------
    names : Names
    """

    def __init__(self, names: Names) -> None:
        self._names: Final = names
        self._source: Final[dict[int, int]] = {}  # of a sensor, by its place: of its first row
        self._counts: Final[dict[tuple[str, str], int]] = {}
        self._examples: Final[dict[tuple[str, str], list[str]]] = {}

    def add(
        self, what: str, rows: NDArray[Any], which: Int64, words: NDArray[Any] | Sequence[Any] | None = None, form: str = "{}"
    ) -> None:
        """Add rows of the truth that differ.

        Parameters
        ----------
        what : str
        rows : (n,) labels
        which : (k,) int64
            Indices of rows.
        words : (k, …) array, optional
            Further words on each, formatted by `form`.
        """
        if not len(which):
            return
        sources = rows["source"][which]
        present, first, counts = np.unique(sources, return_index=True, return_counts=True)
        del first
        for source, count in zip(present.tolist(), counts.tolist(), strict=True):
            name = self._names.sources[source]
            mine = np.flatnonzero(sources == source)[:NAMED]
            said = [
                described(rows[which[i]], self._names)
                + ("" if words is None else ": " + form.format(*np.atleast_1d(words[i]).tolist()))
                for i in mine.tolist()
            ]
            self.tell(what, name, count, said)

    def tell(self, what: str, source: str, count: int, examples: Sequence[str]) -> None:
        """Add a finding that is counted and described already."""
        key = what, source
        self._counts[key] = self._counts.get(key, 0) + count
        known = self._examples.setdefault(key, [])
        known += examples[: NAMED - len(known)]

    def all(self) -> list[Finding]:
        """Return the findings by source."""
        return [
            Finding(what=what, source=source, count=self._counts[what, source], examples=tuple(self._examples[what, source]))
            for what, source in sorted(self._counts, key=lambda key: (key[1], key[0]))
        ]

    def by_what(self) -> dict[str, tuple[int, list[str]]]:
        """Return the findings over all sources: count, and the first few."""
        out: dict[str, tuple[int, list[str]]] = {}
        for finding in self.all():
            count, examples = out.get(finding.what, (0, []))
            out[finding.what] = count + finding.count, [*examples, *finding.examples][:NAMED]
        return out


def described(row: Any, names: Names) -> str:
    """Describe a row of the truth, so that it can be looked up: sensor, time, message, and place in the message."""
    device, metric = names.series[int(row["series"])]
    source, boot = names.boots[int(row["boot"])]
    claimed = int(row["claimed"])
    when = iso(int(row["time"])) if claimed == NEVER else iso(claimed)
    number = f"message {row['seq']}" if row["seq"] >= 0 else "a message without number"
    without = " (sent without)" if claimed == NEVER else ""
    return f"{device} {metric} {when}{without} [{source} {boot} {number}, reading {row['index']}]"


def iso(us: int) -> str:
    """Format a time as RFC 3339; a time beyond the calendar as a number.

    Examples
    --------
    >>> iso(1_767_225_600_000_000)
    '2026-01-01T00:00:00Z'
    """
    try:
        return rfc3339(from_us(us))
    except OverflowError:
        return f"{us} us"
