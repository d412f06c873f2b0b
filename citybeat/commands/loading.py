"""`citybeat simulate load`: measures how fast a broker (citybeat's own or another) and its subscribers accept messages."""

import json
import os
import secrets
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from citybeat import context
from citybeat.commands import up
from citybeat.context import failures, say
from citybeat.devices.device import check_source
from citybeat.devices.errors import CitybeatError
from citybeat.devices.wire.mqtt import Version
from citybeat.settings import Settings
from citybeat.simulator.load import generator as loading
from citybeat.simulator.load.generator import Sender
from citybeat.simulator.load.tally import LoadProgress, LoadReport
from citybeat.simulator.load.traffic import Traffic, stations, stations_for
from citybeat.storage.db import schema_version
from citybeat.storage.db.connection import connect

#: Environment variable with the password, unless a file is named. It is no option: all users of a machine can see command lines.
PASSWORD: Final = "CITYBEAT_LOAD_PASSWORD"  # noqa: S105 (the name of a variable)


class Form(StrEnum):
    """Payload format of a message with several readings."""

    reports = "reports"
    columns = "columns"


class Protocol(StrEnum):
    """Version of MQTT."""

    mqtt5 = "5"
    mqtt311 = "3.1.1"


def load(
    rate: Annotated[
        str, typer.Option(help="Messages a second of all connections together, or max: as many as the broker accepts.")
    ] = "max",
    readings_rate: Annotated[float | None, typer.Option(help="Readings a second, instead of --rate. Default: not used.")] = None,
    size: Annotated[int, typer.Option(min=1, help="Readings in each message.")] = 1,
    connections: Annotated[int, typer.Option(min=1, max=10_000, help="Number of MQTT connections, each a source of its own.")] = 4,
    duration: Annotated[str, typer.Option("--for", help="Duration of sending, e.g. 30s, 5m, 1h.")] = "30s",
    form: Annotated[Form, typer.Option(help="Payload format of messages with several readings.")] = Form.reports,
    devices: Annotated[
        int, typer.Option(min=1, help="Smallest number of devices of each connection; each device has three sensors.")
    ] = 250,
    window: Annotated[
        int,
        typer.Option(min=1, max=65_535, help="Largest number of unacknowledged messages of a connection; the broker may lower it."),
    ] = loading.WINDOW,
    url: Annotated[
        str | None,
        typer.Option(
            help="URL of any broker, mqtt:// or mqtts://. Default: citybeat's own broker; sources and devices are registered first."
        ),
    ] = None,
    topic: Annotated[
        str, typer.Option(help="Topic of the messages; {source} stands for the source of a connection.")
    ] = loading.TOPIC,
    source: Annotated[str, typer.Option(help="Prefix of the names of sources, which get -1, -2, … appended.")] = "load",
    username: Annotated[
        str | None,
        typer.Option(
            help="User name at the broker of --url; {source} stands for the source. Default: none.", envvar="CITYBEAT_LOAD_USERNAME"
        ),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help=f"File with the password at the broker of --url. Default: the variable {PASSWORD}."
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="File with the certificate authorities trusted for mqtts. Default: those of the system.",
        ),
    ] = None,
    protocol: Annotated[
        Protocol, typer.Option(help="Version of MQTT; with 3.1.1 a broker reports neither refusals nor limits.")
    ] = Protocol.mqtt5,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON every second, and the report as JSON.")] = False,
) -> None:
    """Send messages as fast as the broker accepts them, or at a fixed rate, and report rates and latencies."""
    with failures():
        wanted = _rate(rate, readings_rate, size)
        seconds = up.seconds(duration)
        names = [check_source(f"{source}-{i}") for i in range(1, connections + 1)]
        each = stations_for(size, devices)
        stop = context.stop_on_signals()
        version = Version.V5 if protocol is Protocol.mqtt5 else Version.V311

        def offer(broker: str, senders: list[Sender], authorities: Path | None) -> LoadReport:
            boot = secrets.token_hex(4)
            supplies = [Traffic(name, boot=boot, devices=each, size=size, form=form.value) for name in names]
            return loading.offer(
                url=broker,
                senders=senders,
                supplies=supplies,
                rate=wanted,
                duration=seconds,
                window=window,
                version=version,
                topic=topic,
                ca=None if authorities is None else str(authorities),
                progress=_emit if as_json else _print,
                stop=stop,
            )

        if url is not None:
            if "@" in url:
                raise CitybeatError(
                    f"--url: must not contain user and password; give --username, and {PASSWORD} or --password-file"
                )
            password = os.environ.get(PASSWORD) if password_file is None else _read(password_file)
            report = offer(url, [_foreign(name, username, password) for name in names], ca)
        else:
            if username is not None or password_file is not None:
                raise CitybeatError("--username and --password-file need --url")
            settings = Settings()
            with context.servers(settings) as servers:
                with connect(servers.database_url, application="load start") as connection:
                    schema_version.check(connection)
                context.register(servers.database_url, [device for name in names for device in stations(name, each)])
                passwords = context.passwords(settings, names)
                senders = [Sender(source=name, password=passwords[name]) for name in names]
                report = offer(servers.mqtt_url, senders, ca if ca is not None else settings.mqtt_ca)
        print(json.dumps({"report": report.as_dict()}) if as_json else "\n".join(described(report, size)))
        if not report.complete:
            raise CitybeatError(
                report.failure or "the broker refused messages or did not acknowledge some; the report says how many"
            )


def _rate(rate: str, readings_rate: float | None, size: int) -> float | None:
    """Messages a second; None: as many as the broker accepts."""
    if readings_rate is not None:
        if rate != "max":
            raise CitybeatError("--rate and --readings-rate exclude each other")
        if not readings_rate > 0:
            raise CitybeatError(f"--readings-rate {readings_rate}: expected a number above 0")
        return readings_rate / size
    if rate == "max":
        return None
    try:
        wanted = float(rate)
    except ValueError:
        wanted = 0.0
    if not 0 < wanted < 1e9:
        raise CitybeatError(f"--rate {rate}: expected messages a second, a number above 0, or max")
    return wanted


def _read(file: Path) -> str:
    """Read a password without the end of its line."""
    try:
        return file.read_text("utf-8").rstrip("\r\n")
    except (OSError, ValueError) as exc:
        raise CitybeatError(f"--password-file {file}: {exc}") from exc


def _foreign(name: str, username: str | None, password: str | None) -> Sender:
    return Sender(source=name, username=None if username is None else username.replace("{source}", name), password=password)


def _emit(progress: LoadProgress) -> None:
    context.emit(asdict(progress))


def _print(now: LoadProgress) -> None:
    latency = f"p50 {now.latency['p50']:.1f} ms, p99 {now.latency['p99']:.1f} ms, max {now.latency['max']:.1f} ms"
    trouble = "".join(f"; {count:,} {what}" for what, count in (("behind schedule", now.behind), ("refused", now.refused)) if count)
    say(
        f"{now.elapsed:6.1f} s  {now.messages_per_s:>9,.0f} messages/s  {now.readings_per_s:>11,.0f} readings/s acknowledged"
        f"  {latency}{trouble}"
    )


def described(report: LoadReport, size: int) -> list[str]:
    """The lines of a report for people."""
    wanted = "as many as accepted" if report.wanted_per_s is None else f"{report.wanted_per_s:,.1f} messages/s"
    lines = [
        f"wanted        {wanted}, {size:,} readings each, {report.connections:,} connections, {report.elapsed:.1f} s",
        f"acknowledged  {report.messages_per_s:,.0f} messages/s, {report.readings_per_s:,.0f} readings/s",
        f"in all        {report.messages:,} messages, {report.readings:,} readings; {report.bytes_per_s / 1e6:.1f} MB/s sent",
    ]
    if report.unheard:
        lines.append(f"unheard       {report.unheard:,} of these messages: the broker says that they have no subscriber")
    lines += [f"refused       {count:,} messages: {reason}" for reason, count in report.refused.items()]
    if report.unacknowledged:
        lines.append(f"unanswered    {report.unacknowledged:,} messages were not acknowledged")
    if report.wanted_per_s is not None:
        lines.append(f"not sent      {report.unsent:,} messages that were due")
    for name, figures in (
        ("latency", report.latency),
        ("from schedule", report.latency_from_schedule),
        ("sent late by", report.lateness),
        ("… by us", report.own_lateness),
    ):
        if figures is not None:
            lines.append(f"{name:13} " + "  ".join(f"{key} {value:.2f}" for key, value in figures.items()) + " ms")
    shares = ", ".join(f"{name} {share:.0%}" for name, share in report.limits.items() if share >= 0.005)
    lines.append(f"limited by    {report.limited_by} ({shares} of the time)")
    lines.append(f"generator     {report.cpu:.2f} s of CPU, {report.cpu_per_100k:.2f} s for 100,000 messages")
    if report.reconnects:
        lines.append(f"reconnected   {report.reconnects:,} times, {report.resent:,} messages sent again")
    return lines
