"""The nouns that the stack's modules share: settings, the servers' addresses, their status, and the home's layout."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Flavour = Literal["auto", "docker", "root"]
State = Literal["running", "stopped", "crashed", "given"]
Say = Callable[[str], None]

TIMESCALEDB = "timescaledb"
MOSQUITTO = "mosquitto"

# The names that citybeat's own settings have, for messages that tell a user what to change.
PORT_SETTINGS = {TIMESCALEDB: "CITYBEAT_PG_PORT", MOSQUITTO: "CITYBEAT_MQTT_PORT"}


@dataclass(frozen=True, kw_only=True, slots=True)
class StackSettings:
    """What to run, and where.

    A port of 0 means the port of the stack that already runs in this home, or any free one: tests use it.
    """

    home: Path  # state directory, made when it is missing
    root: Path | None = None  # the private Debian root; None: home/"root". Several homes may share one.
    pg_port: int = 5433  # TCP; 5432 is where a machine's own PostgreSQL would be
    mqtt_port: int = 1884  # TCP; 1883 is where a machine's own broker would be
    database_url: str | None = None  # given: that server is not ours to start
    mqtt_url: str | None = None  # given: that broker is not ours to start
    flavour: Flavour = "auto"  # auto: Docker where an engine answers, else the private root

    def wanted(self) -> tuple[str, ...]:
        """Names of the servers that are ours to run, in the order in which they are listed."""
        names = []
        if self.database_url is None:
            names.append(TIMESCALEDB)
        if self.mqtt_url is None:
            names.append(MOSQUITTO)
        return tuple(names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Servers:
    """Where the servers answer. The URLs contain passwords: show them to their owner only."""

    database_url: str  # postgresql://citybeat:<password>@127.0.0.1:<port>/citybeat
    mqtt_url: str  # mqtt://ingest:<password>@127.0.0.1:<port>
    kind: str  # "given" | "docker" | "root"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerStatus:
    """One server as it is now."""

    name: str  # TIMESCALEDB or MOSQUITTO
    state: State  # crashed: it ended and nobody had asked it to
    pid: int | None  # of the server itself, as this machine's process table has it; None where there is none
    detail: str  # one line, or for a crashed server the tail of its log


@dataclass(frozen=True, slots=True)
class Home:
    """Where things are in a state directory."""

    path: Path

    @classmethod
    def of(cls, settings: StackSettings) -> "Home":
        return cls(settings.home.absolute())

    @property
    def credentials(self) -> Path:
        return self.path / "credentials.json"

    @property
    def servers(self) -> Path:
        """The directory that the servers see as `/`: their data, their configuration, and nothing of anybody else."""
        return self.path / "servers"

    @property
    def config(self) -> Path:
        return self.servers / "config"

    @property
    def secrets(self) -> Path:
        """The broker's password file; a directory, because the file is replaced and containers mount by inode."""
        return self.servers / "secrets"

    @property
    def run(self) -> Path:
        """Locks and the supervisor's state: worthless after a reboot."""
        return self.path / "run"

    @property
    def state(self) -> Path:
        return self.run / "state.json"

    @property
    def plan(self) -> Path:
        return self.run / "plan.json"

    @property
    def keep(self) -> Path:
        """While this file exists, the servers outlive the processes that use them (`stack up`)."""
        return self.run / "keep"

    @property
    def users(self) -> Path:
        """Each process that uses the servers holds a shared lock on this file; the kernel drops it with the process."""
        return self.run / "users.lock"

    def log(self, name: str) -> Path:
        return self.path / "log" / f"{name}.log"

    def root(self, settings: StackSettings) -> Path:
        return settings.root.absolute() if settings.root is not None else self.path / "root"

    def make(self) -> None:
        """Make the directories, readable by their owner only: they hold passwords and a city's data."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self.servers, self.config, self.secrets, self.run, self.path / "log"):
            directory.mkdir(exist_ok=True)
