"""Shell of a run: `schedule` finds the reports that are due, `measuring` their contents, `gateway` their messages."""

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import numpy as np

from citybeat.devices.batch import MICROSECOND
from citybeat.devices.clock import from_us, to_us
from citybeat.simulator.city import schedule
from citybeat.simulator.city.layout import City
from citybeat.simulator.city.schedule import Due
from citybeat.simulator.errors import PublishStoppedError, TimelineError
from citybeat.simulator.faults import measuring
from citybeat.simulator.faults.delivery import Break, Step, Unsent, unsent
from citybeat.simulator.faults.gateway import Gateway
from citybeat.simulator.faults.kinds import FaultSpec
from citybeat.simulator.faults.measuring import Placed
from citybeat.simulator.faults.rows import OUTCOME_CODES, Outcome
from citybeat.simulator.feed import DRAIN_TIMEOUT, Connector, Entry, Feed, Progress, Record, SentReport, connected, drain
from citybeat.simulator.publisher import connect as connect_publisher

#: s between looks at the clock, in which a gateway gathers reports.
GATHER: Final = 0.1
#: s between calls of `progress`.
PROGRESS: Final = 0.5
#: Readings computed at once, about: bounds memory when simulated time runs fast.
SLICE: Final = 20_000
_UNDECODABLE: Final = OUTCOME_CODES[Outcome.UNDECODABLE]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReport(SentReport):
    """Report of a run: what the city sent."""

    devices: int
    seed: int
    simulated_from: int  # us since 1970 UTC
    simulated_to: int  # us since 1970 UTC: what is due later was not sent

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON; times as RFC 3339."""
        return {
            **SentReport.as_dict(self),
            "simulated_from": from_us(self.simulated_from).isoformat(),
            "simulated_to": from_us(self.simulated_to).isoformat(),
        }


def run(
    city: City,
    *,
    url: str,
    passwords: Mapping[str, str | None],
    stop: threading.Event,
    speed: float = 1.0,
    start: datetime | None = None,
    duration: float | None = None,
    progress: Callable[[Progress], None] | None = None,
    connect: Connector | None = None,
    faults: Sequence[FaultSpec] = (),
    truth: Record | None = None,
    scenario: str = "",
) -> RunReport:
    """Let a city send until `stop` is set or `duration` is over; then wait for the last acknowledgements, a bounded time.

    Every device reports once within the first second (of a large city within some), and from then on at its own interval. What is
    due is sent in the order of its time, gateway by gateway, about ten times a second. If the broker is slower than the city, the
    city falls behind, and catches up.

    Parameters
    ----------
    city : City
    url : str
        URL of the broker: mqtt://host:port, or mqtts:// for TLS.
    passwords : mapping
        By source; None for a broker that requires none.
    stop : threading.Event
    speed : float
        Simulated seconds a second. Simulated time is never ahead of the clock: see `schedule.timeline` for where it starts.
    start : datetime, optional
        Where simulated time starts; aware, and not in the future.
    duration : float, optional
        Seconds; none: until `stop`.
    progress : callable, optional
        Called about twice a second, in this thread.
    connect : callable, optional
        Makes a Transport of (source, password) in place of MQTT.
    faults : sequence of FaultSpec
        Faults to inject, with times after the start.
    truth : Record, optional
        Receives every reading; it is left open.
    scenario : str
        Name of this run in the truth.

    Returns
    -------
    RunReport

    Raises
    ------
    PublishError
        The broker is away at the start, refuses a source, or a connection is lost for good.
    TimelineError
        `speed`, `duration` or `start` is invalid.
    """
    if start is not None and start.tzinfo is None:
        raise TimelineError("start needs a time zone")
    line = schedule.timeline(
        now=time.time_ns() // 1000, speed=speed, start=None if start is None else to_us(start), duration=duration
    )
    plan = schedule.plan(city)
    first = schedule.opening(plan, line.start)
    rate = float((1.0 / city.series.interval).sum()) if len(city.series) else 0.0  # readings a simulated second
    step = int(max(SLICE / max(rate, 1.0), 0.1) * MICROSECOND)
    sources = city.sources
    dial = connect if connect is not None else partial(connect_publisher, url, stop=stop)
    done = line.start
    placed = measuring.place(faults, city, begin=line.start)
    with connected(sources, passwords, dial) as feeds:
        begun = time.monotonic()
        told = begun
        gateways = _gateways(city, placed, feeds)
        sender = _Sender(city=city, placed=placed, feeds=feeds, gateways=gateways, truth=truth)
        about = {
            "seed": city.seed,
            "scenario": scenario,
            "started": time.time_ns() // 1000,
            "simulated_from": line.start,
            "faults": [spec.as_dict() for spec in faults],
        }
        try:
            while not stop.is_set():
                elapsed = time.monotonic() - begun
                over = duration is not None and elapsed >= duration
                now = line.at(duration if over and duration is not None else elapsed)
                while done < now and not stop.is_set():
                    until = min(now, done + step)
                    reports = schedule.due(plan, done, until)
                    if len(first.time) and done < first.time[-1]:
                        reports = schedule.merged(schedule.part(first, done, until), reports)
                    sender.send(reports)
                    done = until
                    told = _tell(progress, feeds, done, begun, told)
                if over:
                    break
                told = _tell(progress, feeds, done, begun, told)
                stop.wait(GATHER)
            sender.finish()
        except PublishStoppedError:
            sender.give_up()  # `stop` was set while a full window was waited for
        finally:
            if truth is not None:
                truth.describe({**about, "ended": time.time_ns() // 1000, "simulated_to": done, **sender.accounts()})
        complete = drain(feeds)
        _tell(progress, feeds, done, begun, 0.0)
        return RunReport(
            devices=len(city),
            seed=city.seed,
            elapsed=time.monotonic() - begun,
            simulated_from=line.start,
            simulated_to=done,
            complete=complete,
            sources=tuple(feed.report() for feed in feeds.values()),
        )


class _Sender:
    """Sends the reports that are due."""

    def __init__(
        self,
        *,
        city: City,
        placed: Placed,
        feeds: Mapping[str, Feed],
        gateways: Mapping[str, Gateway],
        truth: Record | None,
    ) -> None:
        self._city = city
        self._placed = placed
        self._feeds = feeds
        self._gateways = gateways
        self._truth = truth
        self._malformed = 0

    def send(self, reports: Due) -> None:
        """Compute what is due and hand it to the gateways, each its devices' reports in the order of their times."""
        if not len(reports.device):
            return
        bundles, silent = measuring.measured(self._city, self._placed, reports)
        for source, rows in silent.items():
            self._record(Entry(source=source, boot="", seq=None, rows=unsent(rows), sent_at=None, receipt=None))
        for source, bundle in bundles.items():
            self._take(source, self._gateways[source].take(bundle))

    def finish(self) -> None:
        """End the run: gateways send what they still keep."""
        for source, gateway in self._gateways.items():
            self._take(source, gateway.finish())

    def give_up(self) -> None:
        """End the run when nothing can be sent any more."""
        for source, gateway in self._gateways.items():
            self._take(source, gateway.give_up())

    def accounts(self) -> dict[str, Any]:
        """Return the part of the truth's metadata about sources and messages."""
        sources = {}
        for source, feed in self._feeds.items():
            boots = feed.report().boots
            sources[source] = {"boots": [boot for boot, _ in boots], "last_seq": [last for _, last in boots]}
        sent = sum(feed.transport.sent for feed in self._feeds.values())
        return {"sources": sources, "messages": {"sent": sent, "malformed": self._malformed}}

    def _take(self, source: str, steps: Iterable[Step]) -> None:
        for step in steps:
            self._do(source, step)

    def _do(self, source: str, step: Step) -> None:
        feed = self._feeds[source]
        if isinstance(step, Break):
            # The client would repeat messages without an answer, and the number of their arrivals would be unknown.
            if feed.transport.drain(DRAIN_TIMEOUT):
                feed.transport.drop()
        elif isinstance(step, Unsent):
            self._record(Entry(source=source, boot="", seq=None, rows=step.rows, sent_at=None, receipt=None))
        else:
            sent_at, receipt = None, None
            if step.sent:
                readable = (step.rows["index"] >= 0) & (step.rows["outcome"] != _UNDECODABLE)
                receipt = feed.transport.publish(step.channel, step.payload, readings=int(readable.sum()))
                sent_at = receipt.sent_at
                self._malformed += step.malformed
            feed.used(step.boot, step.seq)
            seq = step.seq if step.numbered else None
            self._record(Entry(source=source, boot=step.boot, seq=seq, rows=step.rows, sent_at=sent_at, receipt=receipt))

    def _record(self, entry: Entry) -> None:
        if self._truth is not None:
            self._truth.add(entry)


def _gateways(city: City, placed: Placed, feeds: Mapping[str, Feed]) -> dict[str, Gateway]:
    """Make a gateway for each feed; the first start has the feed's boot."""
    numbers, first = np.unique(city.gateway, return_index=True)
    of = {city.gateways[number]: city.id(index) for number, index in zip(numbers.tolist(), first.tolist(), strict=True)}

    def boots(first: str) -> Callable[[], str]:
        names = iter([first])
        return lambda: next(names, "") or secrets.token_hex(4)

    return {
        source: Gateway(
            source,
            seed=city.seed,
            faults=placed.gateways,
            known=placed.known,
            events=placed.events,
            boot=boots(feed.boot),
            now=lambda: time.time_ns() // 1000,
            foreign=next((device for other, device in of.items() if other != source), None),
        )
        for source, feed in feeds.items()
    }


def _tell(progress: Callable[[Progress], None] | None, feeds: Mapping[str, Feed], at: int, begun: float, told: float) -> float:
    now = time.monotonic()
    if progress is None or now - told < PROGRESS:
        return told
    progress(Progress.of(feeds, elapsed=now - begun, time=at))
    return now
