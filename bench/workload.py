"""Workloads of the measurements. Pure: no clock, no servers.

There are two cities. `devices`, `registry` and `messages` are a small one whose readings are all good, for the hot path and the
store alone. `City` is the one that end-to-end figures are quoted for (docs/performance.md defines it), and sends three workloads:

- *live*: each sweep over all series moves event time on by a minute, so that every reading opens a series-minute of its own;
- *catch-up*: the hour that an outage held back, a reading of each series every 10 s, gateway by gateway;
- *singles*: live, with one reading a message.

Of each hundred readings that a gateway sends, 98 are in order, one is *late*: it was held back when it was measured, and comes
`HELD` of event time later, behind newer ones of its series; and one is a *duplicate*: it was sent `AGAIN` of event time before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from citybeat.devices.catalogue import Domain, builtin
from citybeat.devices.device import Device, Sensor
from citybeat.devices.registry.snapshot import Registry, SeriesRow, build
from citybeat.devices.wire import reports as wire
from citybeat.ingest.judging.message import Message

METRICS = ("pm25", "temperature", "relativeHumidity", "no2", "LAeq")
SOURCE = "gw-01"
#: us since 1970 UTC: a fixed time of receipt; the hot path reads no clock.
NOW = 1_767_225_600_000_000


def devices(count: int) -> list[Device]:
    """Make devices with the same five sensors each."""
    sensors = tuple(Sensor(metric=metric) for metric in METRICS)
    return [Device(id=f"env-{i:05d}", source=SOURCE, domain=Domain.ENVIRONMENT, sensors=sensors) for i in range(count)]


def registry(listed: list[Device]) -> Registry:
    """Make the registry's snapshot without a database; sources are numbered from 1 in order of their first device."""
    sources = {name: number for number, name in enumerate(dict.fromkeys(device.source for device in listed), 1)}
    pairs = [(device, sensor) for device in listed for sensor in device.sensors]
    rows = [
        SeriesRow(
            id=i + 1,
            device=device.id,
            source=sources[device.source],
            retired=False,
            metric=builtin()[sensor.metric],
            sensor=sensor,
        )
        for i, (device, sensor) in enumerate(pairs)
    ]
    return build(version=1, sources=sources, devices={device.id: sources[device.source] for device in listed}, rows=rows)


def messages(listed: list[Device], *, count: int, reports: int, seed: int = 1) -> list[Message]:
    """Make messages of `reports` reports of one value each; every reading opens a series-minute of its own."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.uniform(20.0, 30.0, count * reports), 1)
    out = []
    for i in range(count):
        body = []
        for j in range(reports):
            k = i * reports + j
            sweep, place = divmod(k, len(listed) * len(METRICS))
            device, metric = divmod(place, len(METRICS))
            name = METRICS[metric]
            value = values[k] / (100.0 if name == "relativeHumidity" else 1.0)
            body.append(wire.encode_report(listed[device].id, NOW - 3_600_000_000 + sweep * 60_000_000, {name: float(value)}))
        out.append(Message(f"city/v1/{SOURCE}/readings", wire.encode(body, seq=i, boot="b"), NOW, False, 1, i % 65_535 + 1, 1))
    return out


# --- the city that end-to-end figures are quoted for ------------------------------------------------------------------------

#: Kinds of devices: how many of ten, domain, and their six metrics as (name, middle, how far values go from it, digits). No step,
#: no bound and no repetition is ever reached, so that every reading is good. The first metric of meters and of counting loops is a
#: counter: 10 % of all series.
KINDS: Final = (
    (
        4,
        Domain.ENERGY,
        (
            ("totalActiveEnergyImport", 1000.0, 0.0, 2),
            ("phaseVoltage", 230.0, 8.0, 1),
            ("current", 40.0, 10.0, 2),
            ("frequency", 50.0, 0.1, 3),
            ("totalActivePower", 9000.0, 900.0, 0),
            ("totalPowerFactor", 0.9, 0.05, 3),
        ),
    ),
    (
        2,
        Domain.TRAFFIC,
        (
            ("vehicleCount", 1000.0, 0.0, 0),
            ("intensity", 900.0, 300.0, 0),
            ("averageVehicleSpeed", 40.0, 0.9, 1),
            ("occupancy", 0.2, 0.1, 3),
            ("averageHeadwayTime", 4.0, 1.0, 2),
            ("averageGapDistance", 40.0, 10.0, 1),
        ),
    ),
    (
        4,
        Domain.ENVIRONMENT,
        (
            ("temperature", 28.0, 1.4, 2),
            ("relativeHumidity", 0.7, 0.04, 3),
            ("pm25", 30.0, 0.9, 2),
            ("no2", 25.0, 0.9, 2),
            ("LAeq", 62.0, 6.0, 1),
            ("windDirection", 180.0, 90.0, 0),
        ),
    ),
)
METRICS_EACH: Final = 6
#: Readings in a hundred; `NEW` of them were never sent before: the last is the duplicate.
HUNDRED: Final = 100
NEW: Final = 99
#: Event time, us: by how much a late reading is late, and a duplicate behind the first of its kind.
HELD: Final = 300_000_000
AGAIN: Final = 60_000_000
MINUTE: Final = 60_000_000
#: Distinct values of a metric.
_VALUES: Final = 251
#: Messages of one reading that a gateway sends before the next has its turn: as many as come in between two looks at a socket.
_RUN: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A workload."""

    name: str
    size: int = HUNDRED  # readings a message: HUNDRED or 1
    interval: int = MINUTE  # us of event time from one sweep over a gateway's series to the next
    sweeps: int | None = None  # of each gateway; None: as many as are wanted
    turns: bool = True  # gateways send in turn; else one after the other


LIVE: Final = Shape(name="live")
CATCH_UP: Final = Shape(name="catchup", interval=10_000_000, sweeps=360, turns=False)
SINGLES: Final = Shape(name="singles", size=1)
SHAPES: Final = {shape.name: shape for shape in (LIVE, CATCH_UP, SINGLES)}


@dataclass(frozen=True, slots=True)
class Packet:
    """A message of the workload, before it is packed for MQTT."""

    gateway: int
    seq: int  # +1 a message of this gateway
    readings: int
    payload: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class City:
    """A city: 10,000 devices with six metrics behind ten gateways by default."""

    devices: int = 10_000
    gateways: int = 10

    def __post_init__(self) -> None:
        if self.devices % (10 * self.gateways):
            raise ValueError("devices must come in tens at each gateway, or shares would not be exact")

    @property
    def sources(self) -> list[str]:
        """Names of the gateways."""
        return [f"gw-{number:02d}" for number in range(self.gateways)]

    @property
    def each(self) -> int:
        """Number of series of one gateway."""
        return self.devices // self.gateways * METRICS_EACH

    def registrations(self) -> list[Device]:
        """Return its devices, in order of gateways."""
        per = self.devices // self.gateways
        sensors = [(domain, tuple(Sensor(metric=metric[0]) for metric in metrics)) for domain, metrics in _tenth()]
        return [
            Device(id=f"{source}-{number:05d}", source=source, domain=sensors[number % 10][0], sensors=sensors[number % 10][1])
            for source in self.sources
            for number in range(per)
        ]


def _tenth() -> list[tuple[Domain, tuple[tuple[str, float, float, int], ...]]]:
    """Return the kind of each of ten devices."""
    return [(domain, metrics) for share, domain, metrics in KINDS for _ in range(share)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """Traffic of a city's gateways in a workload.

    Parameters
    ----------
    city, shape
    start : int
        us since 1970 UTC, a full minute: event time of the first sweep.
    boot : str
    grouped : bool
        A device's readings of one time in one report; else every reading is a report of its own, which is the dearer form.
    late, repeated : bool
        False: without them, to find out what they cost. No figure is quoted for that.
    """

    city: City
    shape: Shape
    start: int
    boot: str = "bench"
    grouped: bool = False
    late: bool = True
    repeated: bool = True

    def __iter__(self) -> Iterator[Packet]:
        """Yield messages in the order in which they are sent."""
        gateways = [Gateway(self, number) for number in range(self.city.gateways)]
        blocks = self.blocks
        if not self.shape.turns:
            for gateway in gateways:
                for block in range(blocks or 0):
                    yield from gateway.packets(block)
            return
        block = 0
        while blocks is None or block < blocks:
            each = [gateway.packets(block) for gateway in gateways]
            for first in range(0, max(map(len, each)), _RUN):
                for packets in each:
                    yield from packets[first : first + _RUN]
            block += 1

    @property
    def blocks(self) -> int | None:
        """Hundreds of readings that a gateway sends in all; None: no end."""
        return None if self.shape.sweeps is None else self.shape.sweeps * self.city.each // NEW

    @property
    def held(self) -> int:
        """Number of blocks by which a late reading comes after its own block: at least `HELD` of event time."""
        return -(-HELD // self.shape.interval * self.city.each // NEW)

    @property
    def again(self) -> int:
        """Number of blocks by which a duplicate comes after its first: at least `AGAIN` of event time."""
        return -(-AGAIN // self.shape.interval * self.city.each // NEW)


class Gateway:
    """One gateway's readings, in blocks of a hundred.

    Its series are swept again and again: place p is series p % s of sweep p // s, and block k consists of the `NEW` places from
    k * NEW on. One of them is held back; in its stead stand the one that was held back `Traffic.held` blocks before, and a
    duplicate of one that was sent `Traffic.again` blocks before.
    """

    def __init__(self, traffic: Traffic, number: int) -> None:
        city = traffic.city
        self._traffic: Final = traffic
        self._number: Final = number
        self._each: Final = city.each
        per = city.devices // city.gateways
        kinds = _tenth()
        self._names: Final = [f"{city.sources[number]}-{i:05d}" for i in range(per)]
        self._metrics: Final = [[metric[0] for metric in metrics] for _, metrics in kinds]
        #: Texts of values by kind, metric and number; None: a counter.
        self._values: Final = [
            [
                None if spread == 0.0 else [f"{middle + spread * (2 * i / (_VALUES - 1) - 1):.{digits}f}" for i in range(_VALUES)]
                for _, middle, spread, digits in metrics
            ]
            for _, metrics in kinds
        ]
        self._digits: Final = [[metric[3] for metric in metrics] for _, metrics in kinds]

    def places(self, block: int) -> list[int]:
        """Return the places of a block's readings, in the order in which they are sent."""
        traffic = self._traffic
        first = block * NEW
        places = list(range(first, first + NEW))
        if traffic.late:
            places.remove(self._held(block))
            places.insert(33, self._held(block - traffic.held))
        if traffic.repeated and block >= traffic.again:  # before, there is nothing yet that could come again
            places.insert(66, self._sent(block - traffic.again))
        return places

    def packets(self, block: int) -> list[Packet]:
        """Make the messages of a block: one, or a hundred."""
        places = self.places(block)
        if self._traffic.shape.size == 1:
            seq = block * HUNDRED  # less what is missing of the first blocks, which have no duplicate
            seq -= min(block, self._traffic.again) if self._traffic.repeated else block
            return [Packet(self._number, seq + i, 1, self._payload(seq + i, [place])) for i, place in enumerate(places)]
        return [Packet(self._number, block, len(places), self._payload(block, places))]

    def time(self, place: int) -> int:
        """Return the time of a place, us since 1970 UTC."""
        return self._traffic.start + place // self._each * self._traffic.shape.interval

    def _held(self, block: int) -> int:
        return block * NEW + block * 37 % NEW

    def _sent(self, block: int) -> int:
        return block * NEW + (block * 37 + 1 + block * 11 % (NEW - 1)) % NEW  # never the one that is held back

    def _payload(self, seq: int, places: list[int]) -> bytes:
        reports: list[str] = []
        last = (-1, -1)
        for place in places:
            sweep, series = divmod(place, self._each)
            device, metric = divmod(series, METRICS_EACH)
            kind = device % 10
            values = self._values[kind][metric]
            value = f"{1000 + sweep:.{self._digits[kind][metric]}f}" if values is None else values[_mixed(series, sweep)]
            pair = f'"{self._metrics[kind][metric]}":{value}'
            if self._traffic.grouped and last == (device, sweep):
                reports[-1] = f"{reports[-1][:-2]},{pair}}}}}"
            else:
                ts = (self._traffic.start + sweep * self._traffic.shape.interval) // 1000
                reports.append(f'{{"device":"{self._names[device]}","ts":{ts},"values":{{{pair}}}}}')
                last = (device, sweep)
        return f'{{"seq":{seq},"boot":"{self._traffic.boot}","readings":[{",".join(reports)}]}}'.encode()


def _mixed(series: int, sweep: int) -> int:
    """Return the number of the value of a series in a sweep: another one than in the sweep before."""
    return (series * 7919 + sweep * 104_729) % _VALUES
