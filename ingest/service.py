"""The ingest service: a connection to the broker, and a partition with a worker process for each share of the sources.

The network thread fills the inboxes; the thread of each partition sends its messages to its worker, or puts them on disk, and
acknowledges them; the main thread starts workers, checks every thread, and reports. All workers share one session: whatever their
number, every source is heard from its first message on, and no session is left behind when the number changes (ARCHITECTURE.md).
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from citybeat.ingest.judging.message import Message
from citybeat.ingest.transport.endpoint import Endpoint
from citybeat.ingest.transport.gateway import Gateway, Session
from citybeat.ingest.transport.inbox import BatchSize, Inboxes
from citybeat.ingest.transport.ipc import Committed
from citybeat.ingest.transport.metrics import Gauges, Metrics, gauges
from citybeat.ingest.transport.partition import Partition, PartitionState, Timeouts
from citybeat.ingest.transport.spool import SUFFIX, Spool, SpoolInUseError, leftovers, set_aside
from citybeat.ingest.transport.supervisor import Spawn, Worker

_LOG: Final = logging.getLogger(__name__)
#: s between two checks of threads, processes and the stop signal.
_TICK: Final = 0.1
#: s that a stopping service takes for the messages that it has; the rest is on disk, or will be delivered again.
_DRAIN: Final = 6.0
#: s for a worker to end when its connection is closed: at most the rest of a statement.
_LEAVE: Final = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """Sizes and time-outs of the service."""

    workers: int = 1
    size: BatchSize
    timeouts: Timeouts
    #: bytes of payload that may wait in memory.
    inbox_bytes: int = 64 * 1024 * 1024
    spool: Path
    #: bytes of payload that may wait on disk, all partitions together.
    spool_bytes: int = 1024 * 1024 * 1024


class IngestService:
    """Connection, partitions and workers; the loop that checks them is `run`."""

    def __init__(self, session: Session, config: IngestConfig, spawn: Spawn) -> None:
        self._directory: Final = config.spool
        self._lock: Final = threading.Lock()  # protects the next two
        self._totals: Final = Counter(batches=0)  # and the ledger's columns
        self._last = {"lag_s": 0.0, "commit_s": 0.0}  # of the last batch
        self._quiet = False  # no message was unacknowledged at the last check
        self.metrics: Final = Metrics(config.workers, self.gauges)
        count = config.workers
        self.inboxes: Final = Inboxes(count, max_bytes=config.inbox_bytes)
        self.gateway: Final = Gateway(session, self.inboxes)
        own, adopted = _spools(config, session.client_id)
        gate = threading.Event()
        if not adopted:
            gate.set()
        self.partitions: Final = [
            Partition(
                number,
                inbox,
                spool,
                size=config.size,
                timeouts=config.timeouts,
                acknowledge=self.gateway.acknowledge,
                committed=partial(self._count, number),
                adopted=adopted if number == 0 else (),
                gate=gate,
            )
            for number, (inbox, spool) in enumerate(zip(self.inboxes.each, own, strict=True))
        ]
        self.workers: Final = [Worker(number, partition, spawn) for number, partition in enumerate(self.partitions)]

    def start(self) -> None:
        """Start partitions, workers and the connection."""
        for partition in self.partitions:
            partition.start()
        self.tend()
        self.gateway.start()

    def tend(self) -> None:
        """Check every thread, and start workers that do not run.

        Raises
        ------
        GatewayError
            The broker refuses the connection, or the network thread died.
        PartitionError
            A partition's thread died or hangs.
        """
        self.gateway.check()
        if self.gateway.shedding and not any(partition.state().unacknowledged for partition in self.partitions):
            # At two checks in a row: a batch that moves from the inbox to the worker is counted nowhere for a moment.
            if self._quiet:
                self.gateway.renew()
            self._quiet = not self._quiet
        else:
            self._quiet = False
        for partition in self.partitions:
            partition.check()
        for worker in self.workers:
            worker.tend()

    def stop(self) -> None:
        """Take no more messages, commit or spool those that were taken, acknowledge them, and end everything."""
        self.gateway.pause()
        for partition in self.partitions:
            partition.stop(_DRAIN)
        deadline = time.monotonic() + _DRAIN + 1.0
        while not all(partition.join(_TICK) for partition in self.partitions) and time.monotonic() < deadline:
            for worker in self.workers:
                worker.tend()
        self.gateway.stop()
        for worker in self.workers:
            worker.wait(_LEAVE)

    def report(self) -> dict[str, Any]:
        """Totals since the start, and the present state, for people."""
        states = [partition.state() for partition in self.partitions]
        with self._lock:
            totals = {**self._totals, **self._last}
        return {
            "ready": self.gateway.wait_connected(0),
            **totals,
            "waiting": sum(state.waiting for state in states),
            "unacknowledged": sum(state.unacknowledged for state in states),
            "spooled": sum(state.spooled for state in states),
            "spooled_bytes": sum(state.spooled_bytes for state in states),
            "restarts": sum(worker.restarts for worker in self.workers),
            "broker_dropped": self.gateway.dropped,
        }

    def complaints(self) -> list[str]:
        """Reasons why the service is not ready, each as a sentence; empty: messages are taken and written."""
        found = [] if self.gateway.wait_connected(0) else ["not connected to the broker"]
        found += [
            f"{path} is damaged and was set aside: its messages were acknowledged and are not stored; examine it, then remove it"
            for path in set_aside(self._directory)
        ]
        return found + [line for number, partition in enumerate(self.partitions) for line in _complaints(number, partition.state())]

    def gauges(self) -> list[Gauges]:
        """Gauges and process counters, for `Metrics`."""
        states = [partition.state() for partition in self.partitions]
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
                "Age of the oldest batch on disk; 0: there is none.",
                lambda s: 0.0 if s.spooled_since is None else max(0.0, now - s.spooled_since),
            ),
            gauge("spool_full", "1: the spool takes no more, and nothing is acknowledged.", lambda s: s.full),
            gauge("database_up", "1: the worker's last access to the database succeeded.", lambda s: s.ready),
            gauges("ingest_worker_up", "1: the process runs.", up),
            gauges("ingest_worker_restarts", "Times that the process was started again.", restarts, kind="counter"),
            gauges(
                "ingest_spool_damaged_files",
                "Damaged spool files that were set aside and not removed yet.",
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
            self._totals.update(answer.counts, batches=1)
            self._last = {"lag_s": round(lag, 4), "commit_s": round(answer.took, 4)}
        self.metrics.committed(worker, answer, lag=lag)


def run(
    session: Session,
    config: IngestConfig,
    spawn: Spawn,
    stop: threading.Event,
    *,
    endpoint: tuple[str, int],
    report: Callable[[dict[str, Any]], None] | None = None,
    report_every: float = 1.0,
) -> None:
    """Take messages, commit or spool them, and acknowledge them, until `stop` is set.

    Parameters
    ----------
    session : Session
    config : IngestConfig
    spawn : Spawn
    stop : threading.Event
        Once set, no more messages are taken, the rest is committed or spooled and acknowledged, and the function returns.
    endpoint : (str, int)
        Host and port of `/metrics`, `/healthz` and `/readyz`.
    report : callable, optional
        Called with `IngestService.report` once subscribed, then every `report_every` seconds, and at the end.

    Raises
    ------
    GatewayError, PartitionError
        See `IngestService.tend`.
    SpoolInUseError, SpoolFullError
        A spool file cannot be opened.
    EndpointError
        The port is in use.
    """
    intake = IngestService(session, config, spawn)
    host, port = endpoint
    with Endpoint(host, port, metrics=intake.metrics.exposition, ready=intake.complaints):
        _watch(intake, stop, report, report_every)


def _watch(
    intake: IngestService, stop: threading.Event, report: Callable[[dict[str, Any]], None] | None, report_every: float
) -> None:
    """Run the service until `stop` is set or it fails."""
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


def _spools(config: IngestConfig, client_id: str) -> tuple[list[Spool], list[Spool]]:
    """A spool for each partition, and spools to be emptied before anything else, in the order in which they were filled.

    If all files with messages have the names of these partitions, each partition continues its file. If another number of workers,
    or another client id, has left files too, a source's messages may be in several of them: then all of them are emptied first,
    the oldest first, and the partitions begin new files. Otherwise a source's messages would be written out of order. Files that
    another process has open are left alone.
    """
    together: list[Spool] = []
    left = [spool for path in leftovers(config.spool) if (spool := _left(path, together)) is not None]
    names = [f"{client_id}-{number}-of-{config.workers}" for number in range(config.workers)]
    if all(spool.path.name.removesuffix(SUFFIX) in names for spool in left):
        for spool in left:
            spool.close()
            together.remove(spool)
        left = []
    else:
        for spool in left:
            _LOG.info("%s has %d messages of earlier workers, which are written first", spool.path, spool.messages)
        names = [f"{name}.{time.time_ns()}" for name in names]
    own = [Spool(config.spool / f"{name}{SUFFIX}", max_bytes=config.spool_bytes, together=together) for name in names]
    return own, sorted(left, key=lambda spool: spool.oldest or 0.0)


def _left(path: Path, together: list[Spool]) -> Spool | None:
    """Open a file that has messages; None: another process has it open, or it was empty and is deleted."""
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
