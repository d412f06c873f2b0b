"""What the supervisor is told, and what it tells: two JSON files in the home's `run/` directory."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from citybeat.stack.passwords import write_private
from citybeat.stack.process import Identity


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A server as the supervisor starts and stops it."""

    name: str
    argv: list[str]  # inside the sandbox
    log: str  # file that its output is appended to
    stop: list[tuple[str, float]]  # signals, mild ones first, each with the seconds that it is given


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that a supervisor needs to know."""

    kind: str  # "root" | "docker"
    ports: dict[str, int]  # server -> TCP port on 127.0.0.1
    sandbox: dict[str, str] | None = None  # as Sandbox.to_json makes it; None where there are no programs
    programs: list[Program] = field(default_factory=list)
    on_stop: list[str] = field(default_factory=list)  # a command that stops what is not a child of the supervisor

    def save(self, path: Path) -> None:
        write_private(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Plan":
        data = json.loads(path.read_text())
        data["programs"] = [
            Program(**{**program, "stop": [(name, seconds) for name, seconds in program["stop"]]}) for program in data["programs"]
        ]
        return cls(**data)


@dataclass(slots=True)
class Running:
    """One server as its supervisor last saw it."""

    state: str  # "running" | "crashed"
    process: Identity  # of the server itself
    log_from: int  # bytes of the log that are older than this start
    exit_status: int | None = None  # once it has crashed; negative: the signal


@dataclass(slots=True)
class Report:
    """What the supervisor says: written at every change, removed when it has stopped everything."""

    supervisor: Identity
    kind: str
    ports: dict[str, int]
    servers: dict[str, Running] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        write_private(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Report | None":
        """Read a report; None when there is none, so that nothing runs and nothing has crashed."""
        try:
            data: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        servers = {
            name: Running(**{**server, "process": Identity(**server["process"])}) for name, server in data["servers"].items()
        }
        return cls(Identity(**data["supervisor"]), data["kind"], data["ports"], servers)
