"""The result of decoding, readings as columns and refusals, and the parsing of values and times that all formats share."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import repeat
from typing import Any, Final, NamedTuple

import numpy as np

from citybeat.devices.batch import Float64, Int16, Int32, Int64
from citybeat.devices.clock import MAX_US, MIN_US, to_us
from citybeat.devices.errors import Reason
from citybeat.devices.wire.names import Names, flat

#: ms. 9999-12-31T23:59:59.999Z, the last date of Python. A larger number is a sender's fault (microseconds sent as milliseconds).
MAX_MS: Final = MAX_US // 1000
#: ms. 0001-01-01T00:00:00Z.
MIN_MS: Final = MIN_US // 1000
_DETAIL: Final = 120  # characters of a sender's input that a detail may quote
#: RFC 3339, section 5.6 (with its note: a space or lower case for T and Z). `fromisoformat` alone would accept far more.
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """The refusal of a message, or of one of its readings."""

    message: int  # position of the message among the decoded ones
    index: int | None  # position of the reading in the message; None: the whole message
    reason: Reason
    detail: str  # for people; never longer than a line
    device: str = ""  # the device that it is about, as sent; "": it is not about a device

    @property
    def entry(self) -> "Refused":
        """The refusal as it is stored beside its message."""
        return Refused(self.index, self.reason.value, self.detail, self.device)


class Refused(NamedTuple):
    """A refusal as it is stored beside its message, in quarantine and in answers over HTTP."""

    reading: int | None  # its index in the message; None: all of the message
    reason: str
    detail: str  # for people
    device: str = ""  # as in `Refusal`; entries of version 0.1.0 have none


def unknown_device(device: str) -> str:
    """Detail of a refusal for people to whom a device does not exist."""
    return f"no device {device!r} is registered" if device else "the device is not registered"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """Readings of m messages as n rows, in order of arrival; refused readings have no row."""

    names: list[Names]  # devices and metrics of all rows, in pieces
    time: Int64  # (n,) us since 1970 UTC; the time of receipt where the reading has none
    value: Float64  # (n,) as sent; NaN: missing. May be infinite
    flags: Int16  # (n,) CLOCK or 0
    message: Int32  # (n,)
    index: Int32  # (n,) position in the message, refused readings counted
    received: Int32  # (m,) readings in each message, refused ones included
    seq: Int64  # (m,) -1: none
    boot: list[str]  # (m,) "": none
    refused: list[Refusal]
    unit: list[str] = field(default_factory=list)  # (n,) as sent, "": the registered unit; an empty list: no reading named one

    @property
    def device(self) -> list[str]:
        """Devices of the rows; a new list."""
        return flat(self.names)[0]

    @property
    def metric(self) -> list[str]:
        """Metrics of the rows; a new list."""
        return flat(self.names)[1]


class Rows:
    """Collects the rows of m messages, in order of arrival."""

    def __init__(self, m: int) -> None:
        self.received: Final = np.zeros(m, np.int32)  # as in `Decoded`
        self.refused: Final[list[Refusal]] = []
        self._kept: Final = np.zeros(m, np.int32)  # rows of each message
        self._count = 0
        self._names: Final[list[Names]] = []
        self._time: Final[list[Int64]] = []
        self._value: Final[list[Float64]] = []
        self._flags: Final[list[Int16]] = []
        self._gaps: Final[list[tuple[int, list[int]]]] = []  # first row and indexes of messages with refused readings
        self._unit: Final[list[str]] = []  # units of the first rows; the others name none

    def add(
        self,
        messages: list[int],
        counts: Sequence[int],
        names: list[Names],
        time: Int64,
        value: Float64,
        flags: Int16,
        unit: Sequence[str] | None = None,
    ) -> None:
        """Add all readings of consecutive messages; `counts` is the number of readings of each."""
        self._kept[messages] = self.received[messages] = counts
        self._names.extend(names)
        self._time.append(time)
        self._value.append(value)
        self._flags.append(flags)
        if unit is not None:
            self._unit.extend(repeat("", self._count - len(self._unit)))
            self._unit.extend(unit)
        self._count += len(value)

    def add_some(
        self,
        message: int,
        received: int,
        index: list[int],
        names: Names,
        time: list[int],
        value: list[float],
        flags: list[int],
        unit: Sequence[str] | None = None,
    ) -> None:
        """Add the readable readings of a message: those at the positions `index` of its `received` readings."""
        self._gaps.append((self._count, index))
        columns = np.array(time, np.int64), np.array(value, np.float64), np.array(flags, np.int16)
        self.add([message], [len(index)], [names], *columns, unit)
        self.received[message] = received

    def decoded(self, seq: Int64, boot: list[str]) -> Decoded:
        """Return everything that was added."""
        message = np.repeat(np.arange(len(self._kept), dtype=np.int32), self._kept)
        starts = (np.cumsum(self._kept) - self._kept).astype(np.int32)
        index = np.arange(self._count, dtype=np.int32) - starts[message]
        for start, places in self._gaps:
            index[start : start + len(places)] = places
        if self._unit:
            self._unit.extend(repeat("", self._count - len(self._unit)))
        return Decoded(
            names=self._names,
            time=joined(self._time, np.int64),
            value=joined(self._value, np.float64),
            flags=joined(self._flags, np.int16),
            message=message,
            index=index,
            received=self.received,
            seq=seq,
            boot=boot,
            refused=self.refused,
            unit=self._unit,
        )


class Finding(Exception):  # noqa: N818 - not an error of citybeat: it carries a refusal to the code that records it
    """A sender's mistake."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail


def number(raw: Any) -> float:
    """Convert a JSON value to a reading's value: NaN for null, 0 and 1 for booleans.

    Raises
    ------
    Finding
        NOT_A_NUMBER, NOT_FINITE.
    """
    if raw is None:
        return math.nan
    if type(raw) in (int, float, bool):
        try:
            return float(raw)
        except OverflowError:
            raise Finding(Reason.NOT_FINITE, "an integer beyond the range of float64") from None
    raise Finding(Reason.NOT_A_NUMBER, f"expected a number, true, false or null, not {short(raw)}")


def moment(ts: Any) -> int:
    """Convert a `ts` (integer milliseconds, or RFC 3339 with an offset) to microseconds since 1970 UTC.

    Raises
    ------
    Finding
        BAD_TIME.
    """
    if type(ts) is int:
        if not MIN_MS <= ts <= MAX_MS:
            raise Finding(Reason.BAD_TIME, f"{short(ts)} ms is beyond the year 9999; are these microseconds?")
        return ts * 1000
    if type(ts) is str:
        if not _RFC3339.fullmatch(ts):
            raise Finding(Reason.BAD_TIME, f"not RFC 3339 with an offset: {short(ts)}")
        try:
            return to_us(datetime.fromisoformat(ts.upper()))
        except (ValueError, OverflowError) as exc:
            raise Finding(Reason.BAD_TIME, f"no such time: {short(ts)} ({exc})") from None
    raise Finding(Reason.BAD_TIME, f"expected integer milliseconds since 1970 UTC or an RFC 3339 string, not {short(ts)}")


def short(thing: Any) -> str:
    """Quote the beginning of a value that a sender wrote, safe to store and print."""
    try:
        text = repr(thing)
    except ValueError:  # an integer with more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= _DETAIL else text[:_DETAIL] + "…"


def joined(pieces: list[Any], dtype: type) -> Any:
    """Concatenate pieces of an array; without pieces the result is an empty array of this dtype."""
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype)
