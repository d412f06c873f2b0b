"""The API's connections, opened whether the database is there or not: many for reading, and a few for changes.

Law: what reads for a request is async, on a `ReadPool`. What changes something (the registry, quarantine) is a function of a plain
connection, as commands call it too; a `WritePool` runs it in a thread. No function works on both.
"""

import asyncio
import select
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import Any, Final, TypeVar

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from citybeat.storage import migrate
from citybeat.storage.db.connection import Connection, DatabaseUnavailableError, StorageError, connect, translated

_T = TypeVar("_T")
AsyncCursor = psycopg.AsyncCursor[TupleRow]

#: s that a request waits for a connection; a client is better served by an early "try again" than by a queue.
WAIT: Final = 3.0
#: s that one statement may take. The slowest that our limits allow takes well under one.
STATEMENT: Final = 15.0
#: s that the pool tries again by itself. It backs off exponentially (1, 2, 4 … s), and after minutes without a database would be
#: blind for minutes more; once it has given up, the next request makes it try at once.
RECONNECT: Final = 5.0
#: s for the answer to "are you there?"; probes of orchestrators wait no longer than that.
PROBE: Final = 3.0


#: The second: a look-up by key that leaves out chunks one by one, for every key anew, spends ten times as long on that as on
#: looking into them. The planner leaves out chunks all the same.
_READING: Final = " -c default_transaction_read_only=on -c timescaledb.enable_runtime_exclusion=off"


class QueryTimeoutError(StorageError):
    """A query took longer than it may; it asks for too much."""


class ReadPool:
    """Read-only connections to one database.

    Parameters
    ----------
    url : str
        postgresql://user:password@host:port/database
    min_size, max_size : int
        Connections that are kept open, and that may be open at once.
    statement_timeout : float
        Seconds.
    name : str
        Of the pool in logs, and of its connections in pg_stat_activity.
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
        """Start to connect, without waiting for it."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close(timeout=WAIT)

    @asynccontextmanager
    async def cursor(self, *, snapshot: bool = False) -> AsyncIterator[AsyncCursor]:
        """A cursor that gets its answers in binary form.

        Parameters
        ----------
        snapshot : bool
            All statements see the same state of the database.

        Raises
        ------
        DatabaseUnavailableError
            No connection within `WAIT` seconds, or it broke.
        QueryTimeoutError
            A statement took too long.
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
                raise QueryTimeoutError("the query took longer than it may") from exc

    async def check(self) -> None:
        """Make sure that the database answers and that its schema is this program's.

        On a connection of its own: that all of the pool's are busy does not make a server unready.

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
    """Connections that may change something, for functions that take a plain one.

    Parameters
    ----------
    url : str
        postgresql://user:password@host:port/database
    max_size : int
        Connections that may be open at once, and so changes under way.
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
        """Be ready to connect."""
        await asyncio.to_thread(self._pool.open)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.to_thread(self._pool.close, WAIT)

    async def run(self, work: Callable[[Connection], _T]) -> _T:
        """What a function gives of a connection in autocommit mode.

        It runs to its end even if the request is cancelled: a change is made whole, or not at all.

        Raises
        ------
        DatabaseUnavailableError
            No connection within `WAIT` seconds, or it broke.
        QueryTimeoutError
            A statement took too long.
        Exception
            Whatever the function raises.
        """

        def run() -> _T:
            with translated():
                try:
                    with self._pool.connection() as connection:
                        return work(connection)
                except psycopg.errors.QueryCanceled as exc:
                    raise QueryTimeoutError("the change took longer than it may") from exc

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
    """Ask the server only if it has said something: one that ends says so, and an idle one is silent.

    Asking each time is a round trip for each statement, which on a busy machine takes as long as the statement.
    """
    heard = select.poll()
    heard.register(connection.fileno(), select.POLLIN)
    if heard.poll(0):
        await AsyncConnectionPool.check_connection(connection)


def _check(url: str) -> None:
    with closing(connect(url, application="api readiness")) as connection:
        migrate.check(connection)


async def one(cursor: AsyncCursor, statement: Any, parameters: dict[str, Any], *, prepare: bool | None = None) -> TupleRow:
    """The one row that an aggregate gives; `prepare` as psycopg has it."""
    row = await (await cursor.execute(statement, parameters, prepare=prepare)).fetchone()
    assert row is not None
    return row
