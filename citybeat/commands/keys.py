"""`citybeat keys`: creates, lists and revokes the keys of the API."""

import getpass
import re
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from citybeat import context
from citybeat.context import failures, say
from citybeat.devices.catalogue import Domain
from citybeat.devices.errors import CitybeatError
from citybeat.settings import Settings
from citybeat.storage.db.connection import Connection
from citybeat.storage.registry import keys
from citybeat.storage.registry.keys import Key, Scope
from citybeat.storage.registry.selection import Restriction

app = typer.Typer(help="Create, list and revoke keys of the API.", no_args_is_help=True, add_completion=False)
_DAYS: Final = {"d": 1, "w": 7, "y": 365}


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="User of the key, for people to read: a program, an office or a person.")],
    scope: Annotated[
        list[Scope], typer.Option(help="Right of the key: read, write (send readings) or admin (everything); repeat for several.")
    ],
    expires: Annotated[
        str | None,
        typer.Option(
            help="End of validity: days, weeks or years from now (90d, 4w, 1y), or an RFC 3339 time with an offset. Default: never."
        ),
    ] = None,
    domain: Annotated[
        list[Domain] | None, typer.Option(help="Restrict the key to devices of this domain; repeat for several. Default: all.")
    ] = None,
    district: Annotated[
        list[str] | None, typer.Option(help="Restrict the key to devices in this district; repeat for several. Default: all.")
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            help="Restrict the key to devices with this tag, name:value or name; repeat to require several. Default: all."
        ),
    ] = None,
) -> None:
    """Create a key and print it. It cannot be shown again: the database keeps only its SHA-256."""
    with failures():
        until = None if expires is None else expiry(expires, datetime.now(UTC))
        within = _restriction(domain, district, tag)
        with context.database(Settings(), application="keys") as connection:
            made = keys.create(connection, name=name, scopes=scope, by=getpass.getuser(), within=within, expires_at=until)
        print(made)


@app.command("list")
def list_keys() -> None:
    """List all keys, without their secrets."""
    with failures(), context.database(Settings(), application="keys") as connection:
        table = Table("id", "name", "scopes", "sees", "made", "by", "expires", "state")
        for key in keys.listed(connection):
            table.add_row(
                key.id,
                key.name,
                ", ".join(sorted(key.scopes)),
                _sight(key),
                key.created_at.isoformat(timespec="minutes"),
                key.created_by,
                "never" if key.expires_at is None else key.expires_at.isoformat(timespec="minutes"),
                _state(key),
            )
        context.wide_console().print(table)


@app.command()
def revoke(
    number: Annotated[str, typer.Argument(metavar="ID", help="Id of the key as `citybeat keys list` shows it, or the whole key.")],
) -> None:
    """Revoke a key for good: within two seconds the API refuses it and ends its streams."""
    with failures(), context.database(Settings(), application="keys") as connection:
        wanted = number.split("_")[1] if number.startswith("cb_") and number.count("_") >= 1 else number
        if not keys.revoke(connection, wanted):
            raise CitybeatError(f"no key {wanted!r} is in force; `citybeat keys list` shows them")
        say(f"key {wanted} is revoked")


def expiry(text: str, now: datetime) -> datetime:
    """The time at which a key created now expires.

    Raises
    ------
    CitybeatError
        The text is neither a duration nor a time, or the time has passed.

    Examples
    --------
    >>> expiry("2w", datetime(2026, 1, 1, tzinfo=UTC)).isoformat()
    '2026-01-15T00:00:00+00:00'
    """
    if match := re.fullmatch(r"(\d{1,5})([dwy])", text):
        until = now + timedelta(days=int(match[1]) * _DAYS[match[2]])
    else:
        try:
            until = datetime.fromisoformat(text)
        except ValueError:
            raise CitybeatError(f"--expires {text!r}: expected a value such as 90d, 4w, 1y or 2027-01-01T00:00:00+07:00") from None
        if until.tzinfo is None:
            raise CitybeatError(f"--expires {text!r}: a time needs an offset, such as Z or +07:00")
    if until <= now:
        raise CitybeatError(f"--expires {text!r}: that has passed")
    return until


def own(connection: Connection, home: Path) -> str:
    """A key with all scopes for the user of this state directory: the one stored there if it is still valid, otherwise a new one.

    It is stored in `api-key`, readable by its owner only, so that commands can be copied from the documentation.
    """
    file = home / "api-key"
    if file.exists():
        kept = file.read_text("ascii").strip()
        if keys.holds(connection, kept):
            return kept
    made = keys.create(connection, name="citybeat up", scopes=[Scope.ADMIN], by=getpass.getuser())
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    draft.touch(mode=0o600)
    draft.write_text(made + "\n", "ascii")
    draft.replace(file)
    return made


def _restriction(domain: list[Domain] | None, district: list[str] | None, tag: list[str] | None) -> Restriction | None:
    if not (domain or district or tag):
        return None
    tags = [(name, value if colon else None) for name, colon, value in (each.partition(":") for each in tag or [])]
    return Restriction(domains=domain or None, districts=district or None, tags=tags)


def _sight(key: Key) -> str:
    if key.within is None:
        return "everything"
    within = key.within
    parts = [*(within.domains or []), *(within.districts or [])]
    return ", ".join(parts + [name if value is None else f"{name}:{value}" for name, value in within.tags])


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at.isoformat(timespec='minutes')}"
    return "expired" if key.expires_at is not None and key.expires_at <= datetime.now(UTC) else "in force"
