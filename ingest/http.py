"""Readings that do not come over MQTT: payloads of this process, through the same pipeline, each with an answer of its own.

A thread with a pipeline takes what waits, many offers to a transaction. There is no spool: whoever offers is told only when his
readings are committed, or that nothing was taken, or that nobody knows (`storage.batches.ingest_requests`). An offer is in one of
three states, which are those of its future: *pending*, it waits, and can be cancelled without a trace; *running*, it may be
committed at any moment; *done*. A second offer of the same id, while the first is on its way, gets the same answer.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID, uuid4

from citybeat.devices.errors import CitybeatError
from citybeat.devices.wire.decoded import Refusal
from citybeat.ingest.judging.decode import decode
from citybeat.ingest.judging.message import Message
from citybeat.ingest.transport.inbox import BatchSize
from citybeat.ingest.writing.commit import BatchResult
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.storage.batches import ingest_requests
from citybeat.storage.batches.ingest_requests import (
    MAX_REFUSED,
    IngestRequest,
    IngestResult,
    NotTakenError,
    OtherContentError,
    OutcomeUnknownError,
    UnreadableError,
)
from citybeat.storage.batches.write import BatchTransaction
from citybeat.storage.db.connection import DatabaseUnavailableError, StorageError

_LOG: Final = logging.getLogger(__name__)
#: s that a batch waits for a database that is away while nothing of it can have been committed: a client can wait better than we.
_AWAY: Final = 2.0
#: s between two looks at the registry's notifications while nothing is offered.
_IDLE: Final = 0.2
#: s that a stopping process waits for the batch under way.
_LEAVE: Final = 10.0


class HttpIngestError(CitybeatError):
    """The thread died; nothing that is offered would be taken any more."""


class _AnsweredMeanwhileError(CitybeatError):
    """Another process has answered one of the batch's offers."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """An offer on its way."""

    offer: IngestRequest
    message: Message
    future: Future[IngestResult]
    until: float  # monotonic s; nobody waits for the answer any longer


class HttpIngest:
    """The thread. Offers come from any thread.

    Parameters
    ----------
    pipeline : Pipeline
        Not open yet; its own.
    size : BatchSize
        Of a transaction.
    max_bytes : int
        Of one payload.
    room : int
        Bytes of payload that may wait.
    """

    def __init__(self, pipeline: Pipeline, *, size: BatchSize, max_bytes: int, room: int) -> None:
        self._pipeline: Final = pipeline
        self._size: Final = size
        self._room: Final = room
        #: Of one payload.
        self.max_bytes: Final = max_bytes
        self._lock: Final = threading.Condition()
        self._queue: Final[deque[_Entry]] = deque()
        self._bytes = 0  # of payload in the queue
        self._pending: Final[dict[UUID, _Entry]] = {}  # waiting or under way
        self._stopping = False
        self._failure: BaseException | None = None
        self._thread: Final = threading.Thread(target=self._run, name="direct ingest", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the batch under way; what waits is not taken."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        self._thread.join(_LEAVE)

    def check(self) -> None:
        """Make sure that the thread lives.

        Raises
        ------
        HttpIngestError
        """
        if not self._thread.is_alive():
            why = f"died: {self._failure!r}" if self._failure is not None else "has ended"
            raise HttpIngestError(f"the thread that takes readings {why}") from self._failure

    def take(self, offer: IngestRequest, within: float) -> Future[IngestResult]:
        """Offer a payload.

        Parameters
        ----------
        offer : IngestRequest
        within : float
            s after which nobody waits for the answer any more.

        Returns
        -------
        Future
            An answer when it is committed; or `NotTakenError`, `OutcomeUnknownError`, `OtherContentError`, `StorageError`. As
            long as it can be cancelled, nothing has happened.

        Raises
        ------
        UnreadableError
            Nothing of the payload can be read. It leaves no trace: nobody was told that it was taken.
        NotTakenError
            There is no room for it now.
        OtherContentError
            The same id is on its way for something else.
        HttpIngestError
        """
        message = Message(f"city/v1/{offer.source}/{offer.channel}", offer.payload, time.time_ns() // 1000, False, 1, 0, 0)
        for refusal in decode([message], max_bytes=self.max_bytes).decoded.refused:
            if refusal.index is None:
                raise UnreadableError(refusal.reason, refusal.detail)
        self.check()
        with self._lock:
            if self._stopping:
                raise NotTakenError("the server is stopping")
            other = self._pending.get(offer.id)
            if other is not None:
                if other.offer.digest != offer.digest:
                    raise OtherContentError("the same key is on its way for something else")
                return _following(other.future)
            if self._bytes and self._bytes + len(offer.payload) > self._room:
                raise NotTakenError("more is waiting to be stored than there is room for")
            entry = _Entry(offer, message, Future(), time.monotonic() + within)
            self._queue.append(entry)
            self._bytes += len(offer.payload)
            self._pending[offer.id] = entry
            entry.future.add_done_callback(lambda _: self._forget(offer.id))
            self._lock.notify_all()
        return entry.future

    def _forget(self, number: UUID) -> None:
        with self._lock:
            self._pending.pop(number, None)

    # --- its own thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._pipeline.poll_registry()
                entries = self._next()
                if entries:
                    self._serve(entries)
        except BaseException as exc:  # kept for `check`
            self._failure = exc
            _LOG.exception("direct ingest failed")
        finally:
            self._stopping = True
            self._pipeline.close()
            while entries := self._pop():
                _fail(entries, NotTakenError("the server is stopping"))

    def _next(self) -> list[_Entry]:
        """The next batch, in order of arrival; empty after a while without an offer."""
        with self._lock:
            if not self._queue:
                self._lock.wait(_IDLE)
            if not self._queue or self._stopping:
                return []
        time.sleep(self._size.linger)  # for company
        return self._pop()

    def _pop(self) -> list[_Entry]:
        batch: list[_Entry] = []
        total = 0
        with self._lock:
            while self._queue and len(batch) < self._size.messages and total < self._size.bytes:
                entry = self._queue.popleft()
                self._bytes -= len(entry.message.payload)
                total += len(entry.message.payload)
                batch.append(entry)
        return [entry for entry in batch if entry.future.set_running_or_notify_cancel()]

    def _serve(self, entries: list[_Entry]) -> None:
        try:
            # An id of ours cannot have been answered yet; one of a client's may have been, at an earlier try of its own.
            asked = [entry for entry in entries if entry.offer.lasting]
            while entries := self._unanswered(entries, asked):
                asked = entries
                try:
                    _Attempt(self._pipeline, entries).make()
                except _AnsweredMeanwhileError:
                    continue
                return
        except (NotTakenError, OutcomeUnknownError) as exc:
            _fail(entries, exc)
        except StorageError as exc:
            _LOG.exception("the database refuses what was posted")
            self._pipeline.close()
            _fail(entries, exc)
        except BaseException as exc:
            _fail(entries, exc)
            raise

    def _unanswered(self, entries: list[_Entry], asked: Sequence[_Entry]) -> list[_Entry]:
        """Give those their answers that have some already; the others."""
        if not asked:
            return entries
        known = _Attempt(self._pipeline, entries).find(asked)
        for entry in asked:
            said = known.get(entry.offer.id)
            if isinstance(said, IngestResult):
                entry.future.set_result(said)
            elif said is not None:
                entry.future.set_exception(said)
        return [entry for entry in entries if entry.offer.id not in known]


class _Attempt:
    """One batch, tried until it is committed or nobody waits for it any more."""

    def __init__(self, pipeline: Pipeline, entries: Sequence[_Entry]) -> None:
        self._pipeline: Final = pipeline
        self._entries: Final = entries
        self._began: Final = time.monotonic()
        self._until: Final = max(entry.until for entry in entries)
        self._written = False  # this try has come to its commit
        self._unknown = False  # whether a commit took effect is unknown
        self._why: CitybeatError | None = None
        self._said: list[tuple[IngestRequest, IngestResult]] = []

    def make(self) -> None:
        """Store the batch and give the answers."""
        messages = [entry.message for entry in self._entries]
        try:
            written = self._pipeline.process(messages, self._give_up, batch_id=uuid4(), trouble=self._trouble, within=self._within)
        except StorageError as exc:
            raise self._given_up() if self._unknown else exc from exc
        if written is None:
            raise self._given_up()
        # Of the last try that came to its commit: that is the one that took effect, even if this one found it done.
        for entry, (_, answer) in zip(self._entries, self._said, strict=True):
            entry.future.set_result(answer)

    def find(self, asked: Sequence[_Entry]) -> dict[UUID, IngestResult | OtherContentError]:
        """Answers that there are."""
        offers = [entry.offer for entry in asked]
        found = self._pipeline.ask(lambda connection: ingest_requests.find(connection, offers), self._give_up, self._trouble)
        if found is None:
            raise self._given_up()
        return found

    def _within(self, transaction: BatchTransaction, written: BatchResult) -> None:
        said = answers_of(written, len(self._entries))
        self._said = [(entry.offer, answer) for entry, answer in zip(self._entries, said, strict=True)]
        lasting = [(offer, answer) for offer, answer in self._said if offer.lasting]
        if lasting and not ingest_requests.keep(transaction.connection, lasting):
            raise _AnsweredMeanwhileError
        self._written, self._unknown = True, False  # had a try before been committed, this one would not have come here

    def _trouble(self, exc: CitybeatError) -> None:
        if self._written and isinstance(exc, DatabaseUnavailableError):
            self._unknown = True
        self._written, self._why = False, exc

    def _give_up(self) -> bool:
        now = time.monotonic()
        return now > self._until or (not self._unknown and now - self._began > _AWAY)

    def _given_up(self) -> CitybeatError:
        if self._unknown:
            return OutcomeUnknownError("the database went away in the moment of storing; whether it has the readings is unknown")
        _LOG.warning("not taken, the database is away: %s", self._why)
        return NotTakenError("the database cannot be reached at the moment")


def answers_of(written: BatchResult, m: int) -> list[IngestResult]:
    """What became of each of the m messages of one transaction."""
    refused: list[list[Refusal]] = [[] for _ in range(m)]
    for refusal in sorted(written.refusals, key=lambda refusal: -1 if refusal.index is None else refusal.index):
        refused[refusal.message].append(refusal)
    columns = {name: column.tolist() for name, column in written.columns.items()}
    return [
        IngestResult(
            counts={name: column[i] for name, column in columns.items()},
            reasons=Counter(refusal.reason.value for refusal in refused[i]),
            refused=[refusal.entry for refusal in refused[i][:MAX_REFUSED]],
        )
        for i in range(m)
    ]


def _following(first: Future[IngestResult]) -> Future[IngestResult]:
    """The same answer for somebody else, who cannot take the offer back."""
    second: Future[IngestResult] = Future()
    second.set_running_or_notify_cancel()

    def follow(done: Future[IngestResult]) -> None:
        if done.cancelled():
            second.set_exception(NotTakenError("the same request was given up before it was stored"))
        elif (problem := done.exception()) is not None:
            second.set_exception(problem)
        else:
            second.set_result(replace(done.result(), repeated=True))

    first.add_done_callback(follow)
    return second


def _fail(entries: Sequence[_Entry], problem: BaseException) -> None:
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(problem)
