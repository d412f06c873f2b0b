"""Answers about readings: newest ones, states, raw pages, buckets."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from citybeat.api.http.models.base import FLAGS, TIMES, Model, PointModel
from citybeat.devices.catalogue import Kind
from citybeat.devices.states import State

STREAM = "Where /v1/stream goes on behind this answer, as its `last_event_id`; of several pages, that of the first."
SINCE = (
    "Epoch milliseconds, UTC: the time of the reading by which it was noticed; of overdue when it became due, of silent when the "
    "sensor was registered."
)


class LatestColumns(Model):
    """A row a series, in order of device and metric."""

    device: list[str]
    metric: list[str]
    unit: list[str]
    time: list[float] = Field(description=TIMES)
    value: list[float | None]
    flags: list[list[str]] = Field(description=FLAGS)
    age_s: list[float] = Field(description="Seconds from `time` to `at`.")
    stale: list[bool] = Field(description="Whether the sensor is overdue: silent for three of its expected intervals.")


class LatestModel(Model):
    """Newest readings."""

    at: str = Field(description="The database's time, which ages are counted from.")
    count: int
    columns: LatestColumns
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")
    stream_cursor: str = Field(description=STREAM)


class LatestPropertiesModel(Model):
    """A sensor's newest reading."""

    device: str
    metric: str
    unit: str
    time: float = Field(description="Epoch milliseconds, UTC.")
    value: float | None
    flags: list[str] = Field(description=FLAGS)
    age_s: float
    stale: bool


class LatestFeatureModel(Model):
    """A sensor on the map."""

    type: Literal["Feature"]
    id: str = Field(description="device/metric")
    geometry: PointModel | None = Field(description="null: the device's place is not registered.")
    properties: LatestPropertiesModel


class LatestFeaturesModel(Model):
    """Newest readings, as GeoJSON."""

    type: Literal["FeatureCollection"]
    at: str = Field(description="The database's time, which ages are counted from.")
    features: list[LatestFeatureModel]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")
    stream_cursor: str = Field(description=STREAM)


class StatesColumns(Model):
    """A row a sensor, in order of device and metric."""

    device: list[str]
    metric: list[str]
    state: list[State]
    since: list[float] = Field(description=SINCE)
    value: list[float | None] = Field(description="Newest, good or bad.")


class StatesModel(Model):
    """States of sensors."""

    at: str = Field(description="The database's time.")
    count: int
    columns: StatesColumns
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")
    stream_cursor: str = Field(description=STREAM)


class StatesPropertiesModel(Model):
    """A sensor's state."""

    device: str
    metric: str
    state: State
    since: float = Field(description=SINCE)
    value: float | None = Field(description="Newest, good or bad.")


class StatesFeatureModel(Model):
    """A sensor on the map."""

    type: Literal["Feature"]
    id: str = Field(description="device/metric")
    geometry: PointModel | None = Field(description="null: the device's place is not registered.")
    properties: StatesPropertiesModel


class StatesFeaturesModel(Model):
    """States of sensors, as GeoJSON."""

    type: Literal["FeatureCollection"]
    at: str = Field(description="The database's time.")
    features: list[StatesFeatureModel]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")
    stream_cursor: str = Field(description=STREAM)


class SeriesColumns(BaseModel):
    """raw: time, value, flags. Buckets: time (the start), a column an aggregate (null: the bucket has no such value), bad_count,
    coverage; with a fill other than none, filled.
    """

    model_config = ConfigDict(extra="allow")

    time: list[float] = Field(description=TIMES)
    bad_count: list[int] | None = Field(None, description="Readings that a flag keeps out.")
    coverage: list[float | None] | None = Field(None, description="Readings received, good or bad, over those expected; at most 1.")
    filled: list[bool] | None = Field(None, description="Whether values of this row were filled in: nothing good was measured.")
    __pydantic_extra__: dict[str, list[Any]]


class QueryColumns(SeriesColumns):
    """As of one series, and which one."""

    series: list[int] = Field(description="Position in `series`, from 0.")


class ThinnedModel(Model):
    """Readings were left out; those that are there are as they were stored."""

    rule: str = Field(description="Which were kept: lttb, or minmax.")
    readings: int = Field(description="How many there were.")
    bad_count: int = Field(description="How many of them a flag keeps out of aggregates.")


class PointsModel(Model):
    """What answers in buckets share."""

    bucket: str = Field(description="As asked for; of `auto`, the one that was taken.")
    level: str = Field(description="What it was made from: raw, 1m or 15m. The numbers do not depend on it, beyond rounding.")
    tz: str
    start: str = Field(alias="from")
    stop: str = Field(alias="to")
    count: int = Field(description="Points.")
    thinned: ThinnedModel | None = Field(description="With `max_points`, where there were more; null: nothing was left out.")


class SeriesModel(PointsModel):
    """One series over a range of time."""

    device: str
    metric: str
    unit: str
    kind: Kind
    columns: SeriesColumns


class QueriedSeriesModel(Model):
    """One of several series."""

    device: str
    metric: str
    unit: str
    kind: Kind
    aggregates: list[str] = Field(description="Which columns are of it.")
    count: int = Field(description="Its points.")
    readings: int | None = Field(None, description="Of a thinned answer: how many it had.")


class QueryModel(PointsModel):
    """Many series over a range of time."""

    series: list[QueriedSeriesModel] = Field(description="In order of device and metric; those without points too.")
    columns: QueryColumns


class ReadingsColumns(Model):
    """A row a reading."""

    device: list[str]
    metric: list[str]
    unit: list[str]
    time: list[float] = Field(description=TIMES)
    value: list[float | None]
    flags: list[list[str]] = Field(description=FLAGS)


class ReadingsModel(Model):
    """A page of raw readings, in order of time."""

    count: int
    kept_from: str | None = Field(description="Older readings were dropped by retention; null: none were.")
    columns: ReadingsColumns
    next_cursor: str | None = Field(description="For the next page; null: this is the last, for now.")


class NearestColumns(ReadingsColumns):
    """A row a series."""

    distance_s: list[float] = Field(description="Seconds from `at` to the reading; negative: it is before.")


class NearestModel(Model):
    """Of each series the reading nearest to a time."""

    at: str
    count: int
    kept_from: str | None = Field(description="Older readings were dropped by retention; null: none were.")
    columns: NearestColumns
