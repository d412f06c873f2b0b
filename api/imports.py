"""Files of devices: JSON, GeoJSON and CSV, read entry by entry, so that every mistake is told with its place. Pure.

All three become `DeviceBody`, which says what an entry may have. CSV has a line a sensor; what describes the device stands on the
first of its lines, and may be repeated on the others. `written` is the way back: what it writes, `read` reads to the same devices.
"""

import csv
import difflib
import enum
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from pydantic import ValidationError

from api.descriptions import DeviceBody
from devices.device import SENSOR_NUMBERS, Device
from devices.errors import DeviceError

#: Devices of one file: some 100 MB of objects while it is read, and a transaction of some ten seconds.
MAX_DEVICES: Final = 100_000
_PLACE: Final = ("latitude", "longitude")
_DEVICE_COLUMNS: Final = ("id", "source", "domain", "name", *_PLACE, "district")
_SENSOR_COLUMNS: Final = ("metric", "unit", *SENSOR_NUMBERS, "sentinels")
_TAG: Final = "tag."
_DECIMAL_COMMA: Final = re.compile(r"[+-]?\d+,\d+")


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


def read(content: bytes, form: Form, metrics: Mapping[str, Any]) -> tuple[list[Entry], list[Mistake]]:
    """The devices of a file, and everything that is wrong with it.

    Parameters
    ----------
    content : bytes
        UTF-8, with or without a byte order mark.
    form : Form
    metrics : mapping
        Names that a sensor may have.

    Returns
    -------
    list of Entry
        Those that nothing is wrong with.
    list of Mistake
        In order of the file; with any of them, nothing should be registered.
    """
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
        try:
            device = DeviceBody.model_validate(raw).device()
        except ValidationError as exc:
            mistakes += [
                Mistake(place=where(error["loc"])[0], column=where(error["loc"])[1], message=_message(error))
                for error in exc.errors()
            ]
            continue
        except DeviceError as exc:
            mistakes.append(Mistake(place=place, column="", message=str(exc)))
            continue
        if (first := seen.setdefault(device.id, place)) != place:
            mistakes.append(Mistake(place=place, column="id", message=f"device {device.id!r} stands at {first} already"))
        for i, sensor in enumerate(device.sensors):
            if sensor.metric not in metrics:
                at, column = where(("sensors", i, "metric"))
                mistakes.append(Mistake(place=at, column=column, message=unknown_metric(sensor.metric, metrics)))
        found.append(Entry(place=place, device=device))
    if len(entries) > MAX_DEVICES:
        mistakes.append(Mistake(place="file", column="", message=f"more than {MAX_DEVICES} devices; divide it"))
    return found, sorted(mistakes, key=lambda mistake: int(mistake.place.partition(" ")[2] or -1))


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
        about = [_cell(getattr(device, name)) for name in _DEVICE_COLUMNS] + [device.tags.get(name, "") for name in tags]
        for sensor in device.sensors or [None]:
            numbers = [] if sensor is None else [_cell(getattr(sensor, name)) for name in ("metric", "unit", *SENSOR_NUMBERS)]
            codes = [] if sensor is None else [" ".join(map(_cell, sensor.sentinels))]
            lines.writerow([*about, *(numbers + codes or [""] * len(_SENSOR_COLUMNS))])
    return out.getvalue()


def _cell(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


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
            return f"line {self.sensor_lines[loc[1]]}", ".".join(map(str, loc[2:]))
        return f"line {self.line}", ".".join(map(str, loc)).replace("tags.", _TAG, 1)


def _csv(text: str) -> tuple[list[_Raw], list[Mistake]]:
    head = text.split("\n", 1)[0]
    lines = csv.reader(io.StringIO(text), delimiter=";" if head.count(";") > head.count(",") else ",", strict=True)
    mistakes: list[Mistake] = []
    rows = list(_rows(lines, mistakes))
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


def _rows(lines: Any, mistakes: list[Mistake]) -> Iterator[tuple[int, list[str]]]:
    while True:
        try:
            row = next(lines)
        except StopIteration:
            return
        except csv.Error as exc:
            mistakes.append(Mistake(place=f"line {lines.line_num}", column="", message=f"this is not CSV: {exc}"))
            return
        if any(cell.strip() for cell in row):
            yield lines.line_num, row


def _take(cells: dict[str, str], line: int, groups: list[_Group], mistakes: list[Mistake]) -> None:
    """Put a line to its device: the one before, or a new one."""
    about: dict[str, Any] = {name: cells[name] for name in _DEVICE_COLUMNS if cells.get(name)}
    tags = {name.removeprefix(_TAG): value for name, value in cells.items() if name.startswith(_TAG) and value}
    bad = 0
    for name in _PLACE:
        if name in about:
            about[name], wrong = _number(about[name], line, name, mistakes)
            bad += wrong
    sensor: dict[str, Any] = {name: cells[name] for name in ("metric", "unit") if cells.get(name)}
    for name in SENSOR_NUMBERS:
        if cells.get(name):
            sensor[name], wrong = _number(cells[name], line, name, mistakes)
            bad += wrong
    codes = [_number(code, line, "sentinels", mistakes) for code in cells.get("sentinels", "").split()]
    bad += sum(wrong for _, wrong in codes)
    if codes:
        sensor["sentinels"] = [code for code, _ in codes]
    if sensor and "metric" not in sensor:
        mistakes.append(Mistake(place=f"line {line}", column="metric", message="what is said of a sensor needs its metric"))
        return
    if bad:
        return
    if groups and about.get("id", groups[-1].raw.get("id")) == groups[-1].raw.get("id"):
        _compare({**about, **{_TAG + tag: value for tag, value in tags.items()}}, groups[-1], line, mistakes)
    else:
        groups.append(_Group(line=line, raw={**about, "tags": tags, "sensors": []}))
    if sensor:
        groups[-1].raw["sensors"].append(sensor)
        groups[-1].sensor_lines.append(line)


def _compare(about: Mapping[str, Any], group: _Group, line: int, mistakes: list[Mistake]) -> None:
    """What a later line repeats of its device must be the same."""
    for name, value in about.items():
        first = group.raw["tags"].get(name.removeprefix(_TAG)) if name.startswith(_TAG) else group.raw.get(name)
        if first != value:
            message = f"{value!r} here, {first!r} on line {group.line}, of one device"
            mistakes.append(Mistake(place=f"line {line}", column=name, message=message))


def _number(text: str, line: int, column: str, mistakes: list[Mistake]) -> tuple[float, bool]:
    try:
        return float(text), False
    except ValueError:
        why = "a decimal point, not a comma, is expected" if _DECIMAL_COMMA.fullmatch(text) else "not a number"
        mistakes.append(Mistake(place=f"line {line}", column=column, message=f"{text!r}: {why}"))
        return 0.0, True


def _message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such member"
    return str(error["msg"]).removeprefix("Value error, ")


_READERS: Final[Mapping[Form, Callable[[str], tuple[list[_Raw], list[Mistake]]]]] = {
    Form.JSON: _json,
    Form.GEOJSON: _geojson,
    Form.CSV: _csv,
}
