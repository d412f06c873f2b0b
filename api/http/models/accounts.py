"""Answers about received readings and their outcomes, quarantine, overdue sensors, and the health of the service."""

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
    """Sums over the whole range of the request."""

    balanced: bool = Field(description=f"{_BALANCE}.")


@_with_counters(list[int], NAMES)
class LedgerColumns(Model):
    """A row for each minute of receipt and source, in that order."""

    minute: list[int] = Field(description="Its start, epoch milliseconds, UTC.")
    source: list[str] = Field(description="`?`: messages whose topic names no source.")


class LedgerModel(Model):
    """Received readings and their outcomes."""

    start: str | None = Field(alias="from")
    stop: str | None = Field(alias="to")
    totals: CountsModel
    count: int
    columns: LedgerColumns
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")


class HealthModel(Model):
    """The state of the process or of the service."""

    status: str
    version: str


@_with_counters(int, POSTED)
class PostedCountsModel(Model):
    """The ledger of one request."""

    messages: int = Field(description="Payloads: one, or several for a file.")
    redelivered: int = Field(description="Payloads that were recognised by `boot` and `seq` as sent before.")
    received: int = Field(description=f"Readings; {_BALANCE}.")


class RefusedModel(Model):
    """A reading that was not stored."""

    index: int | None = Field(description="Position of the reading in the request, from 0; null: all readings of a message.")
    line: int | None = Field(description="Line of a CSV file; the header is line 1.")
    reason: str = Field(examples=["unknown_device"])
    detail: str


class PostedModel(Model):
    """The outcomes of the readings of one request."""

    source: str
    received_at: str
    repeated: bool = Field(description="At least a part had been answered for the same Idempotency-Key, and was not counted again.")
    ledger: PostedCountsModel
    reasons: dict[str, int] = Field(description="Refused readings, and conflicts, by reason.")
    refused: list[RefusedModel] = Field(description="The first refused readings, at most 100.")
    refused_left_out: int


class RefusedEntryModel(Model):
    """The reason why a reading, or a message, was refused."""

    index: int | None = Field(description="Position of the reading in the message, from 0; null: the whole message.")
    reason: str = Field(examples=["unknown_device"])
    detail: str


class QuarantinedModel(Model):
    """A message with readings that were refused."""

    id: int
    received_at: str
    source: str
    topic: str
    reasons: list[str]
    readings: int = Field(description="Refused readings, as the ledger counts them under `quarantined`.")
    bytes: int = Field(description="Size of the payload.")
    refused: list[RefusedEntryModel] = Field(description="The refusals; in a list the first ten.")
    refused_left_out: int


class QuarantineModel(Model):
    """A page of quarantine, oldest first."""

    count: int
    messages: list[QuarantinedModel]
    next_cursor: str | None


class QuarantinedDetailModel(QuarantinedModel):
    """A quarantined message with its payload."""

    resolved_at: str | None = Field(description="Time since which none of its readings is refused any more.")
    encoding: Literal["utf-8", "base64"] = Field(description="Encoding of `payload`.")
    payload: str


@_with_counters(int, OUTCOMES)
class _Retried(Model):
    messages: int = Field(description="Messages that were retried.")


class ReplayedModel(_Retried):
    """The outcomes of a retry."""

    quarantined: int = Field(description="Readings that stay quarantined.")
    unreadable: int = Field(description="Messages that stay quarantined as a whole.")
    more: bool = Field(description="Whether there may be more messages after these: go on with `next_cursor`.")
    next_cursor: str | None


class LivenessColumns(Model):
    """A row for each sensor in service, in order of device and metric."""

    device: list[str]
    metric: list[str]
    source: list[str]
    expected_s: list[float] = Field(description="Expected seconds between readings.")
    last_at: list[float | int | None] = Field(description="Newest reading, epoch milliseconds, UTC; null: it never reported.")
    good_at: list[float | int | None] = Field(description="Newest good reading; null: there is none.")
    due_at: list[float | int] = Field(description="Time at which it is overdue: three expected intervals after its newest reading.")
    stale: list[bool] = Field(description="Whether it is overdue.")


class LivenessModel(Model):
    """Sensors in service, and which of them are overdue."""

    at: str
    count: int
    columns: LivenessColumns
    next_cursor: str | None
