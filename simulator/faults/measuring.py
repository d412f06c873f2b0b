"""Reports of a city's devices: the true values, the faults in them, and the reports for the gateways. Pure but for
the numbers of events, which are given in the order of time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from citybeat.devices.batch import NEVER, Float64, Int64
from citybeat.devices.wire import reports
from citybeat.simulator.city import signals
from citybeat.simulator.city.layout import City
from citybeat.simulator.city.schedule import Due
from citybeat.simulator.faults import choosing, clocks, delivery, values
from citybeat.simulator.faults.clocks import ClockFault
from citybeat.simulator.faults.delivery import Bundle, GatewayFault
from citybeat.simulator.faults.events import Events
from citybeat.simulator.faults.kinds import FaultSpec
from citybeat.simulator.faults.rows import FAULT_CODES, NO_RANK, OUTCOME_CODES, ROW, Outcome, Rows
from citybeat.simulator.faults.sensors import Sensors, is_missing, look_up
from citybeat.simulator.faults.values import Shown, ValueFault

_MISSING: Final = OUTCOME_CODES[Outcome.MISSING]


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """The faults of a run, placed in its city."""

    specs: tuple[FaultSpec, ...]
    known: Sensors | None  # None: there are no faults
    values: tuple[ValueFault, ...]
    clocks: tuple[ClockFault, ...]
    gateways: tuple[GatewayFault, ...]
    events: Events


def place(specs: Sequence[FaultSpec], city: City, *, begin: int) -> Placed:
    """Find the series, devices and gateways that each fault hits, and the times; `begin` is the run's start, in us since 1970 UTC.

    Raises
    ------
    FaultError
        A fault is of a place or metric that the city does not have.
    """
    for spec in specs:
        choosing.check(spec, city)
    known = look_up(city) if specs else None
    return Placed(
        specs=tuple(specs),
        known=known,
        values=() if known is None else tuple(values.place(specs, city, known, begin=begin)),
        clocks=tuple(clocks.place(specs, city, begin=begin)),
        gateways=tuple(delivery.place(specs, city, begin=begin)),
        events=Events(),
    )


def measured(city: City, placed: Placed, due: Due) -> tuple[dict[str, Bundle], dict[str, Rows]]:
    """Measure what is due, by gateway.

    Returns
    -------
    bundles : dict of Bundle
        Reports for gateways, in the order of their times.
    silent : dict of Rows
        Readings that sensors do not even send.
    """
    time = due.time[due.report]
    sample = partial(signals.sample, city.series)
    true = sample(due.series, time)
    said = clocks.said(placed.clocks, due.device, due.time)
    if placed.known is None:
        n = len(true)
        none = np.full(n, -1, np.int64)
        shown = Shown(value=true, fault=none, episode=none, silent=np.zeros(n, np.bool_))
    else:
        shown = values.shown(placed.values, placed.known, due.series, time, true, sample)
    rows = _rows(placed, due, time, true, said, shown)
    silent: dict[str, Rows] = {}
    report = due.report
    if shown.silent.any():
        for row in np.flatnonzero(shown.silent).tolist():
            source = city.source(int(due.device[report[row]]))
            silent[source] = np.append(silent.get(source, np.empty(0, ROW)), rows[row])
        rows, report = rows[~shown.silent], report[~shown.silent]
    return _bundles(city, due, said.claimed, report, rows), silent


def _rows(placed: Placed, due: Due, time: Int64, true: Float64, said: clocks.Said, shown: Shown) -> Rows:
    rows = np.zeros(len(true), ROW)
    rows["series"], rows["time"], rows["true"] = due.series, time, true
    rows["value"] = shown.value
    rows["claimed"] = said.claimed[due.report]
    rows["event"] = rows["delivery_event"] = -1
    rows["rank"] = NO_RANK
    if placed.known is None:
        return rows
    codes = np.array([*(FAULT_CODES[spec.kind] for spec in placed.specs), 0], np.int8)  # the last one is for -1
    rows["fault"] = codes[shown.fault]
    rows["event"] = placed.events.of(shown.fault, due.series, shown.episode)
    events = placed.events.of(said.fault, due.device, said.episode)
    hit = said.fault[due.report] >= 0
    rows["delivery"] = codes[said.fault[due.report]]
    rows["delivery_event"] = events[due.report]
    rows["rank"][hit] = said.fault[due.report][hit]
    rows["outcome"][is_missing(placed.known, due.series, shown.value)] = _MISSING
    return rows


def _bundles(city: City, due: Due, claimed: Int64, report: Int64, rows: Rows) -> dict[str, Bundle]:
    """Make reports by gateway; a device whose sensors are all silent makes none."""
    metrics = city.series.metrics
    names = [metrics[code] for code in city.series.metric[rows["series"]].tolist()]
    readings: list[dict[str, float | None]] = [{} for _ in range(len(due.device))]
    for of, name, value in zip(report.tolist(), names, rows["value"].tolist(), strict=True):
        readings[of][name] = None if value != value else value  # noqa: PLR0124 - NaN is what differs from itself
    by_source: dict[str, list[int]] = {}
    for number, (gateway_, said) in enumerate(zip(city.gateway[due.device].tolist(), readings, strict=True)):
        if said:
            by_source.setdefault(city.gateways[gateway_], []).append(number)
    size = np.bincount(report, minlength=len(due.device))
    start = np.cumsum(size) - size
    bundles = {}
    for source, numbers in by_source.items():
        which = np.array(numbers, np.int64)
        counts = size[which]
        first = np.concatenate([[0], np.cumsum(counts)])
        own = np.repeat(start[which] - first[:-1], counts) + np.arange(int(first[-1]))
        bundles[source] = Bundle(
            reports=[
                reports.encode_report(city.id(device), None if at == NEVER else at, readings[number])
                for number, device, at in zip(numbers, due.device[which].tolist(), claimed[which].tolist(), strict=True)
            ],
            time=due.time[which],
            rows=rows[own],
            first=first,
        )
    return bundles
