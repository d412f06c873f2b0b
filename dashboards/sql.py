"""SQL of panels, variables and alerts: short texts on top of the functions in `storage/repeatable/`. Pure.

Law: variables are always `${name:sqlstring}`, which every version quotes and joins by commas; a custom "all" value is inserted as
it stands, and so is quoted itself. A macro has neither parentheses nor commas inside.
"""

from collections.abc import Sequence
from typing import Final

#: What a variable stands for when everything is picked; the function `chosen` knows it.
ALL: Final = "'__all'"
DISTRICTS: Final = "ARRAY[${district:sqlstring}]::text[]"
DEVICES: Final = "ARRAY[${device:sqlstring}]::text[]"
ZONE: Final = "${zone:sqlstring}"
FROM: Final = "$__timeFrom()::timestamptz"
TO: Final = "$__timeTo()::timestamptz"
#: Lines of one chart: more cannot be told apart, and a year of each costs some 40 ms.
LINES: Final = 8
#: As good as all.
EVERY: Final = 1_000_000


def quoted(text: str) -> str:
    """A string of SQL.

    Examples
    --------
    >>> quoted("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def texts(values: Sequence[str]) -> str:
    """An array of SQL."""
    return f"ARRAY[{', '.join(quoted(value) for value in values)}]::text[]"


def chart(
    metrics: Sequence[str], *, aggregate: str = "${aggregate:sqlstring}", step: str = "$__interval_ms", most: int = LINES
) -> str:
    """A call of chart() for the dashboard's districts, devices, range and zone."""
    return f"chart({aggregate}, {step}, {ZONE}, {FROM}, {TO}, {DISTRICTS}, {DEVICES}, {texts(metrics)}, {most})"


def lines(metric: str) -> str:
    """A line a device."""
    return f'SELECT time, device, value AS "Value" FROM {chart([metric])} ORDER BY time'


def limits(metric: str) -> str:
    """The limits of the standard that is picked, as level lines over the range."""
    return (
        "SELECT t.time, l.standard || ' ' || l.span AS metric, l.value\n"
        f"FROM metric_limits l CROSS JOIN LATERAL (VALUES ({FROM}), ({TO})) AS t(time)\n"
        f"WHERE l.metric = {quoted(metric)} AND l.standard = ${{standard:sqlstring}}\n"
        "ORDER BY 1, 2"
    )


def by_district(metric: str) -> str:
    """The mean over each district's devices."""
    called = chart([metric], aggregate="'mean'", most=EVERY)
    return f'SELECT time, district, avg(value) AS "Value" FROM {called} GROUP BY 1, 2 ORDER BY 1, 2'


def standing(domain: str | None = None) -> str:
    """Sensors in service of what is picked; to be followed by AND, GROUP BY and the like."""
    where = "" if domain is None else f" AND domain = {quoted(domain)}"
    return (
        f"sensor_board WHERE (chosen({DISTRICTS}) IS NULL OR district = ANY(chosen({DISTRICTS})))"
        f" AND (chosen({DEVICES}) IS NULL OR device = ANY(chosen({DEVICES}))){where}"
    )


#: The standing of districts, where a dashboard has no variable for devices.
IN_DISTRICTS: Final = f"sensor_board WHERE (chosen({DISTRICTS}) IS NULL OR district = ANY(chosen({DISTRICTS})))"


def now(metric: str, kind: str) -> str:
    """What the good sensors of a metric show now, as one number."""
    value = {
        "level": "(10 * log(avg(power(10, last_value / 10)) {only}))",
        "direction": "(atan2d(avg(sind(last_value)) {only}, avg(cosd(last_value)) {only})::numeric + 360) % 360",
    }.get(kind, "avg(last_value) {only}")
    only = f"FILTER (WHERE metric = {quoted(metric)} AND state = 'ok')"
    return f'{value.replace("{only}", only)} AS "{metric}"'


DISTRICT_LIST: Final = "SELECT DISTINCT district FROM devices WHERE district <> '' ORDER BY 1"
STANDARD_LIST: Final = "SELECT DISTINCT standard FROM metric_limits ORDER BY 1"


def device_list(domain: str | None) -> str:
    """Devices of the districts that are picked, which measure something of the domain."""
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
