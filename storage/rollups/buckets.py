"""Rollups as buckets of any length: the statement for a question, and its answer as arrays.

Where a bucket begins is said by SQL alone, and where it ends if it is longer than an hour; docs/rollups.md says how.
"""

from collections.abc import Mapping
from functools import cache
from typing import Final

from psycopg.sql import SQL, Composable

from citybeat.storage.db import sql
from citybeat.storage.db.pgcopy import Type

_SQL: Final = sql.load("buckets")
#: What a rollup's row holds beside counts, and a question may do without.
VALUES: Final = ("vmin", "vmax", "vfirst", "vlast", "s1", "s2")


@cache
def statement(values: tuple[str, ...], *, utc: bool, long: bool, minutes: bool) -> Composable:
    """The statement that reads these columns, packed; `columns` says which they are.

    Parameters
    ----------
    values : tuple
        Of `VALUES`.
    utc : bool
        Buckets go by UTC's clocks.
    long : bool
        Buckets are longer than an hour.
    minutes : bool
        Minutes as they are.
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
    """What a row of `statement` holds."""
    return {
        "series": "int4",
        "time": "timestamptz",
        "n": "int4",
        "n_bad": "int4",
        **dict.fromkeys(values, "float8"),
        **({"end": "timestamptz"} if long else {}),
    }
