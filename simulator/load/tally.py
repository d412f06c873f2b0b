"""Figures of the load generator: of the last second, and in the report at the end.

Pure: no clock, no socket. "Acknowledged" messages were taken by the broker, even those
without a subscriber.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

import numpy as np

from citybeat.devices.batch import Int64
from citybeat.devices.wire import mqtt
from citybeat.devices.wire.mqtt import UInt8
from citybeat.simulator.load.backlog import Acknowledged, Backlog
from citybeat.simulator.load.latency import Histogram

#: The reason of a message that was never answered: no reason of MQTT.
NEVER: Final = 0xFF
#: Share of a core from which on the generator itself is the limit.
_BUSY: Final = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Times of each message of each connection: n messages, sorted by (sender, number)."""

    sender: Int64  # (n,) index into the senders
    number: Int64  # (n,) 0, 1, … of the sender, in the order of its supply
    due_at: Int64  # (n,) ns, time.monotonic_ns
    sent_at: Int64  # (n,)
    acknowledged_at: Int64  # (n,) -1: never answered
    reason: UInt8  # (n,) of MQTT 5; from 0x80 on it was refused; 0xff: never answered
    epoch: int  # ns to add to get time since 1970 UTC

    def of(self, sender: int) -> "Timings":
        """Return the times of one sender."""
        mine = self.sender == sender
        kept = {name.name: getattr(self, name.name)[mine] for name in fields(self) if name.name != "epoch"}
        return Timings(**kept, epoch=self.epoch)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadProgress:
    """Figures of about the last second."""

    elapsed: float  # s since the start
    messages_per_s: float  # acknowledged
    readings_per_s: float  # acknowledged
    latency: dict[str, float]  # ms: from due (with a rate) or sent, to acknowledged
    waiting: int  # messages without an answer
    behind: int  # messages that are due and not sent
    refused: int  # messages, since the start
    connected: int  # connections


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """Report of a run. Rates are those of the time of sending; the last answers come after it."""

    connections: int
    wanted_per_s: float | None  # messages; None: as many as are taken
    elapsed: float  # s of sending
    sent: int  # messages
    sent_readings: int
    sent_bytes: int  # with MQTT's own
    messages: int  # acknowledged
    readings: int  # acknowledged
    unheard: int  # of these messages: the broker said that nobody subscribes to them (MQTT 5 only)
    refused_messages: int
    refused_readings: int
    refused: dict[str, int]  # messages, by the broker's reason
    unacknowledged: int  # messages without an answer when the run ended
    unsent: int  # messages that were due before the end and not sent
    sent_per_s: float
    messages_per_s: float  # acknowledged while sending
    readings_per_s: float
    bytes_per_s: float
    latency: dict[str, float]  # ms from sent to acknowledged
    latency_from_schedule: dict[str, float] | None  # ms from due to acknowledged; None: no rate
    lateness: dict[str, float] | None  # ms from due to sent, for whatever reason
    own_lateness: dict[str, float] | None  # ms of it that neither a full window nor a lost connection accounts for
    cpu: float  # s of this process while sending
    cpu_per_100k: float  # s for 100,000 messages
    limits: dict[str, float]  # share of the connections' time: rate, broker, generator, connection
    limited_by: str  # the largest of them, or the generator when it is at its end
    reconnects: int
    resent: int  # messages, after a lost connection
    failure: str | None  # why the run ended early
    complete: bool  # everything was answered, nothing refused, and the run did not fail
    timings: Timings | None = field(repr=False, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, without `timings`."""
        return {name: value for name, value in asdict(self).items() if name != "timings"}


class Tally:
    """Counts of answers. Arrays are gathered, and counted now and then: a histogram costs as much for one as for a thousand."""

    def __init__(self, *, keep: bool) -> None:
        self.messages = self.readings = self.unheard = self.refused_messages = self.refused_readings = 0
        self.refused: Counter[str] = Counter()
        self.from_sent, self.from_due, self.late, self.own = Histogram(), Histogram(), Histogram(), Histogram()
        self.lately = Histogram()  # since the last progress
        self._sent: list[Int64] = []
        self._due: list[Int64] = []
        self._late: list[Int64] = []
        self._own: list[Int64] = []
        self.kept: list[tuple[int, Int64, Int64, Int64, int, UInt8]] | None = [] if keep else None

    def answered(self, sender: int, told: Acknowledged, now: int) -> None:
        count = len(told.number)
        self._sent.append(now - told.sent)
        self._due.append(now - told.due)
        if self.kept is not None:
            self.kept.append((sender, told.number, told.due, told.sent, now, told.reason))
        readings = int(told.readings.sum())
        if told.reason.any():
            for code in np.unique(told.reason).tolist():
                of_it = told.reason == code
                if code == mqtt.NOBODY_LISTENS:
                    self.unheard += int(of_it.sum())
                elif code >= mqtt.FAILURE:
                    messages, lost = int(of_it.sum()), int(told.readings[of_it].sum())
                    self.refused[mqtt.reason_name(code)] += messages
                    self.refused_messages += messages
                    self.refused_readings += lost
                    count, readings = count - messages, readings - lost
        self.messages += count
        self.readings += readings

    def sent(self, due: Int64, now: int, since: int) -> None:
        """Count messages that were handed over; the generator could have done so from `since` on."""
        self._late.append(now - due)
        self._own.append(now - np.maximum(due, since))

    def flush(self) -> None:
        for gathered, into in (
            (self._sent, (self.from_sent,)),
            (self._due, (self.from_due, self.lately)),
            (self._late, (self.late,)),
            (self._own, (self.own,)),
        ):
            if gathered:
                whole = np.concatenate(gathered)
                gathered.clear()
                for histogram in into:
                    histogram.add(whole)

    def report(
        self,
        backlogs: Sequence[Backlog],
        *,
        elapsed: float,
        cpu: float,
        rate: float | None,
        due: int,
        acknowledged: tuple[int, int],
        sent_bytes: int,
        limits: dict[str, int],
        reconnects: int,
        failure: str | None,
        epoch: int,
    ) -> LoadReport:
        """Make the report. `due` messages, and acknowledged messages and readings, are those until sending ended."""
        self.flush()
        sent, waiting = sum(each.sent for each in backlogs), sum(each.waiting for each in backlogs)
        whole = max(1, sum(limits.values()))
        shares = {name: round(ns / whole, 4) for name, ns in limits.items()}
        opened = rate is not None
        return LoadReport(
            connections=len(backlogs),
            wanted_per_s=rate,
            elapsed=elapsed,
            sent=sent,
            sent_readings=sum(each.sent_readings for each in backlogs),
            sent_bytes=sent_bytes,
            messages=self.messages,
            readings=self.readings,
            unheard=self.unheard,
            refused_messages=self.refused_messages,
            refused_readings=self.refused_readings,
            refused=dict(self.refused),
            unacknowledged=waiting,
            unsent=max(0, due - sent) if opened else 0,
            sent_per_s=sent / elapsed,
            messages_per_s=acknowledged[0] / elapsed,
            readings_per_s=acknowledged[1] / elapsed,
            bytes_per_s=sent_bytes / elapsed,
            latency=self.from_sent.milliseconds(),
            latency_from_schedule=self.from_due.milliseconds() if opened else None,
            lateness=self.late.milliseconds() if opened else None,
            own_lateness=self.own.milliseconds() if opened else None,
            cpu=cpu,
            cpu_per_100k=cpu / max(1, sent) * 100_000,
            limits=shares,
            limited_by="generator" if cpu > _BUSY * elapsed else max(shares, key=lambda name: shares[name]),
            reconnects=reconnects,
            resent=sum(each.resent for each in backlogs),
            failure=failure,
            complete=not waiting and not self.refused_messages and failure is None,
            timings=None if self.kept is None else _timings(self.kept, backlogs, epoch),
        )


def _timings(kept: Sequence[tuple[int, Int64, Int64, Int64, int, UInt8]], backlogs: Sequence[Backlog], epoch: int) -> Timings:
    parts = [
        (np.full(len(number), i), number, due, sent, np.full(len(number), at), reason) for i, number, due, sent, at, reason in kept
    ]
    for i, backlog in enumerate(backlogs):
        number, due, sent = backlog.unanswered()
        n = len(number)
        parts.append((np.full(n, i), number, due, sent, np.full(n, -1), np.full(n, NEVER, np.uint8)))
    sender, number, due, sent, at, reason = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((number, sender))
    return Timings(
        sender=sender[order],
        number=number[order],
        due_at=due[order],
        sent_at=sent[order],
        acknowledged_at=at[order],
        reason=reason[order].astype(np.uint8),
        epoch=epoch,
    )
