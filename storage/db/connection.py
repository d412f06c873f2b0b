"""Connections, and the driver's errors in our words."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import errors as pg

from citybeat.devices.errors import CitybeatError

#: How a server words that it will not let us in, ever. The driver has no SQLSTATE for what happens before there is a connection; a
#: server of another language is only tried for longer.
_REFUSED: Final = ("authentication failed", "no pg_hba.conf entry", '" does not exist', "permission denied for database")

#: Where a server's message begins to quote values.
_QUOTING: Final = re.compile(r"^(?:DETAIL|CONTEXT):", re.MULTILINE)
#: The server, too, has to notice that a connection is dead: until then the transaction in it holds the locks of its sources, and
#: its successor waits. PostgreSQL's default is two hours. Seconds, seconds, probes, milliseconds; as for our own end, below.
_SERVER_KEEPALIVES: Final = (
    "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 -c tcp_user_timeout=15000"
)

Connection = psycopg.Connection[tuple[Any, ...]]

#: s. Longer than a local server ever needs, shorter than an operator waits.
CONNECT_TIMEOUT: Final = 10


class StorageError(CitybeatError):
    """The database refused something that we did wrong."""


class DatabaseUnavailableError(StorageError):
    """The database cannot be reached, or closed the connection; whether a COMMIT under way took effect is unknown."""


class RefusedDataError(StorageError):
    """The database does not take what a transaction would have written: a row of it breaks a rule."""


class TransientError(StorageError):
    """The database gave up a transaction that may well succeed when it is tried again (deadlock, serialisation, lock time-out)."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn psycopg's errors into ours.

    Raises
    ------
    TransientError, DatabaseUnavailableError, RefusedDataError, StorageError
    """
    try:
        yield
    except (psycopg.DataError, psycopg.IntegrityError, pg.RaiseException) as exc:
        raise RefusedDataError(_line(exc)) from exc
    except UnicodeEncodeError as exc:  # a text that is none, on its way to the server
        raise RefusedDataError(str(exc)) from exc
    except (pg.DeadlockDetected, pg.SerializationFailure, pg.LockNotAvailable) as exc:
        raise TransientError(_line(exc)) from exc
    # A server that was the primary, and now is a standby, refuses to write; another one does not.
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
        # Without an SQLSTATE there was no connection. Class 08 is connections, 53 resources, 57 an operator's intervention.
        if exc.sqlstate is None or exc.sqlstate[:2] in {"08", "53", "57"}:
            raise DatabaseUnavailableError(_line(exc)) from exc
        raise StorageError(_line(exc)) from exc
    except psycopg.Error as exc:
        raise StorageError(_line(exc)) from exc


def connect(url: str, *, application: str, autocommit: bool = True, statement_timeout: float = 0.0) -> Connection:
    """A new connection, in UTC, with synchronous commit whatever the server's default.

    Parameters
    ----------
    url : str
        postgresql://user:password@host:port/database
    application : str
        Shown in pg_stat_activity.
    statement_timeout : float
        s that a statement may take, waiting for locks included; one that takes longer has its connection taken for broken. 0: any.

    Raises
    ------
    DatabaseUnavailableError
        No server answers.
    StorageError
        It refuses us.
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


def _line(exc: psycopg.Error) -> str:
    # Detail and context quote rows: what a sender sent does not belong into a log.
    return " ".join(_QUOTING.split(str(exc), maxsplit=1)[0].split()) or type(exc).__name__
