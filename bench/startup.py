"""How long commands take to be of use, from starting the process on: `python -m bench.startup`.

- `citybeat --help`, ended;
- `citybeat ingest`, ready: its `/readyz` says that it is subscribed and that its worker has loaded the registry (10,000 devices);
- `citybeat api`, ready: its `/readyz` says so.

The limit of each is a bare interpreter that imports the same third-party libraries and ends: nobody who uses them is faster. In
turn, medians. What remains is our own modules, the registry, and the connections.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bench import mqtt, scene
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
#: What each command has imported of others when it is ready, but for what these import; by command.
LIBRARIES: Final[Mapping[str, tuple[str, ...]]] = {
    "--help": (*_ALL, "paho.mqtt.client"),
    "ingest": (*_ALL, "paho.mqtt.client"),
    "api": (*_ALL, "fastapi", "uvicorn", "pyarrow", "limits", "tsdownsample", "fastapi_offline"),
}
#: s for a command to be ready.
_PATIENCE: Final = 60.0


def measure(running: scene.Servers, rounds: int = 5) -> list[dict[str, Any]]:
    """A row a command."""
    with scene.opened(running, City().registrations()) as opened:
        return measure_in(opened, rounds)


def measure_in(opened: scene.Scene, rounds: int, only: Sequence[str] = tuple(LIBRARIES)) -> list[dict[str, Any]]:
    """The same of some commands, with what is registered in a scene."""
    env, rows = scene.environment(opened), []
    cases: dict[str, Callable[[], float]] = {
        "--help": lambda: _ended([sys.executable, "-m", "citybeat", "--help"], env),
        "ingest": lambda: _ready("ingest", ["--stats"], "CITYBEAT_INGEST_PORT", env),
        "api": lambda: _ready("api", [], "CITYBEAT_API_PORT", env),
    }
    for name in only:
        bare = [sys.executable, "-c", f"import {', '.join(LIBRARIES[name])}"]
        pairs = []
        for _ in range(rounds + 1):  # the first fills the page cache
            limit = _ended(bare, env)
            pairs.append((cases[name](), limit))
            mqtt.forget(opened.servers.mqtt_url, env["CITYBEAT_CLIENT_ID"])
        took, limits = zip(*pairs[1:], strict=True)
        rows.append(
            {
                "name": f"start-up, citybeat {name}",
                "ours_ms": 1000 * _median(took),
                "limit_ms": 1000 * _median(limits),
                "ratio": _median([limit / our for our, limit in pairs[1:]]),
                "limit": "an interpreter that imports the same libraries",
            }
        )
    return rows


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _ended(command: Sequence[str], env: Mapping[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=dict(env), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _ready(name: str, options: Sequence[str], port_setting: str, env: Mapping[str, str]) -> float:
    """s until it answers that it is ready. With `--stats` it is asked only when it has said that it is subscribed."""
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


if __name__ == "__main__":
    with scene.servers() as servers:
        table = measure(servers)
    for line in table:
        print(f"{line['name']:30} {line['ours_ms']:8.0f} {line['limit_ms']:8.0f} ms {line['ratio']:6.2f}")
    print(json.dumps(table, indent=2))
