"""Start-up: the time from the start of a process to its being ready.

- `citybeat --help`, ended;
- `citybeat ingest`, ready: its `/readyz` says that it is subscribed and that its worker has loaded the registry (10,000 devices);
- `citybeat api`, ready: its `/readyz` says so.

The limit of each is a bare interpreter that imports the same third-party libraries and ends: no program that uses them is faster.
What remains is our own modules, the registry, and the connections.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bench import scene, table
from bench.sender import forget
from bench.workload import City
from citybeat import stack
from citybeat.stack.process import free_port

_ALL: Final = (
    "cbor2",
    "numpy",
    "orjson",
    "prometheus_client",
    "psycopg",
    "psycopg_pool",
    "pydantic_settings",
    "structlog",
    "typer",
)
#: Third-party libraries that a command has imported when it is ready, without those that these import; by command.
LIBRARIES: Final[Mapping[str, tuple[str, ...]]] = {
    "--help": (*_ALL, "paho.mqtt.client"),
    "ingest": (*_ALL, "paho.mqtt.client"),
    "api": (*_ALL, "fastapi", "uvicorn", "pyarrow", "limits", "tsdownsample", "fastapi_offline"),
}
#: s for a command to be ready.
_PATIENCE: Final = 60.0


def measure(running: scene.Servers, rounds: int = 5) -> list[dict[str, Any]]:
    """Measure each command: a row each."""
    with scene.opened(running, City().registrations()) as opened:
        return measure_in(opened, rounds)


def measure_in(opened: scene.Scene, rounds: int, only: Sequence[str] = tuple(LIBRARIES)) -> list[dict[str, Any]]:
    """Measure some commands, with the devices that are registered in a scene."""
    env = scene.environment(opened)
    cases: dict[str, Callable[[], float]] = {
        "--help": lambda: _ended([sys.executable, "-m", "citybeat", "--help"], env),
        "ingest": lambda: _ready("ingest", ["--stats"], "CITYBEAT_INGEST_PORT", env),
        "api": lambda: _ready("api", [], "CITYBEAT_API_PORT", env),
    }

    def measured(name: str) -> dict[str, Any]:
        def bare() -> float:
            forget(opened.servers.mqtt_url, env["CITYBEAT_CLIENT_ID"])
            return _ended([sys.executable, "-c", f"import {', '.join(LIBRARIES[name])}"], env)

        found = table.pairs(cases[name], bare, rounds)
        return table.row(f"start-up, citybeat {name}", found, "an interpreter that imports the same libraries")

    return [measured(name) for name in only]


def _ended(command: Sequence[str], env: Mapping[str, str]) -> float:
    return table.timed(lambda: subprocess.run(command, env=dict(env), stdout=subprocess.DEVNULL, check=True))


def _ready(name: str, options: Sequence[str], port_setting: str, env: Mapping[str, str]) -> float:
    """Return s until it answers that it is ready. With `--stats` it is asked only when it has printed that it is subscribed."""
    port = free_port()
    settings = {**env, port_setting: str(port), "CITYBEAT_API_ANONYMOUS": "read"}
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = stack.spawn([sys.executable, "-m", "citybeat", name, *options], env=settings, stdout=subprocess.PIPE, stderr=log)
        assert process.stdout is not None
        try:
            ready = not options or b'"ready": true' in process.stdout.readline()
            while not ready or not scene.answers(port):
                if not ready or process.poll() is not None or time.perf_counter() - began > _PATIENCE:
                    log.seek(0)
                    raise RuntimeError(f"citybeat {name} did not get ready:\n{log.read().decode()}")
                time.sleep(0.005)
            return time.perf_counter() - began
        finally:
            process.terminate()
            process.communicate(timeout=30)
