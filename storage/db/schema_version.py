"""The version of the schema: the SQL files that this program has, and those that a database has seen.

`storage/migrate.py` applies what is missing. Everything else only checks, and works with a database whose version is its own.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, StorageError, translated

_FILE: Final = re.compile(r"(\d+)_([a-z0-9_]+)\.sql")
_SQL: Final = sql.load("schema_version")
#: The first migration: it makes what version 0.1.0, the first release, made by its migrations 1 to 19.
_FIRST: Final = 19
#: Checksum of the last migration of version 0.1.0, which has the number of our first.
_RELEASED: Final = "42d754933253baffb186fd2e1e5048758ca6c6d3961d706aac2e0ac00c3b748e"


class SchemaError(StorageError):
    """The database's schema is not one that this program can work with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """One file of `migrations/` or `repeatable/`."""

    file: str  # folder and name
    number: int  # of a migration its version, of a repeatable file its place in the order
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Script]:
    """Every migration, in order, from that of version 0.1.0 on. Each is applied once, and never edited afterwards.

    Raises
    ------
    SchemaError
        A file is named wrongly, or a number is missing or stands twice.
    """
    found = _scripts("migrations")
    if [script.number for script in found] != list(range(_FIRST, _FIRST + len(found))):
        raise SchemaError(f"migrations must be numbered {_FIRST}, {_FIRST + 1}, … without gaps")
    return found


def repeatables() -> list[Script]:
    """Every repeatable file, in order. Each replaces what it defines, and all are applied again when one of them changed.

    Raises
    ------
    SchemaError
        A file is named wrongly, or a number or a name stands twice.
    """
    found = _scripts("repeatable")
    for script in found:
        if any((other.number == script.number) != (other.name == script.name) for other in found):
            raise SchemaError(f"{script.file}: its number or its name stands twice")
    return found


def applied(connection: Connection) -> dict[int, tuple[str, str]]:
    """Name and checksum of each migration that the database has seen, by number."""
    return {row[0]: row[1:] for row in connection.execute(_SQL["applied"])}


def outdated(connection: Connection) -> list[str]:
    """Names of repeatable files whose present text is not applied, and of applied ones that this program does not have."""
    noted: dict[str, str] = dict(connection.execute(_SQL["repeated"]).fetchall())
    ours = {script.name: script.checksum for script in repeatables()}
    return [name for name in {**ours, **noted} if noted.get(name) != ours.get(name)]


def check_history(seen: dict[int, tuple[str, str]], available: Iterable[Script]) -> None:
    """Make sure that what the database has seen is the beginning of what is available.

    Raises
    ------
    SchemaError
        The database is newer than this program, older than version 0.1.0, or an applied migration was edited since.
    """
    known = {script.number: {script.checksum} for script in available}
    known[_FIRST].add(_RELEASED)
    newest = max(seen, default=_FIRST)
    if newest > max(known):
        raise SchemaError(
            f"the schema is at {newest} ({seen[newest][0]}), this program knows {max(known)} at most; use a newer one"
        )
    if seen and _FIRST not in seen:
        raise SchemaError(
            f"the schema is at {newest}, older than version 0.1.0; run `citybeat migrate` of version 0.1.0 first, then this one"
        )
    for number, (name, checksum) in seen.items():
        if number >= _FIRST and checksum not in known[number]:
            raise SchemaError(f"migration {number} ({name}) was applied with another text; migrations are never edited")


def check(connection: Connection) -> None:
    """Make sure that the schema is this program's: every migration, and the present text of every repeatable file.

    Raises
    ------
    SchemaError
        It is older or newer, or there is none; the message says what to do.
    """
    available = migrations()
    with translated():
        exists = connection.execute(_SQL["table_exists"]).fetchone()
        if exists is None or not exists[0]:
            raise SchemaError("the database has no schema yet; run `citybeat migrate`")
        seen = applied(connection)
        check_history(seen, available)
        newest = max(seen, default=0)
        if newest < available[-1].number:
            raise SchemaError(f"the schema is at {newest}, this program needs {available[-1].number}; run `citybeat migrate`")
        names = outdated(connection)
    if names:
        raise SchemaError(f"functions and views are not those of this program ({', '.join(names)}); run `citybeat migrate`")


def _scripts(folder: str) -> list[Script]:
    found = []
    for entry in files("citybeat.storage").joinpath(folder).iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _FILE.fullmatch(entry.name)
        if not match:
            raise SchemaError(f"{folder}/{entry.name}: expected a name such as 02_what_it_does.sql")
        found.append(Script(file=f"{folder}/{entry.name}", number=int(match[1]), name=match[2], text=entry.read_text("utf-8")))
    return sorted(found, key=lambda script: script.number)
