"""The `readings` channel, both ways: what the simulator encodes is what ingest decodes (docs/mqtt.md is the contract).

Decoding takes the payloads of many messages and gives flat columns, one row a reading. It works in two gears. The fast one
parses all payloads with one orjson call and flattens them with C-speed iteration; it takes only what is plainly right. Whatever
it does not take goes message by message, and then reading by reading, through the slow one, which names what is wrong. So a
bad reading costs its own message some speed, and its neighbours nothing.
"""

import json
import math
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from typing import Any, Final

import numpy as np
import orjson

from devices.batch import Float64, Int16, Int32, Int64
from devices.errors import Reason
from devices.flags import Flag

#: ms. 9999-12-31T23:59:59.999Z: beyond it Python has no dates, and such a number is a fault (microseconds sent as milliseconds).
MAX_MS: Final = 253_402_300_799_999
#: ms. 0001-01-01T00:00:00Z.
MIN_MS: Final = -62_135_596_800_000
#: The largest `seq`: one less than int8's maximum, so that a half-open range can hold it.
MAX_SEQ: Final = 2**63 - 2
#: Bytes of payload that are parsed and flattened at once. What orjson makes of them then stays in the processor's cache until it is
#: done with: on 3 MB of reports, all at once took 1.2 times as long, message by message 1.4 times.
SLICE: Final = 128 * 1024
_MAX_BOOT: Final = 64
_DETAIL: Final = 120  # characters of a sender's input that a detail may quote
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)
#: RFC 3339, section 5.6 (with its note: a space or lower case for T and Z). `fromisoformat` alone would take far more.
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_MISSING: Final = object()
_PLAIN_NUMBERS: Final = frozenset({float, int})


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a message, or one reading of it, is kept out."""

    message: int  # which of the decoded messages
    index: int | None  # which reading of the message; None: all of it
    reason: Reason
    detail: str  # for people; never longer than a line


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """Readings of m messages as n rows, in order of arrival; refused readings have no row."""

    device: list[str]
    metric: list[str]
    time: Int64  # (n,) us since 1970 UTC; the time of receipt where the reading has none
    value: Float64  # (n,) as sent; NaN: missing. May be infinite
    flags: Int16  # (n,) CLOCK or 0
    message: Int32  # (n,)
    index: Int32  # (n,) position in the message, counting refused readings too
    received: Int32  # (m,) readings in each message, refused ones included
    seq: Int64  # (m,) -1: none
    boot: list[str]  # (m,) "": none
    refused: list[Refusal]


@dataclass(slots=True)
class _Rows:
    """Rows being gathered; lists of one length, but for the counts."""

    device: list[str] = field(default_factory=list)
    metric: list[str] = field(default_factory=list)
    time: list[Int64] = field(default_factory=list)  # pieces
    value: list[Float64] = field(default_factory=list)  # pieces
    flags: list[Int16] = field(default_factory=list)  # pieces
    message: list[Int32] = field(default_factory=list)  # pieces
    index: list[Int32] = field(default_factory=list)  # pieces


class _Irregular(Exception):  # noqa: N818 - a signal between the two gears, not an error
    """The fast gear cannot take this; the slow one will."""


class _Refused(Exception):  # noqa: N818 - carries a finding to the loop that records it
    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail


def decode(payloads: Sequence[bytes], sources: Sequence[str], received_at: Int64) -> Decoded:
    """Decode the payloads of messages of the `readings` channel.

    Parameters
    ----------
    payloads : sequence of bytes, length m
    sources : sequence of str, length m
        The source of each message: the device of a report that names none.
    received_at : (m,) int64
        Microseconds since 1970 UTC: the time of a reading that has none (flag CLOCK).

    Returns
    -------
    Decoded
        `null` and NaN become NaN, booleans 0 and 1. Sentinels and infinities stand as sent: whether they mean something is
        for the caller to say, who knows the metric. A refused message has no rows and 0 received readings.
    """
    m = len(payloads)
    rows = _Rows()
    refused: list[Refusal] = []
    received = np.zeros(m, np.int32)
    seq = [-1] * m
    boot = [""] * m
    for start, end in _slices(payloads):
        bodies: dict[int, list[Any] | _Columns] = {}  # of messages that can be read, by number and in order
        for i, parsed in enumerate(_parse_all(payloads[start:end]), start):
            body = parsed
            try:
                if type(body) is dict and "readings" in body:
                    seq[i], boot[i], body = _unwrap(body)
                bodies[i] = _as_reports(body)
            except _Refused as finding:
                refused.append(Refusal(message=i, index=None, reason=finding.reason, detail=finding.detail))
        _flatten(bodies, sources, received_at, rows, received, refused)
    return Decoded(
        device=rows.device,
        metric=rows.metric,
        time=_joined(rows.time, np.int64),
        value=_joined(rows.value, np.float64),
        flags=_joined(rows.flags, np.int16),
        message=_joined(rows.message, np.int32),
        index=_joined(rows.index, np.int32),
        received=received,
        seq=np.array(seq, np.int64),
        boot=boot,
        refused=refused,
    )


# --- parsing -------------------------------------------------------------------------------------------------------------------


def _slices(payloads: Sequence[bytes]) -> Iterable[tuple[int, int]]:
    """Runs of payloads of about `SLICE` bytes."""
    start = size = 0
    for i, payload in enumerate(payloads):
        size += len(payload)
        if size >= SLICE:
            yield start, i + 1
            start, size = i + 1, 0
    if start < len(payloads):
        yield start, len(payloads)


def _parse_all(payloads: Sequence[bytes]) -> list[Any]:
    """JSON of every payload; a `_Refused` where there is none.

    All payloads are parsed as one array. A payload such as `1],[2` could make the whole parse as something else, and even give the
    right number of elements, so a number that no sender can guess stands between them: only if every second element is that number
    is each of the others one whole payload.
    """
    if len(payloads) > 1:
        mark = secrets.randbits(62)
        try:
            parsed = orjson.loads(b"[" + (b",%d," % mark).join(payloads) + b"]")
        except orjson.JSONDecodeError:
            pass
        else:
            if len(parsed) == 2 * len(payloads) - 1 and parsed[1::2].count(mark) == len(payloads) - 1:
                return parsed[::2]  # type: ignore[no-any-return]
    return list(map(_parse, payloads))


def _parse(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return _parse_leniently(payload)


def _parse_leniently(payload: bytes) -> Any:
    """JSON as Python reads it: NaN, Infinity and numbers beyond float64 too, as Python's and C's printers write them.

    One sensor without a proper value is no broken message.
    """
    try:
        return json.loads(payload.decode("utf-8"))
    except UnicodeDecodeError as exc:
        return _Refused(Reason.INVALID_UTF8, f"byte {exc.start} is not UTF-8")
    except (ValueError, RecursionError) as exc:
        return _Refused(Reason.MALFORMED, str(exc)[:_DETAIL] if payload.strip() else "no payload")


# --- shapes --------------------------------------------------------------------------------------------------------------------


def _unwrap(body: dict[str, Any]) -> tuple[int, str, Any]:
    seq, boot = body.get("seq", -1), body.get("boot", "")
    if type(seq) is not int or (seq < 0 and "seq" in body) or seq > MAX_SEQ:
        raise _Refused(Reason.BAD_ENVELOPE, f"seq must be an integer from 0 to 2^63-2, not {_short(seq)}")
    if type(boot) is not str or len(boot) > _MAX_BOOT or not boot.isprintable():
        raise _Refused(
            Reason.BAD_ENVELOPE,
            f"boot must be a string of at most {_MAX_BOOT} printable characters, not {_short(boot)}",
        )
    return seq, boot, body["readings"]


@dataclass(frozen=True, slots=True)
class _Columns:
    """A message of columns, checked for shape."""

    device: Any  # str, list, or None: the source
    metric: Any  # str or list
    ts: list[Any] | None
    value: list[Any]


def _as_reports(body: Any) -> list[Any] | _Columns:
    """A message as a list of reports, or as columns."""
    if type(body) is _Refused:
        raise body
    if type(body) is list:
        if not body:
            raise _Refused(Reason.EMPTY, "an empty batch")
        return body
    if type(body) is not dict:
        raise _Refused(Reason.WRONG_TYPE, f"expected a report, a batch or columns, not {_short(body)}")
    if "value" in body:
        return _as_columns(body)
    if "values" in body:
        return [body]
    raise _Refused(Reason.WRONG_TYPE, "expected a report with 'values', an array of reports, or columns with 'value'")


def _as_columns(body: dict[str, Any]) -> _Columns:
    device, metric, ts, value = body.get("device"), body.get("metric"), body.get("ts"), body["value"]
    if type(value) is not list:
        raise _Refused(Reason.WRONG_TYPE, "column 'value' must be an array")
    if type(metric) not in (list, str):
        raise _Refused(Reason.WRONG_TYPE, "column 'metric' must be an array or one string")
    if device is not None and type(device) not in (list, str):
        raise _Refused(Reason.WRONG_TYPE, "column 'device' must be an array or one string")
    if ts is not None and type(ts) is not list:
        raise _Refused(Reason.WRONG_TYPE, "column 'ts' must be an array")
    lengths = {
        name: len(c) for name, c in (("device", device), ("metric", metric), ("ts", ts), ("value", value)) if type(c) is list
    }
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise _Refused(Reason.COLUMN_LENGTH, f"columns must have one length; found {found}")
    if not value:
        raise _Refused(Reason.EMPTY, "empty columns")
    return _Columns(device, metric, ts, value)


# --- flattening ----------------------------------------------------------------------------------------------------------------


def _flatten(
    bodies: dict[int, list[Any] | _Columns],
    sources: Sequence[str],
    received_at: Int64,
    rows: _Rows,
    received: Int32,
    refused: list[Refusal],
) -> None:
    """Turn checked bodies into rows: runs of messages with reports at once, columns one message at a time, in order of arrival."""
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
            _fast(run, bodies, sources, received_at, rows, received)
        except _Irregular:
            for i in run:
                try:
                    _fast([i], bodies, sources, received_at, rows, received)
                except _Irregular:
                    _slow(i, bodies[i], sources[i], int(received_at[i]), rows, received, refused)


def _fast(
    run: list[int], bodies: Mapping[int, Any], sources: Sequence[str], received_at: Int64, rows: _Rows, received: Int32
) -> None:
    """Rows of a run of plain messages: either all with reports, or one with columns. Raises `_Irregular` before it adds any row."""
    if type(bodies[run[0]]) is _Columns:
        device, metric, ts, values = _fast_columns(bodies[run[0]], sources[run[0]])
        counts = np.array([len(values)])
        per_report = None
    else:
        device, metric, ts, values, per_report, counts = _fast_reports(run, bodies, sources)
    if not set(map(type, values)) <= _PLAIN_NUMBERS:
        raise _Irregular
    try:
        value = np.array(values, np.float64)
    except OverflowError:
        raise _Irregular from None
    which = np.repeat(np.array(run, np.int32), counts)
    if ts is None:
        time, flag = received_at[which], Flag.CLOCK
    else:
        time, flag = _fast_times(ts), Flag(0)
        if per_report is not None:
            time = np.repeat(time, per_report)
    rows.device += device
    rows.metric += metric
    rows.time.append(time)
    rows.value.append(value)
    rows.flags.append(np.full(len(value), flag, np.int16))
    rows.message.append(which)
    ends = np.cumsum(counts)
    rows.index.append((np.arange(len(value)) - np.repeat(ends - counts, counts)).astype(np.int32))
    received[run] = counts


def _fast_reports(
    run: list[int], bodies: Mapping[int, Any], sources: Sequence[str]
) -> tuple[list[str], list[str], list[Any] | None, list[Any], Int64, Int64]:
    """Columns of many reports, with the readings of each report and of each message."""
    lengths = [len(bodies[i]) for i in run]
    reports = bodies[run[0]] if len(run) == 1 else list(chain.from_iterable([bodies[i] for i in run]))
    try:
        groups = [report["values"] for report in reports]
    except (KeyError, TypeError):
        raise _Irregular from None
    if set(map(type, reports)) != {dict} or set(map(type, groups)) != {dict}:
        raise _Irregular
    ts = _every(reports, "ts")
    names = _every(reports, "device")
    if names is None or _MISSING in names:
        defaults = chain.from_iterable(map(repeat, [sources[i] for i in run], lengths))
        told = [_MISSING] * len(reports) if names is None else names
        names = [default if name is _MISSING else name for name, default in zip(told, defaults, strict=True)]
    if set(map(type, names)) != {str}:
        raise _Irregular
    sizes = list(map(len, groups))
    if 0 in sizes:
        raise _Irregular
    metric = list(chain.from_iterable(groups))
    values = list(chain.from_iterable(map(dict.values, groups)))
    per_report = np.array(sizes, np.int64)
    device = names if len(values) == len(names) else list(chain.from_iterable(map(repeat, names, sizes)))
    ends = np.cumsum(np.array(lengths))
    totals = np.concatenate([[0], np.cumsum(per_report)])
    counts = totals[ends] - totals[ends - np.array(lengths)]
    return device, metric, ts, values, per_report, counts


def _every(reports: list[dict[str, Any]], key: str) -> list[Any] | None:
    """What each report has under a key: `_MISSING` where it has none, None where no report has it."""
    try:
        return [report[key] for report in reports]
    except KeyError:
        found = [report.get(key, _MISSING) for report in reports]
        return None if found.count(_MISSING) == len(found) else found


def _fast_columns(columns: _Columns, source: str) -> tuple[list[str], list[str], list[Any] | None, list[Any]]:
    n = len(columns.value)
    device: list[str] = (
        columns.device if type(columns.device) is list else [source if columns.device is None else columns.device] * n
    )
    metric: list[str] = columns.metric if type(columns.metric) is list else [columns.metric] * n
    if set(map(type, device)) != {str} or set(map(type, metric)) != {str}:
        raise _Irregular
    return device, metric, columns.ts, columns.value


def _fast_times(ts: list[Any]) -> Int64:
    if set(map(type, ts)) != {int}:
        raise _Irregular
    try:
        ms = np.array(ts, np.int64)
    except OverflowError:
        raise _Irregular from None
    if ms.min() < MIN_MS or ms.max() > MAX_MS:
        raise _Irregular
    return ms * 1000


def _slow(
    i: int,
    body: list[Any] | _Columns,
    source: str,
    received_at: int,
    rows: _Rows,
    received: Int32,
    refused: list[Refusal],
) -> None:
    """One message, reading by reading; a row for each that can be read, a refusal for each that cannot."""
    time: list[int] = []
    value: list[float] = []
    flags: list[int] = []
    index: list[int] = []
    count = 0
    for report in _each(body):
        for device, metric, ts, raw in _readings(report, source):
            try:
                if isinstance(raw, _Refused):
                    raise raw
                if type(device) is not str or type(metric) is not str:
                    raise _Refused(Reason.BAD_NAME, f"device and metric must be strings, not {_short(device)} and {_short(metric)}")
                at, flag = (received_at, Flag.CLOCK) if ts is _MISSING else (_time(ts), Flag(0))
                number = _number(raw)
            except _Refused as finding:
                refused.append(Refusal(message=i, index=count, reason=finding.reason, detail=finding.detail))
            else:
                rows.device.append(device)
                rows.metric.append(metric)
                time.append(at)
                value.append(number)
                flags.append(flag)
                index.append(count)
            count += 1
    rows.time.append(np.array(time, np.int64))
    rows.value.append(np.array(value, np.float64))
    rows.flags.append(np.array(flags, np.int16))
    rows.message.append(np.full(len(time), i, np.int32))
    rows.index.append(np.array(index, np.int32))
    received[i] = count


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
    """(device, metric, ts, value) of a report or of a row of columns; the value is a `_Refused` where the report is none."""
    if type(report) is tuple:
        device, metric, ts, value = report
        return [(source if device is _MISSING else device, metric, ts, value)]
    if type(report) is not dict:
        return [(source, "", _MISSING, _Refused(Reason.BAD_REPORT, f"expected a report, not {_short(report)}"))]
    values = report.get("values", _MISSING)
    if type(values) is not dict or not values:
        found = "no 'values'" if values is _MISSING else f"'values' = {_short(values)}"
        return [
            (
                source,
                "",
                _MISSING,
                _Refused(Reason.BAD_REPORT, f"a report needs an object 'values' of metrics; found {found}"),
            )
        ]
    device, ts = report.get("device", source), report.get("ts", _MISSING)
    return [(device, metric, ts, value) for metric, value in values.items()]


def _number(raw: Any) -> float:
    """A value as float; NaN for what is missing."""
    if raw is None:
        return math.nan
    if type(raw) in (int, float, bool):
        try:
            return float(raw)
        except OverflowError:
            raise _Refused(Reason.NOT_FINITE, "an integer beyond the range of float64") from None
    raise _Refused(Reason.NOT_A_NUMBER, f"expected a number, true, false or null, not {_short(raw)}")


def _time(ts: Any) -> int:
    """Microseconds since 1970 UTC."""
    if type(ts) is int:
        if not MIN_MS <= ts <= MAX_MS:
            raise _Refused(Reason.BAD_TIME, f"{_short(ts)} ms is beyond the year 9999; are these microseconds?")
        return ts * 1000
    if type(ts) is str:
        if not _RFC3339.fullmatch(ts):
            raise _Refused(Reason.BAD_TIME, f"not RFC 3339 with an offset: {_short(ts)}")
        try:
            return (datetime.fromisoformat(ts.upper()) - _EPOCH) // _TICK
        except (ValueError, OverflowError) as exc:
            raise _Refused(Reason.BAD_TIME, f"no such time: {_short(ts)} ({exc})") from None
    raise _Refused(Reason.BAD_TIME, f"expected integer milliseconds since 1970 UTC or an RFC 3339 string, not {_short(ts)}")


def _short(thing: Any) -> str:
    """The beginning of something a sender wrote, safe to store and print."""
    try:
        text = repr(thing)
    except ValueError:  # an integer of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= _DETAIL else text[:_DETAIL] + "…"


def _joined(pieces: list[Any], dtype: type) -> Any:
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype)


# --- encoding ------------------------------------------------------------------------------------------------------------------


def encode_report(device: str | None, time: int | None, values: Mapping[str, float | None]) -> dict[str, Any]:
    """One report, ready for `encode`.

    Parameters
    ----------
    device : str or None
        None: the source itself.
    time : int or None
        Microseconds since 1970 UTC, sent as milliseconds, or as RFC 3339 where these are too coarse. None: no time of its own.
    values : mapping
        By metric; None is sent as null: missing.
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
    """Readings as columns, ready for `encode`. Times are microseconds since 1970 UTC; NaN is sent as null."""
    us = np.asarray(time, np.int64)
    ts: Any = us // 1000 if not (us % 1000).any() else [_wire_time(int(t)) for t in us]
    return {"device": device, "metric": metric, "ts": ts, "value": np.asarray(value, np.float64)}


def encode(readings: Any, *, seq: int | None = None, boot: str | None = None) -> bytes:
    """A payload of the `readings` channel.

    Parameters
    ----------
    readings : a report, a list of reports, or columns
    seq, boot : optional
        Number of the message, +1 each, and what distinguishes one start of the source from another.
    """
    if seq is not None:
        envelope: dict[str, Any] = {"seq": seq}
        if boot is not None:
            envelope["boot"] = boot
        readings = {**envelope, "readings": readings}
    return orjson.dumps(readings, option=orjson.OPT_SERIALIZE_NUMPY)


def _wire_time(time: int) -> int | str:
    ms, rest = divmod(time, 1000)
    return ms if rest == 0 else (_EPOCH + time * _TICK).isoformat()
