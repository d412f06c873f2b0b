"""SQL of panels, variables and alerts: short statements that call the functions in `storage/repeatable/`. Pure.

Invariant: variables are always written `${name:sqlstring}`, which every version of Grafana quotes and joins by commas. Grafana
inserts a custom "all" value unquoted, so `ALL` contains its own quotes. Arguments of macros contain neither parentheses nor commas.
"""

from collections.abc import Sequence
from typing import Final

#: Value of a variable when everything is selected; the SQL function `chosen` recognises it.
ALL: Final = "'__all'"
DISTRICTS: Final = "ARRAY[${district:sqlstring}]::text[]"
DEVICES: Final = "ARRAY[${device:sqlstring}]::text[]"
ZONE: Final = "${zone:sqlstring}"
FROM: Final = "$__timeFrom()::timestamptz"
TO: Final = "$__timeTo()::timestamptz"
#: Most curves in one chart: more cannot be told apart, and a year of each costs some 40 ms.
LINES: Final = 8
#: A limit that includes every device.
EVERY: Final = 1_000_000


def quoted(text: str) -> str:
    """Quote a text as an SQL string.

    Examples
    --------
    >>> quoted("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def texts(values: Sequence[str]) -> str:
    """An SQL array of strings."""
    return f"ARRAY[{', '.join(quoted(value) for value in values)}]::text[]"


def chart(
    metrics: Sequence[str], *, aggregate: str = "${aggregate:sqlstring}", step: str = "$__interval_ms", most: int = LINES
) -> str:
    """A call of chart() with the selected districts, devices, range and zone."""
    return f"chart({aggregate}, {step}, {ZONE}, {FROM}, {TO}, {DISTRICTS}, {DEVICES}, {texts(metrics)}, {most})"


def lines(metric: str) -> str:
    """One curve for each device."""
    return f'SELECT time, device, value AS "Value" FROM {chart([metric])} ORDER BY time'


def limits(metric: str) -> str:
    """The limits of the selected standard, as horizontal lines over the range."""
    return (
        "SELECT t.time, l.standard || ' ' || l.span AS metric, l.value\n"
        f"FROM metric_limits l CROSS JOIN LATERAL (VALUES ({FROM}), ({TO})) AS t(time)\n"
        f"WHERE l.metric = {quoted(metric)} AND l.standard = ${{standard:sqlstring}}\n"
        "ORDER BY 1, 2"
    )


def by_district(metric: str) -> str:
    """The mean over the devices of each district."""
    called = chart([metric], aggregate="'mean'", most=EVERY)
    return f'SELECT time, district, avg(value) AS "Value" FROM {called} GROUP BY 1, 2 ORDER BY 1, 2'


def standing(domain: str | None = None) -> str:
    """FROM and WHERE of the selected sensors in service; may be followed by AND, GROUP BY and the like."""
    where = "" if domain is None else f" AND domain = {quoted(domain)}"
    return (
        f"sensor_board WHERE (chosen({DISTRICTS}) IS NULL OR district = ANY(chosen({DISTRICTS})))"
        f" AND (chosen({DEVICES}) IS NULL OR device = ANY(chosen({DEVICES}))){where}"
    )


#: The same for a dashboard without a variable for devices.
IN_DISTRICTS: Final = f"sensor_board WHERE (chosen({DISTRICTS}) IS NULL OR district = ANY(chosen({DISTRICTS})))"


def now(metric: str, kind: str) -> str:
    """A column with the present mean over the good sensors of a metric."""
    value = {
        "level": "(10 * log(avg(power(10, last_value / 10)) {only}))",
        "direction": "(atan2d(avg(sind(last_value)) {only}, avg(cosd(last_value)) {only})::numeric + 360) % 360",
    }.get(kind, "avg(last_value) {only}")
    only = f"FILTER (WHERE metric = {quoted(metric)} AND state = 'ok')"
    return f'{value.replace("{only}", only)} AS "{metric}"'


DISTRICT_LIST: Final = "SELECT DISTINCT district FROM devices WHERE district <> '' ORDER BY 1"
STANDARD_LIST: Final = "SELECT DISTINCT standard FROM metric_limits ORDER BY 1"


def device_list(domain: str | None) -> str:
    """A query for the devices in the selected districts that have a sensor of the domain."""
    measures = (
        ""
        if domain is None
        else (
            " AND EXISTS (SELECT FROM series s JOIN metrics m ON m.name = s.metric"
            f" WHERE s.device_id = d.id AND m.domain = {quoted(domain)})"
        )
    )
    return (
        "SELECT d.id AS __value, concat_ws(' · ', d.id, nullif(d.name, '')) AS __text FROM devices d "
        f"WHERE (chosen({DISTRICTS}) IS NULL OR d.district = ANY(chosen({DISTRICTS}))){measures} ORDER BY d.id LIMIT 5000"
    )
