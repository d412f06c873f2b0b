"""Slow, obvious twins of the vectorised functions: one reading at a time, plain Python, no NumPy."""

import json
import math
import re
from datetime import UTC, datetime, timedelta

BAD = 1 | 2 | 4 | 128
MANUAL_GOOD = 256
MINUTE = 60_000_000
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def decode_message(payload, source, received_at):
    """(readings, refusals, seq, boot): (index, device, metric, us, value, flags) each, and (index or None, reason) each."""
    try:
        body = json.loads(payload.decode("utf-8"))
    except UnicodeDecodeError:
        return [], [(None, "invalid_utf8")], -1, ""
    except (ValueError, RecursionError):
        return [], [(None, "malformed")], -1, ""
    seq, boot = -1, ""
    if isinstance(body, dict) and "readings" in body:
        seq, boot = body.get("seq", -1), body.get("boot", "")
        if type(seq) is not int or ("seq" in body and seq < 0) or seq > 2**63 - 2:
            return [], [(None, "bad_envelope")], -1, ""
        if type(boot) is not str or len(boot) > 64 or not boot.isprintable():
            return [], [(None, "bad_envelope")], -1, ""
        body = body["readings"]
    rows = []  # (device, metric, ts or None, has_ts, value) or a reason
    if isinstance(body, list):
        if not body:
            return [], [(None, "empty")], seq, boot
        reports = body
    elif isinstance(body, dict) and "value" in body:
        return columns(body, source, received_at, seq, boot)
    elif isinstance(body, dict) and "values" in body:
        reports = [body]
    else:
        return [], [(None, "wrong_type")], seq, boot
    for report in reports:
        if not isinstance(report, dict) or not isinstance(report.get("values"), dict) or not report["values"]:
            rows.append("bad_report")
            continue
        for metric, value in report["values"].items():
            rows.append((report.get("device", source), metric, report.get("ts"), "ts" in report, value))
    return judged(rows, received_at, seq, boot)


def columns(body, source, received_at, seq, boot):
    value, metric = body["value"], body.get("metric")
    device, ts = body.get("device"), body.get("ts")
    shapes = [isinstance(value, list), isinstance(metric, list | str), device is None or isinstance(device, list | str)]
    if not all(shapes) or not (ts is None or isinstance(ts, list)):
        return [], [(None, "wrong_type")], seq, boot
    if len({len(column) for column in (value, metric, device, ts) if isinstance(column, list)}) > 1:
        return [], [(None, "column_length")], seq, boot
    if not value:
        return [], [(None, "empty")], seq, boot
    rows = []
    for i, each in enumerate(value):
        name = source if device is None else device if isinstance(device, str) else device[i]
        rows.append((name, metric if isinstance(metric, str) else metric[i], None if ts is None else ts[i], ts is not None, each))
    return judged(rows, received_at, seq, boot)


def judged(rows, received_at, seq, boot):
    readings, refusals = [], []
    for index, row in enumerate(rows):
        if isinstance(row, str):
            refusals.append((index, row))
            continue
        device, metric, ts, has_ts, value = row
        if type(device) is not str or type(metric) is not str:
            refusals.append((index, "bad_name"))
            continue
        at = time_of(ts) if has_ts else received_at
        if at is None:
            refusals.append((index, "bad_time"))
            continue
        if value is None:
            number = math.nan
        elif type(value) in (int, float, bool):
            try:
                number = float(value)
            except OverflowError:
                refusals.append((index, "not_finite"))
                continue
        else:
            refusals.append((index, "not_a_number"))
            continue
        readings.append((index, device, metric, at, number, 0 if has_ts else 64))
    return readings, refusals, seq, boot


def time_of(ts):
    if type(ts) is int:
        return ts * 1000 if -62_135_596_800_000 <= ts <= 253_402_300_799_999 else None
    if type(ts) is not str or not RFC3339.fullmatch(ts):
        return None
    try:
        return (datetime.fromisoformat(ts.upper()) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        return None


def is_bad(flags):
    return bool(flags & BAD) and not flags & MANUAL_GOOD


def downsample(readings, kinds, length=MINUTE, before=None):
    """readings: (series, us, value, flags), all there are. Rows of rollups by (series, bucket us), as dicts.

    before: value of a counter's good reading before these, by series.
    """
    buckets = {}
    previous = dict(before or {})
    for series, at, value, flags in sorted(readings):
        row = buckets.setdefault(
            (series, at // length * length),
            {
                "n": 0,
                "n_bad": 0,
                "vmin": math.inf,
                "vmax": -math.inf,
                "first_at": None,
                "vfirst": 0.0,
                "last_at": None,
                "vlast": 0.0,
                "s1": 0.0,
                "s2": 0.0,
                "magnitude": 0.0,
            },
        )
        if is_bad(flags):
            row["n_bad"] += 1
            continue
        row["n"] += 1
        row["vmin"], row["vmax"] = min(row["vmin"], value), max(row["vmax"], value)
        if row["first_at"] is None:
            row["first_at"], row["vfirst"] = at, value
        row["last_at"], row["vlast"] = at, value
        x1, x2 = summands(value, kinds[series], previous.get(series))
        previous[series] = value
        row["s1"] += x1
        row["s2"] += x2
        row["magnitude"] += abs(x1) + abs(x2)
    return buckets


def summands(value, kind, previous):
    if kind in ("gauge", "amount"):
        return value, value * value
    if kind == "direction":
        return math.sin(math.radians(value)), math.cos(math.radians(value))
    if kind == "level":
        return 10 ** (min(max(value, -2000), 2000) / 10), 0.0
    if kind == "state":
        return value, 0.0
    # A counter: the way up from the reading before, or from 0 where it went down.
    if previous is None:
        return 0.0, 0.0
    if value < previous:
        return max(value, 0.0), 0.0
    return value - previous, 0.0


def aggregates(row, kind):
    """Aggregates of a bucket, from its row."""
    n, s1, s2 = row["n"], row["s1"], row["s2"]
    shown = dict.fromkeys(("mean", "sum", "min", "max", "first", "last", "stddev", "increase"))
    shown |= {"count": n, "bad_count": row["n_bad"]}
    if n == 0:
        return shown
    shown |= {"first": row["vfirst"], "last": row["vlast"]}
    if kind != "direction":
        shown |= {"min": row["vmin"], "max": row["vmax"]}
    if kind in ("gauge", "amount", "state"):
        shown["mean"] = s1 / n
    if kind in ("gauge", "amount") and n > 1:
        shown["stddev"] = math.sqrt(max(s2 - s1 * s1 / n, 0) / (n - 1))
    if kind == "amount":
        shown["sum"] = s1
    if kind == "counter":
        shown["increase"] = s1
    if kind == "level":
        shown["mean"] = 10 * math.log10(s1 / n)
    if kind == "direction" and math.hypot(s1, s2) / n > 1e-9:
        shown["mean"] = math.degrees(math.atan2(s1, s2)) % 360 % 360
        if n > 1:
            shown["stddev"] = math.degrees(math.sqrt(-2 * math.log(min(math.hypot(s1, s2) / n, 1))))
    return shown
