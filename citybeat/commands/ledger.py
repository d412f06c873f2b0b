"""`citybeat ledger`: received readings and their outcomes, by minute and source; printed once or continuously."""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from citybeat import context
from citybeat.context import MOMENT, failures
from citybeat.devices.clock import rfc3339
from citybeat.devices.errors import CitybeatError
from citybeat.devices.ledger import NAMES, Counts
from citybeat.settings import Settings
from citybeat.storage.accounts import ledger as accounts
from citybeat.storage.accounts.ledger import Minute
from citybeat.storage.db import schema_version
from citybeat.storage.db.connection import Connection, DatabaseUnavailableError, connect

#: Default number of minutes: as many as fit on a screen for a few sources.
_MINUTES: Final = 10
#: s between updates. Both queries of an update take a millisecond or two.
_TICK: Final = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """An excerpt of the ledger."""

    start: datetime  # first minute
    rows: Sequence[Minute]
    left_out: bool  # there are more rows since `start` than `rows` has
    total: Counts  # over all time

    @property
    def shown(self) -> Counts:
        """Sums of the rows."""
        return Counts.of([sum(getattr(row.counts, name) for row in self.rows) for name in NAMES])


def ledger(
    source: Annotated[list[str] | None, typer.Option(help="Show only this source; repeat for several. Default: all.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=MOMENT, help="First minute of receipt to show, with an offset. Default: see --minutes."),
    ] = None,
    minutes: Annotated[
        int | None, typer.Option(min=1, help=f"Number of minutes up to now to show, instead of --since. Default: {_MINUTES}.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Largest number of rows; the newest are shown.")] = 1_000,
    watch: Annotated[
        bool, typer.Option("--watch", help="Update every second until Ctrl-C, without checking the ledger against the readings.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Show the outcomes of all readings, by minute of receipt and source; exit status 1 if the ledger does not balance."""
    if since is not None and minutes is not None:
        raise typer.BadParameter("--since and --minutes exclude each other")
    if watch and as_json:
        raise typer.BadParameter("--watch and --json exclude each other")
    with failures(), context.servers(Settings()) as servers, connect(servers.database_url, application="ledger") as connection:
        schema_version.check(connection)
        for name in source or []:
            if not accounts.source_exists(connection, name):
                raise CitybeatError(f"no source {name!r} is known")
        if watch:
            _watch(servers.database_url, source, lambda: _start(since, minutes), limit, context.stop_on_signals())
            return
        shown = excerpt(connection, source, _start(since, minutes), limit)
        wrong = accounts.discrepancies(connection)
        if as_json:
            print(json.dumps(as_dict(shown, wrong), indent=2))
        else:
            context.wide_console().print(table(shown))
            context.wide_console().print(
                "balanced" if not wrong else "NOT balanced: " + "; ".join(wrong), markup=False, highlight=False
            )
        raise typer.Exit(1 if wrong else 0)


def excerpt(connection: Connection, sources: Sequence[str] | None, start: datetime, limit: int) -> Shown:
    """The newest rows of the ledger since a minute, at most `limit` of them, and the sums over all time."""
    rows = accounts.minutes(connection, start=start, sources=sources, limit=limit + 1)
    return Shown(start=start, rows=rows[-limit:], left_out=len(rows) > limit, total=accounts.totals(connection, sources=sources))


def table(shown: Shown) -> Table:
    """An excerpt as a table; rows that do not balance are red."""
    title = f"{'the newest' if shown.left_out else 'all'} of the ledger since {shown.start:%Y-%m-%dT%H:%MZ}"
    made = Table(title=title, title_justify="left", show_footer=False)
    made.add_column("minute")
    made.add_column("source")
    for name in NAMES:
        made.add_column(name, justify="right")
    for row in shown.rows:
        made.add_row(*_cells(f"{row.minute:%Y-%m-%d %H:%MZ}", row.source, row.counts), style=_style(row.counts))
    made.add_section()
    made.add_row(*_cells("shown", "", shown.shown), style=_style(shown.shown))
    made.add_row(*_cells("all time", "", shown.total), style=_style(shown.total))
    return made


def as_dict(shown: Shown, wrong: Sequence[str]) -> dict[str, Any]:
    """An excerpt and its discrepancies as a JSON object."""
    return {
        "since": rfc3339(shown.start),
        "left_out": shown.left_out,
        "minutes": [{"minute": rfc3339(row.minute), "source": row.source, **asdict(row.counts)} for row in shown.rows],
        "shown": asdict(shown.shown),
        "total": asdict(shown.total),
        "balanced": not wrong,
        "discrepancies": list(wrong),
    }


def _watch(url: str, sources: Sequence[str] | None, start: Callable[[], datetime], limit: int, stop: threading.Event) -> None:
    console = context.wide_console()
    connection: Connection | None = None
    shown: RenderableType = ""
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            # Only the rows that fit are queried; the other ten lines are title, head, sums and frame.
            fitting = max(1, min(limit, console.height - 10)) if console.is_terminal else limit
            try:
                connection = connection or connect(url, application="ledger")
                newest = excerpt(connection, sources, start(), fitting)
                shown, words = table(newest), _verdict(newest.total)
            except DatabaseUnavailableError as exc:
                # The last rows stay visible, and the connection is tried again.
                words = f"the database is unavailable: {exc}"
                if connection is not None:
                    connection.close()
                connection = None
            live.update(Group(shown, Text(f"{words}; Ctrl-C ends")), refresh=True)
            if stop.wait(_TICK):
                break
    if connection is not None:
        connection.close()


def _verdict(total: Counts) -> str:
    return "every reading has exactly one outcome" if total.balanced else "NOT balanced: some readings have no outcome, or two"


def _start(since: datetime | None, minutes: int | None) -> datetime:
    if since is not None:
        return since.astimezone(UTC)
    this = datetime.now(UTC).replace(second=0, microsecond=0)
    return this - timedelta(minutes=(minutes or _MINUTES) - 1)


def _cells(minute: str, source: str, counts: Counts) -> list[str]:
    return [minute, source, *(f"{count:,}" for count in astuple(counts))]


def _style(counts: Counts) -> str:
    return "" if counts.balanced else "red"
