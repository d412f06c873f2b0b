"""`citybeat dashboards`: writes Grafana's dashboards and alert rules to files, or publishes them to a Grafana server."""

import sys
from pathlib import Path
from typing import Annotated, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from citybeat import context
from citybeat.context import failures, say
from citybeat.dashboards import files
from citybeat.dashboards import publish as publishing
from citybeat.dashboards.board import STANDARD, ZONE, Context
from citybeat.dashboards.datasource import Database
from citybeat.dashboards.texts import Language, Texts
from citybeat.devices.errors import CitybeatError
from citybeat.settings import Settings
from citybeat.storage.db import reader as storage_reader

app = typer.Typer(help="Build or publish Grafana's dashboards and alert rules.", no_args_is_help=True, add_completion=False)
#: The database of compose.yaml.
_COMPOSE: Final = Database()
_DATABASE: Final = f"{_COMPOSE.host}/{_COMPOSE.name}"

LanguageOption = Annotated[Language, typer.Option("--lang", help="Language of all texts: en or vi.")]
ZoneOption = Annotated[str, typer.Option(help="Time zone of the city, in which days and hours on dashboards begin.")]
StandardOption = Annotated[str, typer.Option(help="Standard whose limits are shown first and watched by the alert.")]
ContactOption = Annotated[
    str | None,
    typer.Option(help="E-mail address or webhook URL that alerts go to. Default: the notification policy of Grafana decides."),
]
DatabaseOption = Annotated[str, typer.Option(help="HOST:PORT/NAME of the database, as Grafana reaches it.")]
SslOption = Annotated[
    str, typer.Option(help="TLS mode of Grafana's connection to the database: disable, require, verify-ca or verify-full.")
]
PrometheusOption = Annotated[
    str | None,
    typer.Option(
        help="Uid of a Grafana data source of type Prometheus that scrapes ingest's /metrics; adds panels. Default: none."
    ),
]


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Directory that the files are written to; it is created if missing.")],
    lang: LanguageOption = "en",
    zone: ZoneOption = ZONE,
    standard: StandardOption = STANDARD,
    contact: ContactOption = None,
    prometheus: PrometheusOption = None,
    database: DatabaseOption = _DATABASE,
    sslmode: SslOption = _COMPOSE.sslmode,
    mount: Annotated[
        str | None, typer.Option(help="Path of the directory as Grafana sees it. Default: the provisioning directory of its image.")
    ] = None,
) -> None:
    """Write data source, dashboards and alert rules as files for Grafana's provisioning, replacing earlier ones."""
    with failures():
        made = context_of(lang, zone, standard, contact, prometheus)
        written = files.write(out, made, database_of(database, sslmode), mount=mount or files.MOUNT)
        say(f"wrote {len(written)} files to {out}")


@app.command()
def publish(
    url: Annotated[str, typer.Option(help="URL of the Grafana server, such as https://grafana.example.org.")],
    token: Annotated[
        str | None,
        typer.Option(
            envvar="GRAFANA_TOKEN",
            help="Token of a service account with the role Admin; --token-file keeps it off the command line. Default: none.",
        ),
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the token, or - for standard input. Default: --token.")] = None,
    database_password_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the password of the database role grafana, needed when the data source is created. Default: none."
        ),
    ] = None,
    new_password: Annotated[bool, typer.Option("--new-password", help="Write the password again, because it has changed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the changes that would be made.")] = False,
    lang: LanguageOption = "en",
    zone: ZoneOption = ZONE,
    standard: StandardOption = STANDARD,
    contact: ContactOption = None,
    prometheus: PrometheusOption = None,
    database: DatabaseOption = _DATABASE,
    sslmode: SslOption = "require",
) -> None:
    """Bring data source, dashboards, alert rules and contact point of a Grafana server up to date."""
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
                say("everything is up to date")
            elif dry_run:
                for step in steps:
                    say(f"would {step.verb}: {step.what}")
            else:
                publishing.carry_out(steps, say)


@app.command()
def reader(
    password_file: Annotated[
        Path | None,
        typer.Option(help="File with a new password for the role grafana, or - for standard input. Default: the password stays."),
    ] = None,
) -> None:
    """Create the database role grafana, if the migrations could not, and let it read what dashboards show."""
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
        raise CitybeatError(f"{file}: the file is empty")
    return text.strip()


def context_of(lang: Language, zone: str, standard: str, contact: str | None, prometheus: str | None) -> Context:
    """The context that dashboards are built from.

    Raises
    ------
    CitybeatError
        The time zone does not exist, or the catalogue has no limits of the standard.
    """
    catalogue = Settings().load_catalogue()
    try:
        ZoneInfo(zone)
    except (ValueError, ZoneInfoNotFoundError):
        raise CitybeatError(f"--zone {zone!r}: no such time zone; expected a name such as Asia/Ho_Chi_Minh") from None
    standards = sorted({limit.standard for metric in catalogue.values() for limit in metric.limits})
    if standard not in standards:
        raise CitybeatError(f"--standard {standard!r}: the catalogue has limits of {', '.join(standards)}")
    return Context(catalogue=catalogue, words=Texts(lang), zone=zone, standard=standard, contact=contact, prometheus=prometheus)


def database_of(text: str, sslmode: str) -> Database:
    """Parse the address of the database as Grafana reaches it.

    Raises
    ------
    CitybeatError
        The text is not HOST:PORT/NAME.
    """
    host, slash, name = text.partition("/")
    if not (slash and name and ":" in host):
        raise CitybeatError(f"--database {text!r}: expected HOST:PORT/NAME")
    return Database(host=host, name=name, sslmode=sslmode)
