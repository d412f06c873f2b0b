"""The command line. Each command reads the settings, wires rooms together, and fails with one clear line."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

import citybeat
from citybeat import context, stack
from citybeat.commands import ingesting
from citybeat.commands import up as up_command
from citybeat.commands.ledger import ledger
from citybeat.context import check_port, failures, say
from citybeat.devices.flags import Verdict
from citybeat.ingest.writing import reflag as reflagging
from citybeat.lazy import LazyGroup
from citybeat.settings import Settings
from citybeat.storage import migrate as migrations
from citybeat.storage.batches import flagging
from citybeat.storage.db import reader
from citybeat.storage.registry import records
from citybeat.storage.rollups import retention as retentions
from citybeat.storage.rollups import rollup

app = typer.Typer(
    name="citybeat",
    cls=LazyGroup,
    help=citybeat.__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
stack_app = typer.Typer(help="TimescaleDB and Mosquitto on this machine.", no_args_is_help=True)
app.add_typer(stack_app, name="stack")

_OUT = Console()
_MOMENT: Final = "%Y-%m-%dT%H:%M:%S%z"


def main() -> None:
    """Entry point of the `citybeat` script."""
    app()


@app.command()
def up(
    duration: Annotated[
        str | None, typer.Option("--for", help="Stop after this long, e.g. 30s, 5m, 1h; default: at Ctrl-C.")
    ] = None,
    devices: Annotated[int, typer.Option(min=0, help="Simulated devices; 0: none.")] = 1000,
    report: Annotated[Path | None, typer.Option(help="Write the final report here, as JSON.")] = None,
    seed: Annotated[int, typer.Option(help="Of the simulated city: the same seed, the same readings.")] = 1,
) -> None:
    """Start everything (servers, schema, ingest, API, simulated city), show it live, and account for it at the end."""
    with failures():
        settings = Settings()
        check_port("the API", settings.api_host, settings.api_port, "CITYBEAT_API_PORT")
        check_port("ingest", settings.ingest_host, settings.ingest_port, "CITYBEAT_INGEST_PORT")
        raise typer.Exit(up_command.up(settings, duration=up_command.seconds(duration), devices=devices, seed=seed, report=report))


@app.command()
def ingest(
    stats: Annotated[bool, typer.Option("--stats", help="Print totals as a line of JSON every second.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; default: CITYBEAT_WORKERS.")] = None,
) -> None:
    """Take readings off MQTT into the database, until SIGTERM or Ctrl-C."""
    with failures():
        settings = Settings() if workers is None else Settings(workers=workers)
        ingesting.run(settings, stats=stats)


@app.command(name="ingest-worker", hidden=True)
def ingest_worker(line: int) -> None:
    """One of ingest's worker processes; its line to the intake is an open file descriptor."""
    with failures():
        ingesting.work(Settings(), line)


@app.command()
def migrate() -> None:
    """Bring the database's schema and catalogue up to date; nothing happens the second time."""
    with failures():
        settings = Settings()
        with context.database(settings, application="migrate", migrated=False) as connection:
            done = migrations.migrate(connection, settings.load_catalogue(), chunk_days=settings.chunk_days())
            left_to_do = reader.granted(connection)
        if left_to_do is not None:
            say(f"dashboards cannot read yet: {left_to_do}")
        say(f"applied {', '.join(done)}" if done else "the schema is up to date")


app.command()(ledger)


@app.command()
def declare(
    verdict: Annotated[Verdict, typer.Argument(help="clear: as if nothing were declared.")],
    device: Annotated[str, typer.Option()],
    metric: Annotated[str, typer.Option()],
    start: Annotated[datetime, typer.Option("--from", formats=[_MOMENT], help="With an offset, e.g. 2026-03-01T08:00:00+07:00.")],
    end: Annotated[datetime, typer.Option("--to", formats=[_MOMENT], help="Exclusive, with an offset.")],
    reason: Annotated[str, typer.Option(help="Why; kept with the declaration.")],
    by: Annotated[str, typer.Option(help="Who; default: the user that runs this.")] = "",
) -> None:
    """Declare a sensor's period good or bad, for readings that are stored and for those that are still to come."""
    with failures(), _period(start, end):
        settings = Settings()
        with context.database(settings, application="declare") as connection:
            kind = records.load(connection, settings.load_catalogue()).kind
            declared = flagging.Declaration(
                device=device, metric=metric, start=start, end=end, verdict=verdict, by=by or getpass.getuser(), reason=reason
            )
            say(f"changed {flagging.declare(connection, declared, kind):,} readings")


@app.command()
def reflag(
    start: Annotated[datetime, typer.Option("--from", formats=[_MOMENT], help="With an offset.")],
    end: Annotated[datetime, typer.Option("--to", formats=[_MOMENT], help="Exclusive, with an offset.")],
    device: Annotated[list[str] | None, typer.Option(help="Only this device; repeat for more.")] = None,
) -> None:
    """Judge the readings of a period again, by today's bounds; the rollups follow."""
    with failures(), _period(start, end):
        settings = Settings()
        with context.database(settings, application="reflag") as connection:
            snapshot = records.load(connection, settings.load_catalogue())
            say(f"changed {reflagging.reflag(connection, snapshot, start, end, devices=device):,} readings")


@contextmanager
def _period(start: datetime, end: datetime) -> Iterator[None]:
    if not start < end:
        raise typer.BadParameter("--to must be later than --from")
    yield


@app.command()
def retention(
    apply: Annotated[bool, typer.Option("--apply", help="Drop and compress now what ingest would within the hour.")] = False,
) -> None:
    """Show how far back there is what, and what was dropped; the settings CITYBEAT_RETENTION_DAYS_… say how long it is kept."""
    with failures():
        settings = Settings()
        with context.database(settings, application="retention") as connection:
            if apply:
                retentions.keep(connection, settings.retention())
            table = Table("level", "since", "chunks", "dropped chunks", "dropped rows")
            for level in retentions.summary(connection):
                since = "the beginning" if level.since is None else level.since.isoformat()
                table.add_row(level.level, since, str(level.chunks), str(level.dropped_chunks), f"{level.dropped_rows:,}")
            _OUT.print(table)


rollup_app = typer.Typer(help="The rollups, apart from what ingest does.", no_args_is_help=True)
app.add_typer(rollup_app, name="rollup")


@rollup_app.command("rebuild")
def rollup_rebuild(
    start: Annotated[datetime, typer.Option("--from", formats=[_MOMENT], help="With an offset.")],
    end: Annotated[datetime, typer.Option("--to", formats=[_MOMENT], help="Exclusive, with an offset.")],
    device: Annotated[list[str] | None, typer.Option(help="Only this device; repeat for more.")] = None,
) -> None:
    """Recompute the minutes of a period from the readings, source by source; the quarter-hours follow."""
    with failures(), _period(start, end), context.database(Settings(), application="rollup rebuild") as connection:
        changed = rollup.rebuild(connection, start, end, devices=device)
        while rollup.advance(connection):
            pass
        say(f"{changed:,} minutes came out different, if only by rounding")


# --- stack -------------------------------------------------------------------------------------------------------------------


@stack_app.command("up")
def stack_up() -> None:
    """Start the servers, and leave them running."""
    with failures():
        settings = Settings().for_stack()
        stack.up(settings, say)
        _print_status()


@stack_app.command("down")
def stack_down() -> None:
    """Stop the servers."""
    with failures():
        stack.down(Settings().for_stack())


@stack_app.command("status")
def stack_status() -> None:
    """Show the servers; exit status 1 unless each runs or is a given one."""
    with failures():
        raise typer.Exit(0 if _print_status() else 1)


@stack_app.command("reset")
def stack_reset(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Stop the servers and DELETE their data; programs and passwords stay."""
    with failures():
        settings = Settings()
        if not yes:
            typer.confirm(f"Delete all readings in {settings.home}?", abort=True)
        stack.reset(settings.for_stack())


def _print_status() -> bool:
    states = stack.status(Settings().for_stack())
    for server in states:
        _OUT.print(f"{server.name:12} {server.state:8} {server.pid or '':>8} {server.detail}", highlight=False, soft_wrap=True)
    return all(server.state in {"running", "given"} for server in states)
