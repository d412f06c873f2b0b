"""`citybeat quarantine`: look at what was refused, and try it again."""

import json
from contextlib import closing
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from citybeat import context, http_ingest
from citybeat.context import failures
from citybeat.devices.errors import CitybeatError, Reason
from citybeat.ingest.writing import retry as replaying
from citybeat.settings import Settings
from citybeat.storage.accounts import quarantine
from citybeat.storage.accounts.quarantine import Filter
from citybeat.storage.batches.writer import BatchWriter

app = typer.Typer(help="What was refused, why, and another try.", no_args_is_help=True, add_completion=False)
_OUT = Console()

ReasonOption = Annotated[Reason | None, typer.Option(help="Only rows with this reason.")]
SourceOption = Annotated[str | None, typer.Option(help="Only of this source.")]
SinceOption = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%dT%H:%M:%S%z"], help="Received at or after, with an offset.")
]
UntilOption = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%dT%H:%M:%S%z"], help="Received before, with an offset.")]


@app.command("list")
def list_rows(
    reason: ReasonOption = None,
    source: SourceOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    after: Annotated[int, typer.Option(help="Rows behind this id: the last one of the page before.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
) -> None:
    """Show open rows, oldest first."""
    with failures(), context.database(Settings(), application="quarantine") as connection:
        wanted = Filter(reason=reason, source=source, since=since, until=until)
        table = Table("id", "received", "source", "topic", "readings", "reasons", "first detail")
        for row in quarantine.listed(connection, wanted, after=after, limit=limit):
            detail = row.refused[0][2] if row.refused else ""
            received = row.received_at.isoformat(timespec="seconds")
            table.add_row(str(row.id), received, row.source, row.topic, str(row.readings), ", ".join(row.reasons), detail)
        _OUT.print(table)


@app.command()
def show(number: Annotated[int, typer.Argument(metavar="ID")]) -> None:
    """Show one row as JSON, with its payload as text (bytes that are no UTF-8 are escaped)."""
    with failures(), context.database(Settings(), application="quarantine") as connection:
        row = quarantine.show(connection, number)
        if row is None:
            raise CitybeatError(f"no row {number} in quarantine")
        told = {
            "id": row.id,
            "received_at": row.received_at.isoformat(),
            "source": row.source,
            "topic": row.topic,
            "refused": [{"index": entry.reading, "reason": entry.reason, "detail": entry.detail} for entry in row.refused],
            "readings": row.readings,
            "resolved_at": row.resolved_at.isoformat() if row.resolved_at else None,
            "payload": (row.payload or b"").decode("utf-8", "backslashreplace"),
        }
        print(json.dumps(told, indent=2, ensure_ascii=False))


@app.command()
def replay(reason: ReasonOption = None, source: SourceOption = None, since: SinceOption = None, until: UntilOption = None) -> None:
    """Try what was refused once more, e.g. after its devices were registered; what fails again stays."""
    with failures():
        settings = Settings()
        judging = http_ingest.judging(settings)
        wanted = Filter(reason=reason, source=source, since=since, until=until)
        with (
            context.servers(settings) as servers,
            context.database(settings, application="quarantine") as connection,
            closing(BatchWriter(servers.database_url, quarantine_quota=judging.quarantine_quota)) as store,
        ):
            counts = replaying.replay(store, connection, judging, wanted).counts
        print(json.dumps(dict(sorted(counts.items()))))
