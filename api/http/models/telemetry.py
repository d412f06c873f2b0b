"""Answers about readings: newest readings, states, pages of raw readings, and buckets."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from citybeat.api.http.models.base import FLAGS, TIMES, Model, PointModel
from citybeat.devices.catalogue import Kind
from citybeat.devices.states import State

STREAM = "The `last_event_id` with which /v1/stream continues after this answer; of several pages, use that of the first."
SINCE = (
    "Epoch milliseconds, UTC: the time of the reading that changed the state; for overdue when a reading was due, for silent when "
    "the sensor was registered."
)


class LatestColumns(Model):
    """A row for each series, in order of device and metric."""

    device: list[str]
    metric: list[str]
    unit: list[str]
    time: list[float] = Field(description=TIMES)
    value: list[float | None]
    flags: list[list[str]] = Field(description=FLAGS)
    age_s: list[float] = Field(description="Seconds from `time` to `at`.")
    stale: list[bool] = Field(description="Whether the sensor is overdue: it has not reported for three of its expected intervals.")


class LatestModel(Model):
    """Newest readings."""

    at: str = Field(description="The database's time, from which ages are counted.")
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
    """A sensor as a GeoJSON feature."""

    type: Literal["Feature"]
    id: str = Field(description="device/metric")
    geometry: PointModel | None = Field(description="null: the device's place is not registered.")
    properties: LatestPropertiesModel


class LatestFeaturesModel(Model):
    """Newest readings, as GeoJSON."""

    type: Literal["FeatureCollection"]
    at: str = Field(description="The database's time, from which ages are counted.")
    features: list[LatestFeatureModel]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")
    stream_cursor: str = Field(description=STREAM)


class StatesColumns(Model):
    """A row for each sensor, in order of device and metric."""

    device: list[str]
    metric: list[str]
    state: list[State]
    since: list[float] = Field(description=SINCE)
    value: list[float | None] = Field(description="Value of the newest reading, good or bad.")


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
    value: float | None = Field(description="Value of the newest reading, good or bad.")


class StatesFeatureModel(Model):
    """A sensor as a GeoJSON feature."""

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
    """Columns. Of raw readings: time, value, flags. Of buckets: time (the start), one for each aggregate (null: the bucket has no
    such value), bad_count, coverage; with a fill other than none, filled.
    """

    model_config = ConfigDict(extra="allow")

    time: list[float] = Field(description=TIMES)
    bad_count: list[int] | None = Field(None, description="Readings that a flag keeps out of aggregates.")
    coverage: list[float | None] | None = Field(None, description="Readings received, good or bad, over those expected; at most 1.")
    filled: list[bool] | None = Field(
        None, description="Whether values of this row were filled in, because its bucket has no good reading."
    )
    __pydantic_extra__: dict[str, list[Any]]


class QueryColumns(SeriesColumns):
    """The columns of one series, and a column that says which series a row belongs to."""

    series: list[int] = Field(description="Position in `series`, from 0.")


class ThinnedModel(Model):
    """Readings that were left out; the others are as they were stored."""

    rule: str = Field(description="The rule by which readings were selected: lttb or minmax.")
    readings: int = Field(description="Number of all readings.")
    bad_count: int = Field(description="Number of readings that a flag keeps out of aggregates.")


class PointsModel(Model):
    """Common members of answers with points."""

    bucket: str = Field(description="The bucket of the request, or the one that was chosen for `auto`.")
    level: str = Field(
        description="The level that it was computed from: raw, 1m or 15m. The numbers do not depend on it, beyond rounding."
    )
    tz: str
    start: str = Field(alias="from")
    stop: str = Field(alias="to")
    count: int = Field(description="Number of points.")
    thinned: ThinnedModel | None = Field(description="With `max_points`, if there were more readings; null: none was left out.")


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
    aggregates: list[str] = Field(description="Aggregates that were computed for it.")
    count: int = Field(description="Number of its points.")
    readings: int | None = Field(None, description="Number of its readings before thinning.")


class QueryModel(PointsModel):
    """Many series over a range of time."""

    series: list[QueriedSeriesModel] = Field(description="In order of device and metric, with those that have no points.")
    columns: QueryColumns


class ReadingsColumns(Model):
    """A row for each reading."""

    device: list[str]
    metric: list[str]
    unit: list[str]
    time: list[float] = Field(description=TIMES)
    value: list[float | None]
    flags: list[list[str]] = Field(description=FLAGS)


class ReadingsModel(Model):
    """A page of raw readings, in order of time."""

    count: int
    kept_from: str | None = Field(description="Retention has dropped all older readings; null: it has dropped none.")
    columns: ReadingsColumns
    next_cursor: str | None = Field(description="For the next page; null: this is the last, for now.")


class NearestColumns(ReadingsColumns):
    """A row for each series."""

    distance_s: list[float] = Field(description="Seconds from `at` to the reading; negative: it is before.")


class NearestModel(Model):
    """The reading of each series that is nearest to a time."""

    at: str
    count: int
    kept_from: str | None = Field(description="Retention has dropped all older readings; null: it has dropped none.")
    columns: NearestColumns
