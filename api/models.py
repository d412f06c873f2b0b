"""What answers look like, for the OpenAPI document: routes answer from arrays, and tests hold the answers against these models.

Columns of one answer all have the same length; `pandas.DataFrame(answer["columns"])` is a table.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from devices.catalogue import Domain, Kind

_RANGE = "; null: open"
TIMES = "Epoch milliseconds, UTC; with a fraction only where a reading has microseconds."
FLAGS = "Names of the quality flags of each: range, step, stuck, suspect, late, future, clock, manual_bad, manual_good. None: good."

STREAM = "Where /v1/stream goes on behind this answer, as its `last_event_id`; of several pages, that of the first."
SINCE = (
    "Epoch milliseconds, UTC: the time of the reading by which it was noticed; of overdue when it became due, of silent when the "
    "sensor was registered."
)
State = Literal["ok", "bad", "stuck", "overdue", "silent"]


class Model(BaseModel):
    """What all answers share."""

    model_config = ConfigDict(extra="forbid")


class MetricModel(Model):
    """One metric of the catalogue."""

    name: str = Field(description="As in FIWARE's Smart Data Models.", examples=["temperature"])
    domain: Domain
    unit: str = Field(description="UCUM.", examples=["Cel"])
    kind: Kind = Field(description="Decides which aggregates make sense.")
    aggregates: list[str] = Field(description="What /v1/series can give of it.")
    low: float | None = Field(description="Plausible range" + _RANGE)
    high: float | None = Field(description="Plausible range" + _RANGE)
    suspect_low: float | None = Field(description="Usual range" + _RANGE)
    suspect_high: float | None = Field(description="Usual range" + _RANGE)
    interval_s: float = Field(description="Seconds between readings, as expected.")
    unece: str | None = Field(description="UN/CEFACT code of the unit, where there is one.")
    step_floor: float | None = Field(description="A larger change is a STEP; null: none is.")
    step_per_minute: float = Field(description="What that grows by, a minute.")
    stuck_after_s: float | None = Field(description="Seconds; one value for longer is STUCK; null: for ever.")
    may_repeat: list[float] = Field(description="Values that are never STUCK.")
    sentinels: list[float] = Field(description='Codes for "missing", beside the default ones that lie outside the plausible range.')
    source: str = Field(description="Where the bounds come from; devices/catalogue.toml explains the letters.")


class CatalogueModel(Model):
    """The metrics that this citybeat knows."""

    metrics: list[MetricModel]


class DeviceModel(Model):
    """A registered device."""

    id: str = Field(examples=["env-0007"])
    name: str
    domain: str
    source: str = Field(description="The MQTT identity that it publishes through.")
    latitude: float | None = Field(description="Degrees north, WGS 84.")
    longitude: float | None = Field(description="Degrees east, WGS 84.")
    district: str
    tags: dict[str, str]
    created_at: str
    updated_at: str
    retired_at: str | None = Field(description="Since when it is out of service; its history stays.")
    metrics: list[str] = Field(description="What its sensors measure.")


class DevicesModel(Model):
    """A page of devices."""

    devices: list[DeviceModel]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")


class NewestModel(Model):
    """A sensor's newest reading, good or bad."""

    time: str
    value: float = Field(description="In the sensor's unit.")
    flags: list[str] = Field(description=FLAGS)
    age_s: float = Field(description="Seconds since; negative: ahead of our clock.")


class RegisteredModel(Model):
    """What a registration overrides; null: as the catalogue says."""

    low: float | None
    high: float | None
    suspect_low: float | None
    suspect_high: float | None
    rating: float | None
    interval: float | None
    step_floor: float | None
    step_per_minute: float | None
    stuck_after: float | None
    sentinels: list[float]
    unit: str | None = Field(description="What the sensor sends.")


class CalibrationModel(Model):
    """value * scale + offset, from `valid_from` until the next."""

    valid_from: str | None = Field(description="null: from the beginning.")
    scale: float
    offset: float
    by: str
    reason: str
    created_at: str


class SensorModel(Model):
    """A sensor, with the bounds that its readings are judged by."""

    metric: str
    domain: str
    unit: str
    kind: Kind
    low: float | None = Field(description="Plausible range" + _RANGE)
    high: float | None = Field(description="Plausible range" + _RANGE)
    suspect_low: float | None = Field(description="Usual range" + _RANGE)
    suspect_high: float | None = Field(description="Usual range" + _RANGE)
    rating: float | None = Field(description="What the device is built for.")
    interval_s: float
    sentinels: list[float | None] = Field(description="Values that mean: no value.")
    registered: RegisteredModel
    calibrations: list[CalibrationModel] = Field(description="In the order in which they hold.")
    retired_at: str | None = Field(description="Since when it is out of service, though its device may go on.")
    latest: NewestModel | None


class DeviceDetailModel(DeviceModel):
    """A device with its sensors."""

    sensors: list[SensorModel]


class DevicePropertiesModel(Model):
    """A device without its place."""

    name: str
    domain: str
    source: str
    district: str
    tags: dict[str, str]
    created_at: str
    updated_at: str
    retired_at: str | None
    metrics: list[str]


class DeviceFeatureModel(Model):
    """A device on the map."""

    type: Literal["Feature"]
    id: str = Field(description="Of the device.")
    geometry: "PointModel | None" = Field(description="null: the device's place is not registered.")
    properties: DevicePropertiesModel


class DeviceFeaturesModel(Model):
    """A page of devices, as GeoJSON."""

    type: Literal["FeatureCollection"]
    features: list[DeviceFeatureModel]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")


class ChangeModel(Model):
    """Something that was changed."""

    at: str
    actor: str = Field(description="A key, or a user of a command.")
    subject: Literal["device", "sensor", "calibration", "declaration"]
    action: Literal["created", "changed", "retired", "restored", "deleted"]
    metric: str | None = Field(description="Of the sensor that it is about.")
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class HistoryModel(Model):
    """A page of changes, the newest first."""

    changes: list[ChangeModel]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")


class ImportedModel(Model):
    """What became of a file of devices."""

    devices: int
    sensors: int
    created: int = Field(description="Devices that were not there.")
    changed: int = Field(description="Devices that are different now.")
    unchanged: int
    dry_run: bool = Field(description="true: nothing was registered; this is what would be.")


class SourceModel(Model):
    """A source: an MQTT identity."""

    name: str
    conflict_policy: Literal["keep", "replace"]
    devices: int = Field(description="That publish through it, retired ones too.")
    status: str | None = Field(description="What it last said of itself: online, offline.")
    status_at: str | None
    created_at: str


class SourcesModel(Model):
    """A page of sources."""

    sources: list[SourceModel]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")


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


class PointModel(Model):
    """Of GeoJSON (RFC 7946)."""

    type: Literal["Point"]
    coordinates: list[float] = Field(description="Degrees east, degrees north; WGS 84.")


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


class CountsModel(Model):
    """Sums over the whole range that was asked for."""

    messages: int
    undecodable: int = Field(description="Messages that could not be read.")
    redelivered: int = Field(description="Messages that came again.")
    received: int = Field(description="Readings, as all below.")
    stored: int
    duplicate: int
    conflict: int
    missing: int
    quarantined: int
    overflow: int = Field(description="Of quarantined: not kept, the source's quota being full.")
    balanced: bool = Field(description="received = stored + duplicate + conflict + missing + quarantined.")


class LedgerColumns(Model):
    """A row a minute of receipt and source, in that order."""

    minute: list[int] = Field(description="Its start, epoch milliseconds, UTC.")
    source: list[str] = Field(description="`?`: messages whose topic names none.")
    messages: list[int]
    undecodable: list[int]
    redelivered: list[int]
    received: list[int]
    stored: list[int]
    duplicate: list[int]
    conflict: list[int]
    missing: list[int]
    quarantined: list[int]
    overflow: list[int]


class LedgerModel(Model):
    """What was received, and what became of it."""

    start: str | None = Field(alias="from")
    stop: str | None = Field(alias="to")
    totals: CountsModel
    count: int
    columns: LedgerColumns
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")


class HealthModel(Model):
    """The process runs, or the service is ready."""

    status: str
    version: str


class PostedCountsModel(Model):
    """Of the readings of one request."""

    messages: int = Field(description="Payloads: one, or several for a file.")
    redelivered: int = Field(description="Of them: recognised by `boot` and `seq` as sent before.")
    received: int = Field(description="Readings: stored + duplicate + conflict + missing + quarantined.")
    stored: int
    duplicate: int
    conflict: int
    missing: int
    quarantined: int


class RefusedModel(Model):
    """A reading that was not stored."""

    index: int | None = Field(description="Which of the request's readings, counted from 0; null: all of a message.")
    line: int | None = Field(description="Of a CSV file; the header is line 1.")
    reason: str = Field(examples=["unknown_device"])
    detail: str


class PostedModel(Model):
    """What became of the readings of one request."""

    source: str
    received_at: str
    repeated: bool = Field(description="At least a part had been answered to the same Idempotency-Key: it was not counted again.")
    ledger: PostedCountsModel
    reasons: dict[str, int] = Field(description="Refused readings, and conflicts, by reason.")
    refused: list[RefusedModel] = Field(description="The first of them, at most 100.")
    refused_left_out: int


class RefusedEntryModel(Model):
    """Why a reading, or a message, was refused."""

    index: int | None = Field(description="Which reading of the message, counted from 0; null: all of it.")
    reason: str = Field(examples=["unknown_device"])
    detail: str


class QuarantinedModel(Model):
    """A message with readings that were refused."""

    id: int
    received_at: str
    source: str
    topic: str
    reasons: list[str]
    readings: int = Field(description="Refused readings, as the ledger has them under `quarantined`.")
    bytes: int = Field(description="Of its payload.")
    refused: list[RefusedEntryModel] = Field(description="In a list the first ten.")
    refused_left_out: int


class QuarantineModel(Model):
    """A page of quarantine, oldest first."""

    count: int
    messages: list[QuarantinedModel]
    next_cursor: str | None


class QuarantinedDetailModel(QuarantinedModel):
    """One of them with what was sent."""

    resolved_at: str | None = Field(description="Since when nothing of it is refused any more.")
    encoding: Literal["utf-8", "base64"] = Field(description="How `payload` is written.")
    payload: str


class ReplayedModel(Model):
    """What came of another try."""

    messages: int = Field(description="Tried.")
    stored: int
    duplicate: int
    conflict: int
    missing: int
    quarantined: int = Field(description="Readings that stay.")
    unreadable: int = Field(description="Messages that stay as a whole.")
    more: bool = Field(description="Whether there may be more behind these: go on with `next_cursor`.")
    next_cursor: str | None


class LivenessColumns(Model):
    """A row a sensor in service, in order of device and metric."""

    device: list[str]
    metric: list[str]
    source: list[str]
    expected_s: list[float] = Field(description="Seconds between readings, as expected.")
    last_at: list[float | int | None] = Field(description="Newest reading, epoch milliseconds, UTC; null: it never reported.")
    good_at: list[float | int | None] = Field(description="Newest good one; null: there is none.")
    due_at: list[float | int] = Field(description="When it is overdue: three expected intervals after its newest reading.")
    stale: list[bool] = Field(description="Whether it is overdue.")


class LivenessModel(Model):
    """Which sensors are silent."""

    at: str
    count: int
    columns: LivenessColumns
    next_cursor: str | None
