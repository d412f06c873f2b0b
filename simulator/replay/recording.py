"""Converts rows of a recorded file into reports of devices, by a replay map. Pure: bytes in, findings out, in the file's order.

No row stops the reading and none is dropped in silence: each line after the header becomes a `Row`, a `Blank`, or a `Rejected`
with a reason of a fixed list. A row is taken whole or not at all.
"""

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, Inexact, InvalidOperation, Overflow
from enum import StrEnum
from typing import Final

from citybeat.simulator.errors import RecordingError
from citybeat.simulator.replay.localtime import Oddity, OddTimeError, TimeFormatError
from citybeat.simulator.replay.maps import BlankCells, BlankRows, ColumnMap, DeviceMap, ReplayMap


class Reject(StrEnum):
    """Reason why a row was not replayed."""

    ENCODING = "encoding"  # bytes that are no text in the map's encoding
    QUOTES = "quotes"  # a quoted field that does not end, or goes on after its end
    FIELDS = "fields"  # not as many as the header has
    TIME = "time"  # not in the map's format
    NONEXISTENT = "nonexistent"  # a time that the clock skipped, and the policy is to reject
    AMBIGUOUS = "ambiguous"  # a time that the clock showed twice, and the policy is to reject
    NUMBER = "number"  # a cell that is neither a number nor one of the texts for "missing"
    SENTINEL = "sentinel"  # a value that, scaled, looks like a sentinel that it is not
    NO_DEVICE = "no_device"  # no device of the map has such rows
    BLANK = "blank"  # no text at all, and the policy is to reject


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A row that cannot be read."""

    file: str  # name, without folder
    line: int  # 1-based
    reason: Reject
    detail: str  # for people; one line


@dataclass(frozen=True, kw_only=True, slots=True)
class Blank:
    """A row without any text in its fields."""

    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Contents of a row about one device."""

    device: str
    source: str
    values: dict[str, float | None]  # by metric; None: missing


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row that was read."""

    line: int
    time: int  # us since 1970 UTC
    oddity: Oddity | None  # what a policy decided about the time
    reports: tuple[Report, ...]
    missing: int  # values that are None
    sentinels: int  # values that are sentinels, sent as they are
    omitted: int  # blank cells that are not sent


@dataclass(frozen=True, slots=True)
class _Cell:
    """Place of a column, and its meaning."""

    place: int
    column: ColumnMap
    clashes: frozenset[float]  # what no scaled value may be


@dataclass(frozen=True, slots=True)
class _Binding:
    """A device whose rows may stand in the file."""

    source: DeviceMap
    where: tuple[tuple[int, str], ...]
    cells: tuple[_Cell, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A map, applied to a file's header."""

    file: str
    fields: int
    time: tuple[int, ...]
    bindings: tuple[_Binding, ...]


class _Unreadable(Exception):  # noqa: N818 - carries a finding to the loop that records it
    def __init__(self, reason: Reject, detail: str) -> None:
        self.reason = reason
        self.detail = detail


_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_MAX_NUMBER: Final = 64  # characters
_EXACT: Final = Context(prec=256, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[Inexact, InvalidOperation, Overflow])
_BOM: Final = b"\xef\xbb\xbf"


def layout(first_line: bytes, replay_map: ReplayMap, *, file: str) -> Layout:
    """Find the map's columns in a file.

    Parameters
    ----------
    first_line : bytes
        The header, where the map says that there is one; else it is not looked at.
    replay_map : ReplayMap
    file : str
        The file's name, without its folder.

    Raises
    ------
    RecordingError
        No device of the map reads such a file, the header cannot be read, or a column is not there or stands twice.
    """
    bindings = [binding for binding in replay_map.bindings if binding.reads(file)]
    if not bindings:
        raise RecordingError(f"{file}: no device of {replay_map.origin} reads a file of this name")
    header: Sequence[str] = replay_map.text.columns
    if replay_map.text.header:
        try:
            header = _fields(first_line, replay_map, first=True)
        except _Unreadable as finding:
            raise RecordingError(f"{file}, line 1: the header cannot be read: {finding.detail}") from None

    def place(column: str) -> int:
        if header.count(column) != 1:
            found = ", ".join(map(repr, header[:20]))
            problem = "stands more than once in" if column in header else "is not in"
            raise RecordingError(f"{file}: column {column!r} of {replay_map.origin} {problem} the header: {found[:400]}")
        return header.index(column)

    return Layout(
        file,
        len(header),
        tuple(place(column) for column in replay_map.time.columns),
        tuple(
            _Binding(
                binding,
                tuple((place(column), text) for column, text in binding.where),
                tuple(_Cell(place(column.column), column, _clashes(column)) for column in binding.columns),
            )
            for binding in bindings
        ),
    )


def _clashes(column: ColumnMap) -> frozenset[float]:
    return frozenset(float(number) for number in column.sentinels)


def read(lines: Iterable[bytes], replay_map: ReplayMap, *, file: str) -> Iterator[Row | Blank | Rejected]:
    """Read a recorded file.

    Parameters
    ----------
    lines : iterable of bytes
        The file's lines, from the first one on, with or without their ends (as a file opened in binary mode gives them). A record
        is a line: a quoted field cannot go on in the next one.
    replay_map : ReplayMap
    file : str
        The file's name, without its folder.

    Yields
    ------
    Row, Blank or Rejected
        One for each line after the header, in the file's order.

    Raises
    ------
    RecordingError
        As `layout`, before the first row.
    """
    numbered = enumerate(lines, start=1)
    first = next(numbered, (1, b""))[1] if replay_map.text.header else b""
    plan = layout(first, replay_map, file=file)
    for number, line in numbered:
        try:
            fields = _fields(line, replay_map, first=number == 1)
            if not any(fields):
                if replay_map.text.blank_rows is BlankRows.REJECT:
                    raise _Unreadable(Reject.BLANK, "no text in any field")
                yield Blank(line=number)
                continue
            yield _row(number, fields, plan, replay_map)
        except _Unreadable as finding:
            yield Rejected(file=file, line=number, reason=finding.reason, detail=finding.detail)


def _fields(line: bytes, replay_map: ReplayMap, *, first: bool) -> list[str]:
    """Split a line into stripped fields."""
    encoding = replay_map.text.encoding
    if first and line.startswith(_BOM) and encoding.lower().replace("_", "-").startswith("utf-8"):
        line = line[len(_BOM) :]
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError as exc:
        raise _Unreadable(Reject.ENCODING, f"byte {exc.start} of the line is not {encoding}") from None
    try:
        rows = list(csv.reader([text.rstrip("\r\n")], delimiter=replay_map.text.delimiter, strict=True))
    except csv.Error as exc:
        raise _Unreadable(Reject.QUOTES, str(exc)) from None
    return [field.strip() for field in rows[0]] if rows else [""]


def _row(number: int, fields: list[str], plan: Layout, replay_map: ReplayMap) -> Row:
    if len(fields) != plan.fields:
        raise _Unreadable(Reject.FIELDS, f"{len(fields)} fields, where {plan.fields} are expected")
    try:
        time, oddity = replay_map.time.read(" ".join([fields[place] for place in plan.time]))
    except TimeFormatError as exc:
        raise _Unreadable(Reject.TIME, str(exc)) from None
    except OddTimeError as exc:
        raise _Unreadable(Reject(exc.oddity), str(exc)) from None
    reports: list[Report] = []
    missing = sentinels = omitted = taken = 0
    for binding in plan.bindings:
        if any(fields[place] != text for place, text in binding.where):
            continue
        taken += 1
        values: dict[str, float | None] = {}
        for cell in binding.cells:
            text = fields[cell.place]
            if not text and replay_map.text.blank_cells is BlankCells.OMIT:
                omitted += 1
                continue
            if not text or text in cell.column.missing:
                values[cell.column.metric] = None
                missing += 1
                continue
            values[cell.column.metric], coded = _value(text, cell, replay_map.text.decimal)
            sentinels += coded
        if values:
            device = binding.source.device
            reports.append(Report(device=device.id, source=device.source, values=values))
    if not taken:
        asked = {
            f"{c}={fields[place]!r}" for b in plan.bindings for (place, _), (c, _) in zip(b.where, b.source.where, strict=True)
        }
        raise _Unreadable(Reject.NO_DEVICE, f"no device of the map has rows with {', '.join(sorted(asked))}"[:200])
    return Row(line=number, time=time, oddity=oddity, reports=tuple(reports), missing=missing, sentinels=sentinels, omitted=omitted)


def _value(text: str, cell: _Cell, decimal: str) -> tuple[float, bool]:
    """Return a cell's number as it is sent, and whether it is a sentinel."""
    plain = text if decimal == "." else _swapped(text)
    if len(text) > _MAX_NUMBER or not plain.isascii() or not _NUMBER.fullmatch(plain):
        raise _Unreadable(Reject.NUMBER, f"column {cell.column.column!r}: {text[:60]!r} is not a number")
    try:
        number = Decimal(plain)
        if number in cell.column.sentinels:
            return float(number), True
        value = float(scaled(number, cell.column.scale))
    except (InvalidOperation, Overflow, OverflowError):
        value = math.inf
    if not math.isfinite(value):
        raise _Unreadable(Reject.NUMBER, f"column {cell.column.column!r}: {text[:60]!r} is beyond the range of float64")
    if value in cell.clashes:
        detail = (
            f"column {cell.column.column!r}: {text!r} times {cell.column.scale} equals a sentinel, and would be taken for missing"
        )
        raise _Unreadable(Reject.SENTINEL, detail)
    return value, False


def scaled(number: Decimal, scale: Decimal) -> Decimal:
    """Return the exact product, so that 4.216 kW is 4216 W and not 4216.000000000001."""
    return number if scale == 1 else _EXACT.multiply(number, scale)


def _swapped(text: str) -> str:
    """A decimal comma to a point; a point, which may separate thousands, to what is no number."""
    return text.replace(".", "?").replace(",", ".", 1)
