"""One ingest: a connection to the broker, a lane and a worker process for each part of the sources, and who watches them all.

The broker's network thread fills the inboxes; each lane's thread brings its messages to its worker, or to disk, and acknowledges
them; this thread starts workers, watches every thread, and reports. One session for all workers: whatever their number, every
source is heard from its first message on, and no session is left behind when the number changes (ARCHITECTURE.md).
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from citybeat.ingest.judging.message import Message
from citybeat.ingest.transport.counters import Counters
from citybeat.ingest.transport.endpoint import Endpoint
from citybeat.ingest.transport.gateway import Gateway, Session
from citybeat.ingest.transport.inbox import BatchSize, Inboxes
from citybeat.ingest.transport.ipc import Committed
from citybeat.ingest.transport.metrics import Gauges, Metrics, gauges
from citybeat.ingest.transport.partition import Partition, PartitionState, Timeouts
from citybeat.ingest.transport.spool import SUFFIX, Spool, SpoolInUseError, leftovers, set_aside
from citybeat.ingest.transport.supervisor import Spawn, Worker

_LOG: Final = logging.getLogger(__name__)
#: s between two looks at threads, processes and the stop signal.
_TICK: Final = 0.1
#: s that a stopping intake takes for the messages it already has; what remains is on disk, or delivered again.
_DRAIN: Final = 6.0
#: s for a worker to end when its line is closed: a statement under way, at the most.
_LEAVE: Final = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """How large everything is."""

    workers: int = 1
    size: BatchSize
    patience: Timeouts
    #: bytes of payload that may wait in memory.
    inbox_bytes: int = 64 * 1024 * 1024
    spool: Path
    #: bytes of payload that may wait on disk, all lanes together.
    spool_bytes: int = 1024 * 1024 * 1024


class IngestService:
    """Everything but the loop that watches it; see `run`."""

    def __init__(self, session: Session, layout: IngestConfig, spawn: Spawn, counters: Counters) -> None:
        self._counters: Final = counters
        self._directory: Final = layout.spool
        self._lock: Final = threading.Lock()  # of the counters
        self._quiet = False  # nothing waited at the last look
        self.metrics: Final = Metrics(layout.workers, self.gauges)
        count = layout.workers
        self.inboxes: Final = Inboxes(count, max_bytes=layout.inbox_bytes)
        self.gateway: Final = Gateway(session, self.inboxes)
        own, adopted = _spools(layout, session.client_id)
        gate = threading.Event()
        if not adopted:
            gate.set()
        self.lanes: Final = [
            Partition(
                number,
                inbox,
                spool,
                size=layout.size,
                patience=layout.patience,
                acknowledge=self.gateway.acknowledge,
                committed=partial(self._count, number),
                adopted=adopted if number == 0 else (),
                gate=gate,
            )
            for number, (inbox, spool) in enumerate(zip(self.inboxes.each, own, strict=True))
        ]
        self.workers: Final = [Worker(number, lane, spawn) for number, lane in enumerate(self.lanes)]

    def start(self) -> None:
        """Begin."""
        for lane in self.lanes:
            lane.start()
        self.tend()
        self.gateway.start()

    def tend(self) -> None:
        """See to it that everything lives.

        Raises
        ------
        GatewayError
            The broker refuses us, or the network thread died.
        LaneError
            A lane's thread died or hangs.
        """
        self.gateway.check()
        if self.gateway.shedding and not any(lane.state().unacknowledged for lane in self.lanes):
            # Twice in a row, since a batch is nowhere for a moment when it goes from the inbox to the worker.
            if self._quiet:
                self.gateway.renew()
            self._quiet = not self._quiet
        else:
            self._quiet = False
        for lane in self.lanes:
            lane.check()
        for worker in self.workers:
            worker.tend()

    def stop(self) -> None:
        """Take nothing more, commit or spool what is here, acknowledge it, and end everything."""
        self.gateway.pause()
        for lane in self.lanes:
            lane.stop(_DRAIN)
        deadline = time.monotonic() + _DRAIN + 1.0
        while not all(lane.join(_TICK) for lane in self.lanes) and time.monotonic() < deadline:
            for worker in self.workers:
                worker.tend()
        self.gateway.stop()
        for worker in self.workers:
            worker.wait(_LEAVE)

    def report(self) -> dict[str, Any]:
        """What is to be seen: totals since the start, and how things stand."""
        states = [lane.state() for lane in self.lanes]
        with self._lock:
            totals = self._counters.as_dict(waiting=sum(state.waiting for state in states))
        unacknowledged = sum(state.unacknowledged for state in states)
        return {
            "ready": self.gateway.wait_connected(0),
            **totals,
            "unacknowledged": unacknowledged,
            "spooled": sum(state.spooled for state in states),
            "spooled_bytes": sum(state.spooled_bytes for state in states),
            "restarts": sum(worker.restarts for worker in self.workers),
            "broker_dropped": self.gateway.dropped,
        }

    def complaints(self) -> list[str]:
        """What keeps us from being ready, each as a sentence; empty: messages are taken and written."""
        found = [] if self.gateway.wait_connected(0) else ["the broker does not serve us"]
        found += [
            f"{path} is damaged, and was set aside: what is in it was acknowledged and is not stored; look at it, remove it"
            for path in set_aside(self._directory)
        ]
        return found + [line for number, lane in enumerate(self.lanes) for line in _complaints(number, lane.state())]

    def gauges(self) -> list[Gauges]:
        """How things stand, for `Metrics`."""
        states = [lane.state() for lane in self.lanes]
        now = time.time()

        def gauge(name: str, text: str, value: Callable[[PartitionState], float]) -> Gauges:
            return gauges(f"ingest_{name}", text, [({"worker": str(n)}, value(state)) for n, state in enumerate(states)])

        up = [({"worker": str(n)}, float(worker.is_up)) for n, worker in enumerate(self.workers)]
        restarts = [({"worker": str(n)}, float(worker.restarts)) for n, worker in enumerate(self.workers)]
        found = [
            gauge("waiting_messages", "Received, and in no batch yet.", lambda s: s.waiting),
            gauge("unacknowledged_messages", "Received, and not acknowledged yet.", lambda s: s.unacknowledged),
            gauge("spooled_messages", "On disk, waiting for the database.", lambda s: s.spooled),
            gauge("spooled_bytes", "Payload on disk, waiting for the database.", lambda s: s.spooled_bytes),
            gauge(
                "spooled_oldest_seconds",
                "Age of the oldest batch on disk; 0: none.",
                lambda s: 0.0 if s.spooled_since is None else max(0.0, now - s.spooled_since),
            ),
            gauge("spool_full", "1: the spool takes no more, and nothing is acknowledged.", lambda s: s.full),
            gauge("database_up", "1: the last thing asked of the database was done.", lambda s: s.ready),
            gauges("ingest_worker_up", "1: the process runs.", up),
            gauges("ingest_worker_restarts", "Times that the process was started again.", restarts, kind="counter"),
            gauges(
                "ingest_spool_damaged_files",
                "Spool files that were set aside and are there still.",
                [({}, float(len(set_aside(self._directory))))],
            ),
            gauges("ingest_broker_connected", "1: subscribed at the broker.", [({}, float(self.gateway.wait_connected(0)))]),
            gauges(
                "ingest_lost_messages",
                "Messages of QoS 0 that found no room in memory.",
                [({}, float(self.gateway.lost))],
                kind="counter",
            ),
        ]
        if self.gateway.dropped is not None:
            text = "Messages that the broker dropped since it started, by its own count ($SYS)."
            found.append(gauges("broker_dropped_messages", text, [({}, float(self.gateway.dropped))]))
        return found

    def _count(self, worker: int, answer: Committed, messages: Sequence[Message]) -> None:
        lag = time.time() - messages[0].received_at / 1e6
        with self._lock:
            self._counters.add(answer.counts, lag=lag, commit=answer.took)
        self.metrics.committed(worker, answer, lag=lag)


def run(
    session: Session,
    layout: IngestConfig,
    spawn: Spawn,
    stop: threading.Event,
    *,
    endpoint: tuple[str, int],
    report: Callable[[dict[str, Any]], None] | None = None,
    report_every: float = 1.0,
) -> Counters:
    """Take messages, commit or spool them, acknowledge; until `stop` is set.

    Parameters
    ----------
    session : Session
    layout : IngestConfig
    spawn : Spawn
    stop : threading.Event
        When set: nothing more is taken, the rest is committed or spooled and acknowledged, and the function returns.
    endpoint : (str, int)
        Host and port of `/metrics`, `/healthz` and `/readyz`.
    report : callable, optional
        Gets `IngestService.report` as soon as we are subscribed, then every `report_every` seconds, and at the end.

    Raises
    ------
    GatewayError, LaneError
        See `IngestService.tend`.
    SpoolInUseError, SpoolFullError
        There is no spool to fall back on.
    EndpointError
        The port is taken.
    """
    counters = Counters()
    intake = IngestService(session, layout, spawn, counters)
    host, port = endpoint
    with Endpoint(host, port, metrics=intake.metrics.exposition, ready=intake.complaints):
        _watch(intake, stop, report, report_every)
    return counters


def _watch(
    intake: IngestService, stop: threading.Event, report: Callable[[dict[str, Any]], None] | None, report_every: float
) -> None:
    """Until `stop` is set, or something is wrong for good."""
    ready = False
    reported = time.monotonic()
    try:
        intake.start()
        while not stop.wait(_TICK):
            intake.tend()
            now = time.monotonic()
            if report and (now - reported >= report_every or (not ready and intake.gateway.wait_connected(0))):
                ready = ready or intake.gateway.wait_connected(0)
                report(intake.report())
                reported = now
    finally:
        intake.stop()
        if report:
            report(intake.report())


def _spools(layout: IngestConfig, client_id: str) -> tuple[list[Spool], list[Spool]]:
    """A spool for each lane, and those that must be written before anything else, in the order in which they were filled.

    What was left under our lanes' names goes on in them. Where another number of workers, or another client id, left something too,
    a source's messages may be in several files: then all of them are written first, the oldest first, and our lanes begin new
    files. Else what is older than those others, or newer, would be written on the wrong side of them. What somebody has open is
    not ours.
    """
    together: list[Spool] = []
    left = [spool for path in leftovers(layout.spool) if (spool := _left(path, together)) is not None]
    names = [f"{client_id}-{number}-of-{layout.workers}" for number in range(layout.workers)]
    if all(spool.path.name.removesuffix(SUFFIX) in names for spool in left):
        for spool in left:
            spool.close()
            together.remove(spool)
        left = []
    else:
        for spool in left:
            _LOG.info("%s has %d messages of earlier workers; they are written first", spool.path, spool.messages)
        names = [f"{name}.{time.time_ns()}" for name in names]
    own = [Spool(layout.spool / f"{name}{SUFFIX}", max_bytes=layout.spool_bytes, together=together) for name in names]
    return own, sorted(left, key=lambda spool: spool.oldest or 0.0)


def _left(path: Path, together: list[Spool]) -> Spool | None:
    """A file that has something; None: it is another process's, or was empty and is gone."""
    try:
        spool = Spool(path, max_bytes=0, together=together)
    except SpoolInUseError:
        return None
    if len(spool):
        return spool
    spool.delete()
    together.remove(spool)
    return None


def _complaints(number: int, state: PartitionState) -> list[str]:
    if state.full:
        return [f"the spool of worker {number} is full, nothing is acknowledged: {state.trouble}"]
    if state.trouble:
        return [f"worker {number}: {state.trouble}"]
    return [] if state.ready else [f"worker {number} has no database yet"]
