"""Forward-only migrations: numbered SQL files, each applied once, in one transaction, under an advisory lock."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from typing import Final

from psycopg.sql import SQL

from citybeat.devices.catalogue import Catalogue
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, StorageError, translated
from citybeat.storage.registry import records
from citybeat.storage.rollups import chunks

_FILE: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_SQL: Final = sql.load("migrate")
#: Key of the advisory lock that migrations take; any fixed number of ours.
_LOCK: Final = 0x63697479


class SchemaError(StorageError):
    """The database's schema is not one that this program can work with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Migration:
    """One file of `migrations/`."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text: a migration that was applied is never edited."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations, in order.

    Raises
    ------
    SchemaError
        A file is named wrongly, or a number is missing or stands twice.
    """
    found = []
    for entry in files("citybeat.storage").joinpath("migrations").iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _FILE.fullmatch(entry.name)
        if not match:
            raise SchemaError(f"migrations/{entry.name}: expected a name such as 0002_what_it_does.sql")
        found.append(Migration(number=int(match[1]), name=match[2], text=entry.read_text("utf-8")))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise SchemaError("migrations must be numbered 1, 2, 3, … without gaps")
    return found


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
        The migrations that were applied.

    Raises
    ------
    SchemaError
        The database is newer than this program, or an applied migration was edited since.
    """
    available = migrations()
    with translated(), connection.transaction():
        connection.execute(_SQL["lock"], {"key": _LOCK})
        connection.execute(_SQL["make_table"])
        applied = {row[0]: row[1:] for row in connection.execute(_SQL["applied"])}
        _check(applied, available)
        done = [_apply(connection, migration) for migration in available if migration.number not in applied]
        chunks.set_intervals(connection, {table: timedelta(days=days) for table, days in chunk_days.items()})
        records.sync_catalogue(connection, catalogue)
    return done


def check(connection: Connection) -> None:
    """Make sure that the schema is this program's.

    Raises
    ------
    SchemaError
        It is older or newer, or there is none; the message says what to do.
    """
    with translated():
        exists = connection.execute(_SQL["table_exists"]).fetchone()
        if exists is None or not exists[0]:
            raise SchemaError("the database has no schema yet; run `citybeat migrate`")
        applied = {row[0]: row[1:] for row in connection.execute(_SQL["applied"])}
    available = migrations()
    _check(applied, available)
    if len(applied) < len(available):
        raise SchemaError(f"the schema is at {len(applied)}, this program needs {len(available)}; run `citybeat migrate`")


def _check(applied: dict[int, tuple[str, str]], available: Iterable[Migration]) -> None:
    known = {migration.number: migration for migration in available}
    newest = max(applied, default=0)
    if newest > max(known, default=0):
        raise SchemaError(
            f"the schema is at {newest} ({applied[newest][0]}), this program knows {max(known, default=0)} at most; use a newer one"
        )
    for number, (name, checksum) in applied.items():
        if known[number].checksum != checksum:
            raise SchemaError(f"migration {number} ({name}) was applied with another text; migrations are never edited")


def _apply(connection: Connection, migration: Migration) -> str:
    connection.execute(SQL(migration.text))
    noted = {"number": migration.number, "name": migration.name, "checksum": migration.checksum}
    connection.execute(_SQL["note"], noted)
    return f"{migration.number:04d}_{migration.name}"
