"""Is the load generator no bottleneck? `python -m bench.load [--seconds 5]`.

For messages of one reading and of a hundred, in one run: how many a second the generator offers to Mosquitto with nobody behind it
(what it could give); how many of its messages one ingest worker takes, from the first one sent to the last one committed; and, as a
peer, how many the simulator's own publisher (paho) offers. Beside the rates stand the sender's own seconds of CPU. The ratio is the
generator's rate over ingest's; exit status 1 if it is below 3.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from citybeat import stack
from citybeat.devices.catalogue import builtin
from citybeat.devices.wire.mqtt import Frame, Version
from citybeat.simulator.address import address
from citybeat.simulator.load.generator import Sender, offer
from citybeat.simulator.load.link import Link
from citybeat.simulator.load.tally import LoadReport
from citybeat.simulator.load.traffic import Traffic, stations, stations_for
from citybeat.simulator.publisher import Publisher
from citybeat.storage import migrate
from citybeat.storage.accounts import ledger
from citybeat.storage.db.connection import Connection, connect
from citybeat.storage.registry import records

CONNECTIONS = 4
STATIONS = 250  # of each connection
#: Readings a message, and how many messages ingest is given: enough for some seconds, and fewer than the broker queues.
SIZES = {1: 150_000, 100: 12_000}
PAHO = 0.3  # of these messages are enough for paho
BAR = 3.0
_PATIENCE = 300.0  # s


def measure(home: Path, seconds: float = 5.0) -> list[dict[str, Any]]:
    """A row for each size: rates a second, their ratio, and CPU for 100,000 messages."""
    settings = stack.StackSettings(home=home / "bench-load", root=_root(home), pg_port=0, mqtt_port=0)
    names = [f"load-{i}" for i in range(1, CONNECTIONS + 1)]
    with stack.running(settings) as servers, closing(connect(servers.database_url, application="bench")) as database:
        migrate.migrate(database, builtin(), chunk_days={})
        most = max(stations_for(size, STATIONS) for size in SIZES)
        records.register(database, [device for name in names for device in stations(name, most)])
        passwords = stack.credentials(settings, names)
        # Without ingest, and without a session that it left behind: the broker keeps nothing.
        _forget(servers.mqtt_url)
        alone = {size: _offer(servers.mqtt_url, passwords, size, duration=seconds) for size in SIZES}
        paho = {size: _paho(servers.mqtt_url, names[0], passwords[names[0]], size) for size in SIZES}
        taken = {size: _taken(servers, settings.home, database, passwords, size) for size in SIZES}
        database.execute(
            "TRUNCATE readings, readings_1m, readings_15m, marks_15m, latest, ledger, ledger_totals, seqs, batches, outbox"
        )
        _forget(servers.mqtt_url)
    return [
        {
            "name": f"load generator, {size} reading{'s' if size > 1 else ''} a message",
            "ours_per_s": alone[size].messages_per_s,
            "ours_cpu_per_100k": alone[size].cpu_per_100k,
            "limited_by": alone[size].limited_by,
            "limit_per_s": taken[size],
            "limit": "what one ingest worker takes",
            "ratio": alone[size].messages_per_s / taken[size],
            "paho_per_s": paho[size][0],
            "paho_cpu_per_100k": paho[size][1],
        }
        for size in SIZES
    ]


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table."""
    print(
        f"{'messages/s':40} {'offered':>9} {'CPU s/100k':>10} {'ingest':>9} {'ratio':>6} {'paho':>9} {'CPU s/100k':>10}  limited by"
    )
    for row in rows:
        print(
            f"{row['name']:40} {row['ours_per_s']:9,.0f} {row['ours_cpu_per_100k']:10.2f} {row['limit_per_s']:9,.0f} "
            f"{row['ratio']:6.1f} {row['paho_per_s']:9,.0f} {row['paho_cpu_per_100k']:10.2f}  {row['limited_by']}"
        )


def _offer(
    url: str, passwords: Mapping[str, str], size: int, *, duration: float | None = None, count: int | None = None
) -> LoadReport:
    boot = os.urandom(4).hex()
    supplies = [Traffic(name, boot=boot, devices=stations_for(size, STATIONS), size=size) for name in passwords]
    senders = [Sender(source=name, password=word) for name, word in passwords.items()]
    limited = [_Some(supply, count // len(senders)) for supply in supplies] if count is not None else supplies
    report = offer(url=url, senders=senders, supplies=limited, duration=duration)
    assert report.complete, report
    return report


class _Some:
    """So many messages of a supply."""

    def __init__(self, supply: Traffic, count: int) -> None:
        self._supply, self._left = supply, count

    def take(self, count: int, frame: Frame, now: int) -> Any:
        if not self._left:
            return None
        taken = self._supply.take(min(count, self._left), frame, now)
        self._left -= len(taken)
        return taken


def _paho(url: str, source: str, password: str, size: int) -> tuple[float, float]:
    """Messages a second of the simulator's publisher, and its seconds of CPU for 100,000; payloads are made before."""
    count = int(SIZES[size] * PAHO)
    frame, payloads = Frame(Version.V5, "t"), list[bytes]()
    traffic = Traffic(source, boot="paho", devices=stations_for(size, STATIONS), size=size)
    while len(payloads) < count:
        made = traffic.take(count - len(payloads), frame, time.time_ns() // 1000)
        head = int(made.id_at[0]) + 3
        ends = zip(made.start[:-1].tolist(), made.start[1:].tolist(), strict=True)
        payloads += [made.data[start + head : end].tobytes() for start, end in ends]
    link = Publisher(url=url, source=source, password=password)
    began, cpu = time.monotonic(), time.process_time()
    for payload in payloads:
        link.publish("readings", payload, readings=size)
    assert link.drain(_PATIENCE)
    elapsed, cpu = time.monotonic() - began, time.process_time() - cpu
    link.close()
    return count / elapsed, cpu / count * 100_000


def _taken(servers: stack.Servers, home: Path, database: Connection, passwords: Mapping[str, str], size: int) -> float:
    """Messages a second that one ingest worker commits."""
    environment = {
        **os.environ,
        "CITYBEAT_HOME": str(home),
        "CITYBEAT_DATABASE_URL": servers.database_url,
        "CITYBEAT_MQTT_URL": servers.mqtt_url,
        "CITYBEAT_INGEST_PORT": "0",
    }
    ingest = stack.spawn(
        [sys.executable, "-m", "citybeat", "ingest", "--stats"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert ingest.stdout is not None
    try:
        assert any(b'"ready"' in line for line in ingest.stdout), "ingest ended"
        threading.Thread(target=ingest.stdout.read, daemon=True).start()
        # What comes first opens the caches: it is not counted.
        before = ledger.totals(database).messages
        _offer(servers.mqtt_url, passwords, size, count=SIZES[size] // 10)
        _await(database, before + SIZES[size] // 10)
        before = ledger.totals(database).messages
        began = time.monotonic()
        _offer(servers.mqtt_url, passwords, size, count=SIZES[size])
        _await(database, before + SIZES[size])
        elapsed = time.monotonic() - began
    finally:
        ingest.terminate()
        ingest.wait(60)
    return SIZES[size] / elapsed


def _await(database: Connection, messages: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while ledger.totals(database).messages < messages:
        assert time.monotonic() < deadline, "ingest does not take all"
        time.sleep(0.02)


def _forget(url: str) -> None:
    """End ingest's session at the broker, if there is one: what nobody would fetch would be kept."""
    parts = urlsplit(url)
    link = Link(address(url), topic="t", username=parts.username, password=parts.password, window=1, client_id="citybeat-ingest")
    link.connect(time.monotonic_ns())
    link.close()


def _root(home: Path) -> Path:
    return Path(os.environ.get("CITYBEAT_TEST_ROOT", str(home / "root")))


def main() -> int:
    """Measure, and say whether it is enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    rows = measure(Path(os.environ.get("CITYBEAT_HOME", ".citybeat")), arguments.seconds)
    show(rows)
    return int(any(row["ratio"] < BAR for row in rows))


if __name__ == "__main__":
    sys.exit(main())
