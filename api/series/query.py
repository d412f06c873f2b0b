"""Questions about series in buckets or as raw readings, and their answers as columns: what /v1/query and /v1/series share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, Final
from zoneinfo import available_timezones

import numpy as np
from numpy.typing import NDArray

from citybeat.api.http.answers import flag_names, milliseconds
from citybeat.api.http.problems import Problem, invalid
from citybeat.api.series import aggregates, plan
from citybeat.api.series.aggregates import Aggregate
from citybeat.api.series.columns import Wanted, columns, columns_without_gaps
from citybeat.api.series.fill import Fill
from citybeat.api.series.plan import Bucket
from citybeat.api.series.thin import Thin, thinned
from citybeat.devices.catalogue import Kind
from citybeat.devices.clock import from_us, rfc3339, to_us
from citybeat.devices.flags import is_bad
from citybeat.storage.db.connection import RefusedDataError
from citybeat.storage.db.pool import ReadPool
from citybeat.storage.reads import series
from citybeat.storage.reads.series import Policy, Span
from citybeat.storage.registry.selection import Selected
from citybeat.storage.rollups.buckets import VALUES
from citybeat.storage.rollups.levels import Level

_LESS: Final = "a shorter range, fewer series, or a wider bucket"


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesQuery:
    """A question about the series of a selection."""

    start: datetime
    stop: datetime
    bucket: Bucket
    aggregates: Sequence[Aggregate] | Mapping[str, Sequence[Aggregate]] | None  # of all, or by metric; None: all that make sense
    zone: str
    fill: Fill
    policy: Policy
    points: int  # for each series, with bucket=auto
    keep: int | None  # readings of each series, with bucket=raw; None: all
    thin: Thin  # chooses the readings that are kept, if there are more
    limit: int  # points of the whole answer
    where: str  # the part of the request that problems name: query or body

    def problem(self, parameter: str, message: str, *, slug: str = "invalid-parameter", **members: Any) -> Problem:
        """A problem with one parameter of this question."""
        return invalid(parameter, message, where=self.where, slug=slug, **members)


@dataclass(frozen=True, kw_only=True, slots=True)
class Thinned:
    """The readings before some of them were left out."""

    rule: Thin
    readings: NDArray[np.int64]  # their number, by row of the selection
    bad: int  # the number of flagged ones, of all series


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesResult:
    """The answer to a question."""

    bucket: Bucket
    level: Level
    wanted: Wanted
    which: NDArray[np.int64]  # row of the selection that each point belongs to
    columns: dict[str, Any]
    thinned: Thinned | None = None


async def run(pool: ReadPool, chosen: Selected, question: SeriesQuery) -> SeriesResult:
    """The answer to a question, which passed `check`, about these series.

    Raises
    ------
    Problem
        The question makes no sense, asks for more than one answer may have, or for data that retention has dropped.
    """
    kept = await series.horizons(pool)
    seconds = (question.stop - question.start).total_seconds()
    start = to_us(question.start)
    minutes = kept[Level.MINUTES]
    bucket = question.bucket
    if bucket is Bucket.AUTO:
        bucket = plan.choose(
            seconds,
            len(chosen),
            budget=question.points,
            max_points=question.limit,
            minutes=minutes is None or start >= minutes,
        )
    question = replace(question, bucket=bucket)
    level = plan.level_of(bucket, question.policy)
    since = kept[level]
    if since is not None and start < since:
        raise _beyond(question, level, since)
    if bucket is Bucket.RAW:
        return await _raw(pool, chosen, question)
    wanted = _wanted(chosen, question)
    try:
        return await _buckets(pool, chosen, question, level, wanted)
    except RefusedDataError as exc:
        # The zone is the one text of a client that the database judges: its zones may be older than Python's.
        raise question.problem("tz", f"the database does not know the zone {question.zone!r}") from exc


def check(question: SeriesQuery) -> None:
    """Refuse a question that makes no sense for any series.

    Raises
    ------
    Problem
    """
    if question.start >= question.stop:
        raise question.problem("from", f"must be before `to` ({rfc3339(question.stop)})")
    check_zone(question.zone, where=question.where)
    if question.keep is not None and question.bucket is not Bucket.RAW:
        raise question.problem("max_points", "only readings are thinned, with bucket=raw; `points` is for bucket=auto")
    if question.bucket is Bucket.RAW:
        instead = "with bucket=raw; leave it out, or take another bucket"
        if question.aggregates:
            raise question.problem("aggregates", f"readings are not aggregated {instead}")
        if question.fill is not Fill.NONE:
            raise question.problem("fill", f"readings have no gaps to fill {instead}")


def check_zone(zone: str, *, where: str = "query") -> None:
    """Refuse a zone that does not exist.

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
        Level.RAW: ("readings", ", or flags=good and a bucket"),
        Level.MINUTES: ("minutes", ", or a bucket that is a multiple of 15m"),
        Level.QUARTERS: ("quarter-hours", ""),
    }[level]
    message = f"retention has dropped {what} before {begins}; ask from then on{instead}"
    return question.problem("from", message, slug="beyond-retention", level=level, since=begins)


def allowed(kind: Kind, policy: Policy) -> list[Aggregate]:
    """The aggregates that make sense for a kind under a flags policy: bad readings alone are no counter."""
    return [each for each in aggregates.allowed(kind) if not (each is Aggregate.INCREASE and policy is Policy.ONLY_BAD)]


def _wanted(chosen: Selected, question: SeriesQuery) -> dict[str, Sequence[Aggregate]]:
    """The aggregates of each metric, all of which make sense."""
    asked = question.aggregates
    out: dict[str, Sequence[Aggregate]] = {}
    if isinstance(asked, Mapping):
        strange = sorted(set(asked) - set(chosen.metric))
        if strange and len(chosen):
            raise question.problem("aggregates", f"no series here measures {', '.join(map(repr, strange))}")
    several = "; metrics of different kinds can have aggregates of their own: {metric: […]}" if question.where == "body" else ""
    for metric, kind in dict(zip(chosen.metric, chosen.kind, strict=True)).items():
        possible = allowed(kind, question.policy)
        own = asked.get(metric) if isinstance(asked, Mapping) else asked
        for aggregate in own or []:
            if aggregate not in possible:
                raise question.problem(
                    "aggregates",
                    f"{aggregate} makes no sense for {metric}, a {kind}; it has {', '.join(possible)}{several}",
                    slug="aggregate-without-meaning",
                    metric=metric,
                    aggregate=aggregate,
                    allowed=possible,
                )
        out[metric] = list(dict.fromkeys(own)) if own else possible
    return out


async def _raw(pool: ReadPool, chosen: Selected, question: SeriesQuery) -> SeriesResult:
    limit = question.limit if question.keep is None else plan.MAX_RAW
    found = await series.readings(
        pool, chosen.id, start=question.start, stop=question.stop, policy=question.policy, limit=limit + 1
    )
    if len(found) > limit and question.keep is not None:
        raise _too_many_readings(question, "ask for a shorter range, fewer series, or a bucket such as 1m")
    if question.keep is None:
        _check_points(len(found), question, "a shorter range, fewer series, max_points, or a bucket such as 1m")
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
        _check_points(len(which), question, "a shorter range, fewer series, or a lower max_points")
    made = {"time": milliseconds(time), "value": value, "flags": flag_names(flags)}
    return SeriesResult(bucket=Bucket.RAW, level=Level.RAW, wanted={}, which=which, columns=made, thinned=left)


async def _buckets(pool: ReadPool, chosen: Selected, question: SeriesQuery, level: Level, wanted: Wanted) -> SeriesResult:
    width = plan.WIDTHS[question.bucket]
    # Minutes are the same by every clock.
    zone = "UTC" if question.bucket is Bucket.M1 else question.zone
    span = Span(bucket=width.interval, length=width.length, zone=zone, start=question.start, stop=question.stop)
    seconds = (question.stop - question.start).total_seconds()
    limit = question.limit
    if question.fill is not Fill.NONE:
        _check_points(int(len(chosen) * seconds / width.seconds), question, _LESS)
    if level is not Level.RAW and question.bucket is not Bucket.M1:  # of minutes no more are read than there may be points
        rows = plan.rollup_rows(seconds, len(chosen), level)
        if rows > plan.MAX_ROLLUPS:
            raise question.problem(
                "from",
                f"{len(chosen)} series over that range may be {rows:,.0f} rows to read, and an answer is made of at most"
                f" {plan.MAX_ROLLUPS:,}; ask for a shorter range or fewer series",
                slug="range-too-long",
                max_rows=plan.MAX_ROLLUPS,
            )
    if level is Level.RAW:
        try:
            found = await series.from_raw(pool, chosen, span, policy=question.policy, limit=plan.MAX_RAW)
        except series.TooManyReadingsError:
            instead = "with flags=good it is made of rollups, else ask for a shorter range or fewer series"
            raise _too_many_readings(question, instead) from None
    else:
        kinds = dict(zip(chosen.metric, chosen.kind, strict=True))
        values = {name for metric, asked in wanted.items() for each in asked for name in aggregates.reads(each, kinds[metric])}
        found = await series.rollups(
            pool, chosen.id, span, level=level, limit=limit + 1, values=[name for name in VALUES if name in values]
        )
    _check_points(len(found), question, _LESS)
    which = chosen.rows(found.series)
    if question.fill is Fill.NONE:
        order = np.argsort(which, kind="stable")
        which = which[order]
        made = columns(chosen, which, found.take(order), wanted)
    else:
        time, end = await series.grid(pool, span, step=width.step, limit=limit + 1)
        _check_points(len(time) * len(chosen), question, _LESS)
        which, made = columns_without_gaps(chosen, which, found, wanted, time, end, question.fill)
    return SeriesResult(bucket=question.bucket, level=level, wanted=wanted, which=which, columns=made)


def _check_points(found: int, question: SeriesQuery, instead: str) -> None:
    if found > question.limit:
        message = f"the range has more than the {question.limit} points that one answer may have; ask for {instead}"
        raise question.problem("from", message, slug="too-many-points", max_points=question.limit)


def _too_many_readings(question: SeriesQuery, instead: str) -> Problem:
    message = f"the range has more than the {plan.MAX_RAW:,} readings that one answer may be made of; {instead}"
    return question.problem("from", message, slug="range-too-long", max_readings=plan.MAX_RAW)
