"""Pages of lists: their end, the cursor of the next one, and their form, JSON or GeoJSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar, Final, Protocol, TypeVar

import numpy as np
from fastapi import Response
from pydantic import BaseModel

from citybeat.api.http.answers import answer
from citybeat.api.http.params import encode_cursor
from citybeat.devices.clock import rfc3339
from citybeat.storage.reads.cursors import Cursor

GEOJSON: Final = "application/geo+json"
_T = TypeVar("_T")


class _Columns(Protocol):
    """A dataclass of lists and arrays of one length, and other members."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class _Sensors(Protocol):
    """Columns with a row a sensor, as they are stored at one moment."""

    @property
    def at(self) -> datetime: ...

    @property
    def stream_cursor(self) -> str: ...

    @property
    def longitude(self) -> Sequence[float | None]: ...

    @property
    def latitude(self) -> Sequence[float | None]: ...


_C = TypeVar("_C", bound=_Columns)


def page_of(found: Sequence[_T], limit: int, key: str) -> tuple[Sequence[_T], str | None]:
    """The first `limit` entries of a list, and the cursor of the next page; None: this is the last.

    Parameters
    ----------
    found : sequence
        Entries, read with one more than the limit.
    limit : int
    key : str
        The attribute that the list is in order of.
    """
    page = found[:limit]
    return page, encode_cursor(getattr(page[-1], key)) if len(found) > limit else None


def page_of_columns(found: _C, limit: int, *key: str) -> tuple[_C, str | None]:
    """The same for a dataclass of columns; its members that are neither lists nor arrays stay as they are."""
    columns = {name: value for name in found.__dataclass_fields__ if isinstance(value := getattr(found, name), list | np.ndarray)}
    page = replace(found, **{name: column[:limit] for name, column in columns.items()})
    more = len(columns[key[0]]) > limit
    return page, encode_cursor(*(columns[name][limit - 1] for name in key)) if more else None


def represented(
    accept: str | None, head: Mapping[str, Any], *, table: Mapping[str, Any], features: Callable[[], list[dict[str, Any]]]
) -> Response:
    """A page as JSON, or as GeoJSON if the client accepts that; both have the members of `head`."""
    if GEOJSON in (accept or ""):
        made = answer({"type": "FeatureCollection", **head, "features": features()})
        made.headers["content-type"] = GEOJSON
    else:
        made = answer({**head, **table})
    made.headers["vary"] = "Accept"
    return made


def sensors(accept: str | None, page: _Sensors, next_cursor: str | None, columns: Mapping[str, Any]) -> Response:
    """A page of sensors, as a table of columns or as a feature for each sensor."""
    return represented(
        accept,
        {
            "at": rfc3339(page.at),
            "next_cursor": next_cursor,
            "stream_cursor": str(Cursor.of_snapshot(page.stream_cursor)),
        },
        table={"count": len(columns["device"]), "columns": columns},
        features=lambda: sensor_features(columns, page.longitude, page.latitude),
    )


def feature(number: str, longitude: float | None, latitude: float | None, properties: Mapping[str, Any]) -> dict[str, Any]:
    """A GeoJSON feature; without a place its geometry is null."""
    place = None if longitude is None or latitude is None else {"type": "Point", "coordinates": [longitude, latitude]}
    return {"type": "Feature", "id": number, "geometry": place, "properties": dict(properties)}


def sensor_features(
    columns: Mapping[str, Any], longitude: Sequence[float | None], latitude: Sequence[float | None]
) -> list[dict[str, Any]]:
    """A feature for each row of columns that begin with `device` and `metric`: a page of objects at most."""
    lists = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns.values()]
    return [
        feature(f"{row[0]}/{row[1]}", east, north, dict(zip(columns, row, strict=True)))
        for row, east, north in zip(zip(*lists, strict=True), longitude, latitude, strict=True)
    ]


def described(model: type[BaseModel], example: Mapping[str, Any]) -> dict[str, Any]:
    """GeoJSON beside JSON, as a route's `responses` describe it: its schema, and an example."""
    return {GEOJSON: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}, "example": example}}


def sensors_described(model: type[BaseModel], table: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a page of one sensor, from the example of its table."""
    head = {name: value for name, value in table.items() if name not in {"count", "columns"}}
    found = sensor_features(table["columns"], [106.7009], [10.7769])
    return described(model, {"type": "FeatureCollection", **head, "features": found})
