"""Buckets of readings as a plain loop makes them, by the clocks that Python knows; and the city that is asked about.

The twin of /v1/query: one reading at a time, one bucket at a time.
"""

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from citybeat.api.series.plan import WIDTHS, Bucket
from tests import oracles

MINUTE, HOUR = 60_000_000, 3_600_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COLUMNS = ["mean", "min", "max", "count", "sum", "first", "last", "increase", "stddev"]


def us(time):
    return (time - EPOCH) // timedelta(microseconds=1)


def utc(microseconds):
    return EPOCH + timedelta(microseconds=microseconds)


def first_instant(wall, zone):
    """When clocks first show this; where they leave it out, the first instant after."""
    both = [wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
    shown = [at for at in both if at.astimezone(zone).replace(tzinfo=None) == wall]
    return min(shown) if shown else max(both)


def wall_start(wall, bucket):
    seconds = WIDTHS[bucket].seconds
    midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
    if bucket is Bucket.MO1:
        return midnight.replace(day=1)
    if bucket is Bucket.W1:
        return midnight - timedelta(days=midnight.weekday())
    return wall - (wall - midnight) % timedelta(seconds=seconds)


def bucket_of(at, bucket, name):
    """Start and end, us, of the bucket that an instant lies in."""
    zone = ZoneInfo(name)
    wall = utc(at).astimezone(zone).replace(tzinfo=None)
    begun = wall_start(wall, bucket)
    if WIDTHS[bucket].seconds <= 3600:
        start = at - (wall - begun) // timedelta(microseconds=1)
        return start, start + int(WIDTHS[bucket].seconds * 1e6)
    after = begun + timedelta(seconds=WIDTHS[bucket].seconds)
    if bucket is Bucket.MO1:
        after = (begun + timedelta(days=32)).replace(day=1)
    return us(first_instant(begun, zone)), us(first_instant(after, zone))


def slow(readings, kind, every, start, stop, bucket, zone, fill, policy):
    """Rows by start of bucket, us: each column's value, bad_count, coverage, filled."""
    kept = [
        (at, value, 0 if policy == "all" or (policy == "only_bad" and oracles.is_bad(flags)) else flags if policy == "good" else 1)
        for at, value, flags in sorted(readings)
    ]
    truly_bad = {at: oracles.is_bad(flags) for at, _, flags in readings}
    buckets, previous = {}, None
    for at, value, flags in kept:
        begun, ended = bucket_of(at, bucket, zone)
        row = buckets.setdefault(begun, {"end": ended, "rows": [], "values": [], "received": 0, "bad": 0, "s1": 0.0, "s2": 0.0})
        row["received"] += 1
        row["bad"] += truly_bad[at]
        if oracles.is_bad(flags):
            continue
        x1, x2 = oracles.summands(value, kind, previous)
        previous = value
        row["values"].append(value)
        row["s1"] += x1
        row["s2"] += x2
    out = {}
    for begun, row in buckets.items():
        if not start <= begun < stop:
            continue
        values = row["values"]
        aggregate = {
            "n": len(values),
            "n_bad": row["bad"],
            "vmin": min(values, default=None),
            "vmax": max(values, default=None),
            "vfirst": values[0] if values else None,
            "vlast": values[-1] if values else None,
            "s1": row["s1"],
            "s2": row["s2"],
        }
        shown = oracles.aggregates(aggregate, kind)
        shown["coverage"] = min(row["received"] * every / ((row["end"] - begun) / 1e6), 1)
        out[begun] = shown | {"filled": False}
    if fill == "none":
        return out
    at = start
    while at < stop + 32 * 24 * HOUR:
        begun, _ = bucket_of(at, bucket, zone)
        if start <= begun < stop and begun not in out:
            out[begun] = {**dict.fromkeys(COLUMNS), "count": 0, "bad_count": 0, "coverage": 0.0, "filled": False}
        at += int(min(WIDTHS[bucket].seconds, 900) * 1e6)
        if at > stop + WIDTHS[bucket].seconds * 1.1e6:
            break
    times = sorted(out)
    for i, time in enumerate(times):
        if out[time]["count"] or fill == "null":
            continue
        before = next((t for t in reversed(times[:i]) if out[t]["count"]), None)
        behind = next((t for t in times[i:] if out[t]["count"]), None)
        for name in ("mean", "min", "max", "first", "last"):
            if before is None or out[before][name] is None:
                continue
            if fill == "previous":
                value = out[before][name]
            elif behind is None or out[behind][name] is None:
                continue
            else:
                rise = out[behind][name] - out[before][name]
                if kind == "direction":
                    rise = (rise + 180) % 360 - 180
                value = out[before][name] + rise * (time - before) / (behind - before)
                if kind == "direction":
                    value %= 360
            out[time][name] = value
            out[time]["filled"] = True
    return out


def same(found, wanted, name, kind):
    if wanted is None or found is None:
        # Directions that cancel out may do so on one side only.
        return found is wanted or (kind == "direction" and name in {"mean", "stddev"})
    if kind == "direction" and name == "mean":
        return abs((found - wanted + 180) % 360 - 180) < 1e-5
    return math.isclose(found, wanted, rel_tol=1e-7, abs_tol=1e-3 if name == "stddev" else 1e-7)
