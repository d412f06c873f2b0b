"""Types shared by the stack's modules: settings, addresses and status of servers, and the layout of a home."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Flavour = Literal["auto", "docker", "root"]
State = Literal["running", "stopped", "crashed", "given"]
Say = Callable[[str], None]

TIMESCALEDB = "timescaledb"
MOSQUITTO = "mosquitto"

# Names of citybeat's settings, for messages that tell a user which to change.
PORT_SETTINGS = {TIMESCALEDB: "CITYBEAT_PG_PORT", MOSQUITTO: "CITYBEAT_MQTT_PORT"}


@dataclass(frozen=True, kw_only=True, slots=True)
class StackSettings:
    """Servers to run, and their home.

    A port of 0 is the port of servers that already run in this home, or any free port; tests use it.
    """

    home: Path  # state directory, created if missing
    root: Path | None = None  # the private Debian root; None: home/"root". Several homes may share one.
    pg_port: int = 5433  # TCP; a PostgreSQL of the machine itself would use 5432
    mqtt_port: int = 1884  # TCP; a broker of the machine itself would use 1883
    database_url: str | None = None  # if given, this server is used and none is started
    mqtt_url: str | None = None  # if given, this broker is used and none is started
    flavour: Flavour = "auto"  # auto: Docker where an engine answers, else the private root

    def wanted(self) -> tuple[str, ...]:
        """Names of the servers to run, in the order in which they are listed."""
        names = []
        if self.database_url is None:
            names.append(TIMESCALEDB)
        if self.mqtt_url is None:
            names.append(MOSQUITTO)
        return tuple(names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Servers:
    """URLs of the servers. They contain passwords: show them to their owner only."""

    database_url: str  # postgresql://citybeat:<password>@127.0.0.1:<port>/citybeat
    mqtt_url: str  # mqtt://ingest:<password>@127.0.0.1:<port>
    kind: str  # "given" | "docker" | "root"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerStatus:
    """Present state of one server."""

    name: str  # TIMESCALEDB or MOSQUITTO
    state: State  # crashed: it ended by itself
    pid: int | None  # of the server itself in this machine's process table; None if it does not run there
    detail: str  # one line, or for a crashed server the tail of its log


@dataclass(frozen=True, slots=True)
class Home:
    """Layout of a state directory."""

    path: Path

    @classmethod
    def of(cls, settings: StackSettings) -> "Home":
        return cls(settings.home.absolute())

    @property
    def credentials(self) -> Path:
        return self.path / "credentials.json"

    @property
    def servers(self) -> Path:
        """The directory that the servers see as `/`, with their data and configuration only."""
        return self.path / "servers"

    @property
    def config(self) -> Path:
        return self.servers / "config"

    @property
    def secrets(self) -> Path:
        """Directory of the broker's password file. A directory, because the file is replaced and containers mount by inode."""
        return self.servers / "secrets"

    @property
    def run(self) -> Path:
        """Directory of locks and of the supervisor's state, which mean nothing after a reboot."""
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
        """Create the directories, readable by their owner only: they contain passwords and a city's data."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self.servers, self.config, self.secrets, self.run, self.path / "log"):
            directory.mkdir(exist_ok=True)
