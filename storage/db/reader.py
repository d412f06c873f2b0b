"""The role that dashboards log in as: it may read the tables that they show (`repeatable/11_reader.sql`), and nothing else."""

from typing import Final

import psycopg
from psycopg.sql import SQL

from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, StorageError, only, translated

ROLE: Final = "grafana"
_SQL: Final = sql.load("reader")


class ReaderError(StorageError):
    """The role for dashboards has to be changed by an administrator of the database server."""


def granted(connection: Connection) -> str | None:
    """Create the role if it does not exist, and grant its rights. Returns the task that is left for an administrator, if any."""
    with translated():
        left_to_do: str | None = only(connection, _SQL["grant"])[0]
        return left_to_do


def prepare(connection: Connection, password: str | None) -> None:
    """Create the role if it does not exist, grant it what dashboards read, and set its password if one is given.

    Raises
    ------
    ReaderError
        Our role may not create it, or change it because another one created it; the message says what an administrator has to do.
    """
    left_to_do = granted(connection)
    if left_to_do is not None:
        raise ReaderError(left_to_do)
    if password is None:
        return
    with translated():
        try:
            # The server composes the statement and hashes the password (SCRAM); it goes over the connection that we log in by.
            connection.execute(SQL(only(connection, _SQL["password"], {"password": password})[0]))
        except psycopg.errors.InsufficientPrivilege as exc:
            raise ReaderError(
                f"another role created {ROLE}, so an administrator has to set its password: \\password {ROLE}"
            ) from exc
