"""Questions about series in buckets, and their answers as columns: what /v1/query and /v1/series share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, Final
from zoneinfo import available_timezones

import numpy as np
from numpy.typing import NDArray

from citybeat.api.dependencies import Service
from citybeat.api.http.answers import flag_names, milliseconds
from citybeat.api.http.problems import Problem, invalid
from citybeat.api.series import aggregates, plan
from citybeat.api.series.aggregates import Aggregate
from citybeat.api.series.fill import FILLED, Fill, filled
from citybeat.api.series.plan import Bucket
from citybeat.api.series.thin import Thin, thinned
from citybeat.devices.batch import Bools, Float64, Int64
from citybeat.devices.catalogue import Kind
from citybeat.devices.clock import from_us, rfc3339, to_us
from citybeat.devices.flags import is_bad
from citybeat.storage.db.connection import RefusedDataError
from citybeat.storage.reads import series
from citybeat.storage.reads.series import Buckets, Policy, Span
from citybeat.storage.registry.selection import Selected
from citybeat.storage.rollups.buckets import VALUES
from citybeat.storage.rollups.levels import Level

_NOTHING: Final = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesQuery:
    """What is asked of a selection."""

    start: datetime
    stop: datetime
    bucket: Bucket
    aggregates: Sequence[Aggregate] | Mapping[str, Sequence[Aggregate]] | None  # of all, or by metric; None: all that make sense
    zone: str
    fill: Fill
    policy: Policy
    points: int  # for each series, with bucket=auto
    keep: int | None  # readings of each series, with bucket=raw; None: all
    thin: Thin  # which, if there are more
    where: str  # what errors name: query or body


@dataclass(frozen=True, kw_only=True, slots=True)
class Thinned:
    """What readings were left out of."""

    rule: Thin
    readings: NDArray[np.int64]  # by row of the selection
    bad: int  # of all readings


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesResult:
    """The answer."""

    bucket: Bucket
    level: Level
    wanted: Mapping[str, Sequence[Aggregate]]  # by metric
    which: NDArray[np.int64]  # row of the selection that each point belongs to
    columns: dict[str, Any]
    thinned: Thinned | None = None


async def ask(parts: Service, chosen: Selected, question: SeriesQuery) -> SeriesResult:
    """The answer to a question, which passed `check`, about these series.

    Raises
    ------
    Problem
        It makes no sense, asks for more than one answer may have, or for what retention has dropped.
    """
    kept = await series.horizons(parts.pool)
    seconds = (question.stop - question.start).total_seconds()
    start = to_us(question.start)
    minutes = kept[Level.MINUTES]
    bucket = question.bucket
    if bucket is Bucket.AUTO:
        bucket = plan.choose(
            seconds,
            len(chosen),
            budget=question.points,
            max_points=parts.max_points,
            minutes=minutes is None or start >= minutes,
        )
    question = replace(question, bucket=bucket)
    level = plan.level_of(bucket, question.policy)
    since = kept[level]
    if since is not None and start < since:
        raise _beyond(question, level, since)
    if bucket is Bucket.RAW:
        return await _raw(parts, chosen, question)
    wanted = _wanted(chosen, question)
    try:
        return await _buckets(parts, chosen, question, level, wanted)
    except RefusedDataError as exc:
        # The one text of ours that the database judges: its zones may be older than Python's.
        raise invalid("tz", f"the database does not know the zone {question.zone!r}", where=question.where) from exc


def check(question: SeriesQuery) -> None:
    """Refuse what makes no sense whatever the series.

    Raises
    ------
    Problem
    """
    where = question.where
    if question.start >= question.stop:
        raise invalid("from", f"must be before `to` ({rfc3339(question.stop)})", where=where)
    check_zone(question.zone, where=where)
    if question.keep is not None and question.bucket is not Bucket.RAW:
        raise invalid("max_points", "only readings are thinned, with bucket=raw; `points` is for bucket=auto", where=where)
    if question.bucket is Bucket.RAW:
        if question.aggregates:
            raise invalid(
                "aggregates", "readings are not aggregated with bucket=raw; leave it out, or take another bucket", where=where
            )
        if question.fill is not Fill.NONE:
            raise invalid(
                "fill", "readings have no gaps to fill with bucket=raw; leave it out, or take another bucket", where=where
            )


def check_zone(zone: str, *, where: str = "query") -> None:
    """Refuse a zone that there is not.

    Raises
    ------
    Problem
    """
    if zone not in _zones():
        raise invalid("tz", f"there is no zone {zone!r}; expected a name such as Asia/Ho_Chi_Minh or UTC", where=where)


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _beyond(question: SeriesQuery, level: Level, since: int) -> Problem:
    begins = rfc3339(from_us(since))
    what, instead = {
        Level.RAW: ("readings", "or flags=good and a bucket"),
        Level.MINUTES: ("minutes", "or a bucket that is a multiple of 15m"),
        Level.QUARTERS: ("quarter-hours", ""),
    }[level]
    message = f"retention has dropped {what} before {begins}; ask from then on{', ' + instead if instead else ''}"
    return invalid("from", message, where=question.where, slug="beyond-retention", level=level, since=begins)


def allowed(kind: Kind, policy: Policy) -> list[Aggregate]:
    """The aggregates that make sense: bad readings alone are no counter."""
    return [each for each in aggregates.allowed(kind) if not (each is Aggregate.INCREASE and policy is Policy.ONLY_BAD)]


def _wanted(chosen: Selected, question: SeriesQuery) -> dict[str, Sequence[Aggregate]]:
    """The aggregates of each metric, all of which make sense."""
    asked = question.aggregates
    out: dict[str, Sequence[Aggregate]] = {}
    if isinstance(asked, Mapping):
        strange = sorted(set(asked) - set(chosen.metric))
        if strange and len(chosen):
            raise invalid("aggregates", f"no series here measures {', '.join(map(repr, strange))}", where=question.where)
    for metric, kind in dict(zip(chosen.metric, chosen.kind, strict=True)).items():
        possible = allowed(kind, question.policy)
        own = asked.get(metric) if isinstance(asked, Mapping) else asked
        for aggregate in own or []:
            if aggregate not in possible:
                several = (
                    "; metrics of different kinds can have aggregates of their own: {metric: […]}"
                    if question.where == "body"
                    else ""
                )
                raise invalid(
                    "aggregates",
                    f"{aggregate} makes no sense for {metric}, a {kind}; it has {', '.join(possible)}{several}",
                    where=question.where,
                    slug="aggregate-without-meaning",
                    metric=metric,
                    aggregate=aggregate,
                    allowed=possible,
                )
        out[metric] = list(dict.fromkeys(own)) if own else possible
    return out


async def _raw(parts: Service, chosen: Selected, question: SeriesQuery) -> SeriesResult:
    limit = parts.max_points if question.keep is None else plan.MAX_RAW
    found = await series.readings(
        parts.pool, chosen.id, start=question.start, stop=question.stop, policy=question.policy, limit=limit + 1
    )
    if len(found) > limit and question.keep is not None:
        raise invalid(
            "from",
            f"the range has more than the {plan.MAX_RAW:,} readings that one answer may be made of; ask for a shorter range, fewer"
            " series, or a bucket such as 1m",
            where=question.where,
            slug="range-too-long",
            max_readings=plan.MAX_RAW,
        )
    if question.keep is None:
        _check_points(parts, len(found), question, "a shorter range, fewer series, max_points, or a bucket such as 1m")
    which = chosen.rows(found.series)
    order = np.argsort(which, kind="stable")
    which, time, value, flags = which[order], found.time[order], found.value[order], found.flags[order]
    left = None
    if question.keep is not None:
        rows = thinned(which, time, value, points=question.keep, rule=question.thin)
        if len(rows) < len(which):
            counts = np.bincount(which, minlength=len(chosen))
            left = Thinned(rule=question.thin, readings=counts, bad=int(np.count_nonzero(is_bad(flags))))
            which, time, value, flags = which[rows], time[rows], value[rows], flags[rows]
        _check_points(parts, len(which), question, "a shorter range, fewer series, or a lower max_points")
    columns = {"time": milliseconds(time), "value": value, "flags": flag_names(flags)}
    return SeriesResult(bucket=Bucket.RAW, level=Level.RAW, wanted={}, which=which, columns=columns, thinned=left)


async def _buckets(
    parts: Service, chosen: Selected, question: SeriesQuery, level: Level, wanted: Mapping[str, Sequence[Aggregate]]
) -> SeriesResult:
    width = plan.WIDTHS[question.bucket]
    # Minutes are what they are by every clock.
    zone = "UTC" if question.bucket is Bucket.M1 else question.zone
    span = Span(bucket=width.interval, length=width.length, zone=zone, start=question.start, stop=question.stop)
    seconds = (question.stop - question.start).total_seconds()
    limit = parts.max_points
    if question.fill is not Fill.NONE:
        _check_points(
            parts, int(len(chosen) * seconds / width.seconds), question, "a shorter range, fewer series, or a wider bucket"
        )
    if level is not Level.RAW and question.bucket is not Bucket.M1:  # minutes are read no further than the points go
        rows = plan.rollup_rows(seconds, len(chosen), level)
        if rows > plan.MAX_ROLLUPS:
            raise invalid(
                "from",
                f"{len(chosen)} series over that range may be {rows:,.0f} rows to read, and an answer is made of at most"
                f" {plan.MAX_ROLLUPS:,}; ask for a shorter range or fewer series",
                where=question.where,
                slug="range-too-long",
                max_rows=plan.MAX_ROLLUPS,
            )
    if level is Level.RAW:
        try:
            found = await series.from_raw(parts.pool, chosen, span, policy=question.policy, limit=plan.MAX_RAW)
        except series.TooManyReadingsError:
            raise invalid(
                "from",
                f"the range has more than the {plan.MAX_RAW:,} readings that one answer may be made of; with flags=good it is made"
                " of rollups, else ask for a shorter range or fewer series",
                where=question.where,
                slug="range-too-long",
                max_readings=plan.MAX_RAW,
            ) from None
    else:
        kinds = dict(zip(chosen.metric, chosen.kind, strict=True))
        values = {name for metric, asked in wanted.items() for each in asked for name in aggregates.reads(each, kinds[metric])}
        found = await series.rollups(
            parts.pool, chosen.id, span, level=level, limit=limit + 1, values=[name for name in VALUES if name in values]
        )
    _check_points(parts, len(found), question, "a shorter range, fewer series, or a wider bucket")
    which = chosen.rows(found.series)
    if question.fill is Fill.NONE:
        order = np.argsort(which, kind="stable")
        which, found = which[order], found.take(order)
        columns = _columns(chosen, which, found, wanted)
    else:
        time, end = await series.grid(parts.pool, span, step=width.step, limit=limit + 1)
        _check_points(parts, len(time) * len(chosen), question, "a shorter range, fewer series, or a wider bucket")
        which, columns = _filled(chosen, which, found, wanted, time, end, question.fill)
    return SeriesResult(bucket=question.bucket, level=level, wanted=wanted, which=which, columns=columns)


def _columns(
    chosen: Selected, which: NDArray[np.int64], found: Buckets, wanted: Mapping[str, Sequence[Aggregate]]
) -> dict[str, Any]:
    columns: dict[str, Any] = {"time": milliseconds(found.time)}
    kinds = np.array([list(Kind).index(kind) for kind in chosen.kind], np.int64)
    of_metric = {metric: np.array([each == metric for each in chosen.metric], np.bool_) for metric in wanted}
    for aggregate in dict.fromkeys(each for asked in wanted.values() for each in asked):
        asking = np.zeros(len(chosen), np.bool_)
        for metric, asked in wanted.items():
            if aggregate in asked:
                asking |= of_metric[metric]
        if aggregate is Aggregate.COUNT and asking.all():
            columns[aggregate.value] = found.n
            continue
        column = np.full(len(found), np.nan)
        for code in np.unique(kinds[asking]).tolist():
            rows = np.flatnonzero(asking[which] & (kinds[which] == code))
            column[rows] = aggregates.compute(aggregate, list(Kind)[code], found.take(rows))
        columns[aggregate.value] = column
    columns["bad_count"] = found.n_bad
    columns["coverage"] = aggregates.coverage(found, chosen.expected_every[which])
    return columns


def _filled(
    chosen: Selected,
    which: NDArray[np.int64],
    found: Buckets,
    wanted: Mapping[str, Sequence[Aggregate]],
    time: Int64,
    end: Int64,
    rule: Fill,
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Every bucket of every series."""
    shape = (len(chosen), len(time))
    # The last row is one without readings, for the buckets that have none.
    row = np.full(shape, _NOTHING)
    row[which, np.searchsorted(time, found.time)] = np.arange(len(found))
    dense = _with_nothing(found).take(row.ravel())
    times, ends = np.tile(time, shape[0]), np.tile(end, shape[0])
    dense = replace(dense, time=times, end=ends)
    whose = np.repeat(np.arange(shape[0]), shape[1])
    columns = _columns(chosen, whose, dense, wanted)
    known = (dense.n > 0).reshape(shape)
    directions: Bools = np.array([kind is Kind.DIRECTION for kind in chosen.kind], np.bool_)
    made = np.zeros(shape, np.bool_)
    for aggregate in FILLED & set(columns):
        values: Float64 = columns[aggregate].reshape(shape)
        column = filled(values, known, time, rule, directions=directions)
        made |= ~known & ~np.isnan(column)
        columns[aggregate] = column.ravel()
    columns["filled"] = made.ravel()
    return whose, columns


def _with_nothing(found: Buckets) -> Buckets:
    zero = {name: np.append(getattr(found, name), 0).astype(getattr(found, name).dtype) for name in Buckets.__dataclass_fields__}
    return Buckets(**zero)


def _check_points(parts: Service, found: int, question: SeriesQuery, instead: str) -> None:
    if found > parts.max_points:
        message = f"the range has more than the {parts.max_points} points that one answer may have; ask for {instead}"
        raise invalid("from", message, where=question.where, slug="too-many-points", max_points=parts.max_points)
