"""Answers about what was received, and what became of it; and whether the service is well."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeVar

from pydantic import Field, create_model

from citybeat.api.http.models.base import Model
from citybeat.devices.ledger import COUNTERS, NAMES, OUTCOMES

_M = TypeVar("_M", bound=Model)
_BALANCE: Final = f"received = {' + '.join(OUTCOMES)}"
#: Counters in the answer to posted readings. A payload that cannot be decoded is refused as a whole, and leaves no trace.
POSTED: Final = tuple(name for name in NAMES if name not in {"undecodable", "overflow"})


def _with_counters(kind: type[Any], names: Sequence[str]) -> Callable[[type[_M]], type[_M]]:
    """Add a field for each of these counters of the ledger that a model does not describe itself."""

    def add(model: type[_M]) -> type[_M]:
        fields: dict[str, Any] = {
            each.name: (kind, Field(description=each.meaning))
            for each in COUNTERS
            if each.name in names and each.name not in model.model_fields
        }
        return create_model(model.__name__, __base__=model, __doc__=model.__doc__, __module__=model.__module__, **fields)

    return add


@_with_counters(int, NAMES)
class _Counts(Model):
    """All counters."""


class CountsModel(_Counts):
    """Sums over the whole range that was asked for."""

    balanced: bool = Field(description=f"{_BALANCE}.")


@_with_counters(list[int], NAMES)
class LedgerColumns(Model):
    """A row a minute of receipt and source, in that order."""

    minute: list[int] = Field(description="Its start, epoch milliseconds, UTC.")
    source: list[str] = Field(description="`?`: messages whose topic names none.")


class LedgerModel(Model):
    """What was received, and what became of it."""

    start: str | None = Field(alias="from")
    stop: str | None = Field(alias="to")
    totals: CountsModel
    count: int
    columns: LedgerColumns
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")


class HealthModel(Model):
    """The process runs, or the service is ready."""

    status: str
    version: str


@_with_counters(int, POSTED)
class PostedCountsModel(Model):
    """Counts of one request."""

    messages: int = Field(description="Payloads: one, or several for a file.")
    redelivered: int = Field(description="Payloads that `boot` and `seq` show to have been sent before.")
    received: int = Field(description=f"Readings; {_BALANCE}.")


class RefusedModel(Model):
    """A reading that was not stored."""

    index: int | None = Field(description="Which of the request's readings, counted from 0; null: all of a message.")
    line: int | None = Field(description="Of a CSV file; the header is line 1.")
    reason: str = Field(examples=["unknown_device"])
    detail: str


class PostedModel(Model):
    """What became of the readings of one request."""

    source: str
    received_at: str
    repeated: bool = Field(description="At least a part had been answered to the same Idempotency-Key: it was not counted again.")
    ledger: PostedCountsModel
    reasons: dict[str, int] = Field(description="Refused readings, and conflicts, by reason.")
    refused: list[RefusedModel] = Field(description="The first of them, at most 100.")
    refused_left_out: int


class RefusedEntryModel(Model):
    """Why a reading, or a message, was refused."""

    index: int | None = Field(description="Which reading of the message, counted from 0; null: all of it.")
    reason: str = Field(examples=["unknown_device"])
    detail: str


class QuarantinedModel(Model):
    """A message with readings that were refused."""

    id: int
    received_at: str
    source: str
    topic: str
    reasons: list[str]
    readings: int = Field(description="Refused readings, as the ledger has them under `quarantined`.")
    bytes: int = Field(description="Of its payload.")
    refused: list[RefusedEntryModel] = Field(description="In a list the first ten.")
    refused_left_out: int


class QuarantineModel(Model):
    """A page of quarantine, oldest first."""

    count: int
    messages: list[QuarantinedModel]
    next_cursor: str | None


class QuarantinedDetailModel(QuarantinedModel):
    """One of them with what was sent."""

    resolved_at: str | None = Field(description="Since when nothing of it is refused any more.")
    encoding: Literal["utf-8", "base64"] = Field(description="How `payload` is written.")
    payload: str


@_with_counters(int, OUTCOMES)
class _Retried(Model):
    messages: int = Field(description="Messages that were tried again.")


class ReplayedModel(_Retried):
    """Result of trying messages in quarantine again."""

    quarantined: int = Field(description="Readings that stay in quarantine.")
    unreadable: int = Field(description="Messages that stay as a whole.")
    more: bool = Field(description="Whether there may be more behind these: go on with `next_cursor`.")
    next_cursor: str | None


class LivenessColumns(Model):
    """A row a sensor in service, in order of device and metric."""

    device: list[str]
    metric: list[str]
    source: list[str]
    expected_s: list[float] = Field(description="Seconds between readings, as expected.")
    last_at: list[float | int | None] = Field(description="Newest reading, epoch milliseconds, UTC; null: it never reported.")
    good_at: list[float | int | None] = Field(description="Newest good one; null: there is none.")
    due_at: list[float | int] = Field(description="When it is overdue: three expected intervals after its newest reading.")
    stale: list[bool] = Field(description="Whether it is overdue.")


class LivenessModel(Model):
    """Which sensors are silent."""

    at: str
    count: int
    columns: LivenessColumns
    next_cursor: str | None
