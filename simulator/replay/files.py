"""Shell of a replay: opens recorded files, registers their devices, and publishes their rows in the file's own order."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from citybeat.devices.batch import MICROSECOND
from citybeat.devices.device import Device
from citybeat.devices.wire import reports
from citybeat.simulator.errors import PublishStoppedError, RecordingError
from citybeat.simulator.feed import Connector, Feed, Progress, SentReport, connected, drain, require
from citybeat.simulator.publisher import connect as connect_publisher
from citybeat.simulator.replay import recording
from citybeat.simulator.replay.localtime import Oddity
from citybeat.simulator.replay.maps import ReplayMap
from citybeat.simulator.replay.recording import Blank, Reject, Rejected, Report, Row

#: Reports a message.
BATCH: Final = 100
#: Rejected rows that a report names one by one; the counts go on.
NAMED: Final = 1000
#: s. Waits shorter than this are not waited: rows go out that much early, and messages are fuller.
_GATHER: Final = 0.05
#: s between calls of `progress`.
_PROGRESS: Final = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayReport(SentReport):
    """Report of a replay: rows read and messages sent. rows = replayed_rows + blank_rows + rejected_rows."""

    files: tuple[str, ...]  # names, without folders
    map: str  # where the map came from
    stopped: bool  # the caller ended it before the last row
    rows: int  # lines read, without headers
    replayed_rows: int
    blank_rows: int
    rejected_rows: int
    rejected_by_reason: dict[str, int]  # of simulator.replay.recording.Reject
    rejected: tuple[Rejected, ...]  # the first `NAMED`
    times: dict[str, int]  # occurrences of nonexistent and ambiguous times, whatever the policy did with them
    policies: dict[str, str]  # what it did
    missing_cells: int  # sent as null
    sentinel_cells: int  # sent as the number that stands for "missing"
    omitted_cells: int  # blank, and not sent
    readings_read: int  # in replayed rows, nulls and sentinels included
    unsent_readings: int  # read, and not sent because the replay was stopped


@dataclass(kw_only=True, slots=True)
class _Tally:
    """Counts of a replay while it runs."""

    replayed: int = 0
    blank: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    named: list[Rejected] = field(default_factory=list)
    oddities: Counter[str] = field(default_factory=lambda: Counter({oddity.value: 0 for oddity in Oddity}))
    missing: int = 0
    sentinels: int = 0
    omitted: int = 0
    readings: int = 0
    newest: int | None = None  # us since 1970 UTC
    file: str = ""

    def add(self, found: Row | Blank | Rejected) -> None:
        if isinstance(found, Rejected):
            self.rejected[found.reason.value] += 1
            if found.reason in (Reject.NONEXISTENT, Reject.AMBIGUOUS):
                self.oddities[found.reason.value] += 1
            if len(self.named) < NAMED:
                self.named.append(found)
        elif isinstance(found, Blank):
            self.blank += 1
        else:
            self.replayed += 1
            if found.oddity is not None:
                self.oddities[found.oddity.value] += 1
            self.missing += found.missing
            self.sentinels += found.sentinels
            self.omitted += found.omitted
            self.readings += sum(len(report.values) for report in found.reports)
            self.newest = found.time if self.newest is None else max(self.newest, found.time)


class _Outbox:
    """Gathers reports into messages, source by source."""

    def __init__(self, feeds: Mapping[str, Feed], size: int) -> None:
        self._feeds = feeds
        self._size = size
        self._packed: dict[str, list[dict[str, Any]]] = {source: [] for source in feeds}

    def put(self, at: int, report: Report) -> None:
        packed = self._packed[report.source]
        packed.append(reports.encode_report(report.device, at, report.values))
        if len(packed) >= self._size:
            self._send(report.source)

    def flush(self) -> None:
        for source in self._packed:
            self._send(source)

    def _send(self, source: str) -> None:
        packed = self._packed[source]
        if packed:
            self._feeds[source].send(packed, sum(len(report["values"]) for report in packed))
            packed.clear()


def replay(
    paths: Sequence[Path],
    replay_map: ReplayMap,
    *,
    url: str,
    passwords: Mapping[str, str | None],
    register: Callable[[Sequence[Device]], None],
    speed: float | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    batch: int = BATCH,
    connect: Connector | None = None,
) -> ReplayReport:
    """Publish recorded files as the devices of a map, file by file, in the order of their rows.

    Every header is checked, and the devices are registered, before the first message goes out.

    Parameters
    ----------
    paths : sequence of Path
    replay_map : ReplayMap
    url : str
        URL of the broker: mqtt://host:port, or mqtts:// for TLS.
    passwords : mapping
        By source; None for a broker that requires none.
    register : callable
        Takes the devices that have rows in the files.
    speed : float, optional
        Seconds of the recording a second; a row older than one before it goes out at once. None: as fast as acknowledged.
    progress : callable, optional
        Called about twice a second, in this thread.
    stop : threading.Event, optional
        Ends the replay early.
    batch : int
        Reports a message.
    connect : callable, optional
        Makes a Transport of (source, password) in place of MQTT.

    Returns
    -------
    ReplayReport

    Raises
    ------
    RecordingError
        A file is not there, or does not fit the map.
    PublishError
        The broker is away at the start, refuses a source, or a connection is lost for good.
    ValueError
        `speed` or `batch` is invalid.
    """
    if speed is not None and not speed > 0:
        raise ValueError(f"speed must be above 0, not {speed}")
    if batch < 1:
        raise ValueError(f"a message cannot hold {batch} reports")
    stop = threading.Event() if stop is None else stop
    for path in paths:
        _check(path, replay_map)
    devices = replay_map.devices_of([path.name for path in paths])
    sources = list(dict.fromkeys(device.source for device in devices))
    require(sources, passwords)
    register(devices)
    tally = _Tally()
    dial = connect if connect is not None else partial(connect_publisher, url, stop=stop)
    begun = time.monotonic()
    with connected(sources, passwords, dial) as feeds:
        outbox = _Outbox(feeds, batch)
        pace = _Pace(speed, stop, outbox.flush)
        told = begun
        try:
            for found in _rows(paths, replay_map, tally):
                tally.add(found)
                if isinstance(found, Row):
                    pace.wait_for(found.time)
                    for report in found.reports:
                        outbox.put(found.time, report)
                told = _tell(progress, feeds, tally, begun, told)
                if stop.is_set():
                    break
            else:
                outbox.flush()
        except PublishStoppedError:
            pass  # `stop` was set while a full window was waited for
        complete = drain(feeds)
        _tell(progress, feeds, tally, begun, 0.0)
        return _report(paths, replay_map, tally, feeds, elapsed=time.monotonic() - begun, stop=stop, complete=complete)


class _Pace:
    """Waits for the time of a row, by the recording's own clock."""

    def __init__(self, speed: float | None, stop: threading.Event, flush: Callable[[], None]) -> None:
        self._speed = speed
        self._stop = stop
        self._flush = flush
        self._first: int | None = None
        self._begun = 0.0

    def wait_for(self, at: int) -> None:
        if self._speed is None:
            return
        if self._first is None:
            self._first, self._begun = at, time.monotonic()
        due = self._begun + (at - self._first) / MICROSECOND / self._speed
        if due - time.monotonic() > _GATHER:
            self._flush()
            self._stop.wait(max(0.0, due - time.monotonic()))


def _check(path: Path, replay_map: ReplayMap) -> None:
    try:
        with path.open("rb") as file:
            recording.layout(file.readline(), replay_map, file=path.name)
    except OSError as exc:
        raise RecordingError(f"{path}: cannot be read: {exc.strerror}") from exc


def _rows(paths: Sequence[Path], replay_map: ReplayMap, tally: _Tally) -> Iterator[Row | Blank | Rejected]:
    for path in paths:
        tally.file = path.name
        with path.open("rb") as file:
            yield from recording.read(file, replay_map, file=path.name)


def _report(
    paths: Sequence[Path],
    replay_map: ReplayMap,
    tally: _Tally,
    feeds: Mapping[str, Feed],
    *,
    elapsed: float,
    stop: threading.Event,
    complete: bool,
) -> ReplayReport:
    rejected = tally.rejected.total()
    unsent = tally.readings - sum(feed.transport.sent_readings for feed in feeds.values())
    return ReplayReport(
        files=tuple(path.name for path in paths),
        map=replay_map.origin,
        elapsed=elapsed,
        stopped=stop.is_set(),
        complete=complete,
        rows=tally.replayed + tally.blank + rejected,
        replayed_rows=tally.replayed,
        blank_rows=tally.blank,
        rejected_rows=rejected,
        rejected_by_reason=dict(tally.rejected),
        rejected=tuple(tally.named),
        times=dict(tally.oddities),
        policies={"nonexistent": replay_map.time.nonexistent.value, "ambiguous": replay_map.time.ambiguous.value},
        missing_cells=tally.missing,
        sentinel_cells=tally.sentinels,
        omitted_cells=tally.omitted,
        readings_read=tally.readings,
        unsent_readings=unsent,
        sources=tuple(feed.report() for feed in feeds.values()),
    )


def _tell(
    progress: Callable[[Progress], None] | None, feeds: Mapping[str, Feed], tally: _Tally, begun: float, told: float
) -> float:
    if progress is None or (now := time.monotonic()) - told < _PROGRESS:
        return told
    progress(
        Progress.of(
            feeds,
            elapsed=now - begun,
            time=tally.newest,
            rejected_rows=tally.rejected.total(),
            file=tally.file,
        )
    )
    return now
