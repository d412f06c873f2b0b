"""Connections, and the driver's errors as ours."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, LiteralString

import psycopg
from psycopg import errors as pg
from psycopg.sql import SQL, Composed

from citybeat.devices.errors import CitybeatError

#: Texts by which a server refuses a connection for good. The driver has no SQLSTATE for errors before a connection exists; a server
#: of another language is only tried for longer.
_REFUSED: Final = ("authentication failed", "no pg_hba.conf entry", '" does not exist', "permission denied for database")

#: Lines of a server's message that quote values.
_QUOTING: Final = re.compile(r"^(?:DETAIL|CONTEXT):", re.MULTILINE)
#: The server, too, has to notice that a connection is dead: until then its transaction holds the locks of its sources, and a new
#: connection waits for them. PostgreSQL's default is two hours. Seconds, seconds, probes, milliseconds; as for our own end, below.
_SERVER_KEEPALIVES: Final = (
    "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 -c tcp_user_timeout=15000"
)

Connection = psycopg.Connection[tuple[Any, ...]]
Query = LiteralString | bytes | SQL | Composed
Params = Mapping[str, Any] | None

#: s. Longer than a local server ever needs, shorter than an operator waits.
CONNECT_TIMEOUT: Final = 10


class StorageError(CitybeatError):
    """The database refused a statement because of a mistake of ours."""


class DatabaseUnavailableError(StorageError):
    """The database cannot be reached, or closed the connection; whether a pending COMMIT took effect is unknown."""


class RefusedDataError(StorageError):
    """The database refused the data of a transaction: a row breaks a constraint."""


class TransientError(StorageError):
    """The database rolled back a transaction that may succeed when it is tried again (deadlock, serialisation, lock time-out)."""


@contextmanager
def translated() -> Iterator[None]:
    """Translate psycopg's errors into ours.

    Raises
    ------
    TransientError, DatabaseUnavailableError, RefusedDataError, StorageError
    """
    try:
        yield
    except (psycopg.DataError, psycopg.IntegrityError, pg.RaiseException) as exc:
        raise RefusedDataError(_line(exc)) from exc
    except UnicodeEncodeError as exc:  # a text with lone surrogates, on its way to the server
        raise RefusedDataError(str(exc)) from exc
    except (pg.DeadlockDetected, pg.SerializationFailure, pg.LockNotAvailable) as exc:
        raise TransientError(_line(exc)) from exc
    # A former primary that is now a standby refuses to write; the new primary does not.
    except (
        pg.AdminShutdown,
        pg.CrashShutdown,
        pg.CannotConnectNow,
        pg.ReadOnlySqlTransaction,
        psycopg.InterfaceError,
    ) as exc:
        raise DatabaseUnavailableError(_line(exc)) from exc
    except psycopg.OperationalError as exc:
        if any(words in str(exc) for words in _REFUSED):
            raise StorageError(f"{_line(exc)}; check CITYBEAT_DATABASE_URL") from exc
        # Without an SQLSTATE there was no connection. Class 08: connections, 53: resources, 57: an operator's intervention.
        if exc.sqlstate is None or exc.sqlstate[:2] in {"08", "53", "57"}:
            raise DatabaseUnavailableError(_line(exc)) from exc
        raise StorageError(_line(exc)) from exc
    except psycopg.Error as exc:
        raise StorageError(_line(exc)) from exc


def connect(url: str, *, application: str, autocommit: bool = True, statement_timeout: float = 0.0) -> Connection:
    """Open a connection, in UTC, with synchronous commit whatever the server's default.

    Parameters
    ----------
    url : str
        postgresql://user:password@host:port/database
    application : str
        Name in pg_stat_activity.
    statement_timeout : float
        s that a statement may take, waiting for locks included; a longer one fails as a broken connection. 0: no limit.

    Raises
    ------
    DatabaseUnavailableError
        No server answers.
    StorageError
        The server refuses the connection.
    """
    timeout = round(statement_timeout * 1000)  # ms
    with translated():
        return psycopg.connect(
            url,
            autocommit=autocommit,
            application_name=f"citybeat {application}",
            connect_timeout=CONNECT_TIMEOUT,
            options=f"-c timezone=UTC -c synchronous_commit=on -c statement_timeout={timeout} {_SERVER_KEEPALIVES}",
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=15_000,
        )


def only(
    source: Connection | psycopg.Cursor[Any], statement: Query, parameters: Params = None, *, prepare: bool | None = None
) -> Any:
    """Execute a statement that returns exactly one row, and return the row; `prepare` as in psycopg."""
    row = source.execute(statement, parameters, prepare=prepare).fetchone()
    assert row is not None
    return row


def _line(exc: psycopg.Error) -> str:
    # Detail and context quote rows, and a sender's data do not belong in a log.
    return " ".join(_QUOTING.split(str(exc), maxsplit=1)[0].split()) or type(exc).__name__
