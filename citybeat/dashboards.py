"""`citybeat dashboards`: Grafana's dashboards and alert rules, as files or straight into a Grafana."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from citybeat import context
from citybeat.context import failures, say
from citybeat.settings import Settings
from dashboards import files
from dashboards.board import Context
from dashboards.texts import Language, Texts
from devices.errors import CitybeatError
from storage import reader as storage_reader

app = typer.Typer(help="Grafana's dashboards and alert rules.", no_args_is_help=True)

LanguageOption = Annotated[Language, typer.Option("--lang", help="Of the texts: en or vi.")]
ZoneOption = Annotated[str, typer.Option(help="The city's time zone: days and hours on dashboards begin by it.")]
PrometheusOption = Annotated[
    str | None, typer.Option(help="The uid of a Prometheus data source that reads ingest's /metrics; its figures are added.")
]


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Directory that the files are written to; made if it is not there.")],
    lang: LanguageOption = "en",
    zone: ZoneOption = "Asia/Ho_Chi_Minh",
    prometheus: PrometheusOption = None,
) -> None:
    """Write dashboards as files for Grafana's provisioning; what was written before is replaced."""
    with failures():
        written = files.write(out, context_of(lang, zone, prometheus))
        say(f"wrote {len(written)} files to {out}")


@app.command()
def reader(
    password_file: Annotated[
        Path | None,
        typer.Option(help="File with the password that the role grafana gets, - for standard input; default: it stays."),
    ] = None,
) -> None:
    """Make the database role that dashboards log in as, if the migrations could not, and let it read what they show."""
    with failures():
        password = None if password_file is None else _password(password_file)
        with context.database(Settings(), application="dashboards") as connection:
            storage_reader.prepare(connection, password)
        say("the role grafana may read what dashboards show" + ("" if password is None else "; its password is set"))


def _password(file: Path) -> str:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise CitybeatError(f"{file}: {exc}") from exc
    if not text.strip():
        raise CitybeatError(f"{file}: the password is empty")
    return text.strip()


def context_of(lang: Language, zone: str, prometheus: str | None) -> Context:
    """What dashboards are made from, by the settings."""
    return Context(catalogue=Settings().load_catalogue(), words=Texts(lang), zone=zone, prometheus=prometheus)
