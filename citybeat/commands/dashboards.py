"""`citybeat dashboards`: Grafana's dashboards and alert rules, as files or straight into a Grafana."""

import sys
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from citybeat import context
from citybeat.context import failures, say
from citybeat.dashboards import files
from citybeat.dashboards import publish as publishing
from citybeat.dashboards.board import Context
from citybeat.dashboards.datasource import Database
from citybeat.dashboards.texts import Language, Texts
from citybeat.devices.errors import CitybeatError
from citybeat.settings import Settings
from citybeat.storage.db import reader as storage_reader

app = typer.Typer(help="Grafana's dashboards and alert rules.", no_args_is_help=True, add_completion=False)

LanguageOption = Annotated[Language, typer.Option("--lang", help="Of the texts: en or vi.")]
ZoneOption = Annotated[str, typer.Option(help="The city's time zone: days and hours on dashboards begin by it.")]
StandardOption = Annotated[str, typer.Option(help="Whose limits are shown first, and watched by the alert.")]
ContactOption = Annotated[
    str | None,
    typer.Option(help="Address of e-mail, or URL to post to, that alerts go to; default: to whom Grafana's own policy says."),
]
DatabaseOption = Annotated[str, typer.Option(help="HOST:PORT/NAME of the database, as Grafana's machine knows it.")]
SslOption = Annotated[str, typer.Option(help="disable, require, verify-ca or verify-full.")]
PrometheusOption = Annotated[
    str | None, typer.Option(help="The uid of a Prometheus data source that reads ingest's /metrics; its figures are added.")
]


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Directory that the files are written to; made if it is not there.")],
    lang: LanguageOption = "en",
    zone: ZoneOption = "Asia/Ho_Chi_Minh",
    standard: StandardOption = "QCVN 05:2023",
    contact: ContactOption = None,
    prometheus: PrometheusOption = None,
    database: DatabaseOption = "timescaledb:5432/citybeat",
    sslmode: SslOption = "disable",
    mount: Annotated[
        str | None, typer.Option(help="Where Grafana finds the directory; default: where its own image looks.")
    ] = None,
) -> None:
    """Write data source, dashboards and alert rules as files for Grafana's provisioning; what was written before is replaced."""
    with failures():
        made = context_of(lang, zone, standard, contact, prometheus)
        written = files.write(out, made, database_of(database, sslmode), mount=mount or files.MOUNT)
        say(f"wrote {len(written)} files to {out}")


@app.command()
def publish(
    url: Annotated[str, typer.Option(help="Of the Grafana, such as https://grafana.example.org.")],
    token: Annotated[
        str | None,
        typer.Option(envvar="GRAFANA_TOKEN", help="Of a service account with the role Admin."),
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the token, - for standard input.")] = None,
    database_password_file: Annotated[
        Path | None, typer.Option(help="File with the password of the database role grafana; needed when the data source is made.")
    ] = None,
    new_password: Annotated[bool, typer.Option("--new-password", help="Hand the password over again: it has changed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    lang: LanguageOption = "en",
    zone: ZoneOption = "Asia/Ho_Chi_Minh",
    standard: StandardOption = "QCVN 05:2023",
    contact: ContactOption = None,
    prometheus: PrometheusOption = None,
    database: DatabaseOption = "timescaledb:5432/citybeat",
    sslmode: SslOption = "require",
) -> None:
    """Bring data source, dashboards, alert rules and contact point of a Grafana up to date; the second time nothing happens."""
    with failures():
        credential = token if token_file is None else _secret(token_file)
        if credential is None:
            raise CitybeatError("a token is needed: --token-file, --token or GRAFANA_TOKEN")
        wanted = publishing.Wanted(
            context=context_of(lang, zone, standard, contact, prometheus),
            database=database_of(database, sslmode),
            password=None if database_password_file is None else _secret(database_password_file),
            new_password=new_password,
        )
        with publishing.connected(url, credential) as api:
            steps = publishing.plan(api, wanted)
            if not steps:
                say("everything is as it should be")
            elif dry_run:
                for step in steps:
                    say(f"would {step.verb}: {step.what}")
            else:
                publishing.carry_out(steps, say)


@app.command()
def reader(
    password_file: Annotated[
        Path | None,
        typer.Option(help="File with the password that the role grafana gets, - for standard input; default: it stays."),
    ] = None,
) -> None:
    """Make the database role that dashboards log in as, if the migrations could not, and let it read what they show."""
    with failures():
        password = None if password_file is None else _secret(password_file)
        with context.database(Settings(), application="dashboards") as connection:
            storage_reader.prepare(connection, password)
        say("the role grafana may read what dashboards show" + ("" if password is None else "; its password is set"))


def _secret(file: Path) -> str:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise CitybeatError(f"{file}: {exc}") from exc
    if not text.strip():
        raise CitybeatError(f"{file}: it is empty")
    return text.strip()


def context_of(lang: Language, zone: str, standard: str, contact: str | None, prometheus: str | None) -> Context:
    """What dashboards are made from, by the settings and options.

    Raises
    ------
    CitybeatError
        There is no such time zone, or the catalogue has no such standard.
    """
    catalogue = Settings().load_catalogue()
    try:
        ZoneInfo(zone)
    except (ValueError, ZoneInfoNotFoundError):
        raise CitybeatError(f"--zone {zone!r}: no such time zone; expected such as Asia/Ho_Chi_Minh") from None
    standards = sorted({limit.standard for metric in catalogue.values() for limit in metric.limits})
    if standard not in standards:
        raise CitybeatError(f"--standard {standard!r}: the catalogue has limits of {', '.join(standards)}")
    return Context(catalogue=catalogue, words=Texts(lang), zone=zone, standard=standard, contact=contact, prometheus=prometheus)


def database_of(text: str, sslmode: str) -> Database:
    """Where Grafana finds the database.

    Raises
    ------
    CitybeatError
        It is not HOST:PORT/NAME.
    """
    host, slash, name = text.partition("/")
    if not (slash and name and ":" in host):
        raise CitybeatError(f"--database {text!r}: expected HOST:PORT/NAME")
    return Database(host=host, name=name, sslmode=sslmode)
