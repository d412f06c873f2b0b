"""Connection pools of the API: many connections for reads, and a few for changes. Opening them needs no database.

Invariant: reads for requests are async, on a `ReadPool`. Changes (of the registry, of quarantine) are functions of a plain
connection, as commands call them too; a `WritePool` runs them in a thread. No function works on both.
"""

import asyncio
import select
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import Any, Final, TypeVar

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from citybeat.storage.db import schema_version
from citybeat.storage.db.connection import Connection, DatabaseUnavailableError, StorageError, connect, translated

_T = TypeVar("_T")
AsyncCursor = psycopg.AsyncCursor[TupleRow]

#: s. Timeout for a connection; an early "try again" serves a client better than a queue.
WAIT: Final = 3.0
#: s. Timeout of a statement. The slowest that our limits allow takes well under one.
STATEMENT: Final = 15.0
#: s. The pool reconnects by itself for this long. It backs off exponentially (1, 2, 4 … s), and after minutes without a database
#: would wait for minutes more; once it has given up, the next request makes it try at once.
RECONNECT: Final = 5.0
#: s. Timeout of the readiness check; probes of orchestrators wait no longer.
PROBE: Final = 3.0


#: Runtime exclusion is off: a look-up by key that excludes chunks one by one, for every key, spends ten times as long on that as on
#: reading them. The planner excludes chunks all the same.
_READING: Final = " -c default_transaction_read_only=on -c timescaledb.enable_runtime_exclusion=off"


class QueryTimeoutError(StorageError):
    """A query exceeded its timeout; its range is too large."""


class ReadPool:
    """Read-only connections to one database.

    Parameters
    ----------
    url : str
        postgresql://user:password@host:port/database
    min_size, max_size : int
        Connections that stay open, and maximum number of open connections.
    statement_timeout : float
        Seconds.
    name : str
        Name of the pool in logs, and of its connections in pg_stat_activity.
    """

    def __init__(
        self, url: str, *, min_size: int, max_size: int, statement_timeout: float = STATEMENT, name: str = "citybeat api"
    ) -> None:
        self._url: Final = url
        self._pool: Final[AsyncConnectionPool[psycopg.AsyncConnection[TupleRow]]] = AsyncConnectionPool(
            url,
            min_size=min_size,
            max_size=max_size,
            open=False,
            name=name,
            timeout=WAIT,
            reconnect_timeout=RECONNECT,
            check=_check_open,  # a server that restarted leaves dead connections in the pool
            kwargs=_options(name, statement_timeout, more=_READING),
        )

    async def open(self) -> None:
        """Begin to connect, without waiting."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close(timeout=WAIT)

    @asynccontextmanager
    async def cursor(self, *, snapshot: bool = False) -> AsyncIterator[AsyncCursor]:
        """Give a cursor that receives results in binary form.

        Parameters
        ----------
        snapshot : bool
            All statements see one state of the database.

        Raises
        ------
        DatabaseUnavailableError
            No connection within `WAIT` seconds, or the connection broke.
        QueryTimeoutError
            A statement exceeded its timeout.
        StorageError
            The database refused a statement.
        """
        with translated():
            try:
                async with self._pool.connection() as connection:
                    if not snapshot:
                        yield connection.cursor(binary=True)
                        return
                    async with connection.transaction():
                        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                        yield connection.cursor(binary=True)
            except psycopg.errors.QueryCanceled as exc:
                raise QueryTimeoutError("the query exceeded its timeout") from exc

    async def check(self) -> None:
        """Ensure that the database answers and that its schema is this program's.

        On a connection of its own: a server whose pool is busy is ready all the same.

        Raises
        ------
        DatabaseUnavailableError, StorageError
            The message says what is wrong.
        """
        try:
            await asyncio.wait_for(asyncio.to_thread(_check, self._url), PROBE)
        except TimeoutError:
            raise DatabaseUnavailableError(f"no answer within {PROBE:.0f} s") from None


class WritePool:
    """Connections for changes, for functions that take a plain one.

    Parameters
    ----------
    url : str
        postgresql://user:password@host:port/database
    max_size : int
        Maximum number of open connections, and so of simultaneous changes.
    """

    def __init__(self, url: str, *, max_size: int) -> None:
        self._pool: Final[ConnectionPool[Connection]] = ConnectionPool(
            url,
            min_size=0,
            max_size=max_size,
            open=False,
            name="citybeat api changes",
            timeout=WAIT,
            reconnect_timeout=RECONNECT,
            check=ConnectionPool.check_connection,
            kwargs=_options("citybeat api changes", STATEMENT),
        )

    async def open(self) -> None:
        """Start the pool; it connects when needed."""
        await asyncio.to_thread(self._pool.open)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.to_thread(self._pool.close, WAIT)

    async def run(self, work: Callable[[Connection], _T]) -> _T:
        """Run a function of a connection in autocommit mode in a thread, and return its result.

        It runs to its end even if the request is cancelled: a change is complete, or does not happen.

        Raises
        ------
        DatabaseUnavailableError
            No connection within `WAIT` seconds, or the connection broke.
        QueryTimeoutError
            A statement exceeded its timeout.
        Exception
            Any exception of the function.
        """

        def run() -> _T:
            with translated():
                try:
                    with self._pool.connection() as connection:
                        return work(connection)
                except psycopg.errors.QueryCanceled as exc:
                    raise QueryTimeoutError("the change exceeded its timeout") from exc

        return await asyncio.to_thread(run)


def _options(name: str, statement_timeout: float, *, more: str = "") -> dict[str, Any]:
    return {
        "autocommit": True,
        "application_name": name,
        "connect_timeout": 5,
        "options": f"-c timezone=UTC -c statement_timeout={round(statement_timeout * 1000)}{more}",
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    }


async def _check_open(connection: psycopg.AsyncConnection[TupleRow]) -> None:
    """Check the connection only if the server has sent something: one that shuts down does, and an idle one does not.

    A check each time would be a round trip for each statement, which on a busy machine takes as long as the statement.
    """
    heard = select.poll()
    heard.register(connection.fileno(), select.POLLIN)
    if heard.poll(0):
        await AsyncConnectionPool.check_connection(connection)


def _check(url: str) -> None:
    with closing(connect(url, application="api readiness")) as connection:
        schema_version.check(connection)


async def one(cursor: AsyncCursor, statement: Any, parameters: dict[str, Any], *, prepare: bool | None = None) -> TupleRow:
    """Execute a statement that returns exactly one row, and return the row; `prepare` as in psycopg."""
    row = await (await cursor.execute(statement, parameters, prepare=prepare)).fetchone()
    assert row is not None
    return row
