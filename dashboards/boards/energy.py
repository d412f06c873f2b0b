"""Energy: load and its peak, voltage quality, consumption by district and day, and each metric of the domain by device."""

import math
from typing import Any

from citybeat.dashboards import panels, sql
from citybeat.dashboards.board import Board, Context
from citybeat.dashboards.panels import NumberFormat, Overrides, Sql, linked, named
from citybeat.devices.catalogue import Domain

_LOAD, _VOLTAGE, _COUNTER, _AMOUNT = "totalActivePower", "phaseVoltage", "totalActiveEnergyImport", "activeEnergyPerInterval"
_DAY_MS = "86400000"


def board(context: Context) -> dict[str, Any]:
    """Build the dashboard as Grafana's JSON."""
    words = context.words
    made = Board(context, "energy")
    made.usual_variables(Domain.ENERGY)
    watts = context.format(context.catalogue[_LOAD])
    load = sql.chart([_LOAD], aggregate="'mean'", most=sql.EVERY)
    totals = f"SELECT time, sum(value) AS load FROM {load} GROUP BY 1"

    made.row(words("row.load"))
    peak = panels.figures(
        words("energy.peak"),
        Sql(
            f"SELECT max(t.load) AS peak, (array_agg(t.time ORDER BY t.load DESC NULLS LAST))[1] AS at, avg(t.load) AS mean\n"
            f"FROM ({totals}) t",
            form="table",
        ),
        none=words("none.chart"),
        about=words("energy.peak.about"),
    )
    shown: Overrides = {
        "peak": named(words("energy.peak.value"), unit=watts.unit, decimals=0, color=watts.color),
        "at": named(words("energy.peak.at"), unit="dateTimeAsIso"),
        "mean": named(words("energy.peak.mean"), unit=watts.unit, decimals=0),
    }
    made.add(panels.fields(peak, shown), 6, 8)
    by_district = f'SELECT time, district, sum(value) AS "Value" FROM {load} GROUP BY 1, 2 ORDER BY 1, 2'
    made.add(
        panels.chart(
            words("energy.load"),
            Sql(by_district),
            numbers=NumberFormat(unit=watts.unit, decimals=0, low=0.0),
            none=words("none.chart"),
            about=words("energy.load.about"),
            name="${__field.labels.district}",
            link=context.to_board("energy", "var-district=${__field.labels.district}&"),
            stacked=True,
        ),
        18,
        8,
    )

    made.row(words("row.consumption"))
    day = sql.chart([_COUNTER, _AMOUNT], aggregate="'usual'", step=_DAY_MS, most=sql.EVERY)
    made.add(
        panels.chart(
            words("energy.consumption"),
            Sql(f'SELECT time, district, sum(value) AS "Value" FROM {day} GROUP BY 1, 2 ORDER BY 1, 2'),
            numbers=NumberFormat(unit=context.format(context.catalogue[_COUNTER]).unit, decimals=0, low=0.0),
            none=words("none.chart"),
            about=words("energy.consumption.about"),
            name="${__field.labels.district}",
            bars=True,
            stacked=True,
        ),
        24,
        9,
    )

    made.row(words("row.voltage"))
    made.add(_voltage(context), 12, 9)
    made.add(_worst(context), 12, 9)
    made.row(words("row.devices"))
    made.metrics(context.of(Domain.ENERGY))
    return made.build()


def _bounds(context: Context) -> tuple[float, float]:
    metric = context.catalogue[_VOLTAGE]
    return max(metric.suspect_low, -1e9), min(metric.suspect_high, 1e9)


def _voltage(context: Context) -> Any:
    words = context.words
    low, high = _bounds(context)
    assert math.isfinite(low)
    called = sql.chart([_VOLTAGE], aggregate="'mean'", most=sql.EVERY)
    query = (
        "SELECT time, district, count(*) FILTER (WHERE vmin >= {low} AND vmax <= {high})::float8 / nullif(count(vmin), 0) "
        'AS "Value"\nFROM {called} GROUP BY 1, 2 ORDER BY 1, 2'
    )
    return panels.chart(
        words("energy.voltage"),
        Sql(query.format(low=f"{low:g}", high=f"{high:g}", called=called)),
        numbers=NumberFormat(unit="percentunit", decimals=1, low=0.0, high=1.0),
        none=words("none.chart"),
        about=words("energy.voltage.about", low=f"{low:g}", high=f"{high:g}"),
        name="${__field.labels.district}",
    )


def _worst(context: Context) -> Any:
    words = context.words
    low, high = _bounds(context)
    called = sql.chart([_VOLTAGE], aggregate="'mean'", most=sql.EVERY)
    query = (
        "SELECT device, max(district) AS district, min(vmin) AS lowest, max(vmax) AS highest,\n"
        f"    1 - count(*) FILTER (WHERE vmin >= {low:g} AND vmax <= {high:g})::float8 / nullif(count(vmin), 0) AS outside\n"
        f"FROM {called} GROUP BY device ORDER BY outside DESC NULLS LAST, device LIMIT 100"
    )
    volts = context.format(context.catalogue[_VOLTAGE]).unit
    columns: Overrides = {
        "device": [*named(words("column.device")), linked(context.to_sensor("${__value.raw}", _VOLTAGE))],
        "district": named(words("column.district")),
        "lowest": named(words("column.lowest"), unit=volts, decimals=1),
        "highest": named(words("column.highest"), unit=volts, decimals=1),
        "outside": named(words("column.outside"), unit="percentunit", decimals=1),
    }
    return panels.rows(
        words("energy.worst"),
        Sql(query, form="table"),
        columns,
        none=words("none.chart"),
        about=words("energy.voltage.about", low=f"{low:g}", high=f"{high:g}"),
    )
