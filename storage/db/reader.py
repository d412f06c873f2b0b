"""The role that dashboards log in as: it reads what they show, and nothing else (migration 0016 says what that is)."""

from typing import Final

import psycopg
from psycopg.sql import SQL

from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, StorageError, translated

ROLE: Final = "grafana"
_SQL: Final = sql.load("reader")


class ReaderError(StorageError):
    """The role for dashboards needs an administrator of the database server."""


def granted(connection: Connection) -> str | None:
    """Make the role where it is not there, let it read what dashboards show; say what an administrator has to do, if anything."""
    with translated():
        row = connection.execute(_SQL["grant"]).fetchone()
        assert row is not None
        left_to_do: str | None = row[0]
        return left_to_do


def prepare(connection: Connection, password: str | None) -> None:
    """Make the role where it is not there, let it read what dashboards show, and set its password if one is given.

    Raises
    ------
    ReaderError
        We may not make the role, or not change it, since somebody else did; the message says what an administrator has to do.
    """
    left_to_do = granted(connection)
    if left_to_do is not None:
        raise ReaderError(left_to_do)
    if password is None:
        return
    with translated():
        try:
            # SCRAM, as the server hashes it: the statement goes over the connection that we log in by.
            statement = connection.execute(_SQL["password"], {"password": password}).fetchone()
            assert statement is not None
            connection.execute(SQL(statement[0]))
        except psycopg.errors.InsufficientPrivilege as exc:
            raise ReaderError(
                f"the role {ROLE} was made by somebody else, so an administrator has to set its password: \\password {ROLE}"
            ) from exc
