"""Environment: VN_AQI by station, exceeded limits of a standard, and each metric of the domain with its limits."""

from typing import Any

from citybeat.dashboards import panels, sql
from citybeat.dashboards.board import Board, Context
from citybeat.dashboards.boards.city import AIR, BANDS
from citybeat.dashboards.panels import GREEN, RED, NumberFormat, Overrides, Sql, linked, named
from citybeat.devices.catalogue import Domain, Metric

_AQI = f"vn_aqi({sql.ZONE}, {sql.FROM}, {sql.TO}, {sql.DISTRICTS}, {sql.DEVICES})"


def board(context: Context) -> dict[str, Any]:
    """Build the dashboard as Grafana's JSON."""
    words = context.words
    made = Board(context, "environment", since="now-2d")
    made.usual_variables(Domain.ENVIRONMENT)
    made.query_variable("standard", sql.STANDARD_LIST, several=False, at=context.standard)
    made.row(words("row.air"))
    bands = [
        {
            "type": "range",
            "options": {
                "from": low,
                "to": (BANDS[i + 1][1] - 1) if i + 1 < len(BANDS) else 500,
                "result": {"text": words(f"band.{name}"), "color": color, "index": i},
            },
        }
        for i, (name, low, color) in enumerate(BANDS)
    ]
    made.add(_newest(context, bands), 8, 9)
    aqi = panels.chart(
        words("environment.aqi"),
        Sql(f'SELECT time, device, aqi AS "Value" FROM {_AQI} ORDER BY time, device'),
        numbers=NumberFormat(unit="none", decimals=0, low=0.0, color=GREEN),
        none=words("none.aqi"),
        about=words("environment.aqi.about"),
        name="${__field.labels.device}",
        link=context.to_sensor("${__field.labels.device}", "pm25"),
        thresholds=AIR,
    )
    made.add(aqi, 16, 9)
    timeline = panels.timeline(
        words("environment.bands"),
        Sql(f'SELECT time, device, aqi AS "Value" FROM {_AQI} ORDER BY time, device'),
        none=words("none.aqi"),
        mappings=bands,
        name="${__field.labels.device}",
        about=words("environment.bands.about"),
    )
    made.add(timeline, 24, 8)
    made.add(_above(context), 24, 9)
    made.row(words("row.devices"))
    made.metrics(context.of(Domain.ENVIRONMENT), _limits)
    return made.build()


def _limits(metric: Metric) -> str | None:
    return sql.limits(metric.name) if metric.limits else None


def _newest(context: Context, bands: list[dict[str, Any]]) -> Any:
    words = context.words
    query = (
        "SELECT DISTINCT ON (device) device, aqi, aqi AS band, time\n"
        f"FROM vn_aqi({sql.ZONE}, now() - INTERVAL '3 hours', now(), {sql.DISTRICTS}, {sql.DEVICES}) ORDER BY device, time DESC"
    )
    columns: Overrides = {
        "device": [*named(words("column.device")), linked(context.to_sensor("${__value.raw}", "pm25"))],
        "aqi": named("VN_AQI", decimals=0),
        "band": [*named(words("column.band")), ("mappings", bands), ("custom.cellOptions", {"type": "color-text"})],
        "time": named(words("column.hour"), unit="dateTimeFromNow"),
    }
    return panels.rows(
        words("environment.now"), Sql(query, form="table"), columns, none=words("none.aqi"), about=words("environment.now.about")
    )


def _above(context: Context) -> Any:
    words = context.words
    query = (
        'SELECT device, metric, span, "limit", worst, above, periods\n'
        f"FROM over_limits(${{standard:sqlstring}}, {sql.ZONE}, {sql.FROM}, {sql.TO}, {sql.DISTRICTS}, {sql.DEVICES}) LIMIT 500"
    )
    columns: Overrides = {
        "device": [*named(words("column.device")), linked(context.to_sensor("${__value.raw}", "${__data.fields.metric}"))],
        "metric": named(words("column.metric")),
        "span": named(words("column.span")),
        "limit": named(words("column.limit")),
        "worst": named(words("column.worst"), decimals=1),
        "above": named(words("column.above"), color=RED),
        "periods": named(words("column.periods")),
    }
    return panels.rows(
        words("environment.above"),
        Sql(query, form="table"),
        columns,
        none=words("none.limits"),
        about=words("environment.above.about"),
    )
