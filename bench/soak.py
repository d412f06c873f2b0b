"""Memory and books of ingest while more comes in than it can store: `python -m bench.soak [--seconds 60] [--workers 1]`.

First as much as it takes is sent, and counted; then twice that, with the spool taking the rest; then nothing, until the spool is
empty. Printed are rates, the highest resident memory of the intake and of each worker by the kernel's account (VmHWM), and whether
every reading is accounted for. Exit status 1 if a process had 400 MB, or the books do not balance.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from citybeat import stack
from citybeat.devices.catalogue import Domain, builtin
from citybeat.devices.device import Device, Sensor
from citybeat.devices.wire import reports
from citybeat.storage import migrate
from citybeat.storage.accounts import ledger
from citybeat.storage.db.connection import Connection, connect
from citybeat.storage.registry import records

SOURCES = [f"soak-{i}" for i in range(4)]
DEVICES = 250  # of each source
READINGS = 100  # a message
LIMIT = 400_000_000  # bytes
#: s for the spool to be emptied, at the most, per second of overload.
PATIENCE = 20.0
METRIC = "temperature"
START = time.time_ns() // 1_000_000 - 86_400_000  # ms


def _send(url: str, source: str, password: str, first: int, rate: float, seconds: float, told: Any) -> None:
    """A process: messages of one source for a while, `rate` a second, 0: as many as the broker takes; then tells how many."""
    parts = urlsplit(url)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set(source, password)
    client.max_inflight_messages_set(500)
    client.connect(parts.hostname or "", parts.port or 1883)
    client.loop_start()
    names = [[f"{source}-{i}" for i in range(part, part + 50)] * 2 for part in range(0, DEVICES, 50)]
    value = 20.0 + np.arange(READINGS) % 7
    window: deque[mqtt.MQTTMessageInfo] = deque()
    began, sent = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        if rate and sent >= rate * passed:
            time.sleep(0.001)
            continue
        at = START + (first + sent) * 20
        columns = {"device": names[sent % len(names)], "metric": METRIC, "ts": np.repeat([at, at + 1], 50), "value": value}
        payload = reports.encode(columns, seq=first + sent, boot="soak")
        window.append(client.publish(f"city/v1/{source}/readings", payload, qos=1))
        sent += 1
        if len(window) >= 1000:
            window.popleft().wait_for_publish(60.0)
    for info in window:
        info.wait_for_publish(60.0)
    client.disconnect()
    client.loop_stop()
    told.put(sent)


class Load:
    """Senders of all sources."""

    def __init__(self, url: str, passwords: Mapping[str, str]) -> None:
        self._url, self._passwords, self.sent = url, passwords, dict.fromkeys(passwords, 0)

    def phase(self, database: Connection, rate: float, seconds: float) -> float:
        """Send for a while, `rate` messages a second in all, 0: as many as possible; how many a second were stored meanwhile."""
        context = multiprocessing.get_context("spawn")
        tell = {source: context.Queue() for source in self.sent}
        processes = [
            context.Process(
                target=_send,
                args=(self._url, source, self._passwords[source], first, rate / len(tell), seconds, tell[source]),
            )
            for source, first in self.sent.items()
        ]
        for process in processes:
            process.start()
        while ledger.totals(database).messages == (before := ledger.totals(database).messages):
            time.sleep(0.01)
        began = time.monotonic()
        time.sleep(seconds)
        stored = (ledger.totals(database).messages - before) / (time.monotonic() - began)
        for source, queue in tell.items():
            self.sent[source] += queue.get()
        for process in processes:
            process.join()
        return stored


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    home = Path(os.environ.get("CITYBEAT_HOME", ".citybeat")) / "soak"
    root = Path(os.environ.get("CITYBEAT_TEST_ROOT", ".citybeat/root"))
    settings = stack.StackSettings(home=home, root=root, pg_port=0, mqtt_port=0)
    with stack.running(settings) as servers, closing(connect(servers.database_url, application="soak")) as database:
        migrate.migrate(database, builtin(), chunk_days={})
        sensors = (Sensor(metric=METRIC),)
        records.register(
            database,
            [
                Device(id=f"{source}-{i}", source=source, domain=Domain.ENVIRONMENT, sensors=sensors)
                for source in SOURCES
                for i in range(DEVICES)
            ],
        )
        environment = {
            **os.environ,
            "CITYBEAT_HOME": str(home),
            "CITYBEAT_DATABASE_URL": servers.database_url,
            "CITYBEAT_MQTT_URL": servers.mqtt_url,
            "CITYBEAT_INGEST_PORT": "0",
        }
        command = [sys.executable, "-m", "citybeat", "ingest", "--stats", "--workers", str(arguments.workers)]
        ingest = stack.spawn(command, env=environment, stdout=subprocess.PIPE)
        said: dict[str, object] = {}
        assert ingest.stdout is not None
        threading.Thread(target=_listen, args=(ingest.stdout, said), daemon=True).start()
        while not said.get("ready"):
            time.sleep(0.05)
        passwords = stack.credentials(settings, SOURCES)
        load = Load(servers.mqtt_url, passwords)
        try:
            sustained = load.phase(database, 0, arguments.seconds / 2)
            while said.get("spooled") or said.get("unacknowledged"):
                time.sleep(0.1)
            offered = load.phase(database, 2 * sustained, arguments.seconds)
            spooled = said.get("spooled")
            deadline = time.monotonic() + PATIENCE * arguments.seconds
            while (said.get("spooled") or said.get("unacknowledged")) and time.monotonic() < deadline:
                time.sleep(0.1)
            peaks = [_peak(pid) for pid in (ingest.pid, *_children(ingest.pid))]
        finally:
            ingest.terminate()
            ingest.wait(30)
        sent = sum(load.sent.values())
        seen = sum(count for count, _ in ledger.numbers(database, SOURCES).values())
        wrong = ledger.discrepancies(database)
        print(
            f"sustained {sustained * READINGS:,.0f} readings/s; then, of twice that, stored meanwhile {offered * READINGS:,.0f}/s"
        )
        print(f"sent {sent:,} messages, {spooled:,} of them in the spool at the end, {seen:,} accounted for")
        print(f"highest resident memory: intake {peaks[0] / 1e6:.0f} MB, workers {[round(peak / 1e6) for peak in peaks[1:]]} MB")
        print("\n".join(wrong) or "the books balance")
        database.execute("TRUNCATE readings, readings_1m, readings_15m, marks_15m, latest, ledger, ledger_totals, seqs, batches")
        return int(max(peaks) > LIMIT or bool(wrong) or seen != sent)


def _listen(stream: IO[bytes], said: dict[str, object]) -> None:
    for line in stream:
        said.update(json.loads(line))


def _peak(pid: int) -> int:
    """Bytes: the highest resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


if __name__ == "__main__":
    sys.exit(main())
