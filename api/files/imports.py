"""Files of devices: JSON, GeoJSON and CSV, read entry by entry, so that every mistake is reported with its place. Pure.

Entries of all three become a `DeviceBody`, which says what an entry may have; `api/files/devices_csv.py` reads and writes CSV.
"""

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from pydantic import ValidationError

from citybeat.api.files.descriptions import DeviceBody, Fault, sensor_faults
from citybeat.api.files.devices_csv import read_csv
from citybeat.api.files.entries import Mistake, RawEntry, Where
from citybeat.devices.catalogue import Catalogue
from citybeat.devices.device import Device

#: Devices of one file: some 100 MB of objects while it is read, and a transaction of some ten seconds.
MAX_DEVICES: Final = 100_000
_DECIMAL_COMMA: Final = re.compile(r"[+-]?\d+,\d+")


class Form(enum.StrEnum):
    """Media types of files of devices."""

    JSON = "application/json"
    GEOJSON = "application/geo+json"
    CSV = "text/csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A device of a file, and its place there."""

    place: str
    device: Device


def read(content: bytes, form: Form, metrics: Catalogue) -> tuple[list[Entry], list[Mistake]]:
    """The devices of a file, and its mistakes.

    Parameters
    ----------
    content : bytes
        UTF-8, with or without a byte order mark.
    form : Form
    metrics : Catalogue
        The metrics that sensors may measure.

    Returns
    -------
    list of Entry
        The entries without mistakes.
    list of Mistake
        In the order of the file; if there is any, nothing should be registered.
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
        # All mistakes of an entry are reported, not only the first, so that a file can be corrected in one go.
        number = entry.raw.get("id") if isinstance(entry.raw, dict) else None
        if isinstance(number, str) and (first := seen.setdefault(number, entry.place)) != entry.place:
            column = entry.where(("id",))[1]
            mistakes.append(Mistake(place=entry.place, column=column, message=f"device {number!r} is at {first} already"))
        device, faults = _device(entry, metrics)
        for loc, message in faults:
            at, column = entry.where(loc)
            mistakes.append(Mistake(place=at, column=column, message=message))
        if device is not None and len(mistakes) == before:
            found.append(Entry(place=entry.place, device=device))
    if len(entries) > MAX_DEVICES:
        mistakes.append(Mistake(place="file", column="", message=f"more than {MAX_DEVICES} devices; divide it"))
    return found, sorted(mistakes, key=lambda mistake: int(mistake.place.partition(" ")[2] or -1))


def _device(entry: RawEntry, metrics: Catalogue) -> tuple[Device | None, list[Fault]]:
    """The device of an entry; or None, and its mistakes that are not reported yet."""
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


def _json(text: str) -> tuple[list[RawEntry], list[Mistake]]:
    try:
        listed = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        return [], [Mistake(place=f"line {exc.lineno}", column="", message=f"this is not JSON: {exc.msg}")]
    if not isinstance(listed, list):
        return [], [Mistake(place="file", column="", message="expected an array of devices")]
    return [RawEntry(f"entry {i}", raw, _member(f"entry {i}")) for i, raw in enumerate(listed)], []


def _geojson(text: str) -> tuple[list[RawEntry], list[Mistake]]:
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
    entries: list[RawEntry] = []
    mistakes = []
    for i, feature in enumerate(collection["features"]):
        place = f"entry {i}"
        raw = _of_feature(feature)
        if isinstance(raw, str):
            mistakes.append(Mistake(place=place, column="geometry" if raw.startswith("geometry") else "", message=raw))
        else:
            entries.append(RawEntry(place, raw, _member(place, "properties.")))
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


def _member(place: str, prefix: str = "") -> Where:
    return lambda loc: (place, prefix + ".".join(map(str, loc)) if loc else "")


def _message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such member"
    if error["type"] == "float_type" and isinstance(error["input"], str):
        comma = _DECIMAL_COMMA.fullmatch(error["input"])
        return f"{error['input'][:40]!r}: {'a decimal point, not a comma, is expected' if comma else 'not a number'}"
    return str(error["msg"]).removeprefix("Value error, ")


_READERS: Final[Mapping[Form, Callable[[str], tuple[list[RawEntry], list[Mistake]]]]] = {
    Form.JSON: _json,
    Form.GEOJSON: _geojson,
    Form.CSV: read_csv,
}
