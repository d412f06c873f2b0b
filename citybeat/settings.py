"""Every setting of citybeat, with unit, default and reason: environment variables, prefix `CITYBEAT_` (docs/settings.md)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

from devices import catalogue
from devices.batch import MICROSECOND
from devices.catalogue import Catalogue
from devices.errors import CatalogueError
from ingest.gateway import Session
from ingest.inbox import BatchSize
from ingest.pipeline import Pipeline
from ingest.validate import Limits
from stack import StackSettings

Port = Annotated[int, Field(ge=0, le=65_535)]


class Settings(BaseSettings):
    """Read once, at the start of a command."""

    model_config = SettingsConfigDict(env_prefix="CITYBEAT_", extra="ignore", frozen=True)

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
    catalogue: Path | None = Field(None, description="TOML file of a city's own metrics, columns as in devices/catalogue.toml.")

    credentials: Path | None = Field(
        None, description="JSON file of broker passwords by source, for the simulator at a given broker; the local one has its own."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Of ingest's log, on standard error.")

    client_id: str = Field(
        "citybeat-ingest", description="MQTT client id of ingest: stable, since the broker keeps its queue by it."
    )
    max_message_bytes: PositiveInt = Field(4 * 1024 * 1024, description="Bytes; a larger payload is quarantined unread.")
    batch_messages: PositiveInt = Field(5_000, description="Messages a transaction at most; Receive Maximum is twice that.")
    batch_bytes: PositiveInt = Field(4 * 1024 * 1024, description="Bytes of payload a transaction at most.")
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
    chunk_days_raw: PositiveFloat = Field(
        7, description="Days a chunk of readings; one day makes thousands out of an imported history."
    )
    chunk_days_1m: PositiveFloat = Field(30, description="Days a chunk of the one-minute rollup.")
    chunk_days_15m: PositiveFloat = Field(365, description="Days a chunk of the quarter-hour rollup.")

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

    def session(self, mqtt_url: str) -> Session:
        """How ingest presents itself to this broker."""
        return Session(url=mqtt_url, client_id=self.client_id, receive_maximum=min(2 * self.batch_messages, 65_535))

    def batch_size(self) -> BatchSize:
        """When ingest's batches are full."""
        return BatchSize(messages=self.batch_messages, bytes=self.batch_bytes, linger=self.batch_linger_s)

    def pipeline(self, database_url: str) -> Pipeline:
        """Ingest's pipeline into this database."""
        return Pipeline(
            database_url,
            catalogue=self.load_catalogue(),
            limits=self.limits(),
            max_bytes=self.max_message_bytes,
            quarantine_quota=self.quarantine_quota_bytes,
        )

    def limits(self) -> Limits:
        """What times are accepted."""
        return Limits(
            oldest=int(self.oldest_s * MICROSECOND),
            late_after=int(self.late_after_s * MICROSECOND),
            future_after=int(self.future_after_s * MICROSECOND),
            future_limit=int(self.future_limit_s * MICROSECOND),
        )

    def chunk_days(self) -> dict[str, float]:
        """Days a chunk, by hypertable."""
        return {"readings": self.chunk_days_raw, "readings_1m": self.chunk_days_1m, "readings_15m": self.chunk_days_15m}
