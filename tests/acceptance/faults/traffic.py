"""Messages of one source, drawn from a seed. The same seed, the same messages, whenever they are sent.

Readings of four kinds of metric (gauge, direction, level, counter), a quarter-second of data a message; now and then late ones
between others, repeated ones, ones without a time, other values for a time that was sent before, and poison.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from citybeat.devices.device import Device, Sensor
from citybeat.devices.wire import reports
from tests.acceptance.faults.poison import KINDS, Place, Reading

METRICS = ("pm25", "windDirection", "LAeq", "vehicleCount")
#: us between two messages' times. Data time runs faster than the clock, so that minutes and quarter-hours fill.
STEP = 250_000
#: us that the data begin before now: at any rate that is used here they end before now too.
HEAD_START = 7_200_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """Shares of messages, each 0 to 1."""

    late: float = 0.05  # between others that were sent before
    repeated: float = 0.03  # readings that were sent before, in a new message
    timeless: float = 0.03  # a reading without a time of its own
    conflicts: float = 0.03  # another value for a time that was sent before
    poison: float = 0.01


@dataclass(kw_only=True, slots=True)
class Sent:
    """A message, and what the broker said to it."""

    source: str
    number: int  # in the order of its source
    topic: str
    boot: str
    payload: bytes = b""
    seq: int | None = None  # None: not numbered, or not readable
    readings: tuple[Reading, ...] = ()  # to be stored
    timeless: tuple[tuple[str, str, float], ...] = ()  # to be stored at a time that we do not know: device, metric, value
    reasons: frozenset[str] = frozenset()  # to be in quarantine for
    what: str = "plain"
    acknowledged: float | None = None  # when, by time.monotonic
    refused: str | None = None  # by the broker: why


@dataclass(kw_only=True)
class Traffic:
    """An endless sequence of messages of one source."""

    source: str
    prefix: str  # of device ids: no other traffic on this database has it
    foreign: str  # a device of another source
    boot: str
    seed: int
    numbered: bool
    once: bool  # nothing will be delivered twice: then it sends readings without a time, even if its messages have no number
    start: int  # us since 1970 UTC, of the first reading
    mix: Mix = field(default_factory=Mix)
    devices: int = 2

    def registrations(self) -> list[Device]:
        sensors = tuple(Sensor(metric=metric) for metric in METRICS)
        names = [*self._names(), self._timeless()]
        return [Device(id=name, source=self.source, domain="environment", sensors=sensors) for name in names]

    def __iter__(self) -> Iterator[Sent]:
        draw = random.Random(f"{self.seed} {self.source}")
        plain: list[tuple[Reading, ...]] = []  # readings of messages that may be repeated or contradicted: each once
        number = seq = 0
        while True:
            kinds = {"late": self.mix.late, "poison": self.mix.poison}
            if len(plain) > 4:
                kinds |= {"repeated": self.mix.repeated, "conflict": self.mix.conflicts}
            if self.numbered or self.once:
                kinds["timeless"] = self.mix.timeless
            (what,) = draw.choices([*kinds, "plain"], [*kinds.values(), max(0.0, 1 - sum(kinds.values()))])
            sent = Sent(source=self.source, number=number, topic=f"city/v1/{self.source}/readings", boot=self.boot, what=what)
            sent.seq = seq if self.numbered else None
            if what == "poison":
                self._poison(sent, draw.choice(list(KINDS)))
            elif what == "timeless":
                sent.timeless = ((self._timeless(), "pm25", number + 0.25),)  # the value is the message's own
                sent.payload = self._encode(sent, [reports.encode_report(sent.timeless[0][0], None, {"pm25": sent.timeless[0][2]})])
            else:
                if what == "repeated":
                    sent.readings = draw.choice(plain)
                elif what == "conflict":
                    sent.readings = tuple((d, m, t, v + 0.5) for d, m, t, v in plain.pop(draw.randrange(len(plain))))
                else:
                    sent.readings = self._draw(draw, number, late=what == "late")
                    if what == "plain":
                        plain = [*plain[-50:], sent.readings]
                sent.payload = self._encode(sent, _reports(sent.readings))
            seq += sent.seq is not None
            number += 1
            yield sent

    def _names(self) -> list[str]:
        return [f"{self.prefix}-{i}" for i in range(self.devices)]

    def _timeless(self) -> str:
        return f"{self.prefix}-timeless"

    def _encode(self, sent: Sent, body: object) -> bytes:
        return reports.encode(body, seq=sent.seq, boot=None if sent.seq is None else self.boot)

    def _draw(self, draw: random.Random, number: int, *, late: bool) -> tuple[Reading, ...]:
        at = self.start + number * STEP
        if late:  # between the grid's points, where no other message has a reading
            at += STEP // 2 - STEP * draw.randrange(min(number + 1, 400))
        ms = at // 1000 * 1000
        while late and ms in self._taken:
            ms += 1000
        if late:
            self._taken.add(ms)
        readings: list[Reading] = []
        for name in self._names():
            values = (round(draw.uniform(1, 80), 2), draw.randrange(0, 3600) / 10, round(draw.uniform(40, 90), 1))
            readings += [(name, metric, ms, float(value)) for metric, value in zip(METRICS, values, strict=False)]
            readings.append((name, "vehicleCount", ms, float(1000 + (ms - self.start) // 100_000)))
        return tuple(readings)

    def _poison(self, sent: Sent, kind: str) -> None:
        # Before the first reading: no other message has a reading there.
        ms = (self.start - (sent.number + 1) * STEP) // 1000
        place = Place(device=self._names()[0], foreign=self.foreign, number=self._offset + sent.number, ms=ms)
        made = KINDS[kind](place, lambda body: self._encode(sent, body))
        sent.what = f"poison: {kind}"
        sent.payload, sent.reasons, sent.readings = made.payload, made.reasons, made.readings
        sent.topic = f"city/v1/{self.source}/{made.channel}"
        if not made.numbered:
            sent.seq = None

    def __post_init__(self) -> None:
        self._taken: set[int] = set()
        self._offset = random.Random(f"{self.boot} {self.source}").randrange(2**40)


def _reports(readings: tuple[Reading, ...]) -> list[dict[str, object]]:
    by_device: dict[tuple[str, int], dict[str, float | None]] = {}
    for device, metric, at, value in readings:
        by_device.setdefault((device, at), {})[metric] = value
    return [reports.encode_report(device, at, values) for (device, at), values in by_device.items()]


def summary(sent: list[Sent]) -> str:
    """Numbers of messages of each kind, as one line."""
    counts: dict[str, int] = {}
    for one in sent:
        counts[one.what.partition(":")[0]] = counts.get(one.what.partition(":")[0], 0) + 1
    return json.dumps(counts)
