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
from typing import Any, Final

import orjson
from pydantic import ValidationError

from api.descriptions import DeviceBody
from devices.catalogue import Catalogue
from devices.device import SENSOR_NUMBERS, Device
from devices.errors import DeviceError
from devices.units import UnitError, conversion

#: Devices of one file: some 100 MB of objects while it is read, and a transaction of some ten seconds.
MAX_DEVICES: Final = 100_000
_PLACE: Final = ("latitude", "longitude")
_SEPARATOR_LINE: Final = re.compile(r"sep=.(\r\n|\r|\n)")
_LINE_END: Final = re.compile(r"[\r\n]")
_DEVICE_COLUMNS: Final = ("id", "source", "domain", "name", *_PLACE, "district")
_SENSOR_COLUMNS: Final = ("metric", "unit", *SENSOR_NUMBERS, "sentinels")
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
    for place, raw, where in entries[: MAX_DEVICES + 1]:
        before = len(mistakes)
        # All that is wrong with an entry is told, not what is found first: who corrects a file wants to do it once.
        number = raw.get("id") if isinstance(raw, dict) else None
        if isinstance(number, str) and (first := seen.setdefault(number, place)) != place:
            mistakes.append(Mistake(place=place, column=where(("id",))[1], message=f"device {number!r} stands at {first} already"))
        for loc, message in _against_catalogue(raw, metrics):
            at, column = where(loc)
            mistakes.append(Mistake(place=at, column=column, message=message))
        try:
            device = DeviceBody.model_validate(raw).device()
        except ValidationError as exc:
            for error in exc.errors():
                at, column = where(error["loc"])
                mistakes.append(Mistake(place=at, column=column, message=_message(error)))
        except DeviceError as exc:
            mistakes.append(Mistake(place=place, column="", message=str(exc)))
        else:
            if len(mistakes) == before:
                found.append(Entry(place=place, device=device))
    if len(entries) > MAX_DEVICES:
        mistakes.append(Mistake(place="file", column="", message=f"more than {MAX_DEVICES} devices; divide it"))
    return found, sorted(mistakes, key=lambda mistake: int(mistake.place.partition(" ")[2] or -1))


def _against_catalogue(raw: Any, metrics: Catalogue) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Members of an entry's sensors that the catalogue does not allow, as far as they are texts at all, and why."""
    sensors = raw.get("sensors") if isinstance(raw, dict) else None
    for i, sensor in enumerate(sensors if isinstance(sensors, list) else []):
        metric = sensor.get("metric") if isinstance(sensor, dict) else None
        if not isinstance(metric, str):
            continue
        if metric not in metrics:
            yield ("sensors", i, "metric"), unknown_metric(metric, metrics)
        elif isinstance(sensor.get("unit"), str):
            try:
                conversion(sensor["unit"], metrics[metric].unit)
            except UnitError as exc:
                yield ("sensors", i, "unit"), str(exc)


def unknown_metric(metric: str, metrics: Mapping[str, Any]) -> str:
    """What to say of a metric that the catalogue lacks."""
    near = difflib.get_close_matches(metric, list(metrics), n=3)
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else "; /v1/catalogue lists them"
    return f"there is no metric {metric!r} in the catalogue{meant}"


def written(devices: Sequence[Device]) -> str:
    """Devices as CSV: a line a sensor, and a line for a device without any."""
    tags = sorted({name for device in devices for name in device.tags})
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\r\n")
    lines.writerow([*_DEVICE_COLUMNS, *(_TAG + name for name in tags), *_SENSOR_COLUMNS])
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
_Raw = tuple[str, Any, _Where]


def _json(text: str) -> tuple[list[_Raw], list[Mistake]]:
    try:
        listed = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        return [], [Mistake(place=f"line {exc.lineno}", column="", message=f"this is not JSON: {exc.msg}")]
    if not isinstance(listed, list):
        return [], [Mistake(place="file", column="", message="expected an array of devices")]
    return [(f"entry {i}", raw, _member(f"entry {i}")) for i, raw in enumerate(listed)], []


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
            entries.append((place, raw, _member(place, "properties.")))
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

    def where(self, loc: Sequence[str | int]) -> tuple[str, str]:
        """Line and column of a member."""
        if len(loc) > 1 and loc[0] == "sensors" and isinstance(loc[1], int):
            # Of several codes in a cell, which one is said by the message.
            return f"line {self.sensor_lines[loc[1]]}", "sentinels" if loc[2] == "sentinels" else ".".join(map(str, loc[2:]))
        return f"line {self.line}", ".".join(map(str, loc)).replace("tags.", _TAG, 1)


def _csv(text: str) -> tuple[list[_Raw], list[Mistake]]:
    first = _SEPARATOR_LINE.match(text)
    text = text[first.end() :] if first else text  # for spreadsheets alone; the header says it too
    head = _LINE_END.split(text, maxsplit=1)[0]
    separator = max(",;\t", key=head.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    mistakes: list[Mistake] = []
    rows = list(_rows(lines, mistakes, above=1 if first else 0))
    if not rows:
        return [], mistakes or [Mistake(place="line 1", column="", message="expected a header, then a line a sensor")]
    header = [name.strip() for name in rows[0][1]]
    known = [*_DEVICE_COLUMNS, *_SENSOR_COLUMNS]
    for name in header:
        if name not in known and not (name.startswith(_TAG) and len(name) > len(_TAG)):
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)} and {_TAG}…"
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
    if mistakes and mistakes[0].place == "line 1":
        return [], mistakes
    groups: list[_Group] = []
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            mistakes.append(Mistake(place=f"line {line}", column="", message=f"{len(cells)} cells, the header has {len(header)}"))
            continue
        _take(dict(zip(header, (cell.strip() for cell in cells), strict=True)), line, groups, mistakes)
    return [(f"line {group.line}", group.raw, group.where) for group in groups], mistakes


def _rows(lines: Any, mistakes: list[Mistake], *, above: int) -> Iterator[tuple[int, list[str]]]:
    """Rows with something in them, each with the line that it begins in; `above`: lines that were taken off before."""
    while True:
        line = above + lines.line_num + 1
        try:
            row = next(lines)
        except StopIteration:
            return
        except csv.Error as exc:
            mistakes.append(Mistake(place=f"line {line}", column="", message=f"this is not CSV: {exc}"))
            continue
        if any(cell.strip() for cell in row):
            yield line, row


def _take(cells: dict[str, str], line: int, groups: list[_Group], mistakes: list[Mistake]) -> None:
    """Put a line to its device: the one before, or a new one."""
    about: dict[str, Any] = {name: _text(cells[name]) for name in _DEVICE_COLUMNS if cells.get(name)}
    tags = {name.removeprefix(_TAG): _text(value) for name, value in cells.items() if name.startswith(_TAG) and value}
    about |= {name: _number(about[name]) for name in _PLACE if name in about}
    sensor: dict[str, Any] = {name: _text(cells[name]) for name in ("metric", "unit") if cells.get(name)}
    sensor |= {name: _number(cells[name]) for name in SENSOR_NUMBERS if cells.get(name)}
    if codes := cells.get("sentinels", "").split():
        sensor["sentinels"] = [_number(code) for code in codes]
    if sensor and "metric" not in sensor:
        mistakes.append(Mistake(place=f"line {line}", column="metric", message="what is said of a sensor needs its metric"))
        sensor = {}
    # A wrong line is of its device all the same, and so are those without an id that follow it.
    if groups and about.get("id", groups[-1].raw.get("id")) == groups[-1].raw.get("id"):
        _compare({**about, **{_TAG + tag: value for tag, value in tags.items()}}, groups[-1], line, mistakes)
    else:
        groups.append(_Group(line=line, raw={**about, "tags": tags, "sensors": []}))
    if sensor:
        group = groups[-1]
        there = [
            line
            for other, line in zip(group.raw["sensors"], group.sensor_lines, strict=True)
            if other["metric"] == sensor["metric"]
        ]
        if there:
            message = f"{sensor['metric']!r} of this device stands on line {there[0]} already"
            mistakes.append(Mistake(place=f"line {line}", column="metric", message=message))
        else:
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
