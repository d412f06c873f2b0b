"""Memory and books of ingest while more comes in than it can store: `python -m bench.soak [--seconds 60] [--workers 1]`.

First as much as it takes is sent, and counted; then twice that, with the spool taking the rest; then nothing, until the spool is
empty. Printed are rates, the highest resident memory of the intake and of each worker by the kernel's account (VmHWM), and whether
every reading is accounted for. Exit status 1 if a process had 400 MB, or the books do not balance.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import paho.mqtt.client as mqtt

import stack
from devices import wire
from devices.catalogue import builtin
from devices.device import Device, Sensor
from storage import accounts, migrate, registry
from storage.database import Connection, connect

SOURCES = [f"soak-{i}" for i in range(4)]
DEVICES = 250  # of each source
READINGS = 100  # a message
LIMIT = 400_000_000  # bytes
#: s for the spool to be emptied, at the most, per second of overload.
PATIENCE = 20.0
METRIC = "temperature"


class Sender:
    """Messages of one source, as many a second as it is told, each reading newer than the one before."""

    def __init__(self, url: str, source: str, password: str) -> None:
        parts = urlsplit(url)
        self._source, self._at, self._sweep, self.sent = source, time.time_ns() // 1_000_000 - 86_400_000, 0, 0
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.username_pw_set(source, password)
        self._client.max_inflight_messages_set(200)
        self._client.connect(parts.hostname or "", parts.port or 1883)
        self._client.loop_start()

    def send(self, rate: float, seconds: float) -> None:
        """`rate` messages a second; 0: as many as the broker takes."""
        began, mine = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            if (rate and mine >= rate * passed) or self._client._out_messages.__len__() >= 400:  # noqa: SLF001 - paho has no other gauge
                time.sleep(0.001)
                continue
            part, self._sweep = self._sweep % (DEVICES // 50), self._sweep + 1
            names = [f"{self._source}-{i}" for i in range(part * 50, part * 50 + 50)] * 2
            at = self._at + self._sweep * 20
            ts = np.repeat([at, at + 1], 50)
            value = 20.0 + np.arange(READINGS) % 7
            columns = {"device": names, "metric": METRIC, "ts": ts, "value": value}
            payload = wire.encode(columns, seq=self.sent, boot="soak")
            self._client.publish(f"city/v1/{self._source}/readings", payload, qos=1)
            self.sent += 1
            mine += 1

    def close(self) -> None:
        """When the broker has all of it."""
        while self._client._out_messages:  # noqa: SLF001
            time.sleep(0.01)
        self._client.disconnect()
        self._client.loop_stop()


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
        registry.register(
            database,
            [
                Device(id=f"{source}-{i}", source=source, domain="environment", sensors=sensors)
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
        threading.Thread(target=_listen, args=(ingest.stdout, said), daemon=True).start()
        while not said.get("ready"):
            time.sleep(0.05)
        passwords = stack.credentials(settings, SOURCES)
        senders = [Sender(servers.mqtt_url, source, passwords[source]) for source in SOURCES]
        try:
            sustained = _phase(database, senders, 0, arguments.seconds / 4)
            while said.get("spooled") or said.get("unacknowledged"):
                time.sleep(0.1)
            offered = _phase(database, senders, 2 * sustained, arguments.seconds)
            spooled = said.get("spooled")
            for sender in senders:
                sender.close()
            deadline = time.monotonic() + PATIENCE * arguments.seconds
            while (said.get("spooled") or said.get("unacknowledged")) and time.monotonic() < deadline:
                time.sleep(0.1)
            peaks = [_peak(pid) for pid in (ingest.pid, *_children(ingest.pid))]
        finally:
            ingest.terminate()
            ingest.wait(30)
        sent = sum(sender.sent for sender in senders)
        seen = sum(count for count, _ in accounts.numbers(database, SOURCES).values())
        wrong = accounts.discrepancies(database)
        print(
            f"sustained {sustained * READINGS:,.0f} readings/s; then, of twice that, stored meanwhile {offered * READINGS:,.0f}/s"
        )
        print(f"sent {sent:,} messages, {spooled:,} of them in the spool at the end, {seen:,} accounted for")
        print(f"highest resident memory: intake {peaks[0] / 1e6:.0f} MB, workers {[round(peak / 1e6) for peak in peaks[1:]]} MB")
        print("\n".join(wrong) or "the books balance")
        database.execute("TRUNCATE readings, readings_1m, readings_15m, marks_15m, latest, ledger, ledger_totals, seqs, batches")
        return int(max(peaks) > LIMIT or bool(wrong) or seen != sent)


def _phase(database: Connection, senders: list[Sender], rate: float, seconds: float) -> float:
    """Send for a while; messages that were stored a second meanwhile."""
    before, began = accounts.totals(database).messages, time.monotonic()
    threads = [threading.Thread(target=sender.send, args=(rate / len(senders), seconds)) for sender in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (accounts.totals(database).messages - before) / (time.monotonic() - began)


def _listen(stream: object, said: dict[str, object]) -> None:
    for line in stream:  # type: ignore[attr-defined]
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
