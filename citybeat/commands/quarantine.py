"""`citybeat quarantine`: shows refused messages and retries them."""

import json
from contextlib import closing
from datetime import datetime
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from citybeat import context, http_ingest
from citybeat.context import MOMENT, failures
from citybeat.devices.errors import CitybeatError, Reason
from citybeat.ingest.writing import retry as replaying
from citybeat.settings import Settings
from citybeat.storage.accounts import quarantine
from citybeat.storage.accounts.quarantine import Filter
from citybeat.storage.batches.writer import BatchWriter

app = typer.Typer(help="Show refused messages and the reasons, and retry them.", no_args_is_help=True, add_completion=False)
_OUT: Final = Console()

ReasonOption = Annotated[Reason | None, typer.Option(help="Only messages with this reason. Default: all.")]
SourceOption = Annotated[str | None, typer.Option(help="Only messages of this source. Default: all.")]
SinceOption = Annotated[
    datetime | None,
    typer.Option(formats=MOMENT, help="Only messages received at or after this time, with an offset. Default: all."),
]
UntilOption = Annotated[
    datetime | None, typer.Option(formats=MOMENT, help="Only messages received before this time, with an offset. Default: all.")
]


@app.command("list")
def list_rows(
    reason: ReasonOption = None,
    source: SourceOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    after: Annotated[int, typer.Option(help="Show only ids above this one: the last id of the previous page.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Largest number of messages.")] = 50,
) -> None:
    """List messages in quarantine that were not resolved, oldest first."""
    with failures(), context.database(Settings(), application="quarantine") as connection:
        wanted = Filter(reason=reason, source=source, since=since, until=until)
        table = Table("id", "received", "source", "topic", "readings", "reasons", "first detail")
        for row in quarantine.listed(connection, wanted, after=after, limit=limit):
            detail = row.refused[0][2] if row.refused else ""
            received = row.received_at.isoformat(timespec="seconds")
            table.add_row(str(row.id), received, row.source, row.topic, str(row.readings), ", ".join(row.reasons), detail)
        _OUT.print(table)


@app.command()
def show(
    number: Annotated[int, typer.Argument(metavar="ID", help="Id of the message as `citybeat quarantine list` shows it.")],
) -> None:
    """Show one message as JSON, with its payload as text (bytes that are not UTF-8 are escaped)."""
    with failures(), context.database(Settings(), application="quarantine") as connection:
        row = quarantine.show(connection, number)
        if row is None:
            raise CitybeatError(f"no message {number} is in quarantine")
        shown = {
            "id": row.id,
            "received_at": row.received_at.isoformat(),
            "source": row.source,
            "topic": row.topic,
            "refused": [{"index": entry.reading, "reason": entry.reason, "detail": entry.detail} for entry in row.refused],
            "readings": row.readings,
            "resolved_at": row.resolved_at.isoformat() if row.resolved_at else None,
            "payload": (row.payload or b"").decode("utf-8", "backslashreplace"),
        }
        print(json.dumps(shown, indent=2, ensure_ascii=False))


@app.command()
def replay(reason: ReasonOption = None, source: SourceOption = None, since: SinceOption = None, until: UntilOption = None) -> None:
    """Retry refused messages, e.g. after their devices were registered; messages refused again stay in quarantine."""
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
