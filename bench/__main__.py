"""`make bench`: measure, print tables, write JSON. `ARGS="--only store latency"`: some of it; `ARGS=--full`: the largest sizes."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from bench import (
    api,
    dashboards,
    end_to_end,
    export,
    gateway,
    growth,
    hotpath,
    latency,
    load,
    peers,
    scene,
    startup,
    store,
    table,
)
from bench.city import served

OUT: Final = Path(".citybeat") / "bench.json"
Rows = list[dict[str, Any]]


def _with_servers(work: Callable[[scene.Servers], Rows]) -> Callable[[], Rows]:
    def measured() -> Rows:
        with scene.servers() as running:
            return work(running)

    return measured


def _growth(running: scene.Servers, *, full: bool) -> Rows:
    sizes = growth.SERIES if full else growth.SERIES[:-1]
    past = growth.ALL_STORED if full else growth.STORED
    return growth.series(running, sizes) + growth.stored(running, past) + growth.workers(running)


def _questions() -> Rows:
    with served(scene.home()) as city:
        return api.measure(city) + export.measure(city)


def parts(*, full: bool) -> Mapping[str, Callable[[], Rows]]:
    """Return the measurements by name, in their order."""
    return {
        "hotpath": hotpath.measure,
        "gateway": gateway.measure,
        "store": _with_servers(store.measure),
        "end_to_end": _with_servers(end_to_end.measure),
        "latency": _with_servers(latency.measure),
        "load": _with_servers(load.measure),
        "peers": _with_servers(peers.measure),
        "startup": _with_servers(startup.measure),
        "growth": _with_servers(lambda running: _growth(running, full=full)),
        "questions": _questions,
        "dashboards": lambda: dashboards.measure(scene.home()),
    }


def _show(name: str, rows: Rows) -> None:
    if name == "dashboards":
        dashboards.report(rows)
    else:
        table.show(rows)
    print(flush=True)


def main() -> None:
    """Run every measurement, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=OUT, help="JSON file")
    parser.add_argument("--only", nargs="+", choices=list(parts(full=False)), help="these parts")
    parser.add_argument("--full", action="store_true", help="up to 1,000,000 series and 100,000,000 stored readings")
    told = parser.parse_args()
    found: Rows = []
    for name, work in parts(full=told.full).items():
        if told.only and name not in told.only:
            continue
        began = time.monotonic()
        rows = work()
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        _show(name, rows)
        found += rows
        told.out.parent.mkdir(parents=True, exist_ok=True)
        told.out.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
