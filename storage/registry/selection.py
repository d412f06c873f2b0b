"""Turns a client's filters, narrowed by its key's restriction, into devices and series. Every read goes through here.

Invariant: a read for a client takes a `Selection`. It becomes parameters of the functions `selected_devices` and `selected_series`
of `repeatable/02_registry.sql`, never text of a query. A key's restriction is applied by `within`, which can only narrow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self

import numpy as np
import orjson

from citybeat.devices.batch import Float64, Int32
from citybeat.devices.catalogue import Kind
from citybeat.storage.db import sql
from citybeat.storage.db.packed import unpack
from citybeat.storage.db.pgcopy import Type
from citybeat.storage.db.pool import AsyncCursor, ReadPool, one

_SQL: Final = sql.load("series")
_SELECTED: Final[Mapping[str, Type | None]] = {
    "id": "int4",
    "device": None,
    "metric": None,
    "unit": None,
    "kind": None,
    "expected_every": "float8",
}


class Box(NamedTuple):
    """Degrees, WGS 84, borders included. A box whose west is greater than its east crosses the 180th meridian."""

    west: float
    south: float
    east: float
    north: float


class Circle(NamedTuple):
    """A circle around a place, border included."""

    latitude: float  # degrees north, WGS 84
    longitude: float  # degrees east, WGS 84
    radius: float  # m


@dataclass(frozen=True, kw_only=True, slots=True)
class Restriction:
    """Limits what a key may see: devices of these domains, in these districts, with all these tags. None: of any."""

    domains: Sequence[str] | None = None
    districts: Sequence[str] | None = None
    tags: Sequence[tuple[str, str | None]] = ()  # name and value; None: any value

    def parameters(self) -> dict[str, Any]:
        """Parameters of statements that call `visible_sources`."""
        return {
            "domains": _listed(self.domains),
            "districts": _listed(self.districts),
            **_tags(self.tags),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Conditions on devices and their sensors, all of which must hold. None, or an empty `tags`: any."""

    devices: Sequence[str] | None = None
    metrics: Sequence[str] | None = None
    domains: Sequence[str] | None = None
    districts: Sequence[str] | None = None
    tags: Sequence[tuple[str, str | None]] = ()  # name and value; None: any value
    bbox: Box | None = None
    near: Circle | None = None
    include_retired: bool = False

    def within(self, restriction: Restriction | None) -> Self:
        """Narrow the selection by a restriction; None: unchanged.

        Examples
        --------
        >>> selection = Selection(domains=["energy"]).within(Restriction(domains=["traffic", "energy"], districts=["north"]))
        >>> selection.domains, selection.districts, selection.within(Restriction(domains=["traffic"])).domains
        (['energy'], ['north'], [])
        """
        if restriction is None:
            return self
        return replace(
            self,
            domains=_both(self.domains, restriction.domains),
            districts=_both(self.districts, restriction.districts),
            tags=[*self.tags, *restriction.tags],
        )

    def parameters(self) -> dict[str, Any]:
        """Parameters of statements that call `selected_devices` or `selected_series`."""
        return {
            "devices": _listed(self.devices),
            "metrics": _listed(self.metrics),
            "domains": _listed(self.domains),
            "districts": _listed(self.districts),
            **_tags(self.tags),
            "bbox": _listed(self.bbox),
            "near": _listed(self.near),
            "retired": self.include_retired,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """Series, in order of device and metric."""

    id: Int32
    device: Sequence[str]
    metric: Sequence[str]
    unit: Sequence[str]  # UCUM
    kind: Sequence[Kind]  # as their rollups were made
    expected_every: Float64  # s between readings

    def __len__(self) -> int:
        return len(self.id)

    def rows(self, ids: Int32) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Find the row of each id."""
        order = np.argsort(self.id)
        return order[np.searchsorted(self.id, ids, sorter=order)]


def behind(after: tuple[str, str] | None) -> dict[str, str | None]:
    """Parameters of statements that read a page behind the pair (device, metric) of the last row of the page before."""
    device, metric = after or (None, None)
    return {"after_device": device, "after_metric": metric}


async def select(cursor: AsyncCursor, wanted: Selection, *, limit: int) -> Selected:
    """Look up at most `limit` series.

    Raises
    ------
    StorageError
        Also from all functions below; see `ReadPool.cursor`.
    """
    found = unpack(await one(cursor, _SQL["select_series"], {**wanted.parameters(), "limit": limit}), _SELECTED)
    found["kind"] = [Kind(kind) for kind in found["kind"]]
    return Selected(**found)


async def select_from(pool: ReadPool, wanted: Selection, *, limit: int) -> Selected:
    """As `select`, on a connection of the pool."""
    async with pool.cursor() as cursor:
        return await select(cursor, wanted, limit=limit)


async def missing_devices(pool: ReadPool, wanted: Selection) -> list[str]:
    """List members of `wanted.devices` that do not exist or that the restriction hides; the two are not told apart."""
    if wanted.devices is None:
        return []
    async with pool.cursor() as cursor:
        row = await one(cursor, _SQL["missing_devices"], wanted.parameters())
    return list(row[0])


async def seen_sources(cursor: AsyncCursor, wanted: Sequence[str] | None, within: Restriction | None) -> list[str] | None:
    """List the wanted sources that a restriction allows (`visible_sources`, `repeatable/02_registry.sql`); None: all."""
    if within is None:
        return None if wanted is None else list(wanted)
    row = await one(cursor, _SQL["seen_sources"], {**within.parameters(), "wanted": _listed(wanted)})
    return list(row[0])


async def source_is_seen(pool: ReadPool, source: str, within: Restriction | None) -> bool:
    """Return whether a source exists and the restriction allows it."""
    async with pool.cursor() as cursor:
        if within is not None:
            return bool(await seen_sources(cursor, [source], within))
        return bool((await one(cursor, _SQL["source_exists"], {"source": source}))[0])


def _both(these: Sequence[str] | None, those: Sequence[str] | None) -> Sequence[str] | None:
    if these is None or those is None:
        return those if these is None else these
    return [name for name in these if name in those]


def _tags(tags: Sequence[tuple[str, str | None]]) -> dict[str, list[str]]:
    return {
        "tags": [orjson.dumps({name: value}).decode() for name, value in tags if value is not None],
        "tag_names": [name for name, value in tags if value is None],
    }


def _listed(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)
