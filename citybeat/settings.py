"""Every setting of citybeat, with unit, default and reason: environment variables, prefix `CITYBEAT_` (docs/settings.md)."""

import zoneinfo
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from citybeat.api.console_settings import ConsoleSettings, origin
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
from citybeat.storage.batches.outbox import Bounds
from citybeat.storage.registry.keys import Scope
from citybeat.storage.rollups.chunks import ROWS, Sizing
from citybeat.storage.rollups.retention import Policy

Port = Annotated[int, Field(ge=0, le=65_535)]


class Settings(BaseSettings):
    """Read once, at the start of a command."""

    model_config = SettingsConfigDict(env_prefix="CITYBEAT_", env_parse_none_str="", extra="ignore", frozen=True)

    home: Path = Field(Path(".citybeat"), description="State directory: the local servers' data, credentials and logs.")
    root: Path | None = Field(
        None, description="Where the private Debian root with the servers' programs is; default: `root` in the home. May be shared."
    )
    stack: Literal["auto", "docker", "root"] = Field(
        "auto", description="How local servers are run; auto: Docker where an engine answers, else the private root."
    )
    database_url: str | None = Field(
        None, description="postgresql://user:password@host:port/database; given: none is started here."
    )
    mqtt_url: str | None = Field(
        None, description="mqtt://user:password@host:port (or mqtts://); given: no broker is started here."
    )
    pg_port: Port = Field(5433, description="TCP port of the local TimescaleDB; 5432 is often taken.")
    mqtt_port: Port = Field(1884, description="TCP port of the local Mosquitto; 1883 is often taken.")
    api_host: str = Field("127.0.0.1", description="Address that the API listens on.")
    api_port: Port = Field(8000, description="TCP port of the API.")
    api_anonymous: Literal["none", "read"] = Field(
        "none", description="What a request to the API without a key may do; read: show everything, on a network that is trusted."
    )
    api_requests_per_minute: PositiveInt = Field(
        6_000, description="Requests a minute that one key may make, or one address without a key."
    )
    console_tiles: str | None = Field(
        None,
        description="Template of map tiles for the console, with {z}, {x} and {y}; unset: none, so that nothing leaves the host.",
    )
    console_credit: str = Field("", description="Who made those tiles, as their licence wants it shown on the map.")
    zone: str | None = Field(
        None, description="Zone whose clocks the console shows, as in the IANA database; unset: that of each browser."
    )
    ingest_host: str = Field("127.0.0.1", description="Address at which ingest shows /metrics, /healthz and /readyz.")
    ingest_port: Port = Field(8001, description="TCP port of them.")
    catalogue: Path | None = Field(None, description="TOML file of a city's own metrics, columns as in devices/catalogue.toml.")

    credentials: Path | None = Field(
        None, description="JSON file of broker passwords by source, for the simulator at a given broker; the local one has its own."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Of the logs of ingest and API, on standard error."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Of those logs; text: a line of key=value for people, json: an object a line for programs."
    )

    client_id: str = Field(
        "citybeat-ingest", description="MQTT client id of ingest: stable, since the broker keeps its queue by it."
    )
    mqtt_ca: Path | None = Field(
        None, description="PEM file of the authorities that may vouch for an mqtts:// broker; default: those of the system."
    )
    mqtt_keepalive_s: PositiveInt = Field(
        30, description="Seconds between pings on a silent connection; one that is half open is noticed within twice that."
    )
    workers: PositiveInt = Field(1, description="Worker processes of ingest; a source always has the same one.")
    inbox_bytes: PositiveInt = Field(
        64 * 1024 * 1024, description="Bytes of payload that may wait in ingest's memory; more is left with the broker."
    )
    spool_dir: Path | None = Field(
        None, description="Where messages wait for a database that is away; default: `spool` in the home. On a disk that lasts."
    )
    spool_bytes: PositiveInt = Field(
        1024 * 1024 * 1024, description="Bytes of payload in the spool at most; then nothing is acknowledged any more."
    )
    spool_after_s: PositiveFloat = Field(2, description="Seconds that messages wait for the database before they go to the spool.")
    max_message_bytes: PositiveInt = Field(4 * 1024 * 1024, description="Bytes; a larger payload is quarantined unread.")
    batch_messages: PositiveInt = Field(5_000, description="Messages a transaction at most; Receive Maximum is twice that.")
    batch_bytes: PositiveInt = Field(8 * 1024 * 1024, description="Bytes of payload a transaction at most.")
    batch_linger_s: PositiveFloat = Field(0.03, description="Seconds that a batch waits for company after its first message.")
    oldest_s: float = Field(
        978_307_200, description="Seconds since 1970 UTC; an earlier time is a clock's fault (default 2001-01-01)."
    )
    late_after_s: PositiveFloat = Field(300, description="Seconds after its time from which on a reading is flagged LATE.")
    future_after_s: PositiveFloat = Field(5, description="Seconds ahead of our clock from which on a reading is flagged FUTURE.")
    future_limit_s: PositiveFloat = Field(600, description="Seconds ahead of our clock beyond which a reading is quarantined.")
    quarantine_quota_bytes: PositiveInt = Field(
        64 * 1024 * 1024,
        description="Bytes of payloads kept in quarantine for each source; what comes beyond is counted, not kept.",
    )
    retention_days_raw: PositiveFloat | None = Field(
        None, description="Days that readings are kept; unset: for ever. Older ones are not taken any more."
    )
    retention_days_1m: PositiveFloat | None = Field(
        None, description="Days that the one-minute rollup is kept, at least as long as readings; unset: for ever."
    )
    retention_days_15m: PositiveFloat | None = Field(
        None, description="Days that the quarter-hour rollup is kept, at least as long as minutes; unset: for ever."
    )
    outbox_minutes: PositiveFloat = Field(
        10, description="Minutes that streams can go back to; a client that was away for longer is told to ask anew."
    )
    outbox_bytes: PositiveInt = Field(
        256 * 1024 * 1024, description="Bytes of them at most, 22 a reading; with more input they go back less far."
    )
    quarantine_days: PositiveFloat | None = Field(
        90, description="Days that messages stay in quarantine; then they are counted as not kept. An empty value: for ever."
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
        description="Days a chunk of readings, unless a shorter one was made; a day makes thousands of an imported history.",
    )
    chunk_days_1m: PositiveFloat = Field(30, description="Days a chunk of the one-minute rollup, unless a shorter one was made.")
    chunk_rows: PositiveInt = Field(
        ROWS,
        description="Rows a chunk of either; where more come, ingest makes chunks of a day, six hours or an hour ahead.",
    )
    chunk_days_15m: PositiveFloat = Field(365, description="Days a chunk of the quarter-hour rollup.")

    @field_validator("retention_days_1m", "retention_days_15m", mode="after")
    @classmethod
    def _not_shorter(cls, days: float | None, info: ValidationInfo) -> float | None:
        finer = "retention_days_raw" if info.field_name == "retention_days_1m" else "retention_days_1m"
        if days is not None and finer in info.data and (info.data[finer] is None or info.data[finer] > days):
            told = "for ever" if info.data[finer] is None else f"{info.data[finer]:g} days"
            raise ValueError(
                f"a rollup is kept at least as long as what it is made of, which is kept {told} (CITYBEAT_{finer.upper()})"
            )
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
            raise ValueError("no zone of that name in the IANA database; such as Asia/Ho_Chi_Minh")
        return zone

    def load_catalogue(self) -> Catalogue:
        """The shipped catalogue, with the city's own metrics where a file is named.

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
        """What the stack room needs."""
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
        """What the API lets a request without a key do."""
        return frozenset({Scope.READ} if self.api_anonymous == "read" else ())

    def look(self) -> ConsoleSettings:
        """What the city decides about its console."""
        return ConsoleSettings(tiles=self.console_tiles, credit=self.console_credit, zone=self.zone)

    def session(self, mqtt_url: str) -> Session:
        """How ingest presents itself to this broker."""
        return Session(
            url=mqtt_url,
            client_id=self.client_id,
            receive_maximum=min(2 * self.batch_messages, 65_535),
            keepalive=self.mqtt_keepalive_s,
            ca=self.mqtt_ca,
        )

    def layout(self) -> IngestConfig:
        """How large ingest is, and when it turns to its spool."""
        return IngestConfig(
            workers=self.workers,
            size=BatchSize(messages=self.batch_messages, bytes=self.batch_bytes, linger=self.batch_linger_s),
            patience=Timeouts(spool_after=self.spool_after_s),
            inbox_bytes=self.inbox_bytes,
            spool=self.home / "spool" if self.spool_dir is None else self.spool_dir,
            spool_bytes=self.spool_bytes,
        )

    def pipeline(self, database_url: str) -> Pipeline:
        """Ingest's pipeline into this database."""
        return Pipeline(
            database_url,
            catalogue=self.load_catalogue(),
            limits=self.limits(),
            max_bytes=self.max_message_bytes,
            quarantine_quota=self.quarantine_quota_bytes,
        )

    def sizing(self) -> Sizing:
        """How long ingest has chunks be that grow with every reading."""
        longest = {"readings": self.chunk_days_raw, "readings_1m": self.chunk_days_1m}
        return Sizing(longest={table: timedelta(days=days) for table, days in longest.items()}, rows=self.chunk_rows)

    def limits(self) -> Limits:
        """What times are accepted."""
        return Limits(
            oldest=int(self.oldest_s * MICROSECOND),
            late_after=int(self.late_after_s * MICROSECOND),
            future_after=int(self.future_after_s * MICROSECOND),
            future_limit=int(self.future_limit_s * MICROSECOND),
        )

    def retention(self) -> Policy:
        """What housekeeping drops and compresses."""
        return Policy(
            raw=_days(self.retention_days_raw),
            minutes=_days(self.retention_days_1m),
            quarters=_days(self.retention_days_15m),
            quarantine=_days(self.quarantine_days),
            columnstore_raw=_days(self.columnstore_days_raw),
            columnstore_minutes=_days(self.columnstore_days_1m),
        )

    def outbox(self) -> Bounds:
        """What housekeeping keeps for streams."""
        return Bounds(keep=timedelta(minutes=self.outbox_minutes), bytes=self.outbox_bytes)

    def chunk_days(self) -> dict[str, float]:
        """Days a chunk, by hypertable."""
        return {"readings": self.chunk_days_raw, "readings_1m": self.chunk_days_1m, "readings_15m": self.chunk_days_15m}


def _days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)
