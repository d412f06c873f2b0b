"""Load generator: messages a second that it offers, against what one ingest worker takes (docs/load.md).

For messages of one reading and of a hundred, in one run: the rate that the generator offers to Mosquitto without a subscriber, and
the rate at which one ingest worker takes its messages, from the first one sent to the last one committed. The generator must be no
bottleneck: the ratio should be 3 at least.
"""

import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

from bench import scene
from citybeat.devices.wire.mqtt import Frame, Packets
from citybeat.simulator.load.generator import Sender, offer
from citybeat.simulator.load.tally import LoadReport
from citybeat.simulator.load.traffic import Traffic, stations, stations_for
from citybeat.storage.accounts import ledger

NAMES: Final = [f"load-{number}" for number in range(1, 5)]
STATIONS: Final = 250  # of each connection
#: Readings a message, and how many messages ingest is given: enough for some seconds, and fewer than the broker queues.
SIZES: Final = {1: 150_000, 100: 12_000}
BAR: Final = 3.0
_PATIENCE: Final = 300.0  # s


def measure(running: scene.Servers, seconds: float = 5.0) -> list[dict[str, Any]]:
    """Measure each size of message: a row each, with the generator's s of processor time for 100,000 messages."""
    most = max(stations_for(size, STATIONS) for size in SIZES)
    passwords = running.passwords(NAMES)
    with scene.opened(running, [device for name in NAMES for device in stations(name, most)]) as opened:
        # Without ingest, and without a session that it left behind: the broker keeps nothing.
        alone = {size: _offer(running, passwords, size, duration=seconds) for size in SIZES}
        with scene.ingesting(opened):
            taken = {size: _taken(opened, passwords, size) for size in SIZES}
    return [
        {
            "name": f"load generator, {size} reading{'s' if size > 1 else ''} a message",
            "ours_per_s": alone[size].messages_per_s,
            "cpu_per_100k": alone[size].cpu_per_100k,
            "limited_by": alone[size].limited_by,
            "limit_per_s": rate,
            "limit": "what one ingest worker takes",
            "ratio": (ratio := alone[size].messages_per_s / rate),
            "wrong": [f"it should be {BAR} times that at least"] if ratio < BAR else [],
        }
        for size, rate in taken.items()
    ]


class _Some:
    """A supply that ends after some messages of another one."""

    def __init__(self, supply: Traffic, count: int) -> None:
        self._supply, self._left = supply, count

    def take(self, count: int, frame: Frame, now: int) -> Packets | None:
        if not self._left:
            return None
        taken = self._supply.take(min(count, self._left), frame, now)
        self._left -= len(taken)
        return taken


def _offer(
    running: scene.Servers, passwords: Mapping[str, str], size: int, *, duration: float | None = None, count: int | None = None
) -> LoadReport:
    boot = secrets.token_hex(4)
    supplies = [Traffic(name, boot=boot, devices=stations_for(size, STATIONS), size=size) for name in passwords]
    senders = [Sender(source=name, password=word) for name, word in passwords.items()]
    limited = [_Some(supply, count // len(senders)) for supply in supplies] if count is not None else supplies
    report = offer(url=running.mqtt_url, senders=senders, supplies=limited, duration=duration)
    assert report.complete, report
    return report


def _taken(opened: scene.Scene, passwords: Mapping[str, str], size: int) -> float:
    """Return messages a second that one ingest worker commits."""
    elapsed = 0.0
    for count in (SIZES[size] // 10, SIZES[size]):  # the first ones open the caches, and are not counted
        wanted = ledger.totals(opened.connection).messages + count
        began = time.monotonic()
        _offer(opened.servers, passwords, size, count=count)
        while ledger.totals(opened.connection).messages < wanted:
            assert time.monotonic() < began + _PATIENCE, "ingest does not take all"
            time.sleep(0.02)
        elapsed = time.monotonic() - began
    return SIZES[size] / elapsed
