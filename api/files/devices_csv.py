"""Files of devices as CSV, both ways. Pure.

A line is a sensor; the columns of the device are on the first of its lines, and may be repeated on the others. A text that begins
with a quotation mark is a JSON string: that is how an empty tag, spaces at either end, and text that a spreadsheet would take for a
formula can be written. `read_csv` reads what `written` writes to the same devices.
"""

import csv
import difflib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from citybeat.api.files.entries import Mistake, RawEntry
from citybeat.devices.device import DEVICE_FIELDS, SENSOR_NUMBERS, Device, FieldType

#: Lines of one file, each a sensor: some 100 bytes, and several times as much in memory while they are read.
MAX_LINES: Final = 500_000
_SEPARATOR_LINE: Final = re.compile(r"sep=.(\r\n|\r|\n)")
_LINE_END: Final = re.compile(r"[\r\n]")
_NUMBERS: Final = [name for name, about in DEVICE_FIELDS.items() if about.type is FieldType.NUMBER]
_DEVICE_COLUMNS: Final = ("id", "source", "domain", *(name for name in DEVICE_FIELDS if name != "tags"))
_SENSOR_COLUMNS: Final = ("metric", "unit", *SENSOR_NUMBERS, "sentinels")
_KNOWN: Final = (*_DEVICE_COLUMNS, *_SENSOR_COLUMNS)
_TAG: Final = "tag."
_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
#: First characters of texts that a spreadsheet would take for a formula, or that would be read as a JSON string.
_NOT_PLAIN: Final = ('"', "=", "+", "-", "@")


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
    """The value that `_cell` wrote."""
    if cell.startswith('"'):
        with suppress(orjson.JSONDecodeError):
            return str(orjson.loads(cell))
    return cell


@dataclass(kw_only=True, slots=True)
class _Group:
    """A device of a CSV file."""

    line: int  # its first line
    raw: dict[str, Any]
    sensor_lines: list[int] = field(default_factory=list)
    line_of: dict[str, int] = field(default_factory=dict)  # the first line of each metric
    told: set[tuple[str | int, ...]] = field(default_factory=set)  # see RawEntry
    broken: bool = False

    def where(self, loc: Sequence[str | int]) -> tuple[str, str]:
        """The line and the column of a member."""
        if len(loc) > 1 and loc[0] == "sensors" and isinstance(loc[1], int):
            # Of several codes in one cell, the message says which one is wrong.
            return f"line {self.sensor_lines[loc[1]]}", "sentinels" if loc[2:3] == ("sentinels",) else ".".join(map(str, loc[2:]))
        return f"line {self.line}", ".".join(map(str, loc)).replace("tags.", _TAG, 1)


def read_csv(text: str) -> tuple[list[RawEntry], list[Mistake]]:
    first = _SEPARATOR_LINE.match(text)
    text = text[first.end() :] if first else text  # only spreadsheets need it; the separator is found in the header
    head = _LINE_END.split(text, maxsplit=1)[0]
    separator = _separator(head)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    mistakes: list[Mistake] = []
    rows = list(_rows(lines, mistakes, above=1 if first else 0))
    if not rows or rows[0][1] is None:
        return [], mistakes or [Mistake(place="line 1", column="", message="expected a header, then a line for each sensor")]
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
        Mistake(place="line 1", column=name, message="this column appears twice")
        for name in sorted({n for n in header if header.count(n) > 1})
    ]
    if mistakes[told:]:
        return [], mistakes
    groups: list[_Group] = []
    for line, cells in rows[1:]:
        if cells is None:  # its device is unknown, and so is that of the lines without an id that follow it
            groups.append(_Group(line=line, raw={"sensors": []}, broken=True))
            continue
        if len(cells) != len(header):
            mistakes.append(Mistake(place=f"line {line}", column="", message=f"{len(cells)} cells, the header has {len(header)}"))
            number = dict(zip(header, cells, strict=False)).get("id", "").strip()
            if number and (not groups or groups[-1].raw.get("id") != number):
                groups.append(_Group(line=line, raw={"id": number, "sensors": []}, broken=True))
            continue
        _take(dict(zip(header, (cell.strip() for cell in cells), strict=True)), line, groups, mistakes)
    return [RawEntry(f"line {each.line}", each.raw, each.where, each.broken, frozenset(each.told)) for each in groups], mistakes


def _separator(head: str) -> str:
    """The separator that yields the most known columns: names of tags may contain the other ones any number of times."""

    def columns(separator: str) -> tuple[int, int]:
        return len({name.strip(' "') for name in head.split(separator)}.intersection(_KNOWN)), head.count(separator)

    return max(",;\t", key=columns)


def _column(name: str) -> str:
    """A column by its heading; the name of a tag may be a JSON string, like any text."""
    name = name.strip()
    return _TAG + _text(name.removeprefix(_TAG)) if name.startswith(_TAG) else name


def _rows(lines: Any, mistakes: list[Mistake], *, above: int) -> Iterator[tuple[int, list[str] | None]]:
    """Rows that are not empty, each with the line that it begins on; None for a row that cannot be read, which is reported.

    `above` is the number of lines that were removed before these.
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
        if taken > MAX_LINES:  # not counting the header
            mistakes.append(Mistake(place="file", column="", message=f"more than {MAX_LINES} lines; divide it"))
            return
        taken += 1
        yield line, row


def _take(cells: dict[str, str], line: int, groups: list[_Group], mistakes: list[Mistake]) -> None:
    """Add a line to its device: the device of the line before, or a new one."""
    about: dict[str, Any] = {name: _text(cells[name]) for name in _DEVICE_COLUMNS if cells.get(name)}
    tags = {name.removeprefix(_TAG): _text(value) for name, value in cells.items() if name.startswith(_TAG) and value}
    about |= {name: _number(about[name]) for name in _NUMBERS if name in about}
    sensor: dict[str, Any] = {name: _text(cells[name]) for name in ("metric", "unit") if cells.get(name)}
    sensor |= {name: _number(cells[name]) for name in SENSOR_NUMBERS if cells.get(name)}
    if codes := cells.get("sentinels", "").split():
        sensor["sentinels"] = [_number(code) for code in codes]
    if sensor and "metric" not in sensor:
        mistakes.append(Mistake(place=f"line {line}", column="metric", message="a line with columns of a sensor needs its metric"))
        sensor = {}
    # A line with mistakes still belongs to its device, and so do the lines without an id that follow it.
    if groups and about.get("id", groups[-1].raw.get("id")) == groups[-1].raw.get("id"):
        if not groups[-1].broken:
            _compare({**about, **{_TAG + tag: value for tag, value in tags.items()}}, groups[-1], line, mistakes)
    else:
        groups.append(_Group(line=line, raw={**about, "tags": tags, "sensors": []}))
    if sensor:
        group = groups[-1]
        if (there := group.line_of.setdefault(sensor["metric"], line)) != line:
            message = f"{sensor['metric']!r} of this device is on line {there} already"
            mistakes.append(Mistake(place=f"line {line}", column="metric", message=message))
            group.told.add(("sensors", len(group.sensor_lines), "metric"))
        group.raw["sensors"].append(sensor)
        group.sensor_lines.append(line)


def _compare(about: Mapping[str, Any], group: _Group, line: int, mistakes: list[Mistake]) -> None:
    """Report where a later line of a device contradicts the first."""
    for name, value in about.items():
        first = group.raw["tags"].get(name.removeprefix(_TAG)) if name.startswith(_TAG) else group.raw.get(name)
        if first != value:
            message = f"{value!r} here, but {first!r} on line {group.line} of the same device"
            mistakes.append(Mistake(place=f"line {line}", column=name, message=message))


def _number(text: str) -> float | str:
    """A number; any other text is left as it is, and refused where a number is expected."""
    return float(text) if _NUMBER.fullmatch(text) else text
