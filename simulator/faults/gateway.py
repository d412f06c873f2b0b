"""Simulated gateway: packs its devices' reports into numbered messages, and injects the faults of their delivery.

No I/O: reports go in, steps come out (`Message`, `Unsent`, `Break`), in the order in which the shell must take them. The clock is
an argument: it is read once for each message, to determine the expected outcome of readings whose clock is wrong.

Faults of a gateway (its outages, reboots) are found by the reports' times; faults of a message by its number in the run. A message
has the first fault of the scenario that hits it; a reading with two is labelled with the first.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from citybeat.devices.batch import MICROSECOND, NEVER, Int64
from citybeat.devices.errors import Reason
from citybeat.devices.wire import reports as wire
from citybeat.simulator.city import noise
from citybeat.simulator.faults import choosing, episodes, malformed
from citybeat.simulator.faults.delivery import Break, Bundle, GatewayFault, Message, Step, Unsent, by_reading, relabel, unsent
from citybeat.simulator.faults.events import Events
from citybeat.simulator.faults.kinds import Fault
from citybeat.simulator.faults.malformed import Form
from citybeat.simulator.faults.rows import FUTURE_LIMIT, OUTCOME_CODES, REASON_CODES, Outcome, Rows, again, deliver, expect, refuse
from citybeat.simulator.faults.sensors import Sensors, other_value

#: Reports a message, at most; a gateway sends what is due, and seldom fills it.
BATCH: Final = 100
#: Every such message of a source goes as columns instead of reports, so that both forms are used all the time.
COLUMNS_EVERY: Final = 4
#: Default of `depth`: messages that overtake a reordered one.
DEPTH: Final = 3
#: us. Ingest refuses times too far ahead of its clock. Within this distance of the limit the outcome would depend on how long the
#: message is under way.
_BORDER: Final = 30 * MICROSECOND
_STORED: Final = OUTCOME_CODES[Outcome.STORED]
_CONFLICT: Final = OUTCOME_CODES[Outcome.CONFLICT]
_DUPLICATE: Final = OUTCOME_CODES[Outcome.DUPLICATE]
_LOST: Final = OUTCOME_CODES[Outcome.LOST]


@dataclass(kw_only=True, slots=True)
class _Outage:
    """Reports that a gateway keeps while it is cut off."""

    fault: GatewayFault
    number: int
    kept: list[Bundle] = field(default_factory=list)


class Gateway:
    """Gateway of one source.

    Parameters
    ----------
    source : str
    seed : int
        Seed of the city.
    faults : sequence of GatewayFault
        In the scenario's order; those of other sources are left out here.
    known : Sensors
    events : Events
    boot : callable
        A new name for each start.
    now : callable
        us since 1970 UTC.
    foreign : str, optional
        A device of another source.
    """

    def __init__(
        self,
        source: str,
        *,
        seed: int,
        faults: Sequence[GatewayFault],
        known: Sensors | None,
        events: Events,
        boot: Callable[[], str],
        now: Callable[[], int],
        foreign: str | None = None,
    ) -> None:
        mine = [fault for fault in faults if source in fault.sources]
        self.source = source
        self._keys = {fault.number: fault.key(seed, source) for fault in mine}
        self._states = [fault for fault in mine if fault.spec.kind in {Fault.LATE, Fault.REBOOT}]
        self._starts = [fault for fault in mine if fault.spec.kind in {Fault.REBOOT, Fault.FLAP}]
        self._whole = [fault for fault in mine if fault not in self._states + self._starts and not by_reading(fault.spec)]
        self._single = [fault for fault in mine if by_reading(fault.spec)]
        self._known = known
        self._events = events
        self._new_boot = boot
        self._now = now
        self._foreign = foreign
        self._boot = boot()
        self._seq = 0
        self._made = 0  # messages in the run
        self._begun: dict[int, int] = {}  # last reboot or flap of each specification
        self._rebooted: GatewayFault | None = None  # the next message is the first of a new boot
        self._outage: _Outage | None = None
        self._overtaken: deque[tuple[int, Message]] = deque()  # after which message each is sent
        self._last: Message | None = None  # that was sent whole

    def take(self, bundle: Bundle) -> Iterator[Step]:
        """Send the reports that are due."""
        if not self._states and not self._starts:
            yield from self._send(bundle)
            return
        active, number, starts = self._find(bundle.time)
        turns = np.flatnonzero(np.append(True, (active[1:] != active[:-1]) | (number[1:] != number[:-1])))
        turns = np.union1d(turns, np.flatnonzero((starts[1:] != starts[:-1]).any(axis=1)) + 1) if len(starts) else turns
        for start, end in zip(turns.tolist(), [*turns[1:].tolist(), len(bundle.time)], strict=True):
            yield from self._run(bundle.part(start, end), int(active[start]), int(number[start]), starts[start].tolist())

    def finish(self) -> Iterator[Step]:
        """End the run: an outage ends with it, and messages that were overtaken are sent."""
        yield from self._reconnect()
        yield from self._released(last=True)

    def give_up(self) -> Iterator[Unsent]:
        """End the run when nothing more can be sent: everything that waits is unsent."""
        outage, self._outage = self._outage, None
        rows = [bundle.rows for bundle in outage.kept] if outage else []
        rows += [message.rows for _, message in self._overtaken]
        self._overtaken.clear()
        for each in rows:
            yield Unsent(rows=unsent(each))

    # --- episodes

    def _find(self, time: Int64) -> tuple[Int64, Int64, Int64]:
        """Find for each report its state (index into `_states`, or -1) and the episode, and the last start of each kind."""
        active, number = np.full(len(time), -1, np.int64), np.full(len(time), -1, np.int64)
        for i, fault in reversed(list(enumerate(self._states))):
            if fault.spec.kind is Fault.REBOOT and int(fault.duration[0]) == 1:
                continue  # it takes no time
            found = episodes.current(self._keys[fault.number], time, fault.window, fault.duration)
            active[found.hit], number[found.hit] = i, found.number[found.hit]
        starts = np.empty((len(time), len(self._starts)), np.int64)
        for i, fault in enumerate(self._starts):
            starts[:, i] = episodes.latest(self._keys[fault.number], time, fault.window, fault.duration).number
        return active, number, starts

    def _run(self, bundle: Bundle, active: int, number: int, starts: list[int]) -> Iterator[Step]:
        """Handle reports of one state."""
        fault = self._states[active] if active >= 0 else None
        held = self._outage
        if held is not None and (fault is not held.fault or number != held.number):
            yield from self._reconnect()
        if fault is not None:
            event = self._events.episode(fault.number, self.source, number)
            deliver(bundle.rows, fault.spec.kind, fault.number, event)
            if fault.spec.kind is Fault.REBOOT:
                yield Unsent(rows=unsent(bundle.rows))
                return
            self._outage = self._outage or _Outage(fault=fault, number=number)
            self._outage.kept.append(replace(bundle, rows=bundle.rows.copy()))  # not all that was due with it
            return
        yield from self._start(starts)
        yield from self._send(bundle)

    def _start(self, starts: list[int]) -> Iterator[Step]:
        """Handle reboots and flaps since the last report."""
        for fault, number in zip(self._starts, starts, strict=True):
            if number <= self._begun.get(fault.number, -1):
                continue
            self._begun[fault.number] = number
            if fault.spec.kind is Fault.REBOOT:
                yield from self._released(last=True)
                self._boot, self._seq, self._rebooted = self._new_boot(), 0, fault
            else:
                yield Break()
                if self._last is not None:
                    rows = again(self._last.rows)
                    relabel(rows, fault, self._events.next())
                    yield replace(self._last, rows=rows)

    def _reconnect(self) -> Iterator[Step]:
        """End an outage: the reports that were kept are sent in one burst."""
        outage, self._outage = self._outage, None
        if outage is None:
            return
        first = np.concatenate([[0], *(np.diff(bundle.first) for bundle in outage.kept)]).cumsum()
        yield from self._send(
            Bundle(
                reports=[report for bundle in outage.kept for report in bundle.reports],
                time=np.concatenate([bundle.time for bundle in outage.kept]),
                rows=np.concatenate([bundle.rows for bundle in outage.kept]),
                first=first,
            )
        )

    # --- messages

    def _send(self, bundle: Bundle) -> Iterator[Step]:
        """Pack reports. One without a time goes alone: two of one sensor in one message would get one time, that of receipt."""
        bare = bundle.rows["claimed"][bundle.first[:-1]] == NEVER if len(bundle.rows) else np.empty(0, np.bool_)
        start = 0
        while start < len(bundle.reports):
            end = min(start + BATCH, len(bundle.reports))
            alone = np.flatnonzero(bare[start:end])
            if len(alone):
                end = start + max(1, int(alone[0]))
            yield from self._pack(bundle.part(start, end))
            start = end

    def _pack(self, bundle: Bundle) -> Iterator[Step]:
        rows, reports = bundle.rows, bundle.reports
        if self._rebooted is not None:
            fault, self._rebooted = self._rebooted, None
            deliver(rows, Fault.REBOOT, fault.number, self._events.episode(fault.number, self.source, self._begun[fault.number]))
        fault_ = self._hit(int(bundle.time[-1]))
        seq, boot = self._seq, self._boot
        self._seq += 1
        self._made += 1
        rows["index"] = np.arange(len(rows))
        self._off_the_border(bundle)
        timed = len(reports) > 1 or "ts" in reports[0]
        body: Any = _as_columns(reports) if timed and seq % COLUMNS_EVERY == COLUMNS_EVERY - 1 else reports
        payload = wire.encode(body[0] if body is reports and len(reports) == 1 else body, seq=seq, boot=boot)
        sound = Message(channel="readings", payload=payload, boot=boot, seq=seq, rows=rows)
        if fault_ is None:
            yield from self._sound(sound, bundle)
        else:
            yield from self._faulty(sound, bundle, fault_)
        yield from self._released()

    def _off_the_border(self, bundle: Bundle) -> None:
        """Move times whose outcome would depend on the network to where ingest refuses them."""
        rows, reports, first = bundle.rows, bundle.reports, bundle.first
        timed = rows["claimed"] != NEVER
        near = timed & (np.abs(np.where(timed, rows["claimed"], 0) - (self._now() + FUTURE_LIMIT)) < _BORDER)
        if near.any():
            rows["claimed"][near] += 2 * _BORDER
            for i in np.unique(np.searchsorted(first, np.flatnonzero(near), side="right") - 1).tolist():
                at = int(rows["claimed"][first[i]])
                reports[i] = wire.encode_report(reports[i]["device"], at, reports[i]["values"])

    def _hit(self, time: int) -> GatewayFault | None:
        """Find the first fault of messages that hits the next one."""
        step, at = np.array([self._made], np.int64), np.array([time], np.int64)
        for fault in self._whole:
            key = self._keys[fault.number]
            if fault.spec.chance is not None:
                inside = fault.window.begin <= time < fault.window.end
                if inside and episodes.chosen(key, step, fault.spec.chance)[0]:
                    return fault
            elif episodes.current(key, at, fault.window, fault.duration).hit[0]:
                return fault
        return None

    def _faulty(self, sound: Message, bundle: Bundle, fault: GatewayFault) -> Iterator[Step]:
        kind = fault.spec.kind
        if kind is Fault.MALFORMED:
            yield self._malformed(sound, bundle, fault)
            return
        event = self._events.next()
        if kind is Fault.DUPLICATE:
            yield from self._sound(sound, bundle)
            rows = again(sound.rows)
            relabel(rows, fault, event)
            yield replace(sound, rows=rows)
            return
        deliver(sound.rows, kind, fault.number, event)
        if kind is Fault.LOST:
            sound.rows["outcome"], sound.rows["reason"] = _LOST, 0
            yield replace(sound, sent=False)
        else:
            kept = replace(sound, rows=sound.rows.copy())
            self._overtaken.append((self._made + (fault.spec.depth or DEPTH), kept))

    def _sound(self, message: Message, bundle: Bundle) -> Iterator[Step]:
        """Send a sound message, and then the single readings of it that are repeated."""
        expect(message.rows, self._now())
        yield message
        self._last = message
        for fault in self._single:
            yield from self._copies(fault, message.rows, bundle)

    def _released(self, *, last: bool = False) -> Iterator[Step]:
        while self._overtaken and (last or self._overtaken[0][0] <= self._made):
            message = self._overtaken.popleft()[1]
            expect(message.rows, self._now())
            yield message

    def _copies(self, fault: GatewayFault, rows: Rows, bundle: Bundle) -> Iterator[Step]:
        """Send single readings again, in a message of their own: with the same value, or with another one."""
        assert self._known is not None
        series, time = rows["series"].astype(np.int64), rows["time"]
        keys = choosing.series_keys(fault.number, fault.city, series)
        hit = fault.where[series] & (rows["outcome"] == _STORED) & (rows["claimed"] != NEVER)
        if fault.spec.chance is not None:
            hit &= (time >= fault.window.begin) & (time < fault.window.end) & episodes.chosen(keys, time, fault.spec.chance)
        else:
            hit &= episodes.current(keys, time, fault.window, fault.duration).hit
        which = np.flatnonzero(hit)
        if not len(which):
            return
        copies = rows[which]
        if fault.spec.kind is Fault.CONFLICT:
            chance = noise.uniform(keys[which], time[which])
            copies["value"] = other_value(self._known, series[which], copies["value"], chance)
            copies["outcome"], copies["fault"], copies["event"] = _CONFLICT, 0, -1
        else:
            copies["outcome"] = _DUPLICATE
        copies["index"] = np.arange(len(copies))
        relabel(copies, fault, self._events.many(len(copies)))
        of = np.searchsorted(bundle.first, which, side="right") - 1
        reports: dict[int, dict[str, Any]] = {}
        for report, row, value in zip(of.tolist(), which.tolist(), copies["value"].tolist(), strict=True):
            original = bundle.reports[report]
            again_ = reports.setdefault(report, {**original, "values": {}})
            again_["values"][list(original["values"])[row - int(bundle.first[report])]] = value
        seq, boot = self._seq, self._boot
        self._seq += 1
        yield Message(
            channel="readings", payload=wire.encode(list(reports.values()), seq=seq, boot=boot), boot=boot, seq=seq, rows=copies
        )

    def _malformed(self, sound: Message, bundle: Bundle, fault: GatewayFault) -> Message:
        key = self._keys[fault.number]
        forms = list(fault.spec.forms or Form)
        draw = noise.uniform(noise.mix(key, np.array([self._made], np.int64)), np.arange(2))
        first = int(draw[0] * len(forms))
        # A form that is impossible for this message is replaced by the next; TRUNCATED is always possible.
        for form in (*forms[first:], *forms[:first], Form.TRUNCATED):
            spoiled = malformed.spoil(
                form, bundle.reports, seq=sound.seq, boot=sound.boot, chance=float(draw[1]), foreign=self._foreign
            )
            if spoiled is not None:
                break
        assert spoiled is not None
        rows, event = sound.rows, self._events.next()
        expect(rows, self._now())
        if spoiled.whole:
            hit: Any = slice(None)
            rows["outcome"], rows["reason"] = OUTCOME_CODES[Outcome.UNDECODABLE], REASON_CODES[spoiled.reason]
        else:
            a, b = int(bundle.first[spoiled.report]), int(bundle.first[spoiled.report + 1])
            if spoiled.metric is not None:
                a += list(bundle.reports[spoiled.report]["values"]).index(spoiled.metric)
                b = a + 1
            hit = slice(a, b)
            self._spoiled(rows, a, b, form, spoiled)
        rows_hit = rows[hit]
        relabel(rows_hit, fault, event)
        rows[hit] = rows_hit
        return Message(
            channel=spoiled.channel,
            payload=spoiled.payload,
            boot=sound.boot,
            seq=sound.seq,
            rows=rows,
            numbered=spoiled.numbered,
            malformed=True,
        )

    def _spoiled(self, rows: Rows, a: int, b: int, form: Form, spoiled: malformed.Spoiled) -> None:
        """Set the expected outcome of the readings from `a` up to `b`, which a form hits."""
        # A reading without a value is missing, whatever its time, if the time can be read.
        hit = (rows["outcome"][a:b] != OUTCOME_CODES[Outcome.MISSING]) | (spoiled.reason is not Reason.TOO_OLD)
        if spoiled.reason is Reason.NOT_FINITE:  # times are checked before values
            hit &= rows["outcome"][a:b] != OUTCOME_CODES[Outcome.QUARANTINED]
        refuse(rows, a + np.flatnonzero(hit), spoiled.reason)
        if form is Form.VALUE_HUGE:
            rows["value"][a:b] = malformed.HUGE
        elif form in malformed.READINGS and form not in {Form.UNKNOWN_METRIC, Form.LONG_METRIC}:
            rows["value"][a:b] = np.nan
        elif form.startswith("time_"):
            rows["claimed"][a:b] = NEVER if spoiled.claimed is None else spoiled.claimed
        elif form in malformed.SWALLOWED:  # the report is received as one reading
            rows["value"][a:b] = np.nan
            rows["outcome"][a + 1 : b] = _LOST
            rows["reason"][a + 1 : b] = 0
            rows["index"][a + 1 : b] = -1
            rows["index"][b:] -= b - a - 1


def _as_columns(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rows = [(report["device"], metric, report["ts"], v) for report in batch for metric, v in report["values"].items()]
    device, metric, ts, value = (list(column) for column in zip(*rows, strict=True))
    return {"device": device, "metric": metric, "ts": ts, "value": value}
