"""Encoding and decoding of the `readings` channel, for the simulator and ingest (docs/mqtt.md is the contract).

Decoding turns the payloads of many messages into flat columns with one row for each reading. It has two paths. The fast path parses
all payloads with one orjson call and flattens them with C-speed iteration; it takes only messages that are correct in every part.
The slow path takes the others, message by message and then reading by reading, and names what is wrong. So a bad reading slows down
its own message, and no other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, repeat
from typing import Any, Final

import numpy as np
import orjson

from citybeat.devices.batch import Float64, Int64
from citybeat.devices.clock import from_us
from citybeat.devices.errors import Reason
from citybeat.devices.flags import Flag
from citybeat.devices.wire.columns import NotPlainError, doubles, integers
from citybeat.devices.wire.decoded import MAX_MS, MIN_MS, Decoded, Finding, Refusal, Rows, moment, number, short
from citybeat.devices.wire.jsontext import parse_all, slices
from citybeat.devices.wire.names import Names, is_lines, named

#: The largest `seq`: one less than the largest PostgreSQL int8, so that a half-open range can hold it.
MAX_SEQ: Final = 2**63 - 2
_MAX_BOOT: Final = 64
_MISSING: Final = object()


def decode(payloads: Sequence[bytes], sources: Sequence[str], received_at: Int64) -> Decoded:
    """Decode the payloads of messages of the `readings` channel.

    Parameters
    ----------
    payloads : sequence of bytes, length m
    sources : sequence of str, length m
        The source of each message, which is the device of a report that names none.
    received_at : (m,) int64
        Microseconds since 1970 UTC: the time of readings without one (flag CLOCK).

    Returns
    -------
    Decoded
        `null` and NaN become NaN, booleans 0 and 1. Sentinels and infinities stay as sent: their meaning depends on the metric,
        which the caller knows. A refused message has no rows and 0 received readings.
    """
    m = len(payloads)
    rows = Rows(m)
    seq = [-1] * m
    boot = [""] * m
    for start, end in slices(payloads):
        bodies: dict[int, list[Any] | _Columns] = {}  # of readable messages, by number and in order
        for i, parsed in enumerate(parse_all(payloads[start:end]), start):
            body = parsed
            try:
                if type(body) is dict and "readings" in body:
                    seq[i], boot[i], body = _unwrap(body)
                bodies[i] = _as_reports(body)
            except Finding as finding:
                rows.refused.append(Refusal(message=i, index=None, reason=finding.reason, detail=finding.detail))
        _flatten(bodies, sources, received_at, rows)
    return rows.decoded(np.array(seq, np.int64), boot)


# --- shapes --------------------------------------------------------------------------------------------------------------------


def _unwrap(body: dict[str, Any]) -> tuple[int, str, Any]:
    seq, boot = body.get("seq", -1), body.get("boot", "")
    if type(seq) is not int or (seq < 0 and "seq" in body) or seq > MAX_SEQ:
        raise Finding(Reason.BAD_ENVELOPE, f"seq must be an integer from 0 to 2^63-2, not {short(seq)}")
    if type(boot) is not str or len(boot) > _MAX_BOOT or not boot.isprintable():
        raise Finding(
            Reason.BAD_ENVELOPE,
            f"boot must be a string of at most {_MAX_BOOT} printable characters, not {short(boot)}",
        )
    return seq, boot, body["readings"]


@dataclass(frozen=True, slots=True)
class _Columns:
    """The body of a message of columns, its shape checked."""

    device: Any  # str, list, or None: the source
    metric: Any  # str or list
    ts: list[Any] | None
    value: list[Any]


def _as_reports(body: Any) -> list[Any] | _Columns:
    """Return the body of a message as a list of reports, or as columns."""
    if type(body) is Finding:
        raise body
    if type(body) is list:
        if not body:
            raise Finding(Reason.EMPTY, "an empty batch")
        return body
    if type(body) is not dict:
        raise Finding(Reason.WRONG_TYPE, f"expected a report, a batch or columns, not {short(body)}")
    if "value" in body:
        return _as_columns(body)
    if "values" in body:
        return [body]
    raise Finding(Reason.WRONG_TYPE, "expected a report with 'values', an array of reports, or columns with 'value'")


def _as_columns(body: dict[str, Any]) -> _Columns:
    device, metric, ts, value = body.get("device"), body.get("metric"), body.get("ts"), body["value"]
    if type(value) is not list:
        raise Finding(Reason.WRONG_TYPE, "column 'value' must be an array")
    if type(metric) not in (list, str):
        raise Finding(Reason.WRONG_TYPE, "column 'metric' must be an array or one string")
    if device is not None and type(device) not in (list, str):
        raise Finding(Reason.WRONG_TYPE, "column 'device' must be an array or one string")
    if ts is not None and type(ts) is not list:
        raise Finding(Reason.WRONG_TYPE, "column 'ts' must be an array")
    lengths = {
        name: len(c) for name, c in (("device", device), ("metric", metric), ("ts", ts), ("value", value)) if type(c) is list
    }
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise Finding(Reason.COLUMN_LENGTH, f"columns must have one length; found {found}")
    if not value:
        raise Finding(Reason.EMPTY, "empty columns")
    return _Columns(device, metric, ts, value)


# --- flattening ----------------------------------------------------------------------------------------------------------------


def _flatten(bodies: dict[int, list[Any] | _Columns], sources: Sequence[str], received_at: Int64, rows: Rows) -> None:
    """Add the rows of checked bodies, in order of arrival: runs of messages with reports at once, columns message by message."""
    messages = list(bodies)
    start = 0
    while start < len(messages):
        first = messages[start]
        end = start + 1
        if type(bodies[first]) is list:
            while end < len(messages) and type(bodies[messages[end]]) is list:
                end += 1
        run = messages[start:end]
        start = end
        try:
            _fast(run, bodies, sources, received_at, rows)
        except NotPlainError:
            for i in run:
                try:
                    _fast([i], bodies, sources, received_at, rows)
                except NotPlainError:
                    _slow(i, bodies[i], sources[i], int(received_at[i]), rows)


def _fast(run: list[int], bodies: Mapping[int, Any], sources: Sequence[str], received_at: Int64, rows: Rows) -> None:
    """Add the rows of a run of messages with reports, or of one with columns. Raises `NotPlainError` before it adds any row."""
    if type(bodies[run[0]]) is _Columns:
        device, metric, ts, values = _fast_columns(bodies[run[0]], sources[run[0]])
        counts, sizes = [len(values)], None
    else:
        device, metric, ts, values, counts, sizes = _fast_reports(run, bodies, sources)
    lines = is_lines(device) and is_lines(metric)
    names = named(device, metric, counts) if lines else [Names.of(device, metric)]
    value = doubles(values)  # true and false become 1 and 0, as the contract says
    if ts is None:
        time, flag = np.repeat(received_at[run], counts), Flag.CLOCK
    else:
        ms, flag = integers(ts), Flag(0)
        if ms.min() < MIN_MS or ms.max() > MAX_MS:
            raise NotPlainError
        time = ms * 1000 if sizes is None else np.repeat(ms * 1000, sizes)
    rows.add(run, counts, names, time, value, np.full(len(value), flag, np.int16))


def _fast_reports(
    run: list[int], bodies: Mapping[int, Any], sources: Sequence[str]
) -> tuple[list[Any], list[str], list[Any] | None, list[Any], list[int], list[int] | None]:
    """Return device, metric, ts and value columns, and the number of readings of each message and of each report (None: one each).

    `ts` has one item for each report, the other columns have one for each reading.
    """
    counts = [len(bodies[i]) for i in run]
    reports = bodies[run[0]] if len(run) == 1 else list(chain.from_iterable([bodies[i] for i in run]))
    # Types are not checked: an item that is not a dict raises a TypeError.
    try:
        groups = [report["values"] for report in reports]
        metric = list(chain.from_iterable(groups))
        if not all(groups):
            raise NotPlainError
        sizes = None if len(metric) == len(groups) else list(map(len, groups))
        of = groups if sizes is None else chain.from_iterable(map(repeat, groups, sizes))
        values = list(map(dict.__getitem__, of, metric))  # twice as fast as a chain of dict.values
    except (KeyError, TypeError):
        raise NotPlainError from None
    try:
        device = [report["device"] for report in reports]
    except KeyError:
        own = chain.from_iterable(map(repeat, [sources[i] for i in run], counts))
        device = [report.get("device", source) for report, source in zip(reports, own, strict=True)]
    ts: list[Any] | None
    try:
        ts = [report["ts"] for report in reports]
    except KeyError:
        if any("ts" in report for report in reports):
            raise NotPlainError from None
        ts = None
    if sizes is not None:
        device = list(chain.from_iterable(map(repeat, device, sizes)))
        ends = list(accumulate(counts))
        counts = [sum(sizes[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    return device, metric, ts, values, counts, sizes


def _fast_columns(columns: _Columns, source: str) -> tuple[list[Any], list[Any], list[Any] | None, list[Any]]:
    n = len(columns.value)
    device = columns.device if type(columns.device) is list else [source if columns.device is None else columns.device] * n
    metric = columns.metric if type(columns.metric) is list else [columns.metric] * n
    return device, metric, columns.ts, columns.value


def _slow(i: int, body: list[Any] | _Columns, source: str, received_at: int, rows: Rows) -> None:
    """Add a row or a refusal for each reading of one message."""
    devices: list[str] = []
    metrics: list[str] = []
    time: list[int] = []
    value: list[float] = []
    flags: list[int] = []
    index: list[int] = []
    count = 0
    for report in _each(body):
        for device, metric, ts, raw in _readings(report, source):
            try:
                if isinstance(raw, Finding):
                    raise raw
                if type(device) is not str or type(metric) is not str:
                    raise Finding(Reason.BAD_NAME, f"device and metric must be strings, not {short(device)} and {short(metric)}")
                at, flag = (received_at, Flag.CLOCK) if ts is _MISSING else (moment(ts), Flag(0))
                read = number(raw)
            except Finding as finding:
                rows.refused.append(Refusal(message=i, index=count, reason=finding.reason, detail=finding.detail))
            else:
                devices.append(device)
                metrics.append(metric)
                time.append(at)
                value.append(read)
                flags.append(flag)
                index.append(count)
            count += 1
    rows.add_some(i, count, index, Names.of(devices, metrics), time, value, flags)


def _each(body: list[Any] | _Columns) -> Iterable[Any]:
    if type(body) is list:
        return body
    assert isinstance(body, _Columns)
    n = len(body.value)
    device = body.device if type(body.device) is list else repeat(_MISSING if body.device is None else body.device, n)
    metric = body.metric if type(body.metric) is list else repeat(body.metric, n)
    ts = repeat(_MISSING, n) if body.ts is None else body.ts
    return zip(device, metric, ts, body.value, strict=True)


def _readings(report: Any, source: str) -> Iterable[tuple[Any, Any, Any, Any]]:
    """Return (device, metric, ts, value) for the readings of a report or of a row of columns.

    For an item that is not a report, the value is a `Finding`.
    """
    if type(report) is tuple:
        device, metric, ts, value = report
        return [(source if device is _MISSING else device, metric, ts, value)]
    if type(report) is not dict:
        return [(source, "", _MISSING, Finding(Reason.BAD_REPORT, f"expected a report, not {short(report)}"))]
    values = report.get("values", _MISSING)
    if type(values) is not dict or not values:
        found = "no 'values'" if values is _MISSING else f"'values' = {short(values)}"
        return [
            (
                source,
                "",
                _MISSING,
                Finding(Reason.BAD_REPORT, f"a report needs an object 'values' of metrics; found {found}"),
            )
        ]
    device, ts = report.get("device", source), report.get("ts", _MISSING)
    return [(device, metric, ts, value) for metric, value in values.items()]


# --- encoding ------------------------------------------------------------------------------------------------------------------


def encode_report(device: str | None, time: int | None, values: Mapping[str, float | None]) -> dict[str, Any]:
    """Make a report for `encode`.

    Parameters
    ----------
    device : str or None
        None: the source itself.
    time : int or None
        Microseconds since 1970 UTC, sent as milliseconds, or as RFC 3339 if it is not a whole number of them. None: no `ts`.
    values : mapping
        By metric; None is sent as null, which means missing.
    """
    report: dict[str, Any] = {}
    if device is not None:
        report["device"] = device
    if time is not None:
        report["ts"] = _wire_time(time)
    report["values"] = values
    return report


def encode_columns(
    device: str | Sequence[str],
    metric: str | Sequence[str],
    time: Sequence[int] | Int64,
    value: Sequence[float] | Float64,
) -> dict[str, Any]:
    """Make columns for `encode`. Times are microseconds since 1970 UTC; NaN is sent as null."""
    us = np.asarray(time, np.int64)
    ts: Any = us // 1000 if not (us % 1000).any() else [_wire_time(int(t)) for t in us]
    return {"device": device, "metric": metric, "ts": ts, "value": np.asarray(value, np.float64)}


def encode(readings: Any, *, seq: int | None = None, boot: str | None = None) -> bytes:
    """Encode a payload of the `readings` channel.

    Parameters
    ----------
    readings : a report, a list of reports, or columns
    seq, boot : optional
        Consecutive number of the message, and an identifier of the source's start that the numbers belong to.
    """
    if seq is not None:
        envelope: dict[str, Any] = {"seq": seq}
        if boot is not None:
            envelope["boot"] = boot
        readings = {**envelope, "readings": readings}
    return orjson.dumps(readings, option=orjson.OPT_SERIALIZE_NUMPY)


def _wire_time(time: int) -> int | str:
    ms, rest = divmod(time, 1000)
    return ms if rest == 0 else from_us(time).isoformat()
