"""The states of a partition: which batch its worker gets next, what is acknowledged, and what goes to disk. Pure.

A partition's messages wait in its inbox, in order of arrival. Its worker gets one batch at a time. Messages are acknowledged when
their batch is committed or when they are on disk, whichever comes first; and as long as anything is on disk, messages that arrive
queue behind it, on disk too. So messages of a source are committed in the order in which they arrived, whatever happens.

A batch keeps its id when it is sent again, to another worker, or is put on disk while the worker still tries to write it. So it
does not matter whether an attempt whose answer was never heard took effect: the database knows (`BatchTransaction.committed`).

=========  =================  ===============  =============
state      batch at worker    batches on disk  acknowledged?
=========  =================  ===============  =============
IDLE       none               none
SENT       from the inbox     none             no
SPOOLING   none               some
REPLAYING  the oldest on disk some             yes
ENDED      does not matter    does not matter
=========  =================  ===============  =============

===================  =================================  =========  ===============================================
state                event                              next       actions
===================  =================================  =========  ===============================================
IDLE                 Tick                               IDLE       Take, Listen
IDLE                 Tick, the inbox was full too long  IDLE       Pop, Listen
IDLE, SPOOLING       Tick, something is on disk         SPOOLING   Load, Listen; Pop first if it is due
SENT                 Tick                               SENT       Listen
SENT                 Tick, no answer for too long       SENT       Append (the batch), Listen
REPLAYING            Tick                               REPLAYING  Listen; Pop first if it is due
IDLE                 Taken (a batch)                    SENT       Send
SPOOLING             Loaded (a batch)                   REPLAYING  Send
SENT                 Appended                           REPLAYING  Acknowledge, Pop
any                  Popped (a batch)                   same       Append
IDLE, SPOOLING       Appended                           SPOOLING   Acknowledge, Pop
REPLAYING            Appended                           REPLAYING  Acknowledge, Pop
any                  SpoolFailed (a popped batch)       same       PutBack
SENT                 Committed                          IDLE       Acknowledge, Report, Listen
REPLAYING            Committed                          SPOOLING   Remove, Report, Listen
SENT, REPLAYING      Attached                           same       Send
any                  Tick, the time to stop is over     same       Append (the batch) or Pop; ENDED at the next tick
any but SENT         Tick, stopping and inbox empty     ENDED
===================  =================================  =========  ===============================================

Other events only change what is known of worker and disk. The first tick after the last batch on disk was removed leads from
SPOOLING to IDLE.
"""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from citybeat.ingest.judging.message import Message
from citybeat.ingest.transport.ipc import Committed, Ready, Request, Trouble

#: s between two looks at inbox and worker while an answer is awaited: at most so much later a message is put on disk.
_LISTEN: Final = 0.05
#: s to wait for a message while nothing else is to be done: at most so much later a new worker, or the order to stop, is noticed.
_TAKE: Final = 0.2
#: s between two appends of less than a batch: each becomes a transaction when the database is back.
_APPEND_EVERY: Final = 0.5
#: s until a full spool is tried again.
_RETRY_FULL: Final = 1.0


class State(enum.Enum):
    """States of a partition; the module's docstring says what each means."""

    IDLE = enum.auto()
    SENT = enum.auto()
    SPOOLING = enum.auto()
    REPLAYING = enum.auto()
    ENDED = enum.auto()


# --- events: `Ready`, `Trouble` and `Committed` come from the worker as they are -------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """The beginning of a round, with what is to be seen then. Only a tick starts something."""

    waiting: int  # messages in the inbox
    full: bool  # they are a full batch or more
    on_disk: bool  # batches wait on disk, here or for another partition that has to be emptied first
    stop_at: float | None = None  # monotonic s by which the partition must have ended; None: it was not told to stop


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """Result of `Take`."""

    batch: Request | None  # None: no message came in time
    full: bool  # another full batch waits in the inbox


@dataclass(frozen=True, kw_only=True, slots=True)
class Popped:
    """Result of `Pop`."""

    batch: Request | None  # None: the inbox is empty


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """Result of `Load`."""

    batch: Request | None  # None: other partitions' batches come first


@dataclass(frozen=True, kw_only=True, slots=True)
class Appended:
    """Result of `Append`: the batch is on disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpoolFailed:
    """`Load`, `Append` or `Remove` failed."""

    why: str
    full: bool  # for want of room


@dataclass(frozen=True, kw_only=True, slots=True)
class Attached:
    """There is a connection to a new worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """The connection to the worker is lost; another worker will be attached."""


Event = Tick | Taken | Popped | Loaded | Appended | SpoolFailed | Attached | Lost | Ready | Trouble | Committed

# --- actions: each has one event as its result, or none; the result is given to `on` before the next action is carried out -------


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """Wait for messages, and take a batch from the inbox for the worker. Result: `Taken`."""

    timeout: float  # s


@dataclass(frozen=True, kw_only=True, slots=True)
class Pop:
    """Take a batch from the inbox for the disk, without waiting. Result: `Popped`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PutBack:
    """Return a popped batch to the front of the inbox."""

    batch: Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Append:
    """Put a batch on disk, behind all others. Result: `Appended` or `SpoolFailed`."""

    batch: Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Read the batch that has been on disk longest. Result: `Loaded` or `SpoolFailed`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Remove:
    """Remove from disk the batch that the worker had. Result: none or `SpoolFailed`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Send:
    """Send a batch to the worker, if one is attached. Result: none or `Lost`."""

    batch: Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Listen:
    """Wait for one answer of the worker, or for a new worker. Result: the answer, `Attached`, `Lost` or none."""

    timeout: float  # s


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledge:
    """Acknowledge messages to the broker: they are committed or on disk."""

    messages: Sequence[Message]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Count a committed batch."""

    answer: Committed
    messages: Sequence[Message]


Action = Take | Pop | PutBack | Append | Load | Remove | Send | Listen | Acknowledge | Report


class PartitionStates:
    """State of one partition. The attributes are for reading.

    Parameters
    ----------
    spool_after : float
        s that a batch waits for its commit, or the inbox may hold more than a batch, before messages go to disk.
    """

    def __init__(self, *, spool_after: float) -> None:
        self._spool_after: Final = spool_after
        #: The batch that the worker has, or will have when there is one.
        self.batch: Request | None = None
        #: That batch is on disk too, so its messages are acknowledged.
        self.is_kept = False
        #: A worker is attached.
        self.connected = False
        #: The worker has what it needs from the database.
        self.ready = False
        #: Problem that worker or disk reported last; "": none.
        self.trouble = ""
        #: Monotonic s of the last sign of life of the worker, or of the last batch that it was given.
        self.heard_at = 0.0
        #: The disk took no more at the last attempt, so nothing is acknowledged.
        self.full = False
        self.ended = False
        self._on_disk = False
        self._appending: Request | None = None  # by an `Append` that has no result yet
        self._sent_at = 0.0  # monotonic s
        self._full_inbox_since: float | None = None  # monotonic s
        self._appended_at = -math.inf  # monotonic s of the last attempt
        self._last_attempt = False  # to put everything on disk; the time to stop is over

    @property
    def state(self) -> State:
        """The state, as the table has it."""
        if self.ended:
            return State.ENDED
        if self.batch is None:
            return State.SPOOLING if self._on_disk else State.IDLE
        return State.REPLAYING if self.is_kept else State.SENT

    def on(self, event: Event, now: float) -> list[Action]:
        """Take in an event.

        Parameters
        ----------
        event : Event
        now : float
            Monotonic s.

        Returns
        -------
        list of Action
            To be carried out in this order.
        """
        match event:
            case Tick():
                return self._tick(event, now)
            case Taken(batch=batch, full=full):
                since = self._full_inbox_since
                self._full_inbox_since = (now if since is None else since) if full else None
                return self._send(batch, now, kept=False)
            case Loaded(batch=batch):
                return self._send(batch, now, kept=True)
            case Popped(batch=Request() as batch):
                return self._append(batch)
            case Popped():
                self.full = False
            case Appended():
                return self._appended()
            case SpoolFailed():
                return self._spool_failed(event)
            case Attached():
                self.connected, self.ready, self.heard_at = True, False, now
                return [] if self.batch is None else [Send(batch=self.batch)]
            case Lost():
                self.connected = self.ready = False
            case Ready() | Trouble() | Committed():
                self.heard_at = now
                return [*self._answered(event), Listen(timeout=0.0)]
        return []

    def _tick(self, tick: Tick, now: float) -> list[Action]:
        self._on_disk = tick.on_disk
        stopping = tick.stop_at is not None
        if self._last_attempt or (stopping and self.state is not State.SENT and not tick.waiting):
            self.ended = True
            return []
        if tick.stop_at is not None and now >= tick.stop_at:
            self._last_attempt = True
            return self._spool(now)
        spooling = self._spool(now) if self._must_spool(tick, now) else []
        if self.batch is not None:
            return [*spooling, Listen(timeout=_LISTEN)]
        if self._on_disk:
            return [*spooling, Load(), Listen(timeout=_LISTEN)]
        # What waits behind messages that go to disk now must not overtake them.
        return [*(spooling or [Take(timeout=0.0 if stopping else _TAKE)]), Listen(timeout=0.0)]

    def _must_spool(self, tick: Tick, now: float) -> bool:
        """Return True if messages have waited for too long, or must queue behind those on disk."""
        if self._on_disk:
            return tick.full or tick.stop_at is not None or now - self._appended_at > _APPEND_EVERY
        late = self.state is State.SENT and now - self._sent_at > self._spool_after
        return late or (self._full_inbox_since is not None and now - self._full_inbox_since > self._spool_after)

    def _spool(self, now: float) -> list[Action]:
        """Put on disk what the worker has from the inbox, then what waits in the inbox."""
        if self.full and now - self._appended_at < _RETRY_FULL:
            return []
        self._appended_at, self._full_inbox_since = now, None
        return self._append(self.batch) if self.batch is not None and not self.is_kept else [Pop()]

    def _append(self, batch: Request) -> list[Action]:
        self._appending = batch
        return [Append(batch=batch)]

    def _appended(self) -> list[Action]:
        assert self._appending is not None
        batch, self._appending, self._on_disk = self._appending, None, True
        self.is_kept = self.is_kept or batch is self.batch
        return [Acknowledge(messages=batch.messages), Pop()]

    def _spool_failed(self, event: SpoolFailed) -> list[Action]:
        self.trouble = event.why
        batch, self._appending = self._appending, None
        self.full = self.full or (event.full and batch is not None)
        return [] if batch is None or batch is self.batch else [PutBack(batch=batch)]

    def _send(self, batch: Request | None, now: float, *, kept: bool) -> list[Action]:
        if batch is None:
            return []
        self.heard_at = self._sent_at = now  # first: another thread may look whether the worker hangs
        self.is_kept, self.batch = kept, batch
        return [Send(batch=batch)]

    def _answered(self, answer: Ready | Trouble | Committed) -> list[Action]:
        if isinstance(answer, Committed) and (self.batch is None or answer.id != self.batch.id):
            return []  # the answer to an earlier attempt
        self.ready = not isinstance(answer, Trouble)
        self.trouble = answer.why if isinstance(answer, Trouble) else ""
        if self.batch is None or not isinstance(answer, Committed):
            return []
        batch, self.batch = self.batch, None
        self.full = False  # there is room again
        first = Remove() if self.is_kept else Acknowledge(messages=batch.messages)
        return [first, Report(answer=answer, messages=batch.messages)]
