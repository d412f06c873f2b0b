"""From an inbox to its worker: a batch at a time, acknowledged when it is committed, or when it is on disk.

A lane is in one of two states. *Flowing*: the worker gets the next batch from the inbox, and its messages are acknowledged when it
answers. *Spooling*, as long as anything is in the spool: whatever waits in the inbox is appended to the spool and acknowledged, and
the worker gets the spool's first batch. A lane begins to spool when its worker has not answered for a while, or when the inbox has
held more than a batch for a while. So messages of a source are written in the order in which they came, whatever happens.

A batch keeps its id when it is sent again, or to another worker, or goes to disk while the worker still tries to write it. So it
does not matter whether a try that nobody heard of any more took effect: the database knows (`Transaction.committed`).
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final
from uuid import UUID, uuid4

from citybeat.devices.errors import CitybeatError
from citybeat.ingest.judging.message import Message
from citybeat.ingest.transport.inbox import BatchSize, Inbox
from citybeat.ingest.transport.ipc import Answer, Committed, Ready, Request, Trouble, send
from citybeat.ingest.transport.spool import Row, Spool, SpoolDamagedError, SpoolFullError

_LOG: Final = logging.getLogger(__name__)
#: s between two looks at inbox and worker, while one of them is waited for: how late a message may be spooled.
_TICK: Final = 0.05
#: s to wait for a message while there is nothing to do: how late a new worker, or the order to stop, may be noticed.
_IDLE: Final = 0.2
#: s between two appends of less than a batch: each becomes a transaction when the database is back.
_SPOOL_EVERY: Final = 0.5
#: s until a spool that was full is tried again, and between two lines that say so.
_FULL_AGAIN: Final = 1.0
_SAY_EVERY: Final = 10.0


class LaneError(CitybeatError):
    """A lane's thread died or hangs; its sources would be served no more without anybody noticing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """How long what is waited for."""

    #: s that a batch, or a filled inbox, waits for the database before it goes to disk: longer than a failover that nobody notices.
    spool_after: float = 2.0
    #: s without a word from a worker that has a batch, until it is taken to hang: longer than any statement may take (30 s).
    hung_after: float = 45.0
    #: s without a round of the lane itself: no write to a disk that works takes as long, nor does a worker that is killed when it
    #: hangs, and does not read what it is sent.
    dead_after: float = 90.0


@dataclass(slots=True)
class _Sent:
    """The batch that the worker has, or will have when there is one."""

    request: Request
    since: float  # monotonic s
    row: Row | None  # where it stands in the spool
    spool: Spool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionState:
    """What a lane looks like from outside."""

    waiting: int  # messages in the inbox
    unacknowledged: int  # those, and what the worker has of them
    spooled: int  # messages on disk
    spooled_bytes: int
    spooled_since: float | None  # s since 1970 UTC
    full: bool  # the spool takes no more, so nothing is acknowledged
    ready: bool  # the worker has what it needs from the database
    trouble: str  # what the worker, or the spool, complains of


class Partition:
    """The thread of one worker's messages.

    Parameters
    ----------
    number : int
        For names and logs.
    inbox : Inbox
    spool : Spool
        Its own.
    size : BatchSize
    patience : Timeouts
    acknowledge : callable
        Gets messages that are committed or on disk.
    committed : callable
        Gets each answer to a batch, with its messages.
    adopted : sequence of Spool
        Left by lanes that are no more; they are emptied before anything else. For one lane only.
    gate : threading.Event
        Set when all that is adopted is written: until then every lane spools.
    """

    def __init__(
        self,
        number: int,
        inbox: Inbox,
        spool: Spool,
        *,
        size: BatchSize,
        patience: Timeouts,
        acknowledge: Callable[[Sequence[Message]], object],
        committed: Callable[[Committed, Sequence[Message]], object],
        adopted: Sequence[Spool] = (),
        gate: threading.Event,
    ) -> None:
        self._inbox: Final = inbox
        self._spool: Final = spool
        self._size: Final = size
        self._patience: Final = patience
        self._acknowledge: Final = acknowledge
        self._committed: Final = committed
        self._adopted: Final = list(adopted)
        self._gate: Final = gate
        self._thread: Final = threading.Thread(target=self._run, name=f"lane {number}", daemon=True)
        self._failure: BaseException | None = None
        self._sent: _Sent | None = None
        self._line: Connection | None = None
        self._new_line: Connection | None = None
        self._new_line_there: Final = threading.Event()
        self._stop_at: float | None = None  # monotonic s
        self._ready = False
        self._trouble = ""
        self._heard_at = time.monotonic()
        self._alive_at = time.monotonic()
        self._behind_since: float | None = None
        self._spooled_at = -_SPOOL_EVERY
        self._full_since: float | None = None
        self._full_said = -_SAY_EVERY

    # --- for other threads -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def attach(self, line: Connection) -> None:
        """Give it the connection to a new worker; what the one before had not answered is sent again."""
        self._new_line = line
        self._new_line_there.set()

    def stop(self, within: float) -> None:
        """Have it end: at once where the rest is on disk, else when the rest is written, at the latest after `within` seconds."""
        self._stop_at = time.monotonic() + within

    def join(self, timeout: float) -> bool:
        """Wait until it has ended; False: it has not."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def check(self) -> None:
        """Make sure that it lives and gets on.

        Raises
        ------
        LaneError
        """
        if not self._thread.is_alive() and self._stop_at is None:
            raise LaneError(f"{self._thread.name} died: {self._failure!r}") from self._failure
        if self._thread.is_alive() and time.monotonic() - self._alive_at > self._patience.dead_after:
            raise LaneError(f"{self._thread.name} has hung for {self._patience.dead_after:.0f} s; does the spool's disk answer?")

    @property
    def worker_hangs(self) -> bool:
        """Whether the worker has a batch and has said nothing for too long."""
        return self._sent is not None and self._line is not None and time.monotonic() - self._heard_at > self._patience.hung_after

    def state(self) -> PartitionState:
        """What it looks like now."""
        sent = self._sent
        unspooled = len(sent.request.messages) if sent is not None and sent.row is None else 0
        spools = [*self._adopted, self._spool]
        spooled = sum(spool.messages for spool in spools)
        return PartitionState(
            waiting=len(self._inbox),
            unacknowledged=len(self._inbox) + unspooled,
            spooled=spooled,
            spooled_bytes=sum(spool.bytes for spool in spools),
            spooled_since=min((spool.oldest for spool in spools if spool.oldest is not None), default=None),
            full=self._full_since is not None,
            ready=self._ready,
            trouble=self._trouble,
        )

    # --- its own thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._may_end():
                self._alive_at = time.monotonic()
                self._take_line()
                if self._sent is None:
                    self._send_next()
                self._listen(0.0 if self._sent is None else _TICK)
                if self._must_spool():
                    self._spool_all()
        except BaseException as exc:  # kept for `check`
            self._failure = exc
            _LOG.exception("%s failed", self._thread.name)
        finally:
            if self._line is not None:
                self._line.close()  # a worker that still tries gives up
            for spool in [*self._adopted, self._spool]:
                spool.delete()

    @property
    def _spooling(self) -> bool:
        return bool(self._adopted or len(self._spool) or not self._gate.is_set())

    def _may_end(self) -> bool:
        """Whether it was told to, and nothing is left that only we have; at the latest when its time is over."""
        if self._stop_at is None:
            return False
        over = time.monotonic() >= self._stop_at
        if self._spooling or over:
            self._spool_all()
        kept = self._sent is None or self._sent.row is not None
        return over or (kept and not len(self._inbox))

    def _take_line(self) -> None:
        if not self._new_line_there.is_set():
            return
        self._new_line_there.clear()
        if self._line is not None:
            self._line.close()
        self._line, self._ready = self._new_line, False
        self._heard_at = time.monotonic()
        if self._sent is not None:
            self._say(self._sent.request)

    def _send_next(self) -> None:
        """The spool's first batch, else the inbox's next one."""
        spool = self._due()
        row = None
        if spool is not None:
            try:
                row = spool.first()
            except (SpoolDamagedError, SpoolFullError) as exc:
                self._trouble = str(exc)
        if row is not None:
            self._send(row.id, row.messages, row, spool)
        elif self._spooling:
            time.sleep(_TICK)
        else:
            batch = self._inbox.take(self._size, 0.0 if self._stop_at is not None else _IDLE)
            self._note_backlog()
            if batch:
                self._send(uuid4(), batch, None, None)

    def _due(self) -> Spool | None:
        """The spool whose turn it is: what was adopted first, and our own when all that any lane adopted is written."""
        while self._adopted:
            if len(self._adopted[0]):
                return self._adopted[0]
            self._adopted.pop(0).delete()
            if not self._adopted:
                _LOG.info("what earlier workers had spooled is written")
                self._gate.set()
        return self._spool if self._gate.is_set() and len(self._spool) else None

    def _send(self, batch_id: UUID, messages: Sequence[Message], row: Row | None, spool: Spool | None) -> None:
        request = Request(id=batch_id, messages=messages)
        self._sent = _Sent(request, time.monotonic(), row, spool)
        self._heard_at = time.monotonic()
        self._say(request)

    def _say(self, request: Request) -> None:
        if self._line is not None:
            try:
                send(self._line, request)
            except OSError:
                self._hang_up()

    def _hang_up(self) -> None:
        """The worker is gone; another one will be attached."""
        if self._line is not None:
            self._line.close()
        self._line, self._ready = None, False

    def _listen(self, timeout: float) -> None:
        """Hear what the worker says, without a batch too: how the database is, and nothing that nobody reads may pile up."""
        if self._line is None:
            self._new_line_there.wait(timeout)
            return
        try:
            while self._line.poll(timeout):
                self._hear(self._line.recv())
                timeout = 0.0
        except (OSError, EOFError):
            self._hang_up()

    def _hear(self, answer: Answer) -> None:
        self._heard_at = time.monotonic()
        if isinstance(answer, Trouble):
            if answer.why != self._trouble:
                _LOG.warning("the database does not take what we have: %s", answer.why)
            self._ready, self._trouble = False, answer.why
        elif isinstance(answer, Ready):
            self._ready, self._trouble = True, ""
        elif self._sent is not None and answer.id == self._sent.request.id:
            sent, self._sent = self._sent, None
            self._ready, self._trouble, self._full_since = True, "", None  # there is room again
            if sent.row is None:
                self._acknowledge(sent.request.messages)
            elif sent.spool is not None:
                try:
                    sent.spool.remove(sent.row)
                except SpoolDamagedError as exc:
                    self._trouble = str(exc)
            self._committed(answer, sent.request.messages)

    def _note_backlog(self) -> None:
        if not self._is_full_batch():
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = time.monotonic()

    def _is_full_batch(self) -> bool:
        return len(self._inbox) >= self._size.messages or self._inbox.bytes >= self._size.bytes

    def _must_spool(self) -> bool:
        """Whether messages have waited for too long, or must queue behind those on disk."""
        now, limit = time.monotonic(), self._patience.spool_after
        if self._spooling:
            return self._is_full_batch() or now - self._spooled_at > _SPOOL_EVERY
        late = self._sent is not None and self._sent.row is None and now - self._sent.since > limit
        return late or (self._behind_since is not None and now - self._behind_since > limit)

    def _spool_all(self) -> None:
        """Put on disk, and acknowledge, what the worker has from the inbox and what waits there."""
        if self._full_since is not None and time.monotonic() - self._full_since < _FULL_AGAIN:
            return
        self._spooled_at = time.monotonic()
        try:
            if self._sent is not None and self._sent.row is None:
                request = self._sent.request
                self._sent.row = self._spool.append(request.id, request.messages)
                self._sent.spool = self._spool
                self._acknowledge(request.messages)
            while batch := self._inbox.pop(self._size):
                try:
                    self._spool.append(uuid4(), batch)
                except BaseException:
                    self._inbox.put_back(batch)
                    raise
                self._acknowledge(batch)
            self._full_since = None
        except SpoolFullError as exc:
            self._full_since = time.monotonic()
            self._trouble = str(exc)
            if time.monotonic() - self._full_said >= _SAY_EVERY:
                self._full_said = time.monotonic()
                _LOG.error("nothing is acknowledged any more, the spool is full: %s", exc)
        except SpoolDamagedError as exc:
            self._trouble = str(exc)
