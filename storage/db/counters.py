"""The ledger's counters as parts of SQL statements."""

from collections.abc import Callable
from functools import cache
from typing import Final, LiteralString

from psycopg.sql import SQL, Composable, Identifier, Placeholder

from citybeat.devices.ledger import NAMES, OUTCOMES


def _each(part: Callable[[str], Composable], names: tuple[str, ...] = NAMES, between: str = ", ") -> Composable:
    return SQL(between).join(part(name) for name in names)


def _in(table: str) -> Callable[[str], Composable]:
    return lambda name: Identifier(table, name)


_PARTS: Final = {
    "counters": _each(Identifier),
    "l_counters": _each(_in("l")),
    "t_counters": _each(_in("t")),
    "l_outcomes": _each(_in("l"), OUTCOMES),
    "l_ended": _each(_in("l"), OUTCOMES, " + "),
    "sums": _each(lambda name: SQL("coalesce(sum({0}), 0)::int8 AS {1}").format(Identifier("l", name), Identifier(name))),
    "packed": _each(lambda name: SQL("string_agg(int8send({}), '')").format(Identifier(name))),
    "values": _each(Placeholder),
    "grown": _each(lambda name: SQL("{0} = l.{0} + EXCLUDED.{0}").format(Identifier(name))),
}


@cache
def composed(statement: LiteralString) -> bytes:
    """Fill the counters into a statement.

    Parameters
    ----------
    statement : LiteralString
        Has some of these in braces: `counters` (their names), `l_counters`, `t_counters`, `l_outcomes` (columns of tables l and t),
        `l_ended` (the sum of the outcomes), `sums` (of columns of l, 0 without rows), `packed` (columns for `packed.unpack`),
        `values` (parameters of these names), and `grown` (assignments that add a conflicting row's counts to those of l).
    """
    return SQL(statement).format(**_PARTS).as_bytes(None)
