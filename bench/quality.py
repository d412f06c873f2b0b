"""Quality checks on recorded sensor data: `python -m bench.quality ../shared/data`.

The files go through the simulator's reader and ingest's core, in batches, without a broker or a database. Each line has
the number of readings of a metric and of each flag; docs/quality.md has the output and its interpretation.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from citybeat.devices import catalogue
from citybeat.devices.batch import Batch
from citybeat.devices.flags import Flag
from citybeat.devices.registry.snapshot import Registry, SeriesRow, build
from citybeat.devices.wire import reports as wire
from citybeat.ingest.judging.decode import decode
from citybeat.ingest.judging.history import History
from citybeat.ingest.judging.judge import judge
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.simulator.replay import recording
from citybeat.simulator.replay.maps import ReplayMap, load_map
from citybeat.simulator.replay.recording import Row

MAPS = Path(__file__).parents[1] / "tests" / "maps"
#: By map: the files, in order.
FILES = {
    "lcl": "energy/LCL_MAC000002.csv",
    "household": "energy/household_power_consumption_first1MiB.txt",
    "airquality": "environment/AirQualityUCI.csv",
    "aberdeen_sds011": "environment/sensor_community_aberdeen/*_sds011_*.csv",
    "aberdeen_dht22": "environment/sensor_community_aberdeen/*_dht22_*.csv",
    "nab": "traffic/nab_realTraffic/*.csv",
    "fremont": "traffic/FremontBridge.csv",
    "aarhus": "traffic/aarhus_trafficData158324.csv",
}
SHOWN = (Flag.RANGE, Flag.STEP, Flag.STUCK, Flag.SUSPECT)
#: us since 1970 UTC: the time of receipt of everything, later than all of it.
NOW = 1_767_225_600_000_000


def main() -> None:
    """Print the table."""
    data = Path(sys.argv[1])
    own = catalogue.extended((MAPS / "airquality_catalogue.toml").read_text("utf-8"), origin="airquality_catalogue.toml")
    print(f"{'map':16} {'device':22} {'metric':24} {'readings':>8} {'missing':>8} " + " ".join(f"{f.name:>8}" for f in SHOWN))
    for name, pattern in FILES.items():
        replay_map = load_map((MAPS / f"{name}.yaml").read_text("utf-8"), origin=name)
        registry = _registry(replay_map, own)
        readings, missing, flags = _judged(sorted(data.glob(pattern)), replay_map, registry)
        for (device, metric), number in sorted(registry.series.items()):
            counts = " ".join(f"{flags[number, flag]:8}" for flag in SHOWN)
            print(f"{name:16} {device:22} {metric:24} {readings[number]:8} {missing[device, metric]:8} {counts}")


def _registry(replay_map: ReplayMap, metrics: catalogue.Catalogue) -> Registry:
    pairs = [(device, sensor) for device in replay_map.devices for sensor in device.sensors]
    rows = [
        SeriesRow(id=i, device=device.id, source=1, retired=False, metric=metrics[sensor.metric], sensor=sensor)
        for i, (device, sensor) in enumerate(pairs, 1)
    ]
    return build(version=1, sources={"file": 1}, devices=dict.fromkeys((device.id for device in replay_map.devices), 1), rows=rows)


def _judged(
    files: list[Path], replay_map: ReplayMap, registry: Registry
) -> tuple[Counter[int], Counter[tuple[str, str]], Counter[tuple[int, Flag]]]:
    history = History.empty(len(registry.owner))
    readings: Counter[int] = Counter()
    missing: Counter[tuple[str, str]] = Counter()
    flags: Counter[tuple[int, Flag]] = Counter()
    for reports in _batches(files, replay_map):
        message = Message("city/v1/file/readings", wire.encode(reports), NOW, False, 1, 1, 1)
        read = decode([message], max_bytes=1 << 30)
        prepared = judge(read, np.ones(1, np.int32), registry, Limits(), history)
        batch = prepared.judged.batch
        first = _first_of_each(batch)
        history.advance(batch.take(first), prepared.same_since[first])
        kept = batch.take(first)
        readings.update(kept.series.tolist())
        stored = set(zip(batch.message.tolist(), batch.index.tolist(), strict=True))
        refused = {(r.message, r.index) for r in prepared.refused}
        decoded = read.decoded
        told = zip(decoded.message.tolist(), decoded.index.tolist(), decoded.device, decoded.metric, strict=True)
        missing.update(
            (device, metric)
            for place, index, device, metric in told
            if (place, index) not in stored and (place, index) not in refused
        )
        for flag in SHOWN:
            flags.update((number, flag) for number in kept.series[(kept.flags & flag) != 0].tolist())
    return readings, missing, flags


def _first_of_each(batch: Batch) -> np.ndarray:
    """Return which readings are the first of their series and time: those are stored."""
    repeats = (batch.series[1:] == batch.series[:-1]) & (batch.time[1:] == batch.time[:-1])
    return np.append(True, ~repeats)


def _batches(files: list[Path], replay_map: ReplayMap, size: int = 1000) -> Iterator[list[dict[str, object]]]:
    reports: list[dict[str, object]] = []
    for path in files:
        with path.open("rb") as lines:
            for row in recording.read(lines, replay_map, file=path.name):
                if isinstance(row, Row):
                    reports += [wire.encode_report(report.device, row.time, report.values) for report in row.reports]
                if len(reports) >= size:
                    yield reports
                    reports = []
    if reports:
        yield reports


if __name__ == "__main__":
    main()
