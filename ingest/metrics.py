"""What Prometheus sees of ingest: each metric's name, help and labels stand here and nowhere else.

Law: a worker calls once a batch or once a second, never once a reading; and nothing here decides anything. The account is the
ledger in the database; these figures are for watching, and the ones of a worker begin with its parent.

A worker counts into files that it maps into memory (prometheus_client's multiprocess mode), and its parent, which serves them,
reads them at each scrape: a killed worker loses no count, and a wedged one still shows its last. The library names the files by
process id; ours are named by the worker's number. A worker that is started again so goes on where the one before was killed, its
counters never fall, and no files of dead processes pile up. Only one process at a time may be worker n, which is true anyway.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import prometheus_client
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, exposition, multiprocess, values

from devices.errors import CitybeatError, Reason
from ingest.commit import Written

#: s. From what a local commit takes to what an operator notices without a graph.
_FAST: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
#: s. From a sensor beside us to a gateway that was cut off for days.
_SLOW: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0)
#: Readings a batch whose way is timed: each costs about 1.5 us, and more of one batch would tell nothing new.
_TIMED: Final = 64
#: Bytes of each file. All that is ever counted takes a sixth of them; they are allocated before they are mapped, because writing
#: to a mapped page that the disk has no room for ends a process without a word (SIGBUS).
_FILE: Final = 64 * 1024
#: How several workers' gauges are put together: those of one that died are left out; of what all say alike, the largest counts.
_MODE: Final = "livemax"
_OUTCOMES: Final = ("stored", "duplicate", "conflict", "missing", "quarantined")
_LOCK: Final = "lock"

# A series beside each counter that says when it began: twice as many of them, and rate() does without.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class MetricsError(CitybeatError):
    """The files of metrics cannot be made."""


class Metrics:
    """One worker's figures. One process at a time is worker n of a directory; not thread-safe beyond what single calls need.

    Parameters
    ----------
    directory : Path
        `Board.directory` of the parent.
    worker : int
        The label `worker`.

    Raises
    ------
    MetricsError
        There is no room for the files, or no right to make them.
    """

    def __init__(self, directory: Path, *, worker: int) -> None:
        with _counting_into(directory, str(worker)):
            # All of them are made here: a name or label that appeared later would be counted into the process's own memory.
            declared = _Declarations(CollectorRegistry(), str(worker))
            counter, gauge, histogram = declared.counter, declared.gauge, declared.histogram
            self._columns: Final = {
                "messages": counter("messages", "Messages that were committed."),
                "undecodable": counter("undecodable_messages", "Of them, those in which nothing could be read."),
                "redelivered": counter("redelivered_messages", "Of them, those that had come before or were said to."),
                "received": counter("received_readings", "Readings in the messages that were committed."),
                "overflow": counter("overflow_readings", "Quarantined readings that were not kept: the source's quota is full."),
                **declared.counters("readings", "What became of the readings received.", "outcome", _OUTCOMES),
            }
            self._reasons: Final = declared.counters(
                "quarantined", "What went to quarantine: readings, or whole messages, by reason.", "reason", tuple(Reason)
            )
            self._batches: Final = counter("batches", "Transactions that were committed.")
            self._lag: Final = histogram("lag_seconds", "From receipt to commit, of each batch's oldest message.", _FAST)
            self._commit: Final = histogram("commit_seconds", "What a batch took, from the first look at it to its commit.", _FAST)
            self._to_commit: Final = histogram(
                "publish_to_commit_seconds", "From a reading's own time to its commit, of a sample without late ones.", _SLOW
            )
            self._waiting: Final = gauge("waiting_messages", "Received, and in no batch yet.")
            self._unacknowledged: Final = gauge("unacknowledged_messages", "Received, and not acknowledged yet.")
            self._spooled_messages: Final = gauge("spooled_messages", "On disk, waiting for the database.")
            self._spooled_bytes: Final = gauge("spooled_bytes", "Payload on disk, waiting for the database.")
            self._spooled_oldest: Final = gauge("spooled_oldest_seconds", "Age of the oldest message on disk; 0: none.")
            self._connected: Final = gauge("broker_connected", "1: connected to the broker.")
            self._database: Final = gauge("database_up", "1: the last thing asked of the database was done.")
            # Said by the broker, the same to every worker: no label.
            self._broker_dropped: Final = prometheus_client.Gauge(
                "citybeat_broker_dropped_messages",
                "Messages that the broker dropped since it started, by its own count ($SYS).",
                registry=declared.registry,
                multiprocess_mode=_MODE,
            )

    def committed(self, written: Written, *, lag: float, commit: float, to_commit: NDArray[np.float64]) -> None:
        """Count a committed batch.

        Parameters
        ----------
        written : Written
        lag : float
            Seconds from receipt to commit of the batch's oldest message.
        commit : float
            Seconds that the batch took.
        to_commit : (k,) float64
            Seconds from the own time of some readings to the commit; late readings are not among them. A clock ahead of ours
            counts as 0. Of many, some are taken evenly.
        """
        self._batches.inc()
        for name, count in written.counts.items():
            if count:
                self._columns[name].inc(count)
        for reason, count in written.reasons.items():
            self._reasons[reason].inc(count)
        self._lag.observe(max(lag, 0.0))
        self._commit.observe(commit)
        step = -(-len(to_commit) // _TIMED) or 1
        for seconds in np.maximum(to_commit[::step], 0.0).tolist():
            self._to_commit.observe(seconds)

    def waiting(self, messages: int) -> None:
        """Messages that are received and in no batch yet."""
        self._waiting.set(messages)

    def unacknowledged(self, messages: int) -> None:
        """Messages that are received and not acknowledged yet."""
        self._unacknowledged.set(messages)

    def spooled(self, *, messages: int, bytes: int, oldest_s: float) -> None:  # noqa: A002 - as the setting and the metric call it
        """What waits on disk, and the age of the oldest of it in seconds; all 0: nothing."""
        self._spooled_messages.set(messages)
        self._spooled_bytes.set(bytes)
        self._spooled_oldest.set(oldest_s)

    def connected(self, connected: bool) -> None:
        """Whether there is a connection to the broker."""
        self._connected.set(connected)

    def database(self, up: bool) -> None:
        """Whether the database did what it was asked last."""
        self._database.set(up)

    def broker_dropped(self, total: int) -> None:
        """What the broker says on $SYS/broker/publish/messages/dropped."""
        self._broker_dropped.set(total)


class Board:
    """The parent's side: the workers' directory, what the parent itself knows of them, and all of it as text.

    Parameters
    ----------
    root : Path
        Where the directory is made. Directories of parents that were killed are removed from it.

    Attributes
    ----------
    directory : Path
        For `Metrics` of the workers.

    Raises
    ------
    MetricsError
        The directory cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self.directory, self._held = _fresh(root)
        self._registry: Final = CollectorRegistry()
        multiprocess.MultiProcessCollector(self._registry, str(self.directory))  # type: ignore[no-untyped-call]
        self._up: Final = prometheus_client.Gauge(
            "citybeat_ingest_worker_up", "1: the process runs.", ["worker"], registry=self._registry
        )
        self._restarts: Final = prometheus_client.Counter(
            "citybeat_ingest_worker_restarts", "Times that the process was started again.", ["worker"], registry=self._registry
        )

    def started(self, worker: int) -> None:
        """A worker's process was started for the first time."""
        self._up.labels(str(worker)).set(1)
        self._restarts.labels(str(worker))

    def died(self, worker: int) -> None:
        """A worker's process ended: what it said of the moment holds no more, what it counted stays."""
        self._up.labels(str(worker)).set(0)
        multiprocess.mark_process_dead(worker, str(self.directory))  # type: ignore[no-untyped-call]

    def restarted(self, worker: int) -> None:
        """A worker's process was started again."""
        self._up.labels(str(worker)).set(1)
        self._restarts.labels(str(worker)).inc()

    def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """Everything, as Prometheus reads it.

        Parameters
        ----------
        accept : str
            The request's header `Accept`.

        Returns
        -------
        tuple
            Media type and text.
        """
        encode, media_type = exposition.choose_encoder(accept)
        return media_type, encode(self._registry)

    def close(self) -> None:
        """Remove the directory; the workers have ended. Does nothing the second time."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self._held.close()


class _Declarations:
    """Metrics of one worker, each with the label that names it."""

    def __init__(self, registry: CollectorRegistry, worker: str) -> None:
        self.registry: Final = registry
        self._worker: Final = worker

    def counter(self, name: str, text: str) -> prometheus_client.Counter:
        made = prometheus_client.Counter(f"citybeat_ingest_{name}", text, ["worker"], registry=self.registry)
        return made.labels(self._worker)

    def counters(self, name: str, text: str, label: str, each: tuple[str, ...]) -> dict[str, prometheus_client.Counter]:
        made = prometheus_client.Counter(f"citybeat_ingest_{name}", text, ["worker", label], registry=self.registry)
        return {value: made.labels(self._worker, value) for value in each}

    def gauge(self, name: str, text: str) -> prometheus_client.Gauge:
        made = prometheus_client.Gauge(f"citybeat_ingest_{name}", text, ["worker"], registry=self.registry, multiprocess_mode=_MODE)
        return made.labels(self._worker)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> prometheus_client.Histogram:
        made = prometheus_client.Histogram(f"citybeat_ingest_{name}", text, ["worker"], registry=self.registry, buckets=buckets)
        return made.labels(self._worker)


@contextmanager
def _counting_into(directory: Path, worker: str) -> Iterator[None]:
    """Within the block, what is declared counts into this worker's files.

    The library takes the directory from the environment and the kind of its numbers from a module's variable, both when a metric
    is made; they are put back, so that nothing else in the process is touched.
    """
    for kind in ("counter", "histogram", f"gauge_{_MODE}"):
        _allocate(directory / f"{kind}_{worker}.db")
    variable = "PROMETHEUS_MULTIPROC_DIR"
    before, plain = os.environ.get(variable), values.ValueClass
    os.environ[variable] = str(directory)
    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        values.ValueClass = plain
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _allocate(file: Path) -> None:
    """Have the file, with room on disk; what another process of the same worker counted in it stays."""
    try:
        if file.exists():
            return
        # Under another name first: a scrape must not find it half made.
        draft = file.with_suffix(".draft")
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _FILE)
        finally:
            os.close(descriptor)
        draft.rename(file)
    except OSError as exc:
        raise MetricsError(f"cannot make {file}: {exc.strerror}") from exc


def _fresh(root: Path) -> tuple[Path, BinaryIO]:
    """A directory of our own and the lock that says so; those whose lock nobody holds any more are removed."""
    directory = root / str(os.getpid())
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / _LOCK).open("wb") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # a directory that is being made is not taken for one that was left
            for made in filter(Path.is_dir, root.iterdir()):
                if (left := _locked(made / _LOCK)) is not None:
                    shutil.rmtree(made, ignore_errors=True)
                    left.close()
            directory.mkdir()
            held = _locked(directory / _LOCK)
    except OSError as exc:
        raise MetricsError(f"cannot make {directory}: {exc.strerror}") from exc
    assert held is not None
    return directory, held


def _locked(file: Path) -> BinaryIO | None:
    """The file, locked for as long as it is open; None: another process has it."""
    opened = file.open("wb")
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        opened.close()
        return None
    return opened
