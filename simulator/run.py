"""The shell that lets a city send: reads the clock, asks `schedule` what is due and `signals` what it shows, packs messages."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from devices import wire
from devices.batch import MICROSECOND, Float64
from simulator import schedule, signals
from simulator.city import City
from simulator.errors import PublishStoppedError, TimelineError
from simulator.feed import Connector, Feed, Progress, SentReport, connected, drain
from simulator.publisher import connect as connect_publisher
from simulator.schedule import Due

#: Reports a message, at most; a gateway sends what is due, and seldom fills it.
BATCH: Final = 100
#: Every such message of a source goes as columns instead of reports, so that both forms are used all the time.
COLUMNS_EVERY: Final = 4
#: s between looks at the clock: how long a gateway gathers.
GATHER: Final = 0.1
#: s between calls of `progress`.
PROGRESS: Final = 0.5
#: Readings computed at once, about: bounds memory when simulated time runs fast.
SLICE: Final = 20_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = datetime.resolution


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReport(SentReport):
    """What a city sent."""

    devices: int
    seed: int
    simulated_from: int  # us since 1970 UTC
    simulated_to: int  # us since 1970 UTC: what is due later was not sent

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; times as RFC 3339."""
        return {
            **SentReport.as_dict(self),
            "simulated_from": _rfc3339(self.simulated_from),
            "simulated_to": _rfc3339(self.simulated_to),
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
) -> RunReport:
    """Let a city send until `stop` is set or `duration` is over; then wait for the last acknowledgements, a bounded time.

    Every device reports once within the first second (of a large city within some), and from then on at its own interval. What is
    due is sent in the order of its time, gateway by gateway, about ten times a second. If the broker is slower than the city, the
    city falls behind, and catches up.

    Parameters
    ----------
    city : City
    url : str
        Of the broker: mqtt://host:port, or mqtts:// for TLS.
    passwords : mapping
        By source; None for a broker that asks for none.
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
        Instead of MQTT: (source, password) to a Transport.

    Returns
    -------
    RunReport

    Raises
    ------
    PublishError
        The broker is away at the start, refuses a source, or a connection's thread ended.
    TimelineError
        `speed`, `duration` or `start` make no sense.
    """
    if start is not None and start.tzinfo is None:
        raise TimelineError("start needs a time zone")
    line = schedule.timeline(
        now=time.time_ns() // 1000, speed=speed, start=None if start is None else (start - _EPOCH) // _US, duration=duration
    )
    plan = schedule.plan(city)
    first = schedule.opening(plan, line.start)
    rate = float((1.0 / city.series.interval).sum()) if len(city.series) else 0.0  # readings a simulated second
    step = int(max(SLICE / max(rate, 1.0), 0.1) * MICROSECOND)
    sources = city.sources
    dial = connect if connect is not None else partial(connect_publisher, url, stop=stop)
    done = line.start
    with connected(sources, passwords, dial) as feeds:
        begun = time.monotonic()
        told = begun
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
                    _send(city, reports, feeds)
                    done = until
                    told = _tell(progress, feeds, done, begun, told)
                if over:
                    break
                told = _tell(progress, feeds, done, begun, told)
                stop.wait(GATHER)
        except PublishStoppedError:
            pass  # `stop` was set while a full window was waited for
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


def _send(city: City, reports: Due, feeds: Mapping[str, Feed]) -> None:
    """Compute what is due and hand it to the gateways, each its devices' reports in the order of their times."""
    if not len(reports.device):
        return
    values = signals.sample(city.series, reports.series, reports.time[reports.report])
    for source, packed in _by_source(city, reports, values).items():
        feed = feeds[source]
        for i in range(0, len(packed), BATCH):
            batch = packed[i : i + BATCH]
            count = sum(len(report["values"]) for report in batch)
            if feed.next_seq % COLUMNS_EVERY == COLUMNS_EVERY - 1:
                feed.send(_as_columns(batch), count)
            else:
                feed.send(batch[0] if len(batch) == 1 else batch, count)


def _by_source(city: City, reports: Due, values: Float64) -> dict[str, list[dict[str, Any]]]:
    metrics = city.series.metrics
    names = [metrics[code] for code in city.series.metric[reports.series].tolist()]
    readings: list[dict[str, float | None]] = [{} for _ in range(len(reports.device))]
    for report, name, value in zip(reports.report.tolist(), names, values.tolist(), strict=True):
        readings[report][name] = value
    packed: dict[str, list[dict[str, Any]]] = {}
    for index, at, values_ in zip(reports.device.tolist(), reports.time.tolist(), readings, strict=True):
        packed.setdefault(city.source(index), []).append(wire.encode_report(city.id(index), at, values_))
    return packed


def _as_columns(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rows = [(report["device"], metric, report["ts"], v) for report in batch for metric, v in report["values"].items()]
    device, metric, ts, value = (list(column) for column in zip(*rows, strict=True))
    return {"device": device, "metric": metric, "ts": ts, "value": value}


def _tell(progress: Callable[[Progress], None] | None, feeds: Mapping[str, Feed], at: int, begun: float, told: float) -> float:
    now = time.monotonic()
    if progress is None or now - told < PROGRESS:
        return told
    progress(Progress.of(feeds, elapsed=now - begun, time=at))
    return now


def _rfc3339(us: int) -> str:
    return (_EPOCH + us * _US).isoformat()
