"""`citybeat devices`: the registry of devices, and the broker passwords of sources."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from citybeat import context, devices_file, stack
from citybeat.context import failures, say
from citybeat.devices.catalogue import Domain
from citybeat.devices.device import DEVICE_FIELDS, ConflictPolicy, Device, FieldType, Sensor, check_source
from citybeat.devices.errors import CitybeatError
from citybeat.settings import Settings
from citybeat.storage.reads import overdue as liveness
from citybeat.storage.registry import records

app = typer.Typer(
    help="Manage the registry of devices, and the broker passwords of sources.", no_args_is_help=True, add_completion=False
)
_OUT: Final = Console()


def _with_device_fields(command: Callable[..., None]) -> Callable[..., None]:
    """A command with an option for each field of `DEVICE_FIELDS` that one word can give, in place of its `**described`."""
    types: dict[FieldType, tuple[Any, Any]] = {FieldType.TEXT: (str, ""), FieldType.NUMBER: (float | None, None)}
    options = []
    for name, about in DEVICE_FIELDS.items():
        if about.type in types:
            type_, default = types[about.type]
            kind = inspect.Parameter.KEYWORD_ONLY
            options.append(
                inspect.Parameter(
                    name,
                    kind,
                    default=default,
                    annotation=Annotated[type_, typer.Option(help=f"{about.description} Default: none.")],
                )
            )
    own = inspect.signature(command)
    listed = [each for each in own.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__dict__["__signature__"] = own.replace(parameters=[*listed, *options])
    command.__annotations__ |= {each.name: each.annotation for each in options}
    return command


@app.command("add")
@_with_device_fields
def add(
    device: Annotated[str, typer.Argument(help="Id of the device, e.g. env-0007.")],
    source: Annotated[str, typer.Option(help="MQTT user that the device publishes through.")],
    domain: Annotated[Domain, typer.Option(help="Domain of the device.")],
    metric: Annotated[list[str], typer.Option(help="Metric of a sensor, from the catalogue; repeat for several.")],
    **described: Any,
) -> None:
    """Register one device."""
    with failures():
        sensors = tuple(Sensor(metric=each) for each in metric)
        listed = [Device(id=device, source=source, domain=domain, sensors=sensors, **described)]
        with context.database(Settings(), application="devices") as connection:
            records.register(connection, listed)


@app.command("import")
def import_(file: Annotated[Path, typer.Argument(help="File of devices, .csv, .geojson or .json (docs/registry.md).")]) -> None:
    """Register the devices of a file: all of them, or none if there is a mistake."""
    with failures():
        settings = Settings()
        listed = devices_file.parse(file, settings.load_catalogue())
        with context.database(settings, application="devices") as connection:
            records.register(connection, listed)
        say(f"registered {len(listed)} devices")


@app.command("list")
def list_() -> None:
    """List the registered devices."""
    with failures():
        settings = Settings()
        with context.database(settings, application="devices") as connection:
            snapshot = records.load(connection, settings.load_catalogue())
        metrics: dict[str, list[str]] = {device: [] for device in sorted(snapshot.devices)}
        for device, metric in snapshot.series:
            metrics[device].append(metric)
        names = {number: name for name, number in snapshot.sources.items()}
        table = Table("device", "source", "metrics")
        for device, measured in metrics.items():
            number = snapshot.series[device, measured[0]] if measured else 0
            retired = " (retired)" if measured and snapshot.retired[number] else ""
            table.add_row(device + retired, names.get(int(snapshot.owner[number]), ""), ", ".join(measured))
        _OUT.print(table)


@app.command("overdue")
def overdue(
    source: Annotated[str | None, typer.Option(help="Only sensors of this source. Default: all.")] = None,
    domain: Annotated[Domain | None, typer.Option(help="Only sensors of this domain. Default: all.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Largest number of sensors.")] = 50,
) -> None:
    """List sensors whose next reading is overdue, those silent for longest first."""
    with failures(), context.database(Settings(), application="devices") as connection:
        table = Table("device", "metric", "source", "every", "last reading", "last good one", "overdue since")
        for sensor in liveness.overdue(connection, source=source, domain=domain, limit=limit):
            times = (sensor.last_at, sensor.good_at, sensor.overdue_since)
            shown = ["never" if at is None else at.isoformat(timespec="seconds") for at in times]
            table.add_row(sensor.device, sensor.metric, sensor.source, str(sensor.expected), *shown)
        _OUT.print(table)


@app.command("retire")
def retire(device: Annotated[str, typer.Argument(help="Id of the device.")]) -> None:
    """Take a device out of service; its readings stay."""
    with failures(), context.database(Settings(), application="devices") as connection:
        if not records.retire(connection, device):
            raise CitybeatError(f"no device {device!r} is in service")


@app.command("policy")
def policy(
    source: Annotated[str, typer.Argument(help="Name of the source.")],
    policy: Annotated[ConflictPolicy, typer.Argument(help="Value that is kept: the first one, or the last one.")],
) -> None:
    """Set which value is kept when a source sends different values of a sensor for the same time."""
    with failures(), context.database(Settings(), application="devices") as connection:
        records.set_conflict_policy(connection, source, policy)


@app.command("credentials")
def credentials(sources: Annotated[list[str], typer.Argument(help="Names of sources.")]) -> None:
    """Print the broker passwords of sources as JSON; a source without a password gets one."""
    with failures():
        print(json.dumps(stack.credentials(Settings().for_stack(), [check_source(source) for source in sources])))
