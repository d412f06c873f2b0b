"""Data quality: bad readings and coverage over time, flags of the newest readings, overdue sensors, and quarantine."""

from typing import Any, Final

from citybeat.dashboards import panels, sql
from citybeat.dashboards.board import Board, Context
from citybeat.dashboards.boards.sensor import FLAGS
from citybeat.dashboards.panels import GREEN, GREY, ORANGE, RED, NumberFormat, Overrides, Sql, linked, named

_METRICS: Final = "ARRAY[${metric:sqlstring}]::text[]"
_QUALITY: Final = f"chart_quality($__interval_ms, {sql.ZONE}, {sql.FROM}, {sql.TO}, {sql.DISTRICTS}, {sql.DEVICES}, {_METRICS})"
_STANDING: Final = f"{sql.standing()} AND (chosen({_METRICS}) IS NULL OR metric = ANY(chosen({_METRICS})))"


def board(context: Context) -> dict[str, Any]:
    """Build the dashboard as Grafana's JSON."""
    words = context.words
    made = Board(context, "quality")
    made.query_variable("district", sql.DISTRICT_LIST)
    made.query_variable("device", sql.device_list(None))
    made.query_variable("metric", _measured(context))
    made.zone_variable()

    made.add(_sums(context), 24, 4)
    for name, value, color, unit in (
        ("bad", "bad::float8 / nullif(received, 0)", RED, "percentunit"),
        ("coverage", "coverage", GREEN, "percentunit"),
    ):
        panel = panels.chart(
            words(f"quality.{name}"),
            Sql(f'SELECT time, district, {value} AS "Value" FROM {_QUALITY} ORDER BY 1, 2'),
            numbers=NumberFormat(unit=unit, decimals=1, low=0.0, color=color),
            none=words("none.chart"),
            about=words(f"quality.{name}.about"),
            name="${__field.labels.district}",
            link=context.to_board("quality", "var-district=${__field.labels.district}&"),
        )
        made.add(panel, 12, 9)
    made.add(_flags(context), 8, 10)
    made.add(_overdue(context), 16, 10)
    made.row(words("row.quarantine"))
    made.add(_quarantine(context), 14, 9)
    made.add(_open(context), 10, 9)
    return made.build()


def _measured(context: Context) -> str:
    names = ", ".join(f"({sql.quoted(m.name)}, {sql.quoted(context.words.metric(m))})" for m in context.catalogue.values())
    return (
        "SELECT DISTINCT s.metric AS __value, coalesce(n.label, s.metric) AS __text FROM series s\n"
        f"LEFT JOIN (VALUES {names}) AS n(name, label) ON n.name = s.metric ORDER BY 2"
    )


def _sums(context: Context) -> Any:
    words = context.words
    query = (
        "SELECT q.received, q.bad, q.coverage, s.overdue, s.doubtful, o.waiting\n"
        "FROM (SELECT sum(received) AS received, sum(bad)::float8 / nullif(sum(received), 0) AS bad, avg(coverage) AS coverage\n"
        f"    FROM {_QUALITY}) q,\n"
        "(SELECT count(*) FILTER (WHERE severity > 2) AS overdue, count(*) FILTER (WHERE severity IN (1, 2)) AS doubtful\n"
        f"    FROM {_STANDING}) s,\n"
        "(SELECT count(*) AS waiting FROM quarantine WHERE resolved_at IS NULL) o"
    )
    shown: Overrides = {
        "received": named(words("column.received"), decimals=0),
        "bad": named(words("column.bad_share"), unit="percentunit", decimals=2, color=ORANGE),
        "coverage": named(words("column.coverage"), unit="percentunit", decimals=1),
        "overdue": named(words("column.quiet"), decimals=0, color=RED),
        "doubtful": named(words("column.doubtful"), decimals=0, color=ORANGE),
        "waiting": named(words("quality.waiting"), decimals=0, color=GREY),
    }
    return panels.fields(panels.figures(words("quality.sums"), Sql(query, form="table"), none=words("none.chart")), shown)


def _flags(context: Context) -> Any:
    words = context.words
    names = ", ".join(f"({bit}, {sql.quoted(words(f'flag.{name}'))})" for bit, name in FLAGS)
    query = (
        "SELECT f.flag, count(b.series_id) AS sensors\n"
        f"FROM (VALUES {names}) AS f(bit, flag)\n"
        f"LEFT JOIN (SELECT series_id, flags FROM {_STANDING}) b ON b.flags & f.bit <> 0\n"
        "GROUP BY f.bit, f.flag ORDER BY f.bit"
    )
    columns: Overrides = {"flag": named(words("column.flags")), "sensors": named(words("column.sensors"))}
    return panels.rows(
        words("quality.flags"), Sql(query, form="table"), columns, none=words("none.sensors"), about=words("quality.flags.about")
    )


def _overdue(context: Context) -> Any:
    words = context.words
    query = (
        "SELECT device, metric, source, severity, last_at, since, extract(epoch FROM expected)::float8 AS expected\n"
        f"FROM {_STANDING} AND severity > 0 ORDER BY severity DESC, since NULLS FIRST, device, metric LIMIT 500"
    )
    columns: Overrides = {
        "device": [*named(words("column.device")), linked(context.to_sensor("${__value.raw}", "${__data.fields.metric}"))],
        "metric": named(words("column.metric")),
        "source": named(words("column.source")),
        "severity": [*named(words("column.state")), context.states(), ("custom.cellOptions", {"type": "color-text"})],
        "last_at": named(words("column.last"), unit="dateTimeFromNow"),
        "since": named(words("column.since"), unit="dateTimeFromNow"),
        "expected": named(words("sensor.expected"), unit="s"),
    }
    return panels.rows(
        words("quality.overdue"), Sql(query, form="table"), columns, none=words("none.wrong"), about=words("quality.overdue.about")
    )


def _quarantine(context: Context) -> Any:
    words = context.words
    query = (
        f"SELECT time_bucket(chart_bucket($__interval_ms, {sql.FROM}, {sql.TO}), q.received_at) AS time, r.reason,\n"
        '    count(*) AS "Value"\n'
        f"FROM quarantine q CROSS JOIN LATERAL unnest(q.reasons) AS r(reason) WHERE q.received_at BETWEEN {sql.FROM} AND {sql.TO}\n"
        "GROUP BY 1, 2 ORDER BY 1, 2"
    )
    return panels.chart(
        words("quality.quarantine"),
        Sql(query),
        numbers=NumberFormat(decimals=0, low=0.0),
        none=words("none.quarantine"),
        about=words("quality.quarantine.about"),
        name="${__field.labels.reason}",
        bars=True,
        stacked=True,
    )


def _open(context: Context) -> Any:
    words = context.words
    query = (
        "SELECT s.name AS source, r.reason, count(*) AS messages, min(q.received_at) AS first, max(q.received_at) AS last\n"
        "FROM quarantine q JOIN sources s ON s.id = q.source_id CROSS JOIN LATERAL unnest(q.reasons) AS r(reason)\n"
        "WHERE q.resolved_at IS NULL GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 200"
    )
    columns: Overrides = {
        "source": named(words("column.source")),
        "reason": named(words("column.reason")),
        "messages": named(words("column.messages")),
        "first": named(words("column.first"), unit="dateTimeFromNow"),
        "last": named(words("column.last"), unit="dateTimeFromNow"),
    }
    return panels.rows(
        words("quality.open"), Sql(query, form="table"), columns, none=words("none.quarantine"), about=words("quality.open.about")
    )
