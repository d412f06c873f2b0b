"""Turns a client's filters, narrowed by the restriction of its key, into devices and series. Every read goes through here.

Filters are query parameters or a member of a body; both become a `storage.registry.selection.Selection`. The restriction is applied
in one place, `visible`.
"""

from dataclasses import replace
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from citybeat.api.http import problems
from citybeat.api.http.gate import Caller
from citybeat.api.http.params import Parameters, Text
from citybeat.api.http.problems import invalid
from citybeat.api.series.plan import MAX_SERIES
from citybeat.devices.catalogue import Catalogue, Domain
from citybeat.storage.db.pool import ReadPool
from citybeat.storage.registry import selection
from citybeat.storage.registry.selection import Box, Circle, Selected, Selection

_T = TypeVar("_T", Box, Circle)

#: m. A radius of half the Earth's circumference reaches every place.
_FARTHEST: Final = 20_100_000.0


def _box(box: Box) -> Box:
    if not (-180 <= box.west <= 180 and -180 <= box.east <= 180 and -90 <= box.south <= box.north <= 90):
        raise ValueError("expected west,south,east,north in degrees, longitudes within 180 and south not above north")
    return box


def _circle(circle: Circle) -> Circle:
    if not (-90 <= circle.latitude <= 90 and -180 <= circle.longitude <= 180 and 0 <= circle.radius <= _FARTHEST):
        raise ValueError(f"expected latitude,longitude in degrees and a radius in metres, at most {_FARTHEST:.0f}")
    return circle


def _numbers(text: Any) -> Any:
    """Numbers with commas between them, as in a URL, as a list, as in JSON."""
    if isinstance(text, list) and len(text) == 1:
        text = text[0]  # FastAPI treats a named tuple as a repeated parameter
    if not isinstance(text, str):
        return text
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError("expected numbers with commas between them") from None


def _only_numbers(value: Any) -> Any:
    """Refuse texts: JSON has numbers, so a text that contains one is a mistake."""
    if isinstance(value, list) and not all(isinstance(each, int | float) and not isinstance(each, bool) for each in value):
        raise ValueError("expected numbers")
    return value


def _boxed(text: Any) -> Box:
    return _box(_made(Box, _numbers(text)))


def _circled(text: Any) -> Circle:
    return _circle(_made(Circle, _numbers(text)))


def _made(kind: type[_T], numbers: Any) -> _T:
    if not isinstance(numbers, list) or len(numbers) != len(kind._fields):
        raise ValueError(f"expected {len(kind._fields)} numbers: {', '.join(kind._fields)}")
    return kind(*numbers)


def _tag(text: Any) -> Any:
    return tuple(text.split(":", 1)) if isinstance(text, str) and ":" in text else (text, None)


def _written(example: str, pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


_NUMBER: Final = r"-?\d+(\.\d+)?"
BoxText = Annotated[Box, PlainValidator(_boxed), _written("106.6,10.7,106.8,10.9", rf"^{_NUMBER}(,{_NUMBER}){{3}}$")]
CircleText = Annotated[Circle, PlainValidator(_circled), _written("10.7769,106.7009,1500", rf"^{_NUMBER}(,{_NUMBER}){{2}}$")]
TagText = Annotated[
    tuple[Text, Text | None], BeforeValidator(_tag), WithJsonSchema({"type": "string", "examples": ["owner:parks"]})
]


class DeviceFilters(Parameters):
    """Filters of devices, in a URL. A device must match all of them."""

    domain: list[Domain] | None = Field(None, max_length=10, description="Only devices of this domain; repeat it for several.")
    district: list[Text] | None = Field(None, max_length=100, description="Only devices in this district; repeat it for several.")
    tag: list[TagText] | None = Field(
        None,
        max_length=20,
        description="Only devices with this tag: `name:value`, or `name` with any value; with all of them, if repeated.",
    )
    bbox: BoxText | None = Field(
        None, description="Only devices within `west,south,east,north`, degrees. West of more than east: across the 180th meridian."
    )
    near: CircleText | None = Field(None, description="Only devices within `latitude,longitude,radius`: degrees, and metres.")
    device: list[Text] | None = Field(None, max_length=1000, description="Only these devices; repeat it for several.")
    include_retired: bool = Field(False, description="Include devices that are out of service.")

    def selection(self, *, listed_retired: bool = False) -> Selection:
        """These filters as a selection; with `listed_retired`, devices that are named may be retired."""
        return Selection(
            devices=self.device,
            domains=self.domain,
            districts=self.district,
            tags=self.tag or (),
            bbox=self.bbox,
            near=self.near,
            include_retired=self.include_retired or (listed_retired and self.device is not None),
        )


class Filters(DeviceFilters):
    """Filters of sensors, in a URL. A sensor must match all of them."""

    metric: list[Text] | None = Field(None, max_length=100, description="Only these metrics; repeat it for several.")

    def selection(self, *, listed_retired: bool = False) -> Selection:
        """These filters as a selection: as for devices, and of these metrics."""
        return replace(super().selection(listed_retired=listed_retired), metrics=self.metric)


class DevicesFilter(Parameters):
    """Filters of devices, in a body. A device must match all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    domain: list[Domain] | Domain | None = Field(None, description="Of these domains, or of this one.")
    district: Annotated[list[Text], Field(max_length=100)] | Text | None = Field(None, description="In these districts.")
    tags: dict[Text, Text | None] | None = Field(
        None, max_length=20, description="With all these tags; null: with any value.", examples=[{"owner": "parks"}]
    )
    bbox: Annotated[Box, BeforeValidator(_only_numbers), AfterValidator(_box)] | None = Field(
        None, description="[west, south, east, north], degrees."
    )
    near: Annotated[Circle, BeforeValidator(_only_numbers), AfterValidator(_circle)] | None = Field(
        None, description="[latitude, longitude, radius in metres]."
    )
    include_retired: bool = Field(False, strict=True, description="Include devices that are out of service.")

    def selection(self, metrics: list[str] | None) -> Selection:
        """These filters as a selection, of these metrics."""
        return Selection(
            metrics=metrics,
            domains=_some(self.domain),
            districts=_some(self.district),
            tags=list((self.tags or {}).items()),
            bbox=self.bbox,
            near=self.near,
            include_retired=self.include_retired,
        )


def _some(value: Any) -> list[str] | None:
    return value if value is None or isinstance(value, list) else [value]


def visible(wanted: Selection, caller: Caller) -> Selection:
    """The part of a selection that the caller may see."""
    return wanted.within(caller.within)


def check_metrics(catalogue: Catalogue, metrics: list[str] | None, *, name: str = "metric", where: str = "query") -> None:
    """Refuse metrics that are not in the catalogue, so that a typo does not select nothing.

    Raises
    ------
    Problem
    """
    unknown = [metric for metric in metrics or [] if metric not in catalogue]
    if unknown:
        listed = ", ".join(map(repr, unknown))
        raise invalid(name, f"not in the catalogue: {listed}; see /v1/catalogue", where=where)


async def resolve(pool: ReadPool, wanted: Selection, caller: Caller, *, where: str = "query", limit: int = MAX_SERIES) -> Selected:
    """The series of a selection that the caller may see.

    Raises
    ------
    Problem
        A device that is named does not exist, or there are more series than one answer may have.
    """
    seen = visible(wanted, caller)
    found = await selection.select_from(pool, seen, limit=limit + 1)
    if len(found) > limit:
        raise invalid(
            "device" if where == "query" else "devices",
            f"that is more than the {limit} series that one answer may have; ask for fewer devices or metrics, in several requests",
            where=where,
            slug="too-many-series",
            max_series=limit,
        )
    if wanted.devices is not None and len(set(found.device)) < len(set(wanted.devices)):
        missing = await selection.missing_devices(pool, seen)
        if missing and _only_named(wanted):
            shown = ", ".join(map(repr, missing[:10])) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
            raise problems.not_found(f"there is no device {shown}")
    return found


def _only_named(wanted: Selection) -> bool:
    """True if devices are selected by their names alone, so that one that is not found does not exist."""
    return not (wanted.domains or wanted.districts or wanted.tags or wanted.bbox or wanted.near) and wanted.include_retired
