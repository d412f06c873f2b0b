"""Ingest over HTTP: payloads that the API received, through the same pipeline, each with a result of its own.

A thread with a pipeline takes waiting requests, many to a transaction. There is no spool: a request's result is that its readings
are committed, that nothing was taken, or that the outcome is unknown (`storage.batches.ingest_requests`). A request is in one of
three states, those of its future: *pending*, it waits, and can be cancelled without a trace; *running*, it may be committed at any
moment;
*done*. A second request of the same id, while the first is pending or running, gets the same result.
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
#: s that a batch waits for the database while nothing of it can have been committed; after that, it is the client that should wait.
_AWAY: Final = 2.0
#: s between two checks of the registry's notifications while there are no requests.
_IDLE: Final = 0.2
#: s that a stopping process waits for the present batch.
_LEAVE: Final = 10.0


class HttpIngestError(CitybeatError):
    """The thread died, so requests are no longer taken."""


class _AnsweredMeanwhileError(CitybeatError):
    """Another process has stored a result of one of the batch's requests."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A request that is pending or running."""

    offer: IngestRequest
    message: Message
    future: Future[IngestResult]
    until: float  # monotonic s; no request waits for the result any longer


class HttpIngest:
    """The thread that stores payloads. `take` may be called from any thread.

    Parameters
    ----------
    pipeline : Pipeline
        Not open yet; used by this object only.
    size : BatchSize
        Limits of a transaction.
    max_bytes : int
        Size of the largest payload.
    room : int
        Largest number of bytes of payload that may wait.
    """

    def __init__(self, pipeline: Pipeline, *, size: BatchSize, max_bytes: int, room: int) -> None:
        self._pipeline: Final = pipeline
        self._size: Final = size
        self._room: Final = room
        #: Size of the largest payload.
        self.max_bytes: Final = max_bytes
        self._lock: Final = threading.Condition()
        self._queue: Final[deque[_Entry]] = deque()
        self._bytes = 0  # of payload in the queue
        self._pending: Final[dict[UUID, _Entry]] = {}  # pending or running, by id
        self._stopping = False
        self._failure: BaseException | None = None
        self._thread: Final = threading.Thread(target=self._run, name="direct ingest", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its present batch; waiting requests are not taken."""
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
        """Queue a payload.

        Parameters
        ----------
        offer : IngestRequest
        within : float
            s after which no request waits for the result any more.

        Returns
        -------
        Future
            A result when it is committed; or `NotTakenError`, `OutcomeUnknownError`, `OtherContentError`, `StorageError`. As long
            as it can be cancelled, nothing has been stored.

        Raises
        ------
        UnreadableError
            Nothing of the payload can be decoded. It is not quarantined, since its sender learns of it here.
        NotTakenError
            The queue is full, or the server is stopping.
        OtherContentError
            A request with the same id and other content is pending or running.
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
                    raise OtherContentError("the same key is being used for other content")
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
        """Take the next batch, in order of arrival; empty after a while without a request."""
        with self._lock:
            if not self._queue:
                self._lock.wait(_IDLE)
            if not self._queue or self._stopping:
                return []
        time.sleep(self._size.linger)  # so that more requests share the transaction
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
            # An id made here cannot have a result yet; a client's id may have one, of an earlier request of that client.
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
            _LOG.exception("the database refuses readings that came over HTTP")
            self._pipeline.close()
            _fail(entries, exc)
        except BaseException as exc:
            _fail(entries, exc)
            raise

    def _unanswered(self, entries: list[_Entry], asked: Sequence[_Entry]) -> list[_Entry]:
        """Set the results of entries that have one already; returns the others."""
        if not asked:
            return entries
        known = _Attempt(self._pipeline, entries).find(asked)
        for entry in asked:
            result = known.get(entry.offer.id)
            if isinstance(result, IngestResult):
                entry.future.set_result(result)
            elif result is not None:
                entry.future.set_exception(result)
        return [entry for entry in entries if entry.offer.id not in known]


class _Attempt:
    """One batch, which is tried until it is committed or no request waits for it any more."""

    def __init__(self, pipeline: Pipeline, entries: Sequence[_Entry]) -> None:
        self._pipeline: Final = pipeline
        self._entries: Final = entries
        self._began: Final = time.monotonic()
        self._until: Final = max(entry.until for entry in entries)
        self._written = False  # this attempt has reached its commit
        self._unknown = False  # it is unknown whether a commit took effect
        self._why: CitybeatError | None = None
        self._results: list[tuple[IngestRequest, IngestResult]] = []

    def make(self) -> None:
        """Store the batch and set the results."""
        messages = [entry.message for entry in self._entries]
        try:
            written = self._pipeline.process(messages, self._give_up, batch_id=uuid4(), trouble=self._trouble, within=self._within)
        except StorageError as exc:
            raise self._given_up() if self._unknown else exc from exc
        if written is None:
            raise self._given_up()
        # `_results` are of the last attempt that reached its commit: that one took effect, even if a later one found it committed.
        for entry, (_, answer) in zip(self._entries, self._results, strict=True):
            entry.future.set_result(answer)

    def find(self, asked: Sequence[_Entry]) -> dict[UUID, IngestResult | OtherContentError]:
        """Find stored results, by id."""
        offers = [entry.offer for entry in asked]
        found = self._pipeline.ask(lambda connection: ingest_requests.find(connection, offers), self._give_up, self._trouble)
        if found is None:
            raise self._given_up()
        return found

    def _within(self, transaction: BatchTransaction, written: BatchResult) -> None:
        results = answers_of(written, len(self._entries))
        self._results = [(entry.offer, answer) for entry, answer in zip(self._entries, results, strict=True)]
        lasting = [(offer, answer) for offer, answer in self._results if offer.lasting]
        if lasting and not ingest_requests.keep(transaction.connection, lasting):
            raise _AnsweredMeanwhileError
        self._written, self._unknown = True, False  # had an earlier attempt been committed, this one would not reach this line

    def _trouble(self, exc: CitybeatError) -> None:
        if self._written and isinstance(exc, DatabaseUnavailableError):
            self._unknown = True
        self._written, self._why = False, exc

    def _give_up(self) -> bool:
        now = time.monotonic()
        return now > self._until or (not self._unknown and now - self._began > _AWAY)

    def _given_up(self) -> CitybeatError:
        if self._unknown:
            return OutcomeUnknownError(
                "the database connection was lost during a commit; whether the readings are stored is unknown"
            )
        _LOG.warning("readings over HTTP were not taken, the database is unavailable: %s", self._why)
        return NotTakenError("the database cannot be reached at the moment")


def answers_of(written: BatchResult, m: int) -> list[IngestResult]:
    """Result of each of the m messages of one transaction."""
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
    """A future with the same result for a second request, which cannot be cancelled."""
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
