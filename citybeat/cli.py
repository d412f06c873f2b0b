"""The command line: the top of the program, which wires the other packages together; no package imports it."""

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
from citybeat.context import MOMENT, check_port, failures, say
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
stack_app = typer.Typer(help="Start, stop and inspect TimescaleDB and Mosquitto on this machine.", no_args_is_help=True)
app.add_typer(stack_app, name="stack")

_OUT: Final = Console()

StartOption = Annotated[
    datetime, typer.Option("--from", formats=MOMENT, help="Start of the period, with an offset, e.g. 2026-03-01T08:00:00+07:00.")
]
EndOption = Annotated[datetime, typer.Option("--to", formats=MOMENT, help="End of the period (exclusive), with an offset.")]
DevicesOption = Annotated[
    list[str] | None, typer.Option("--device", help="Id of a device; repeat for several. Default: all devices.")
]


def main() -> None:
    """Entry point of the `citybeat` script."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"citybeat {citybeat.__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of `citybeat` itself; Typer shows the help text of `app` instead of this one."""


@app.command()
def up(
    duration: Annotated[
        str | None, typer.Option("--for", help="Duration of the run, e.g. 30s, 5m, 1h. Default: until Ctrl-C.")
    ] = None,
    devices: Annotated[int, typer.Option(min=0, help="Number of simulated devices; 0 starts no simulator.")] = 1000,
    report: Annotated[Path | None, typer.Option(help="File that the final report is written to, as JSON. Default: none.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulated city: the same seed gives the same readings.")] = 1,
) -> None:
    """Run servers, ingest, API and a simulated city, show live figures, and print an account of every reading at the end."""
    with failures():
        settings = Settings()
        check_port("the API", settings.api_host, settings.api_port, "CITYBEAT_API_PORT")
        check_port("ingest", settings.ingest_host, settings.ingest_port, "CITYBEAT_INGEST_PORT")
        raise typer.Exit(up_command.up(settings, duration=up_command.seconds(duration), devices=devices, seed=seed, report=report))


@app.command()
def ingest(
    stats: Annotated[bool, typer.Option("--stats", help="Print totals every second, as a line of JSON.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of worker processes. Default: CITYBEAT_WORKERS.")] = None,
) -> None:
    """Receive readings from MQTT and store them in the database, until SIGTERM or Ctrl-C."""
    with failures():
        settings = Settings() if workers is None else Settings(workers=workers)
        ingesting.run(settings, stats=stats)


@app.command(name="ingest-worker", hidden=True)
def ingest_worker(line: Annotated[int, typer.Argument(help="Open file descriptor of the socket to `citybeat ingest`.")]) -> None:
    """Run one of ingest's worker processes; `citybeat ingest` starts them."""
    with failures():
        ingesting.work(Settings(), line)


@app.command()
def migrate() -> None:
    """Bring the schema and the catalogue of the database up to date; running it again changes nothing."""
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
    verdict: Annotated[Verdict, typer.Argument(help="Verdict: good, bad, or clear (withdraw an earlier declaration).")],
    device: Annotated[str, typer.Option(help="Id of the device.")],
    metric: Annotated[str, typer.Option(help="Metric of the sensor, e.g. temperature.")],
    start: StartOption,
    end: EndOption,
    reason: Annotated[str, typer.Option(help="Reason of the declaration, kept with it.")],
    by: Annotated[str, typer.Option(help="Name of the person who declares. Default: the user who runs the command.")] = "",
) -> None:
    """Declare the readings of a sensor in a period good or bad, both stored ones and later arrivals."""
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
    start: StartOption,
    end: EndOption,
    device: DevicesOption = None,
) -> None:
    """Flag the readings of a period again by the limits in force today; the rollups follow."""
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
    apply: Annotated[
        bool, typer.Option("--apply", help="Drop and compress now what ingest would drop and compress within the hour.")
    ] = False,
) -> None:
    """Show how far back data go and how much was dropped; the CITYBEAT_RETENTION_DAYS_… settings say how long data are kept."""
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


rollup_app = typer.Typer(help="Repair the rollups, which ingest keeps up to date by itself.", no_args_is_help=True)
app.add_typer(rollup_app, name="rollup")


@rollup_app.command("rebuild")
def rollup_rebuild(
    start: StartOption,
    end: EndOption,
    device: DevicesOption = None,
) -> None:
    """Recompute the one-minute rollup of a period from its readings, then the quarter-hours from the minutes."""
    with failures(), _period(start, end), context.database(Settings(), application="rollup rebuild") as connection:
        changed = rollup.rebuild(connection, start, end, devices=device)
        while rollup.advance(connection):
            pass
        say(f"{changed:,} minutes came out different, if only by rounding")


# --- stack -------------------------------------------------------------------------------------------------------------------


@stack_app.command("up")
def stack_up() -> None:
    """Start the servers and leave them running."""
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
    """Show the state of each server; exit status 1 unless each is running or given by its URL."""
    with failures():
        raise typer.Exit(0 if _print_status() else 1)


@stack_app.command("reset")
def stack_reset(yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False) -> None:
    """Stop the servers and DELETE their data; their programs and passwords stay."""
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
