"""Files of devices: JSON, GeoJSON and CSV, read entry by entry, so that every mistake is told with its place. Pure.

All three become `DeviceBody`, which says what an entry may have. CSV has a line a sensor; what describes the device stands on the
first of its lines, and may be repeated on the others. A text that begins with a quotation mark is a JSON string: so an empty tag,
spaces at an end, and what a spreadsheet would take for a formula can be said. `written` is the way back: what it writes, `read`
reads to the same devices.
"""

import csv
import difflib
import enum
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson
from pydantic import ValidationError

from citybeat.api.files.descriptions import DeviceBody, Fault, sensor_faults
from citybeat.devices.catalogue import Catalogue
from citybeat.devices.device import DEVICE_FIELDS, SENSOR_NUMBERS, Device, FieldType

#: Devices of one file: some 100 MB of objects while it is read, and a transaction of some ten seconds.
MAX_DEVICES: Final = 100_000
#: Lines of CSV, each a sensor: some 100 bytes, and several times as much in memory while it is read.
MAX_LINES: Final = 500_000
_SEPARATOR_LINE: Final = re.compile(r"sep=.(\r\n|\r|\n)")
_LINE_END: Final = re.compile(r"[\r\n]")
_NUMBERS: Final = [name for name, about in DEVICE_FIELDS.items() if about.type is FieldType.NUMBER]
_DEVICE_COLUMNS: Final = ("id", "source", "domain", *(name for name in DEVICE_FIELDS if name != "tags"))
_SENSOR_COLUMNS: Final = ("metric", "unit", *SENSOR_NUMBERS, "sentinels")
_KNOWN: Final = (*_DEVICE_COLUMNS, *_SENSOR_COLUMNS)
_TAG: Final = "tag."
_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DECIMAL_COMMA: Final = re.compile(r"[+-]?\d+,\d+")
#: What a spreadsheet takes for a formula, and a JSON string itself, when a text begins so.
_NOT_PLAIN: Final = ('"', "=", "+", "-", "@")


class Form(enum.StrEnum):
    """Of a file."""

    JSON = "application/json"
    GEOJSON = "application/geo+json"
    CSV = "text/csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """Something that is wrong with a file."""

    place: str  # line 3; entry 0 (counted from 0, as JSON does); file
    column: str  # or member, with dots; "": all of it
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.column, self.message) if part)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A device of a file."""

    place: str
    device: Device


def read(content: bytes, form: Form, metrics: Catalogue) -> tuple[list[Entry], list[Mistake]]:
    """The devices of a file, and everything that is wrong with it.

    Parameters
    ----------
    content : bytes
        UTF-8, with or without a byte order mark.
    form : Form
    metrics : Catalogue
        What a sensor may measure.

    Returns
    -------
    list of Entry
        Those that nothing is wrong with.
    list of Mistake
        In order of the file; with any of them, nothing should be registered.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return [], [Mistake(place="file", column="", message="this is UTF-16; save the file as UTF-8 (in Excel: CSV UTF-8)")]
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(b"\n") + 1
        return [], [
            Mistake(place=f"line {line}", column="", message="this is not UTF-8; save the file as UTF-8 (in Excel: CSV UTF-8)")
        ]
    entries, mistakes = _READERS[form](text)
    found: list[Entry] = []
    seen: dict[str, str] = {}
    for entry in entries[:MAX_DEVICES]:
        before = len(mistakes)
        # All that is wrong with an entry is told, not what is found first: who corrects a file wants to do it once.
        number = entry.raw.get("id") if isinstance(entry.raw, dict) else None
        if isinstance(number, str) and (first := seen.setdefault(number, entry.place)) != entry.place:
            column = entry.where(("id",))[1]
            mistakes.append(Mistake(place=entry.place, column=column, message=f"device {number!r} stands at {first} already"))
        device, faults = _device(entry, metrics)
        for loc, message in faults:
            at, column = entry.where(loc)
            mistakes.append(Mistake(place=at, column=column, message=message))
        if device is not None and len(mistakes) == before:
            found.append(Entry(place=entry.place, device=device))
    if len(entries) > MAX_DEVICES:
        mistakes.append(Mistake(place="file", column="", message=f"more than {MAX_DEVICES} devices; divide it"))
    return found, sorted(mistakes, key=lambda mistake: int(mistake.place.partition(" ")[2] or -1))


def _device(entry: "_Raw", metrics: Catalogue) -> tuple[Device | None, list[Fault]]:
    """The device of an entry; or None, and everything that is wrong with it that was not told yet."""
    try:
        body = DeviceBody.model_validate(entry.raw)
    except ValidationError as exc:
        device, faults = None, [Fault(error["loc"], _message(error)) for error in exc.errors()]
        if isinstance(entry.raw, dict):
            told = {fault.loc for fault in faults}
            faults += [fault for fault in sensor_faults(entry.raw.get("sensors"), metrics) if fault.loc not in told]
    else:
        device, faults = body.checked(metrics)
    untold = [fault for fault in faults if fault.loc not in entry.told]
    if entry.broken:
        return None, [fault for fault in untold if fault.loc[:1] == ("sensors",)]
    return device, untold


def written(devices: Sequence[Device]) -> str:
    """Devices as CSV: a line a sensor, and a line for a device without any."""
    tags = sorted({name for device in devices for name in device.tags})
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\r\n")
    lines.writerow([*_DEVICE_COLUMNS, *(_TAG + _cell(name) for name in tags), *_SENSOR_COLUMNS])
    for device in devices:
        about = [_cell(getattr(device, name)) for name in _DEVICE_COLUMNS]
        about += [_cell(device.tags[name]) or '""' if name in device.tags else "" for name in tags]
        for sensor in device.sensors or [None]:
            numbers = [] if sensor is None else [_cell(getattr(sensor, name)) for name in ("metric", "unit", *SENSOR_NUMBERS)]
            codes = [] if sensor is None else [" ".join(map(_cell, sensor.sentinels))]
            lines.writerow([*about, *(numbers + codes or [""] * len(_SENSOR_COLUMNS))])
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None or isinstance(value, float):
        return "" if value is None else repr(value)
    text = str(value)
    return orjson.dumps(text).decode() if text != text.strip() or text.startswith(_NOT_PLAIN) else text


def _text(cell: str) -> str:
    """What `_cell` was given."""
    if cell.startswith('"'):
        with suppress(orjson.JSONDecodeError):
            return str(orjson.loads(cell))
    return cell


#: Where something of an entry stands: of a member's path, its place and its column.
_Where = Callable[[Sequence[str | int]], tuple[str, str]]


class _Raw(NamedTuple):
    """An entry of a file, as it is given."""

    place: str
    raw: Any
    where: _Where
    broken: bool = False  # what describes the device could not be read, which was told; its other sensors may be
    told: frozenset[tuple[str | int, ...]] = frozenset()  # members whose mistakes were told


def _json(text: str) -> tuple[list[_Raw], list[Mistake]]:
    try:
        listed = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        return [], [Mistake(place=f"line {exc.lineno}", column="", message=f"this is not JSON: {exc.msg}")]
    if not isinstance(listed, list):
        return [], [Mistake(place="file", column="", message="expected an array of devices")]
    return [_Raw(f"entry {i}", raw, _member(f"entry {i}")) for i, raw in enumerate(listed)], []


def _geojson(text: str) -> tuple[list[_Raw], list[Mistake]]:
    try:
        collection = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        return [], [Mistake(place=f"line {exc.lineno}", column="", message=f"this is not JSON: {exc.msg}")]
    if (
        not isinstance(collection, dict)
        or collection.get("type") != "FeatureCollection"
        or not isinstance(collection.get("features"), list)
    ):
        return [], [Mistake(place="file", column="", message="expected a FeatureCollection (RFC 7946)")]
    entries: list[_Raw] = []
    mistakes = []
    for i, feature in enumerate(collection["features"]):
        place = f"entry {i}"
        raw = _of_feature(feature)
        if isinstance(raw, str):
            mistakes.append(Mistake(place=place, column="geometry" if raw.startswith("geometry") else "", message=raw))
        else:
            entries.append(_Raw(place, raw, _member(place, "properties.")))
    return entries, mistakes


def _of_feature(feature: Any) -> dict[str, Any] | str:
    if not isinstance(feature, dict) or feature.get("type") != "Feature" or not isinstance(feature.get("properties"), dict):
        return "expected a Feature with properties"
    raw = {"id": feature["id"], **feature["properties"]} if "id" in feature else dict(feature["properties"])
    geometry = feature.get("geometry")
    if geometry is None:
        return raw
    if not isinstance(geometry, dict) or geometry.get("type") != "Point" or not isinstance(geometry.get("coordinates"), list):
        return "geometry: expected a Point, or null"
    place = geometry["coordinates"]
    if len(place) not in {2, 3}:
        return "geometry: expected [degrees east, degrees north]"
    return {**raw, "longitude": place[0], "latitude": place[1]}


def _member(place: str, prefix: str = "") -> _Where:
    return lambda loc: (place, prefix + ".".join(map(str, loc)) if loc else "")


@dataclass(kw_only=True, slots=True)
class _Group:
    """A device of a CSV file."""

    line: int  # its first
    raw: dict[str, Any]
    sensor_lines: list[int] = field(default_factory=list)
    line_of: dict[str, int] = field(default_factory=dict)  # of a metric, its first
    told: set[tuple[str | int, ...]] = field(default_factory=set)  # see _Raw
    broken: bool = False

    def where(self, loc: Sequence[str | int]) -> tuple[str, str]:
        """Line and column of a member."""
        if len(loc) > 1 and loc[0] == "sensors" and isinstance(loc[1], int):
            # Of several codes in a cell, which one is said by the message.
            return f"line {self.sensor_lines[loc[1]]}", "sentinels" if loc[2:3] == ("sentinels",) else ".".join(map(str, loc[2:]))
        return f"line {self.line}", ".".join(map(str, loc)).replace("tags.", _TAG, 1)


def _csv(text: str) -> tuple[list[_Raw], list[Mistake]]:
    first = _SEPARATOR_LINE.match(text)
    text = text[first.end() :] if first else text  # for spreadsheets alone; the header says it too
    head = _LINE_END.split(text, maxsplit=1)[0]
    separator = _separator(head)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    mistakes: list[Mistake] = []
    rows = list(_rows(lines, mistakes, above=1 if first else 0))
    if not rows or rows[0][1] is None:
        return [], mistakes or [Mistake(place="line 1", column="", message="expected a header, then a line a sensor")]
    header = [_column(name) for name in rows[0][1]]
    told = len(mistakes)
    for name in header:
        if name not in _KNOWN and not (name.startswith(_TAG) and len(name) > len(_TAG)):
            near = difflib.get_close_matches(name.lower(), _KNOWN, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(_KNOWN)} and {_TAG}…"
            mistakes.append(Mistake(place="line 1", column=name, message=f"there is no such column{meant}"))
    mistakes += [
        Mistake(place="line 1", column=name, message="this column is missing")
        for name in ("id", "source", "domain")
        if name not in header
    ]
    mistakes += [
        Mistake(place="line 1", column=name, message="this column stands twice")
        for name in sorted({n for n in header if header.count(n) > 1})
    ]
    if mistakes[told:]:
        return [], mistakes
    groups: list[_Group] = []
    for line, cells in rows[1:]:
        if cells is None:  # whose it was nobody knows, nor whose those without an id are that follow it
            groups.append(_Group(line=line, raw={"sensors": []}, broken=True))
            continue
        if len(cells) != len(header):
            mistakes.append(Mistake(place=f"line {line}", column="", message=f"{len(cells)} cells, the header has {len(header)}"))
            number = dict(zip(header, cells, strict=False)).get("id", "").strip()
            if number and (not groups or groups[-1].raw.get("id") != number):
                groups.append(_Group(line=line, raw={"id": number, "sensors": []}, broken=True))
            continue
        _take(dict(zip(header, (cell.strip() for cell in cells), strict=True)), line, groups, mistakes)
    return [_Raw(f"line {each.line}", each.raw, each.where, each.broken, frozenset(each.told)) for each in groups], mistakes


def _separator(head: str) -> str:
    """What makes the most columns that there are: in the name of a tag, any of them may stand as often as it likes."""

    def columns(separator: str) -> tuple[int, int]:
        return len({name.strip(' "') for name in head.split(separator)}.intersection(_KNOWN)), head.count(separator)

    return max(",;\t", key=columns)


def _column(name: str) -> str:
    """A column by its heading; the name of a tag may be a JSON string, as any text may."""
    name = name.strip()
    return _TAG + _text(name.removeprefix(_TAG)) if name.startswith(_TAG) else name


def _rows(lines: Any, mistakes: list[Mistake], *, above: int) -> Iterator[tuple[int, list[str] | None]]:
    """Rows with something in them, each with the line that it begins in; `above`: lines that were taken off before.

    None: a row that cannot be read, which is told.
    """
    taken = 0
    while True:
        line = above + lines.line_num + 1
        try:
            row = next(lines)
        except StopIteration:
            return
        except csv.Error as exc:
            mistakes.append(Mistake(place=f"line {line}", column="", message=f"this is not CSV: {exc}"))
            yield line, None
            continue
        if not any(cell.strip() for cell in row):
            continue
        if taken > MAX_LINES:  # beside the header
            mistakes.append(Mistake(place="file", column="", message=f"more than {MAX_LINES} lines; divide it"))
            return
        taken += 1
        yield line, row


def _take(cells: dict[str, str], line: int, groups: list[_Group], mistakes: list[Mistake]) -> None:
    """Put a line to its device: the one before, or a new one."""
    about: dict[str, Any] = {name: _text(cells[name]) for name in _DEVICE_COLUMNS if cells.get(name)}
    tags = {name.removeprefix(_TAG): _text(value) for name, value in cells.items() if name.startswith(_TAG) and value}
    about |= {name: _number(about[name]) for name in _NUMBERS if name in about}
    sensor: dict[str, Any] = {name: _text(cells[name]) for name in ("metric", "unit") if cells.get(name)}
    sensor |= {name: _number(cells[name]) for name in SENSOR_NUMBERS if cells.get(name)}
    if codes := cells.get("sentinels", "").split():
        sensor["sentinels"] = [_number(code) for code in codes]
    if sensor and "metric" not in sensor:
        mistakes.append(Mistake(place=f"line {line}", column="metric", message="what is said of a sensor needs its metric"))
        sensor = {}
    # A wrong line is of its device all the same, and so are those without an id that follow it.
    if groups and about.get("id", groups[-1].raw.get("id")) == groups[-1].raw.get("id"):
        if not groups[-1].broken:
            _compare({**about, **{_TAG + tag: value for tag, value in tags.items()}}, groups[-1], line, mistakes)
    else:
        groups.append(_Group(line=line, raw={**about, "tags": tags, "sensors": []}))
    if sensor:
        group = groups[-1]
        if (there := group.line_of.setdefault(sensor["metric"], line)) != line:
            message = f"{sensor['metric']!r} of this device stands on line {there} already"
            mistakes.append(Mistake(place=f"line {line}", column="metric", message=message))
            group.told.add(("sensors", len(group.sensor_lines), "metric"))
        group.raw["sensors"].append(sensor)
        group.sensor_lines.append(line)


def _compare(about: Mapping[str, Any], group: _Group, line: int, mistakes: list[Mistake]) -> None:
    """What a later line repeats of its device must be the same."""
    for name, value in about.items():
        first = group.raw["tags"].get(name.removeprefix(_TAG)) if name.startswith(_TAG) else group.raw.get(name)
        if first != value:
            message = f"{value!r} here, {first!r} on line {group.line}, of one device"
            mistakes.append(Mistake(place=f"line {line}", column=name, message=message))


def _number(text: str) -> float | str:
    """What is none stays a text, which no number may be."""
    return float(text) if _NUMBER.fullmatch(text) else text


def _message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such member"
    if error["type"] == "float_type" and isinstance(error["input"], str):
        comma = _DECIMAL_COMMA.fullmatch(error["input"])
        return f"{error['input'][:40]!r}: {'a decimal point, not a comma, is expected' if comma else 'not a number'}"
    return str(error["msg"]).removeprefix("Value error, ")


_READERS: Final[Mapping[Form, Callable[[str], tuple[list[_Raw], list[Mistake]]]]] = {
    Form.JSON: _json,
    Form.GEOJSON: _geojson,
    Form.CSV: _csv,
}
