"""City overview: a map of the sensors and their states, key figures of each domain, and present problems."""

from typing import Any, Final

from citybeat.dashboards import panels, sql
from citybeat.dashboards.board import Board, Context
from citybeat.dashboards.panels import GREEN, ORANGE, RED, Overrides, Sql, linked, named
from citybeat.devices.catalogue import Domain, Kind

_WHERE: Final = f"(chosen({sql.DISTRICTS}) IS NULL OR district = ANY(chosen({sql.DISTRICTS})))"


def board(context: Context) -> dict[str, Any]:
    """Build the dashboard as Grafana's JSON."""
    words = context.words
    made = Board(context, "city", since="now-6h", annotated=False)
    made.query_variable("district", sql.DISTRICT_LIST)
    made.zone_variable()

    counts = ", ".join(f"count(*) FILTER (WHERE state = '{name}') AS \"{name}\"" for name, _ in panels.STATES)
    shown = {name: named(words(f"state.{name}"), color=color) for name, color in panels.STATES}
    standing = panels.figures(
        words("city.standing"), Sql(f"SELECT {counts} FROM {sql.IN_DISTRICTS}", form="table"), none=words("none.sensors")
    )
    made.add(panels.fields(standing, shown), 24, 4)
    made.add(_map(context), 14, 16)
    made.add(_wrong(context), 10, 16)
    for domain in Domain:
        made.row(words(f"{domain}.title"))
        metrics = [metric for metric in context.of(domain) if metric.kind is not Kind.COUNTER]
        figures = ",\n    ".join(sql.now(metric.name, metric.kind) for metric in metrics)
        query = f"SELECT {figures}\nFROM {sql.IN_DISTRICTS}"
        panel = panels.figures(
            words("city.now", domain=words(f"domain.{domain}")), Sql(query, form="table"), none=words("none.sensors")
        )
        panel = panels.fields(panel, {metric.name: context.field(metric) for metric in metrics})
        made.add(panel, 24, 6)
    made.row(words("city.districts"))
    made.add(_districts(context), 12, 9)
    made.add(_air(context), 12, 9)
    return made.build()


def _map(context: Context) -> Any:
    words = context.words
    query = (
        "SELECT device, max(name) AS name, max(district) AS district, max(latitude) AS latitude, max(longitude) AS longitude,\n"
        "    max(severity) AS severity,\n"
        "    coalesce(string_agg(metric, ', ' ORDER BY metric) FILTER (WHERE severity > 0), '') AS wrong\n"
        f"FROM sensor_board WHERE {_WHERE} AND latitude IS NOT NULL AND longitude IS NOT NULL\n"
        "GROUP BY device ORDER BY device"
    )
    columns: Overrides = {
        "device": [*named(words("column.device")), linked(context.to_sensor("${__value.raw}", ""))],
        "name": named(words("column.name")),
        "district": named(words("column.district")),
        "severity": [*named(words("column.state")), context.states()],
        "wrong": named(words("column.wrong")),
        "latitude": named(words("column.latitude")),
        "longitude": named(words("column.longitude")),
    }
    return panels.map_of(
        words("city.map"),
        Sql(query, form="table"),
        columns,
        none=words("none.places"),
        layer=words("city.layer"),
        color_by="severity",
        about=words("city.map.about"),
    )


def _wrong(context: Context) -> Any:
    words = context.words
    query = (
        "SELECT device, metric, district, severity, since, last_value, unit\n"
        f"FROM sensor_board WHERE severity > 0 AND {_WHERE}\n"
        "ORDER BY severity DESC, since NULLS FIRST, device, metric LIMIT 200"
    )
    columns: Overrides = {
        "device": [*named(words("column.device")), linked(context.to_sensor("${__value.raw}", "${__data.fields.metric}"))],
        "metric": named(words("column.metric")),
        "district": named(words("column.district")),
        "severity": [*named(words("column.state")), context.states(), ("custom.cellOptions", {"type": "color-text"})],
        "since": named(words("column.since"), unit="dateTimeFromNow"),
        "last_value": named(words("column.value"), decimals=2),
        "unit": named(words("column.unit")),
    }
    return panels.rows(
        words("city.wrong"), Sql(query, form="table"), columns, none=words("none.wrong"), about=words("city.wrong.about")
    )


def _districts(context: Context) -> Any:
    words = context.words
    query = (
        "SELECT district, count(DISTINCT device) AS devices, count(*) AS sensors,\n"
        "    count(*) FILTER (WHERE severity IN (1, 2)) AS doubtful, count(*) FILTER (WHERE severity > 2) AS quiet\n"
        f"FROM sensor_board WHERE {_WHERE} GROUP BY district ORDER BY quiet DESC, district"
    )
    columns: Overrides = {
        "district": [*named(words("column.district")), linked(context.to_board("quality", "var-district=${__value.raw}&"))],
        "devices": named(words("column.devices")),
        "sensors": named(words("column.sensors")),
        "doubtful": named(words("column.doubtful"), color=ORANGE),
        "quiet": named(words("column.quiet"), color=RED),
    }
    return panels.rows(words("city.districts"), Sql(query, form="table"), columns, none=words("none.sensors"))


def _air(context: Context) -> Any:
    words = context.words
    query = (
        'SELECT time, device, aqi AS "Value"\n'
        f"FROM vn_aqi({sql.ZONE}, {sql.FROM}, {sql.TO}, {sql.DISTRICTS}, ARRAY[]::text[]) ORDER BY time, device"
    )
    return panels.chart(
        words("environment.aqi"),
        Sql(query),
        numbers=panels.NumberFormat(unit="none", decimals=0, low=0.0, color=GREEN),
        none=words("none.aqi"),
        about=words("environment.aqi.about"),
        name="${__field.labels.device}",
        link=context.to_board("environment", "var-device=${__field.labels.device}&"),
        thresholds=AIR,
    )


#: The bands of VN_AQI: name, lowest index, and the colour prescribed by Decision 1459/QĐ-TCMT.
BANDS: Final = (
    ("good", 0, "#00E400"),
    ("moderate", 51, "#FFFF00"),
    ("poor", 101, "#FF7E00"),
    ("bad", 151, "#FF0000"),
    ("very_bad", 201, "#8F3F97"),
    ("hazardous", 301, "#7E0023"),
)
AIR: Final = panels.steps(BANDS[0][2], *((float(low), color) for _, low, color in BANDS[1:]))
