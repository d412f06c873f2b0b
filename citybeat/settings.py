"""All settings of citybeat, with unit, default and reason: environment variables with the prefix `CITYBEAT_` (docs/settings.md)."""

import zoneinfo
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from citybeat import logs
from citybeat.api.console.settings import ConsoleSettings, origin
from citybeat.devices import catalogue
from citybeat.devices.batch import MICROSECOND
from citybeat.devices.catalogue import Catalogue
from citybeat.devices.errors import CatalogueError
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.service import IngestConfig
from citybeat.ingest.transport.gateway import Session
from citybeat.ingest.transport.inbox import BatchSize
from citybeat.ingest.transport.partition import Timeouts
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.stack import StackSettings
from citybeat.stack.model import Flavour
from citybeat.storage.batches.outbox import Bounds
from citybeat.storage.registry.keys import Scope
from citybeat.storage.rollups.chunks import ROWS, Sizing
from citybeat.storage.rollups.retention import Policy

Port = Annotated[int, Field(ge=0, le=65_535)]

# A default stands beside its reason in the package that uses it; a setting refers to it.
_STACK: Final = StackSettings(home=Path(".citybeat"))
_SESSION: Final = Session(url="")
_LAYOUT: Final = IngestConfig(size=BatchSize(), timeouts=Timeouts(), spool=Path())
_LIMITS: Final = Limits()


class Settings(BaseSettings):
    """Settings of one command, read from the environment when it starts."""

    model_config = SettingsConfigDict(env_prefix="CITYBEAT_", env_parse_none_str="", extra="ignore", frozen=True)

    home: Path = Field(_STACK.home, description="State directory: data, credentials and logs of the local servers.")
    root: Path | None = Field(
        None,
        description="Directory of the private Debian root with the servers' programs; unset: `root` in the state directory."
        " Several state directories may share one.",
    )
    stack: Flavour = Field(
        _STACK.flavour,
        description="How local servers are run: docker, root (the private Debian root), or auto (Docker where an engine answers).",
    )
    database_url: str | None = Field(
        None, description="URL of the database, postgresql://user:password@host:port/database; unset: a local one is started."
    )
    mqtt_url: str | None = Field(
        None, description="URL of the broker, mqtt://user:password@host:port (or mqtts://); unset: a local one is started."
    )
    pg_port: Port = Field(_STACK.pg_port, description="TCP port of the local TimescaleDB; 5432 is often taken.")
    mqtt_port: Port = Field(_STACK.mqtt_port, description="TCP port of the local Mosquitto; 1883 is often taken.")
    api_host: str = Field("127.0.0.1", description="Address that the API listens on.")
    api_port: Port = Field(8000, description="TCP port of the API.")
    api_anonymous: Literal["none", "read"] = Field(
        "none", description="Rights of API requests without a key: none, or read (everything is shown; for trusted networks only)."
    )
    #: A hundred a second: far more than a page or a script needs.
    api_requests_per_minute: PositiveInt = Field(
        6_000, description="Requests a minute that one key may make, or one address without a key."
    )
    console_tiles: str | None = Field(
        None,
        description="URL template of the console's map tiles, with {z}, {x} and {y}; unset: no map tiles, and no request to"
        " another host.",
    )
    console_credit: str = Field("", description="Attribution of the map tiles, shown on the map as their licence requires.")
    zone: str | None = Field(
        None, description="Time zone of the times in the console, by its IANA name; unset: the time zone of each browser."
    )
    ingest_host: str = Field("127.0.0.1", description="Address that ingest serves /metrics, /healthz and /readyz on.")
    ingest_port: Port = Field(8001, description="TCP port of ingest's /metrics, /healthz and /readyz.")
    catalogue: Path | None = Field(
        None, description="TOML file with metrics that a city adds or changes; its fields are those of devices/catalogue.toml."
    )

    credentials: Path | None = Field(
        None,
        description="JSON file with the simulator's passwords at the broker of CITYBEAT_MQTT_URL, by source; those of the local"
        " broker are kept in the state directory.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Lowest level that ingest and API log to standard error: DEBUG, INFO, WARNING or ERROR."
    )
    log_format: logs.Form = Field(
        "text", description="Format of a log line: text (key=value pairs, for people) or json (one object a line, for programs)."
    )

    client_id: str = Field(
        _SESSION.client_id, description="MQTT client id of ingest. Keep it stable: the broker keeps ingest's queue under this name."
    )
    mqtt_ca: Path | None = Field(
        None, description="PEM file with the certificate authorities trusted for an mqtts:// broker; unset: those of the system."
    )
    mqtt_keepalive_s: PositiveInt = Field(
        _SESSION.keepalive,
        description="Seconds between pings on an idle MQTT connection; a half-open connection is noticed within twice that.",
    )
    workers: PositiveInt = Field(
        _LAYOUT.workers, description="Worker processes of ingest; all messages of a source go to the same one."
    )
    inbox_bytes: PositiveInt = Field(
        _LAYOUT.inbox_bytes, description="Bytes of payload that may wait in ingest's memory; further messages stay with the broker."
    )
    spool_dir: Path | None = Field(
        None,
        description="Directory for messages that wait while the database is away; unset: `spool` in the state directory."
        " It must be on a persistent disk.",
    )
    spool_bytes: PositiveInt = Field(
        _LAYOUT.spool_bytes,
        description="Bytes of payload in the spool at most; when it is full, ingest stops acknowledging messages.",
    )
    spool_after_s: PositiveFloat = Field(
        _LAYOUT.timeouts.spool_after,
        description="Seconds that messages wait for the database before they are written to the spool.",
    )
    max_message_bytes: PositiveInt = Field(
        4 * 1024 * 1024,
        description="Bytes of payload of one message at most; a larger payload is quarantined without being decoded.",
    )
    batch_messages: PositiveInt = Field(
        _LAYOUT.size.messages, description="Messages in one transaction at most; MQTT's Receive Maximum is twice that."
    )
    batch_bytes: PositiveInt = Field(_LAYOUT.size.bytes, description="Bytes of payload in one transaction at most.")
    batch_linger_s: PositiveFloat = Field(
        _LAYOUT.size.linger, description="Seconds that a batch waits for more messages after its first one."
    )
    oldest_s: float = Field(
        _LIMITS.oldest // MICROSECOND,
        description="Earliest time of a reading that is accepted, in seconds since 1970 UTC; an earlier time is taken for a clock"
        " error (the default is 2001-01-01).",
    )
    late_after_s: PositiveFloat = Field(
        _LIMITS.late_after // MICROSECOND,
        description="Seconds between a reading's time and its receipt above which it is flagged LATE.",
    )
    future_after_s: PositiveFloat = Field(
        _LIMITS.future_after // MICROSECOND,
        description="Seconds that a reading's time may be ahead of the server's clock; above that it is flagged FUTURE.",
    )
    future_limit_s: PositiveFloat = Field(
        _LIMITS.future_limit // MICROSECOND,
        description="Seconds that a reading's time may be ahead of the server's clock; above that it is quarantined.",
    )
    quarantine_quota_bytes: PositiveInt = Field(
        64 * 1024 * 1024,
        description="Bytes of payload kept in quarantine for each source; payloads beyond that are counted but not kept.",
    )
    retention_days_raw: PositiveFloat | None = Field(
        None, description="Days that readings are kept; unset: for ever. Readings that are older on arrival are refused."
    )
    retention_days_1m: PositiveFloat | None = Field(
        None, description="Days that the one-minute rollup is kept, at least as long as readings; unset: for ever."
    )
    retention_days_15m: PositiveFloat | None = Field(
        None, description="Days that the quarter-hour rollup is kept, at least as long as minutes; unset: for ever."
    )
    outbox_minutes: PositiveFloat = Field(
        10, description="Minutes that a reconnecting stream can resume from; a client that was away for longer has to start anew."
    )
    outbox_bytes: PositiveInt = Field(
        256 * 1024 * 1024,
        description="Bytes kept for streams at most, 22 for each reading; at a high rate of readings this shortens the minutes.",
    )
    quarantine_days: PositiveFloat | None = Field(
        90, description="Days that messages stay in quarantine; older ones are counted as not kept. An empty value: for ever."
    )
    columnstore_days_raw: PositiveFloat | None = Field(
        None,
        description="Days after which chunks of readings are compressed (TimescaleDB Community only); unset: never.",
    )
    columnstore_days_1m: PositiveFloat | None = Field(
        None,
        description="Days after which chunks of one-minute rows are compressed (TimescaleDB Community only); unset: never.",
    )
    chunk_days_raw: PositiveFloat = Field(
        7,
        description="Days in a chunk of readings, except where ingest makes shorter ones. An imported history would need"
        " thousands of chunks of one day.",
    )
    chunk_days_1m: PositiveFloat = Field(
        30, description="Days in a chunk of the one-minute rollup, except where ingest makes shorter ones."
    )
    chunk_rows: PositiveInt = Field(
        ROWS,
        description="Rows in a chunk of readings or minutes that ingest aims at: where more would come, it makes chunks of a day,"
        " six hours or an hour ahead of time.",
    )
    chunk_days_15m: PositiveFloat = Field(365, description="Days in a chunk of the quarter-hour rollup.")

    @field_validator("retention_days_1m", "retention_days_15m", mode="after")
    @classmethod
    def _not_shorter(cls, days: float | None, info: ValidationInfo) -> float | None:
        finer = "retention_days_raw" if info.field_name == "retention_days_1m" else "retention_days_1m"
        if days is not None and finer in info.data and (info.data[finer] is None or info.data[finer] > days):
            kept = "for ever" if info.data[finer] is None else f"{info.data[finer]:g} days"
            raise ValueError(f"a rollup must be kept at least as long as its input ({kept}, CITYBEAT_{finer.upper()})")
        return days

    @field_validator("console_tiles", mode="after")
    @classmethod
    def _tiles(cls, template: str | None) -> str | None:
        if template is not None:
            origin(template)
        return template

    @field_validator("zone", mode="after")
    @classmethod
    def _known(cls, zone: str | None) -> str | None:
        if zone is not None and zone not in zoneinfo.available_timezones():
            raise ValueError("the IANA database has no such time zone; expected a name such as Asia/Ho_Chi_Minh")
        return zone

    def load_catalogue(self) -> Catalogue:
        """The shipped catalogue, extended by the city's own metrics if CITYBEAT_CATALOGUE names a file.

        Raises
        ------
        CatalogueError
            The file cannot be read or is not a catalogue.
        """
        if self.catalogue is None:
            return catalogue.builtin()
        try:
            text = self.catalogue.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise CatalogueError(f"CITYBEAT_CATALOGUE={self.catalogue}: {exc}") from exc
        return catalogue.extended(text, origin=str(self.catalogue))

    def for_stack(self) -> StackSettings:
        """Settings of the local servers."""
        return StackSettings(
            home=self.home,
            root=self.root,
            pg_port=self.pg_port,
            mqtt_port=self.mqtt_port,
            database_url=self.database_url,
            mqtt_url=self.mqtt_url,
            flavour=self.stack,
        )

    def anonymous(self) -> frozenset[Scope]:
        """Scopes of an API request without a key."""
        return frozenset({Scope.READ} if self.api_anonymous == "read" else ())

    def console(self) -> ConsoleSettings:
        """Settings of the console."""
        return ConsoleSettings(tiles=self.console_tiles, credit=self.console_credit, zone=self.zone)

    def session(self, mqtt_url: str) -> Session:
        """Ingest's MQTT session with this broker."""
        return Session(
            url=mqtt_url,
            client_id=self.client_id,
            receive_maximum=min(2 * self.batch_messages, 65_535),
            keepalive=self.mqtt_keepalive_s,
            ca=self.mqtt_ca,
        )

    def ingest_config(self) -> IngestConfig:
        """Sizes of ingest, and the time after which it uses its spool."""
        return IngestConfig(
            workers=self.workers,
            size=BatchSize(messages=self.batch_messages, bytes=self.batch_bytes, linger=self.batch_linger_s),
            timeouts=Timeouts(spool_after=self.spool_after_s),
            inbox_bytes=self.inbox_bytes,
            spool=self.home / "spool" if self.spool_dir is None else self.spool_dir,
            spool_bytes=self.spool_bytes,
        )

    def pipeline(self, database_url: str) -> Pipeline:
        """Ingest's pipeline into this database, not connected yet."""
        return Pipeline(
            database_url,
            catalogue=self.load_catalogue(),
            limits=self.limits(),
            max_bytes=self.max_message_bytes,
            quarantine_quota=self.quarantine_quota_bytes,
        )

    def sizing(self) -> Sizing:
        """Longest interval and largest size of the chunks that ingest makes ahead."""
        longest = {"readings": self.chunk_days_raw, "readings_1m": self.chunk_days_1m}
        return Sizing(longest={table: timedelta(days=days) for table, days in longest.items()}, rows=self.chunk_rows)

    def limits(self) -> Limits:
        """Limits on the times of readings."""
        return Limits(
            oldest=int(self.oldest_s * MICROSECOND),
            late_after=int(self.late_after_s * MICROSECOND),
            future_after=int(self.future_after_s * MICROSECOND),
            future_limit=int(self.future_limit_s * MICROSECOND),
        )

    def retention(self) -> Policy:
        """Ages at which housekeeping drops and compresses data."""
        return Policy(
            raw=_days(self.retention_days_raw),
            minutes=_days(self.retention_days_1m),
            quarters=_days(self.retention_days_15m),
            quarantine=_days(self.quarantine_days),
            columnstore_raw=_days(self.columnstore_days_raw),
            columnstore_minutes=_days(self.columnstore_days_1m),
        )

    def outbox(self) -> Bounds:
        """Time and bytes that housekeeping keeps for streams."""
        return Bounds(keep=timedelta(minutes=self.outbox_minutes), bytes=self.outbox_bytes)

    def chunk_days(self) -> dict[str, float]:
        """Days in a chunk, by hypertable."""
        return {"readings": self.chunk_days_raw, "readings_1m": self.chunk_days_1m, "readings_15m": self.chunk_days_15m}


def _days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)
