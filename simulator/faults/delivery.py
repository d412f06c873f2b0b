"""Steps of gateways, which the shell carries out, and the faults of gateways and messages, placed in a city. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from citybeat.devices.batch import MICROSECOND, Bools, Int64
from citybeat.simulator.city import noise
from citybeat.simulator.city.layout import City
from citybeat.simulator.city.noise import Keys
from citybeat.simulator.faults import choosing, episodes
from citybeat.simulator.faults.episodes import Window
from citybeat.simulator.faults.kinds import GATEWAYS, Fault, FaultSpec
from citybeat.simulator.faults.rows import NO_RANK, OUTCOME_CODES, Outcome, Rows, deliver

Reports = list[dict[str, Any]]  # as `wire.encode_report` makes them


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """Reports of one gateway that are due, in the order of their times."""

    reports: Reports
    time: Int64  # (m,) us since 1970 UTC, by a right clock
    rows: Rows  # (n,) their readings, report by report
    first: Int64  # (m + 1,) first reading of each report

    def part(self, start: int, end: int) -> "Bundle":
        """Return the reports from `start` up to `end`."""
        a, b = int(self.first[start]), int(self.first[end])
        return Bundle(
            reports=self.reports[start:end], time=self.time[start:end], rows=self.rows[a:b], first=self.first[start : end + 1] - a
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A message that is sent, or whose number is used up by one that is not."""

    channel: str
    payload: bytes
    boot: str
    seq: int
    rows: Rows
    sent: bool = True  # False: lost before the broker
    numbered: bool = True  # its number can be read
    malformed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Unsent:
    """Readings that never go into a message."""

    rows: Rows


class Break:
    """Breaks the connection."""


Step = Message | Unsent | Break


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayFault:
    """A specification of a fault that hits gateways and messages, placed in a city."""

    number: int  # of the specification
    spec: FaultSpec
    where: Bools  # (s,) which series it may hit; without meaning for faults of whole messages
    city: City
    sources: frozenset[str]  # sources that it hits
    window: Window
    duration: Int64  # (1,) us

    def key(self, seed: int, source: str) -> Keys:
        """Return the key of its randomness for a gateway."""
        return np.array([noise.key(seed, "gateway", self.number, source)], np.uint64)


def place(specs: Sequence[FaultSpec], city: City, *, begin: int) -> list[GatewayFault]:
    """Find the gateways that each fault of messages hits, and the times; `begin` is the run's start, in us since 1970 UTC."""
    wanted = GATEWAYS | {Fault.DUPLICATE, Fault.CONFLICT}
    return [_placed(i, spec, city, begin) for i, spec in enumerate(specs) if spec.kind in wanted]


def _placed(number: int, spec: FaultSpec, city: City, begin: int) -> GatewayFault:
    window = episodes.window(begin, from_=spec.from_, until=spec.until, rate=spec.rate)
    moment = spec.kind is Fault.REBOOT and (spec.rate is not None or spec.until is None)
    whole = 1 if moment or spec.kind is Fault.FLAP else window.end - window.begin
    fault = GatewayFault(
        number=number,
        spec=spec,
        where=choosing.series(number, spec, city),
        city=city,
        sources=frozenset(source for source in city.sources if not spec.where.gateways or source in spec.where.gateways),
        window=window,
        duration=np.array([whole if spec.duration is None else round(spec.duration * MICROSECOND)], np.int64),
    )
    if by_reading(spec):
        return fault
    drawn = {source for source in fault.sources if choosing.drawn(fault.key(city.seed, source), spec.where.share)[0]}
    return replace(fault, sources=frozenset(drawn))


def by_reading(spec: FaultSpec) -> bool:
    """Return whether a kind makes a second message of single readings."""
    return spec.kind is Fault.CONFLICT or (spec.kind is Fault.DUPLICATE and spec.mode == "reading")


def unsent(rows: Rows) -> Rows:
    """Return readings as those that never go into a message."""
    rows = rows.copy()
    rows["index"], rows["outcome"], rows["reason"] = -1, OUTCOME_CODES[Outcome.LOST], 0
    return rows


def relabel(rows: Rows, fault: GatewayFault, event: int | Int64) -> None:
    """Label copies with one fault alone, whatever hit the original."""
    rows["rank"] = NO_RANK
    deliver(rows, fault.spec.kind, fault.number, event)
