"""Sensor: one metric of one device, raw and rolled up, with flags, coverage, and the age of its newest reading."""

from typing import Any, Final

from citybeat.dashboards import panels, sql
from citybeat.dashboards.board import Board, Context
from citybeat.dashboards.panels import GREEN, GREY, ORANGE, RED, NumberFormat, Overrides, Sql, named

_DEVICE: Final = "${device:sqlstring}"
_METRIC: Final = "${metric:sqlstring}"
_ONE: Final = f"device = {_DEVICE} AND metric = {_METRIC}"


def _chart(aggregate: str) -> str:
    return (
        f"chart('{aggregate}', $__interval_ms, {sql.ZONE}, {sql.FROM}, {sql.TO}, ARRAY[]::text[], ARRAY[{_DEVICE}]::text[], "
        f"ARRAY[{_METRIC}]::text[], 1)"
    )


def board(context: Context) -> dict[str, Any]:
    """Build the dashboard as Grafana's JSON."""
    made = Board(context, "sensor")
    made.query_variable(
        "device",
        "SELECT id AS __value, concat_ws(' · ', id, nullif(name, '')) AS __text FROM devices ORDER BY id LIMIT 20000",
        several=False,
    )
    made.query_variable("metric", _metrics(context), several=False)
    made.zone_variable()

    made.add(_now(context), 8, 5)
    made.add(_health(context), 16, 5)
    made.add(_values(context), 24, 11)
    made.add(_flags(context), 12, 8)
    made.add(_coverage(context), 12, 8)
    made.add(_flagged(context), 12, 9)
    made.add(_siblings(context), 12, 9)
    made.add(_declared(context), 24, 6)
    return made.build()


def _metrics(context: Context) -> str:
    """A query for the metrics of a device, with the catalogue's names for people where there are some."""
    names = ", ".join(f"({sql.quoted(m.name)}, {sql.quoted(context.words.metric(m))})" for m in context.catalogue.values())
    return (
        "SELECT s.metric AS __value, coalesce(n.label, s.metric) AS __text FROM series s\n"
        f"LEFT JOIN (VALUES {names}) AS n(name, label) ON n.name = s.metric WHERE s.device_id = {_DEVICE} ORDER BY s.id"
    )


def _numbers(context: Context, panel: Any) -> Any:
    """Set the unit by the metric at the end of a series' name, since the metric is selected later."""
    overrides: dict[str, list[panels.Property]] = {}
    for metric in context.catalogue.values():
        numbers = context.format(metric)
        overrides[f"/ {metric.name}$/"] = [("unit", numbers.unit), ("decimals", numbers.decimals)]
    return panels.patterns(panel, overrides)


def _now(context: Context) -> Any:
    words = context.words
    query = (
        f"SELECT last_at AS time, {sql.quoted(words('sensor.newest'))} || ' ' || metric AS metric, last_value AS value\n"
        f"FROM sensor_board WHERE {_ONE} AND last_at IS NOT NULL ORDER BY 1"
    )
    panel = panels.figures(words("sensor.newest"), Sql(query), none=words("none.never"), numbers=NumberFormat(color=GREEN))
    return _numbers(context, panel)


def _health(context: Context) -> Any:
    words = context.words
    query = (
        "SELECT b.severity AS state, extract(epoch FROM now() - b.last_at)::float8 AS age,\n"
        "    extract(epoch FROM b.expected)::float8 AS expected, extract(epoch FROM b.received_at - b.last_at)::float8 AS delay,\n"
        "    c.coverage, c.bad\n"
        f"FROM sensor_board b CROSS JOIN (SELECT avg(coverage) AS coverage, sum(n_bad)::float8 / nullif(sum(n + n_bad), 0) AS bad "
        f"FROM {_chart('mean')}) c\n"
        "WHERE b." + _ONE.replace("AND metric", "AND b.metric")
    )
    shown: Overrides = {
        "state": [*named(words("column.state")), context.states()],
        "age": named(words("sensor.age"), unit="s", decimals=0),
        "expected": named(words("sensor.expected"), unit="s", decimals=0),
        "delay": named(words("sensor.delay"), unit="s", decimals=1),
        "coverage": named(words("column.coverage"), unit="percentunit", decimals=1),
        "bad": named(words("column.bad_share"), unit="percentunit", decimals=2),
    }
    panel = panels.figures(
        words("sensor.health"), Sql(query, form="table"), none=words("none.sensor"), about=words("sensor.health.about")
    )
    return panels.fields(panel, shown)


def _values(context: Context) -> Any:
    words = context.words
    kinds = {"min": "vmin", "max": "vmax", "usual": "value"}
    parts = " UNION ALL ".join(
        f"SELECT c.time, {sql.quoted(words(f'aggregate.{name}'))} || ' ' || c.metric AS metric, c.{column} AS value FROM c"
        for name, column in kinds.items()
    )
    raw = (
        f"SELECT time, {sql.quoted(words('sensor.raw'))} || ' ' || {_METRIC} AS metric, value\n"
        f"FROM chart_raw({_DEVICE}, {_METRIC}, {sql.FROM}, {sql.TO}) ORDER BY time"
    )
    flagged = (
        f"SELECT time, {sql.quoted(words('sensor.flagged'))} || ' ' || {_METRIC} AS metric, value\n"
        f"FROM chart_raw({_DEVICE}, {_METRIC}, {sql.FROM}, {sql.TO}) WHERE flags & 143 <> 0 ORDER BY time"
    )
    panel = panels.chart(
        words("sensor.values"),
        Sql(f"WITH c AS MATERIALIZED (SELECT * FROM {_chart('usual')})\n{parts} ORDER BY 1, 2"),
        Sql(raw, ref="B"),
        Sql(flagged, ref="C"),
        numbers=NumberFormat(),
        none=words("none.chart"),
        about=words("sensor.values.about"),
    )
    panel = _numbers(context, panel)
    panels.of_query(panel, "B", [("color", {"mode": "fixed", "fixedColor": GREY}), ("custom.lineWidth", 1)])
    return panels.of_query(
        panel,
        "C",
        [
            ("color", {"mode": "fixed", "fixedColor": RED}),
            ("custom.drawStyle", "points"),
            ("custom.pointSize", 8),
            ("custom.showPoints", "always"),
        ],
    )


def _flags(context: Context) -> Any:
    words = context.words
    query = (
        f"SELECT time, {sql.quoted(words('column.bad'))} AS metric, n_bad AS value FROM {_chart('mean')}\n"
        f"UNION ALL SELECT time, {sql.quoted(words('column.good'))}, n FROM {_chart('mean')} ORDER BY 1, 2"
    )
    panel = panels.chart(
        words("sensor.counts"),
        Sql(query),
        numbers=NumberFormat(decimals=0, low=0.0),
        none=words("none.chart"),
        bars=True,
        stacked=True,
        about=words("sensor.counts.about"),
    )
    return panels.fields(
        panel,
        {
            words("column.bad"): [("color", {"mode": "fixed", "fixedColor": RED})],
            words("column.good"): [("color", {"mode": "fixed", "fixedColor": GREEN})],
        },
    )


def _coverage(context: Context) -> Any:
    words = context.words
    query = f"SELECT time, {sql.quoted(words('column.coverage'))} AS metric, coverage AS value FROM {_chart('mean')} ORDER BY 1, 2"
    return panels.chart(
        words("column.coverage"),
        Sql(query),
        numbers=NumberFormat(unit="percentunit", decimals=0, low=0.0, high=1.0, color=ORANGE),
        none=words("none.chart"),
        about=words("sensor.coverage.about"),
    )


def _flagged(context: Context) -> Any:
    words = context.words
    query = (
        "SELECT time, value,\n    concat_ws(', ', "
        + ", ".join(f"CASE WHEN flags & {bit} <> 0 THEN {sql.quoted(words(f'flag.{name}'))} END" for bit, name in FLAGS)
        + f") AS flags\nFROM chart_raw({_DEVICE}, {_METRIC}, {sql.FROM}, {sql.TO}) WHERE flags <> 0 ORDER BY time DESC LIMIT 500"
    )
    columns: Overrides = {
        "time": named(words("column.time")),
        "value": named(words("column.value"), decimals=2),
        "flags": named(words("column.flags")),
    }
    return panels.rows(
        words("sensor.flags"), Sql(query, form="table"), columns, none=words("none.flags"), about=words("sensor.flags.about")
    )


#: Bits of devices/flags.py, and the names in the keys of their texts.
FLAGS: Final = (
    (1, "range"),
    (2, "step"),
    (4, "stuck"),
    (8, "suspect"),
    (16, "late"),
    (32, "future"),
    (64, "clock"),
    (128, "manual_bad"),
    (256, "manual_good"),
)


def _siblings(context: Context) -> Any:
    words = context.words
    query = (
        "SELECT metric, last_value, unit, severity, last_at FROM sensor_board\n"
        f"WHERE device = {_DEVICE} ORDER BY severity DESC, metric"
    )
    columns: Overrides = {
        "metric": [*named(words("column.metric")), panels.linked(context.to_sensor("${device}", "${__value.raw}"))],
        "last_value": named(words("column.value"), decimals=2),
        "unit": named(words("column.unit")),
        "severity": [*named(words("column.state")), context.states(), ("custom.cellOptions", {"type": "color-text"})],
        "last_at": named(words("column.last"), unit="dateTimeFromNow"),
    }
    return panels.rows(words("sensor.siblings"), Sql(query, form="table"), columns, none=words("none.sensor"))


def _declared(context: Context) -> Any:
    words = context.words
    verdicts = ", ".join(f"({sql.quoted(v)}, {sql.quoted(words(f'verdict.{v}'))})" for v in ("bad", "good", "clear"))
    query = (
        'SELECT d."from" AS since, d."to" AS until, v.word AS verdict, d."by" AS person, d.reason\n'
        f"FROM declarations d JOIN series s ON s.id = d.series_id JOIN (VALUES {verdicts}) AS v(verdict, word) USING (verdict)\n"
        f"WHERE s.device_id = {_DEVICE} AND s.metric = {_METRIC} ORDER BY d.id DESC LIMIT 100"
    )
    columns: Overrides = {
        "since": named(words("column.from")),
        "until": named(words("column.to")),
        "verdict": named(words("column.verdict")),
        "person": named(words("column.by")),
        "reason": named(words("column.reason")),
    }
    return panels.rows(
        words("sensor.declared"),
        Sql(query, form="table"),
        columns,
        none=words("none.declared"),
        about=words("sensor.declared.about"),
    )
