"""The supervisor's plan (input) and report (output): two JSON files in the home's `run/` directory."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from citybeat.stack.passwords import write_private
from citybeat.stack.process import Identity


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """Command, log and stop signals of one server."""

    name: str
    argv: list[str]  # inside the sandbox
    log: str  # file that its output is appended to
    stop: list[tuple[str, float]]  # signals in order of severity, each with the seconds until the next


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Input of a supervisor: the servers to run and their sandbox."""

    kind: str  # "root" | "docker"
    ports: dict[str, int]  # server -> TCP port on 127.0.0.1
    sandbox: dict[str, str] | None = None  # from Sandbox.to_json; None without programs
    programs: list[Program] = field(default_factory=list)
    on_stop: list[str] = field(default_factory=list)  # command that stops servers which are not children of the supervisor

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
    """State of one server, as its supervisor last saw it."""

    state: str  # "running" | "crashed"
    process: Identity  # of the server itself
    log_from: int  # length (bytes) of the log before this start
    exit_status: int | None = None  # of a crashed server; negative: the signal that ended it


@dataclass(slots=True)
class Report:
    """Output of a supervisor: written at every change, removed when all servers have stopped."""

    supervisor: Identity
    kind: str
    ports: dict[str, int]
    servers: dict[str, Running] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        write_private(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Report | None":
        """Read a report; None if there is none: then no server runs and none has crashed."""
        try:
            data: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        servers = {
            name: Running(**{**server, "process": Identity(**server["process"])}) for name, server in data["servers"].items()
        }
        return cls(Identity(**data["supervisor"]), data["kind"], data["ports"], servers)
