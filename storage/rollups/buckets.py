"""Statements that merge rollups into buckets of any length, and the columns that they return.

SQL alone computes the start of a bucket, and the end of one that is longer than an hour (docs/rollups.md).
"""

from collections.abc import Mapping
from functools import cache
from typing import Final

from psycopg.sql import SQL, Composable

from citybeat.storage.db import sql
from citybeat.storage.db.pgcopy import Type

_SQL: Final = sql.load("buckets")
#: Columns of a rollup's row beside the counts; a query reads only those that it needs.
VALUES: Final = ("vmin", "vmax", "vfirst", "vlast", "s1", "s2")
#: Columns of a rollup's row, beside its series and time.
ROLLUP: Final[Mapping[str, Type]] = {"n": "int4", "n_bad": "int4", **dict.fromkeys(VALUES, "float8")}


@cache
def statement(values: tuple[str, ...], *, utc: bool, long: bool, minutes: bool) -> Composable:
    """Compose the statement that reads these columns, packed; `columns` lists them.

    Parameters
    ----------
    values : tuple
        Members of `VALUES`.
    utc : bool
        Buckets begin by the clocks of UTC.
    long : bool
        Buckets are longer than an hour.
    minutes : bool
        Buckets are the stored minutes.
    """
    packed = [SQL(", string_agg(float8send({}), '')").format(SQL(name)) for name in values]
    if minutes:
        return SQL(_SQL["minutes"]).format(packed=SQL("").join(packed))
    if long:
        packed.append(SQL(", string_agg(timestamptz_send({}), '')").format(SQL(_SQL["end"])))
    at = "long" if long else "short"
    return SQL(_SQL["buckets"]).format(
        until=SQL(_SQL[f"until_{at}"]),
        place=SQL(_SQL["place_utc" if utc and not long else f"place_{at}"]),
        began=SQL(_SQL[f"began_{at}"]),
        merged=SQL("").join(SQL(", {} AS {}").format(SQL(_SQL[name]), SQL(name)) for name in values),
        packed=SQL("").join(packed),
    )


def columns(values: tuple[str, ...], *, long: bool) -> Mapping[str, Type | None]:
    """Columns of the row that `statement` returns."""
    return {
        "series": "int4",
        "time": "timestamptz",
        "n": "int4",
        "n_bad": "int4",
        **dict.fromkeys(values, "float8"),
        **({"end": "timestamptz"} if long else {}),
    }
