"""Brings the schema to this program's version: numbered migrations, each applied once, then functions, views and descriptions.

All of it is one transaction, under an advisory lock. Ingest and the API may be at work meanwhile; docs/migrations.md has the rules.
"""

import logging
import time
from datetime import timedelta
from typing import Final

from psycopg.sql import SQL

from citybeat.devices.catalogue import Catalogue
from citybeat.storage.db import schema_version, sql
from citybeat.storage.db.connection import Connection, DatabaseUnavailableError, StorageError, TransientError, translated
from citybeat.storage.db.schema_version import SchemaError, Script
from citybeat.storage.registry import records
from citybeat.storage.rollups import chunks

_LOG: Final = logging.getLogger(__name__)
_SQL: Final = sql.load("migrate")
#: Key of the advisory lock that migrations take; any fixed number of ours.
_LOCK: Final = 0x63697479

#: s that a migration waits for a lock, while every other session that needs the same table or view waits behind it. Longer than
#: PostgreSQL's deadlock_timeout of 1 s, after which an autovacuum that is in the way gives up.
WAIT: Final = 3.0
#: s until the next attempt, in which the sessions that waited get their turn.
PAUSE: Final = 1.0
#: A statement of a dashboard may take 30 s; within 76 s there is a gap between two.
ATTEMPTS: Final = 20


def migrate(connection: Connection, catalogue: Catalogue, *, chunk_days: dict[str, float]) -> list[str]:
    """Bring the schema to this program's version and sync the catalogue; does nothing the second time.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    catalogue : Catalogue
        Written to `metrics`; a metric that is no longer in it stays, since series may refer to it.
    chunk_days : dict
        Days a chunk, by hypertable; takes effect for chunks yet to be made. Ingest makes shorter ones where readings are dense
        (`storage/rollups/chunks.py`).

    Returns
    -------
    list of str
        The migrations that were applied, and the repeatable files whose text is new.

    Raises
    ------
    SchemaError
        The database is newer than this program or older than version 0.1.0, an applied migration was edited since, or a file has an
        error.
    TransientError
        Other sessions held a lock that was needed, at each of `ATTEMPTS`.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return _migrate(connection, catalogue, chunk_days)
        except TransientError as exc:
            _LOG.warning("another session uses what the migration changes, trying again in %.0f s: %s", PAUSE, exc)
            time.sleep(PAUSE)
    return _migrate(connection, catalogue, chunk_days)


def _migrate(connection: Connection, catalogue: Catalogue, chunk_days: dict[str, float]) -> list[str]:
    available = schema_version.migrations()
    with translated(), connection.transaction():
        connection.execute(_SQL["lock"], {"key": _LOCK})
        connection.execute(_SQL["limit_waits"], {"ms": round(WAIT * 1000)})
        connection.execute(_SQL["make_table"])
        seen = schema_version.applied(connection)
        schema_version.check_history(seen, available)
        done = [_apply(connection, script) for script in available if script.number not in seen]
        changed = schema_version.outdated(connection)
        if done or changed:  # a migration may have dropped what stood in the way of a table's change
            _repeat(connection)
        chunks.set_intervals(connection, {table: timedelta(days=days) for table, days in chunk_days.items()})
        records.sync_catalogue(connection, catalogue)
    return done + changed


def _apply(connection: Connection, script: Script) -> str:
    _run(connection, script)
    connection.execute(_SQL["note"], {"number": script.number, "name": script.name, "checksum": script.checksum})
    return f"{script.number:04d}_{script.name}"


def _repeat(connection: Connection) -> None:
    scripts = schema_version.repeatables()
    for script in scripts:
        _run(connection, script)
    noted = {"names": [script.name for script in scripts], "checksums": [script.checksum for script in scripts]}
    connection.execute(_SQL["note_repeatables"], noted)


def _run(connection: Connection, script: Script) -> None:
    try:
        with translated():
            # Our own files are as literal as a string in the source.
            connection.execute(SQL(script.text))
    except (TransientError, DatabaseUnavailableError):
        raise
    except StorageError as exc:
        raise SchemaError(f"{script.file}: {exc}") from exc
