"""A partition: one worker's share of the messages, on their way from an inbox to the worker or to disk.

Each partition has a thread of its own. `ingest.transport.partition_states` decides; the thread carries out what it decides, and
reports the outcome to it.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final
from uuid import uuid4

from citybeat.devices.errors import CitybeatError
from citybeat.ingest.judging.message import Message
from citybeat.ingest.transport.inbox import BatchSize, Inbox
from citybeat.ingest.transport.ipc import Answer, Committed, Request, Trouble, send
from citybeat.ingest.transport.partition_states import (
    Acknowledge,
    Action,
    Append,
    Appended,
    Attached,
    Event,
    Listen,
    Load,
    Loaded,
    Lost,
    PartitionStates,
    Pop,
    Popped,
    PutBack,
    Remove,
    Report,
    Send,
    SpoolFailed,
    Take,
    Taken,
    Tick,
)
from citybeat.ingest.transport.spool import Row, Spool, SpoolDamagedError, SpoolFullError

_LOG: Final = logging.getLogger(__name__)
#: s between two log lines about a full spool.
_LOG_EVERY: Final = 10.0


class PartitionError(CitybeatError):
    """A partition's thread died or hangs, so its sources are no longer served."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Timeouts of a partition."""

    #: s that a batch, or a filled inbox, waits for the database before it goes to disk: longer than a failover that nobody notices.
    spool_after: float = 2
    #: s without a word from a worker that has a batch, until it is taken to hang: longer than any statement may take (30 s).
    hung_after: float = 45.0
    #: s without a round of the partition's own thread, until it is taken to hang. Neither a write to a working disk nor a send to a
    #: worker that no longer reads takes as long: such a worker is killed when it is taken to hang.
    dead_after: float = 90.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionState:
    """Figures of a partition, for metrics and complaints."""

    waiting: int  # messages in the inbox
    unacknowledged: int  # those, and the messages of an unacknowledged batch at the worker
    spooled: int  # messages on disk
    spooled_bytes: int
    spooled_since: float | None  # s since 1970 UTC
    full: bool  # the spool takes no more, so nothing is acknowledged
    ready: bool  # the worker has what it needs from the database
    trouble: str  # problem that worker or spool reported last; "": none


class Partition:
    """A partition and its thread.

    Parameters
    ----------
    number : int
        For names and logs.
    inbox : Inbox
    spool : Spool
        Used by this partition only.
    size : BatchSize
    timeouts : Timeouts
    acknowledge : callable
        Called with messages that are committed or on disk.
    committed : callable
        Called with each answer to a batch, and the batch's messages.
    adopted : sequence of Spool
        Left by earlier partitions; they are emptied before anything else is written. Given to one partition only.
    gate : threading.Event
        Set when all adopted spools are empty; until then every partition spools.
    """

    def __init__(
        self,
        number: int,
        inbox: Inbox,
        spool: Spool,
        *,
        size: BatchSize,
        timeouts: Timeouts,
        acknowledge: Callable[[Sequence[Message]], object],
        committed: Callable[[Committed, Sequence[Message]], object],
        adopted: Sequence[Spool] = (),
        gate: threading.Event,
    ) -> None:
        self._inbox: Final = inbox
        self._spool: Final = spool
        self._size: Final = size
        self._timeouts: Final = timeouts
        self._acknowledge: Final = acknowledge
        self._committed: Final = committed
        self._adopted: Final = list(adopted)
        self._gate: Final = gate
        self._thread: Final = threading.Thread(target=self._run, name=f"partition {number}", daemon=True)
        self._failure: BaseException | None = None
        self._states: Final = PartitionStates(spool_after=timeouts.spool_after)
        self._row: Row | None = None  # on disk, of the batch at the worker
        self._line: Connection | None = None
        self._new_line: Connection | None = None
        self._new_line_there: Final = threading.Event()
        self._stop_at: float | None = None  # monotonic s
        self._alive_at = time.monotonic()
        self._logged_at = -_LOG_EVERY

    # --- for other threads -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def attach(self, line: Connection) -> None:
        """Use the connection to a new worker; a batch that the previous worker had not answered is sent again."""
        self._new_line = line
        self._new_line_there.set()

    def stop(self, within: float) -> None:
        """Have the thread end as soon as everything is committed or on disk, at the latest after `within` seconds."""
        self._stop_at = time.monotonic() + within

    def join(self, timeout: float) -> bool:
        """Wait until the thread has ended; returns False if it has not."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def check(self) -> None:
        """Make sure that the thread lives and makes progress.

        Raises
        ------
        PartitionError
        """
        if not self._thread.is_alive() and self._stop_at is None:
            raise PartitionError(f"{self._thread.name} died: {self._failure!r}") from self._failure
        if self._thread.is_alive() and time.monotonic() - self._alive_at > self._timeouts.dead_after:
            raise PartitionError(
                f"{self._thread.name} has hung for {self._timeouts.dead_after:.0f} s; does the spool's disk answer?"
            )

    @property
    def worker_hangs(self) -> bool:
        """True if the worker has a batch and has not answered for too long."""
        states = self._states
        return states.batch is not None and states.connected and time.monotonic() - states.heard_at > self._timeouts.hung_after

    def state(self) -> PartitionState:
        """Figures of this moment."""
        states, batch, waiting = self._states, self._states.batch, len(self._inbox)
        spools = [*self._adopted, self._spool]
        return PartitionState(
            waiting=waiting,
            unacknowledged=waiting + (len(batch.messages) if batch is not None and not states.is_kept else 0),
            spooled=sum(spool.messages for spool in spools),
            spooled_bytes=sum(spool.bytes for spool in spools),
            spooled_since=min((spool.oldest for spool in spools if spool.oldest is not None), default=None),
            full=states.full,
            ready=states.ready,
            trouble=states.trouble,
        )

    # --- its own thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._states.ended:
                self._alive_at = time.monotonic()
                on_disk = bool(self._adopted or len(self._spool) or not self._gate.is_set())
                tick = Tick(waiting=len(self._inbox), full=self._has_full_batch(), on_disk=on_disk, stop_at=self._stop_at)
                actions = self._states.on(tick, self._alive_at)
                while actions:
                    if (result := self._carry_out(actions.pop(0))) is not None:
                        actions[:0] = self._states.on(result, time.monotonic())
        except BaseException as exc:  # kept for `check`
            self._failure = exc
            _LOG.exception("%s failed", self._thread.name)
        finally:
            self._hang_up()  # a worker that still tries to write its batch gives up
            for spool in [*self._adopted, self._spool]:
                spool.delete()

    def _carry_out(self, action: Action) -> Event | None:
        match action:
            case Take(timeout=timeout):
                return Taken(batch=_batch(self._inbox.take(self._size, timeout)), full=self._has_full_batch())
            case Pop():
                return Popped(batch=_batch(self._inbox.pop(self._size)))
            case PutBack(batch=batch):
                self._inbox.put_back(batch.messages)
            case Append() | Load() | Remove():
                return self._use_disk(action)
            case Send(batch=batch):
                return self._send(batch)
            case Listen(timeout=timeout):
                return self._listen(timeout)
            case Acknowledge(messages=messages):
                self._acknowledge(messages)
            case Report(answer=answer, messages=messages):
                self._committed(answer, messages)
        return None

    def _use_disk(self, action: Append | Load | Remove) -> Event | None:
        try:
            match action:
                case Append(batch=batch):
                    row = self._spool.append(batch.id, batch.messages)
                    self._row = row if batch is self._states.batch else self._row
                    return Appended()
                case Load():
                    spool = self._turn()
                    self._row = oldest = spool.first() if spool is not None else None
                    return Loaded(batch=None if oldest is None else Request(id=oldest.id, messages=oldest.messages))
                case Remove():
                    assert self._row is not None
                    (self._adopted[0] if self._adopted else self._spool).remove(self._row)
        except SpoolFullError as exc:
            if time.monotonic() - self._logged_at >= _LOG_EVERY:
                self._logged_at = time.monotonic()
                _LOG.error("nothing is acknowledged any more, the spool is full: %s", exc)
            return SpoolFailed(why=str(exc), full=True)
        except SpoolDamagedError as exc:
            return SpoolFailed(why=str(exc), full=False)
        return None

    def _turn(self) -> Spool | None:
        """The spool whose batches are written next: the adopted ones, then this partition's own if no other has adopted ones."""
        while self._adopted:
            if len(self._adopted[0]):
                return self._adopted[0]
            self._adopted.pop(0).delete()
            if not self._adopted:
                _LOG.info("everything that earlier workers had spooled is written")
                self._gate.set()
        return self._spool if self._gate.is_set() and len(self._spool) else None

    def _send(self, batch: Request) -> Lost | None:
        try:
            if self._line is not None:
                send(self._line, batch)
        except OSError:
            return self._hang_up()
        return None

    def _listen(self, timeout: float) -> Answer | Attached | Lost | None:
        if self._line is None:
            self._new_line_there.wait(timeout)
        if self._new_line_there.is_set():
            self._new_line_there.clear()
            self._hang_up()
            self._line = self._new_line
            return Attached()
        try:
            if self._line is None or not self._line.poll(timeout):
                return None
            answer: Answer = self._line.recv()
        except (OSError, EOFError):
            return self._hang_up()
        if isinstance(answer, Trouble) and answer.why != self._states.trouble:
            _LOG.warning("the worker cannot write its batch: %s", answer.why)
        return answer

    def _hang_up(self) -> Lost:
        if self._line is not None:
            self._line.close()
        self._line = None
        return Lost()

    def _has_full_batch(self) -> bool:
        return len(self._inbox) >= self._size.messages or self._inbox.bytes >= self._size.bytes


def _batch(messages: Sequence[Message]) -> Request | None:
    return Request(id=uuid4(), messages=messages) if messages else None
