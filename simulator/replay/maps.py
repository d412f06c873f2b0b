"""Replay maps, which describe how a recorded file becomes the reports of devices. docs/replay.md describes every key.

Pure: a map is made from text. What a map says is checked here, once; reading rows trusts it.
"""

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from citybeat.devices.catalogue import Domain
from citybeat.devices.device import DEVICE_FIELDS, Device, FieldType, Sensor
from citybeat.devices.errors import DeviceError
from citybeat.simulator.errors import MapError
from citybeat.simulator.replay.localtime import ISO, UNIX, UNIX_MS, Ambiguous, Nonexistent, TimeReader
from citybeat.simulator.yamltext import Keys, parse


class BlankRows(StrEnum):
    """Policy for a row without any text in its fields."""

    COUNT = "count"  # it is padding: counted as blank
    REJECT = "reject"  # its row is rejected, and named


class BlankCells(StrEnum):
    """Policy for a cell without text, in a row that has some."""

    MISSING = "missing"  # sent as null: the sensor was expected to say something
    OMIT = "omit"  # not sent, but counted: the column does not apply to the row


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFormat:
    """Encoding of the file's bytes, and format of its fields."""

    encoding: str = "utf-8-sig"  # one in which a line ends with the byte 10
    delimiter: str = ","
    decimal: str = "."  # "." or ","
    header: bool = True  # the first line names the columns
    columns: tuple[str, ...] = ()  # names, where there is no header
    blank_rows: BlankRows = BlankRows.COUNT
    blank_cells: BlankCells = BlankCells.MISSING


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnMap:
    """One column of a device."""

    column: str  # its name in the file
    metric: str  # a name of the catalogue
    scale: Decimal = Decimal(1)  # what is sent is the number times this, exactly, then rounded once to float64
    missing: frozenset[str] = frozenset()  # texts that stand for "no value": sent as null
    sentinels: frozenset[Decimal] = frozenset()  # numbers, as in the file, that stand for it: sent as they are, without scale
    low: float | None = None  # these override the catalogue, in the metric's unit: see devices.device.Sensor
    high: float | None = None
    suspect_low: float | None = None
    suspect_high: float | None = None
    rating: float | None = None
    interval: float | None = None  # s

    def sensor(self) -> Sensor:
        """Return the sensor, for registration."""
        return Sensor(
            metric=self.metric,
            low=self.low,
            high=self.high,
            suspect_low=self.suspect_low,
            suspect_high=self.suspect_high,
            rating=self.rating,
            interval=self.interval,
            sentinels=tuple(sorted(float(number) for number in self.sentinels)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceMap:
    """A device, the rows that are its own, and their columns."""

    device: Device
    columns: tuple[ColumnMap, ...]
    files: tuple[str, ...] = ()  # patterns of file names (`*`, `?`, `[…]`); none: every file
    where: tuple[tuple[str, str], ...] = ()  # columns and the text that they must have in its rows

    def reads(self, file: str) -> bool:
        """Return whether a file of this name (without folder) has rows of the device."""
        return not self.files or any(fnmatchcase(file, pattern) for pattern in self.files)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayMap:
    """Map of files of one kind."""

    origin: str  # where the map came from
    text: TextFormat
    time: TimeReader
    bindings: tuple[DeviceMap, ...]

    @property
    def devices(self) -> tuple[Device, ...]:
        """Devices, for registration."""
        return tuple(binding.device for binding in self.bindings)

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources that the devices publish through, each once, in order of appearance."""
        return tuple(dict.fromkeys(binding.device.source for binding in self.bindings))

    def devices_of(self, files: list[str]) -> tuple[Device, ...]:
        """Return the devices that have rows in files of these names."""
        return tuple(binding.device for binding in self.bindings if any(binding.reads(file) for file in files))


_T = TypeVar("_T")
_MAX_DIGITS: Final = 60  # of a scale: far more than a unit needs, and products stay exact


def load_map(text: str, *, origin: str) -> ReplayMap:
    """Read a replay map.

    Parameters
    ----------
    text : str
        YAML; docs/replay.md has the keys.
    origin : str
        Where the text came from; stands in error messages.

    Raises
    ------
    MapError
        Not YAML, an unknown or missing key, a wrong value; the message names origin, line and key.
    """
    root = parse(text, origin=origin)
    layout = _text_format(root.keys("file", Keys({}, {}, 1).rooted(origin, "file")))
    time = _time(root.keys("time"))
    common = root.texts("missing", ())
    bindings: list[DeviceMap] = []
    for entry in root.sequence("devices"):
        binding = _device(entry, common)
        if any(binding.device.id == other.device.id for other in bindings):
            raise entry.fail(None, f"device {binding.device.id!r} stands twice; give it all its columns in one place")
        bindings.append(binding)
    root.finish()
    if not layout.header:
        named = {*time.columns, *(c.column for b in bindings for c in b.columns), *(k for b in bindings for k, _ in b.where)}
        absent = sorted(named - set(layout.columns))
        if absent:
            raise MapError(f"{origin}: file.columns has no column {', '.join(map(repr, absent))}")
    return ReplayMap(origin=origin, text=layout, time=time, bindings=tuple(bindings))


def _text_format(keys: Keys) -> TextFormat:
    encoding = keys.text("encoding", "utf-8-sig")
    try:
        ends_lines = "\n".encode(codecs.lookup(encoding).name.removesuffix("-sig")) == b"\n"
    except LookupError:
        raise keys.fail("encoding", f"no such encoding: {encoding}") from None
    if not ends_lines:
        raise keys.fail("encoding", f"{encoding} has no lines that end with the byte 10; convert the file first")
    delimiter = keys.text("delimiter", ",")
    if len(delimiter) != 1 or delimiter in '\r\n"':
        raise keys.fail("delimiter", f"one character is expected, not {delimiter!r}")
    decimal = keys.choice("decimal", (".", ","), ".")
    header = keys.flag("header", True)
    columns = keys.texts("columns", ())
    if header and columns:
        raise keys.fail("columns", "the header names the columns; say header: false where there is none")
    if not header and (not columns or len(set(columns)) != len(columns)):
        raise keys.fail("columns", "without a header, different names of all columns are needed")
    layout = TextFormat(
        encoding=encoding,
        delimiter=delimiter,
        decimal=decimal,
        header=header,
        columns=columns,
        blank_rows=BlankRows(keys.choice("blank_rows", tuple(BlankRows), BlankRows.COUNT)),
        blank_cells=BlankCells(keys.choice("blank_cells", tuple(BlankCells), BlankCells.MISSING)),
    )
    keys.finish()
    return layout


def _time(keys: Keys) -> TimeReader:
    columns = keys.texts("columns")
    if not columns:
        raise keys.fail("columns", "at least one column is needed")
    form = keys.text("format")
    if form not in {ISO, UNIX, UNIX_MS} and "%" not in form:
        raise keys.fail("format", f"iso, unix, unix_ms or a format of strptime is expected, not {form!r}")
    fraction = keys.flag("fraction", False)
    if fraction and form in {UNIX, UNIX_MS}:
        raise keys.fail("fraction", f"{form} takes a fraction anyway")
    name = keys.text("zone", None)
    if name is None and form != ISO and "%z" not in form and form not in {UNIX, UNIX_MS}:
        raise keys.fail(None, "key 'zone' is missing: times of this format have no offset of their own")
    try:
        zone = None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise keys.fail("zone", f"no such time zone: {name!r}; a name such as Europe/Paris or UTC is expected") from None
    reader = TimeReader(
        columns=columns,
        format=form,
        fraction=fraction,
        zone=zone,
        nonexistent=Nonexistent(keys.choice("nonexistent", tuple(Nonexistent), Nonexistent.REJECT)),
        ambiguous=Ambiguous(keys.choice("ambiguous", tuple(Ambiguous), Ambiguous.REJECT)),
    )
    keys.finish()
    return reader


def _device(keys: Keys, common: tuple[str, ...]) -> DeviceMap:
    files = keys.texts("files", ())
    where = _texts_by_key(keys.keys("where", None))
    columns = _columns(keys.keys("columns"), common)
    domain = keys.choice("domain", tuple(Domain), "")
    id_, source = keys.text("id"), keys.text("source")
    readers: dict[FieldType, Callable[[str], Any]] = {
        FieldType.TEXT: lambda name: keys.text(name, ""),
        FieldType.NUMBER: lambda name: _float(keys, name),
        FieldType.TAGS: lambda name: dict(_texts_by_key(keys.keys(name, None))),
    }
    described = {name: readers[about.type](name) for name, about in DEVICE_FIELDS.items()}
    keys.finish()
    sensors = tuple(column.sensor() for column in columns)
    device = _built(keys, lambda: Device(id=id_, source=source, domain=Domain(domain), sensors=sensors, **described))
    return DeviceMap(device=device, columns=columns, files=files, where=where)


def _columns(keys: Keys, common: tuple[str, ...]) -> tuple[ColumnMap, ...]:
    columns = tuple(_column(keys.keys(name), name, common) for name in keys)
    if not columns:
        raise keys.fail(None, "a device needs at least one column")
    return columns


def _column(keys: Keys, name: str, common: tuple[str, ...]) -> ColumnMap:
    scale = keys.number("scale", Decimal(1))
    if not scale or len(scale.as_tuple().digits) > _MAX_DIGITS or abs(scale.adjusted()) > _MAX_DIGITS:
        raise keys.fail("scale", f"a number other than 0 of at most {_MAX_DIGITS} digits is expected")
    column = ColumnMap(
        column=name,
        metric=keys.text("metric"),
        scale=scale,
        missing=frozenset((*common, *keys.texts("missing", ()))),
        sentinels=frozenset(keys.numbers("sentinels")),
        low=_float(keys, "low"),
        high=_float(keys, "high"),
        suspect_low=_float(keys, "suspect_low"),
        suspect_high=_float(keys, "suspect_high"),
        rating=_float(keys, "rating"),
        interval=_float(keys, "interval"),
    )
    keys.finish()
    _built(keys, column.sensor)
    return column


def _float(keys: Keys, key: str) -> float | None:
    number = keys.number(key, None)
    return None if number is None else float(number)


def _texts_by_key(keys: Keys | None) -> tuple[tuple[str, str], ...]:
    return () if keys is None else tuple((name, keys.text(name)) for name in keys)


def _built(keys: Keys, make: Callable[[], _T]) -> _T:
    try:
        return make()
    except DeviceError as exc:
        raise keys.fail(None, str(exc)) from None
