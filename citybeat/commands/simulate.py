"""`citybeat simulate`: runs the simulator, and gives it the registry and broker passwords, which it may not access itself."""

import json
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from citybeat import context
from citybeat.commands import loading
from citybeat.context import MOMENT, failures, say
from citybeat.devices.clock import from_us
from citybeat.devices.errors import CitybeatError
from citybeat.settings import Settings
from citybeat.simulator import run as running
from citybeat.simulator.city.layout import City
from citybeat.simulator.feed import Progress, Record
from citybeat.simulator.replay import files as replaying
from citybeat.simulator.replay.maps import load_map
from citybeat.simulator.scenario import Scenario, load_scenario
from citybeat.simulator.score.tallies import Limits
from citybeat.storage.db import schema_version
from citybeat.storage.db.connection import connect

app = typer.Typer(
    help="Publish the readings of a simulated or recorded city, and compare them with the database.",
    no_args_is_help=True,
    add_completion=False,
)
app.command()(loading.load)


@app.command()
def run(
    scenario: Annotated[
        str, typer.Option(help="Scenario: a file (docs/scenarios.md), or the name of one that ships with citybeat.")
    ] = "quy_nhon",
    devices: Annotated[int | None, typer.Option(min=1, help="Number of devices. Default: that of the scenario, or 200.")] = None,
    gateways: Annotated[
        int | None,
        typer.Option(min=1, help="Number of MQTT connections that the devices share. Default: that of the scenario, or 8."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed: the same seed gives the same city and readings. Default: that of the scenario, or 1.")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            help="Simulated seconds in a second; simulated time never runs ahead of the clock. Default: that of the scenario, or 1."
        ),
    ] = None,
    duration: Annotated[
        float | None, typer.Option(help="Duration in seconds. Default: that of the scenario, or until Ctrl-C.")
    ] = None,
    start: Annotated[
        datetime | None,
        typer.Option(formats=MOMENT, help="Start of simulated time, with an offset. Default: that of the scenario, or now."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="File that the truth of every reading is written to (docs/faults.md). Default: none."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print progress and the report as lines of JSON.")] = False,
) -> None:
    """Publish the readings of a simulated city. Options override the scenario."""
    with failures():
        settings = Settings()
        stop = context.stop_on_signals()
        plan = _scenario(scenario, devices=devices, gateways=gateways, seed=seed)
        layout = plan.city
        with context.servers(settings) as servers:
            _migrated(servers.database_url)
            context.register(servers.database_url, layout.devices)
            with _truth(truth, layout) as record:
                report = running.run(
                    layout,
                    url=_address(servers.mqtt_url),
                    passwords=context.passwords(settings, layout.sources),
                    stop=stop,
                    speed=plan.speed if speed is None else speed,
                    start=_moment(plan.start) if start is None else start,
                    duration=plan.duration if duration is None else duration,
                    progress=_emit_progress if as_json else _print_progress,
                    faults=plan.faults,
                    truth=record,
                    scenario=plan.name,
                )
        _finish(report.as_dict(), as_json=as_json, complete=report.complete and not report.refused_messages)


@app.command()
def check(
    scenario: Annotated[
        str, typer.Argument(help="Scenario: a file (docs/scenarios.md), or the name of one that ships with citybeat.")
    ],
) -> None:
    """Read a scenario and print a summary of it; nothing is sent."""
    with failures():
        print(json.dumps(_scenario(scenario).summary(), indent=2, ensure_ascii=False))


@app.command()
def replay(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Recorded files, replayed one after the other.")],
    map_file: Annotated[
        Path, typer.Option("--map", exists=True, dir_okay=False, help="File that describes the columns (docs/replay.md).")
    ],
    speed: Annotated[
        float | None, typer.Option(help="Recorded seconds in a second. Default: as fast as the broker acknowledges.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print progress and the report as lines of JSON.")] = False,
) -> None:
    """Register the devices of recorded files and publish their readings."""
    with failures():
        settings = Settings()
        stop = context.stop_on_signals()
        replay_map = load_map(map_file.read_text("utf-8"), origin=str(map_file))
        with context.servers(settings) as servers:
            _migrated(servers.database_url)
            report = replaying.replay(
                files,
                replay_map,
                url=_address(servers.mqtt_url),
                passwords=context.passwords(settings, sorted({device.source for device in replay_map.devices})),
                register=lambda listed: context.register(servers.database_url, listed),
                speed=speed,
                progress=_emit_progress if as_json else _print_progress,
                stop=stop,
            )
        _finish(report.as_dict(), as_json=as_json, complete=report.complete and not report.refused_messages)


@app.command()
def score(
    truth: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="File that `citybeat simulate run --truth` wrote.")],
    bars: Annotated[
        bool, typer.Option("--bars/--no-bars", help="Exit with status 1 if a limit is missed or the ledger disagrees.")
    ] = True,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for ingest while it makes no progress.")] = 15.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Compare the readings sent by a run with the database: quality of the flags, and agreement of the ledger."""
    from citybeat.commands import scoring  # noqa: PLC0415 - pyarrow takes a while to load

    with failures():
        settings = Settings()
        accepted = settings.limits()
        with context.database(settings, application="score") as connection:
            found = scoring.score(
                truth,
                connection,
                catalogue=settings.load_catalogue(),
                limits=Limits(late_after=accepted.late_after, future_after=accepted.future_after),
                max_bytes=settings.max_message_bytes,
                patience=wait,
            )
        if as_json:
            print(json.dumps(found.as_dict()))
        else:
            scoring.show(found)
        raise typer.Exit(1 if bars and not found.ok else 0)


def _truth(path: Path | None, layout: City) -> AbstractContextManager[Record | None]:
    """A writer of the file of truth, or a context with None."""
    if path is None:
        return nullcontext()
    from citybeat.simulator.faults.truth import Truth  # noqa: PLC0415 - pyarrow takes a while to load

    return Truth(path, layout)


def _scenario(named: str, *, devices: int | None = None, gateways: int | None = None, seed: int | None = None) -> Scenario:
    """Load a scenario from a file, or one that ships with citybeat."""
    shipped = {path.name.removesuffix(".yaml"): path for path in (files("citybeat.simulator") / "scenarios").iterdir()}
    path = Path(named)
    try:
        text = path.read_text("utf-8") if path.exists() or named not in shipped else shipped[named].read_text("utf-8")
    except FileNotFoundError as exc:
        raise CitybeatError(
            f"scenario {named}: no such file, and citybeat ships no scenario of this name ({', '.join(sorted(shipped))})"
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise CitybeatError(f"scenario {named}: {exc}") from exc
    return load_scenario(text, named, devices=devices, gateways=gateways, seed=seed)


def _moment(us: int | None) -> datetime | None:
    return None if us is None else from_us(us)


def _address(mqtt_url: str) -> str:
    """The URL without ingest's user and password: each source logs in with its own."""
    scheme, _, rest = mqtt_url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _migrated(database_url: str) -> None:
    with connect(database_url, application="simulator start") as connection:
        schema_version.check(connection)


def _emit_progress(progress: Progress) -> None:
    context.emit({"readings": progress.readings, "messages": progress.messages, "sent_readings": progress.sent_readings})


def _print_progress(progress: Progress) -> None:
    say(f"{progress.elapsed:8.1f} s  {progress.messages:>10,} messages  {progress.readings:>12,} readings acknowledged")


def _finish(report: dict[str, Any], *, as_json: bool, complete: bool) -> None:
    print(json.dumps({"report": report}) if as_json else json.dumps(report, indent=2))
    if not complete:
        raise CitybeatError("the broker refused messages or did not acknowledge some; the report says which")
