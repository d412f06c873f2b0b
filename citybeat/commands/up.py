"""`citybeat up`: runs servers, ingest, API and a simulated city, shows live figures, and accounts for every reading at the end."""

import json
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from citybeat import context
from citybeat import report as reports
from citybeat.children import Child, ChildError, stop_all
from citybeat.commands import keys
from citybeat.context import say
from citybeat.devices.errors import CitybeatError
from citybeat.devices.ledger import OUTCOMES, Counts
from citybeat.settings import Settings
from citybeat.storage import migrate
from citybeat.storage.accounts import ledger
from citybeat.storage.db.connection import Connection, connect

#: The report of a simulator that did not run.
_NOTHING_SENT: Final[Mapping[str, Any]] = {"sources": []}
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
#: s between queries of the ledger, which are small; people read no faster.
_TICK: Final = 0.5
#: s between lines of figures where standard error is no terminal.
_LINE_EVERY: Final = 5.0
#: s after the simulator's end within which every acknowledged message must be committed.
_DRAIN: Final = 30.0
#: s within which a child process must be ready.
_START: Final = 30.0


def seconds(text: str | None) -> float | None:
    """Convert a duration such as 30s, 5m or 1h to seconds; None stays None.

    Raises
    ------
    CitybeatError
        The text has another form.

    Examples
    --------
    >>> seconds("5m")
    300.0
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None:
        raise CitybeatError(f"--for {text!r}: expected a number with s, m or h, such as 30s or 5m")
    return float(match[1]) * _UNITS[match[2]]


def up(settings: Settings, *, duration: float | None, devices: int, seed: int, report: Path | None) -> int:
    """Run all parts until Ctrl-C or for `duration` seconds.

    Parameters
    ----------
    settings : Settings
    duration : float, optional
        Seconds, counted from the moment when all parts are ready.
    devices : int
        Number of simulated devices; 0: no simulator.
    seed : int
        Seed of the simulated city.
    report : Path, optional
        File that the final report is written to, as JSON.

    Returns
    -------
    int
        Exit status: 0 only if the ledger balances, the rollups match, and something was stored.

    Raises
    ------
    ChildError
        A child process ended on its own.
    """
    stop = context.stop_on_signals()
    began = time.monotonic()
    with context.servers(settings) as servers, connect(servers.database_url, application="up") as database:
        migrate.migrate(database, settings.load_catalogue(), chunk_days=settings.chunk_days())
        base = ledger.totals(database)
        key = keys.own(database, settings.home)
        with _children(settings, stop, devices, seed, key) as children:
            _watch(database, children, stop, base=base, began=began, duration=duration)
            simulator = children.get("simulate")
            if simulator is not None:
                simulator.terminate()
                status = simulator.wait()
                if status != 0 and not (status == -signal.SIGTERM and stop.is_set()):  # stopped before it had installed its handler
                    raise ChildError(f"simulate failed: {simulator.last_words}")
            sent_report = simulator.said.get("report", _NOTHING_SENT) if simulator is not None else _NOTHING_SENT
            account = _account(database, sent_report, base, children)
    text = json.dumps(account.as_dict(), indent=2)
    print(text)
    if report is not None:
        report.write_text(text + "\n", "utf-8")
    for finding in account.findings:
        say(f"citybeat: {finding}")
    if account.run.stored == 0:
        say("citybeat: nothing was stored")
    return 0 if account.ok else 1


@contextmanager
def _children(settings: Settings, stop: threading.Event, devices: int, seed: int, key: str) -> Iterator[dict[str, Child]]:
    """Start ingest, API and simulator and wait until they are ready; end them when the block is left."""
    children: dict[str, Child] = {}
    try:
        children["ingest"] = Child("ingest", "--stats")
        children["api"] = Child("api")
        # A broker acknowledges and drops messages that nobody subscribes to, so ingest's session must exist before the simulator's.
        _await(children, stop, lambda: children["ingest"].said.get("ready", False), "ingest did not subscribe")
        if devices > 0:
            children["simulate"] = simulator = Child("simulate", "run", "--json", "--devices", str(devices), "--seed", str(seed))
            _await(children, stop, lambda: "readings" in simulator.said, "the simulator did not send anything")
        address = f"http://{settings.api_host}:{settings.api_port}"
        _await(children, stop, lambda: _answers(f"{address}/healthz"), "the API did not answer")
        say(f"console: {address}/#key={key}")  # browsers do not send the part after #
        say(f"API: {address}/docs")
        say(f"API key: {key} (all scopes; also in {settings.home / 'api-key'})")
        say(f"ingest: http://{settings.ingest_host}:{settings.ingest_port}/metrics")
        yield children
    finally:
        stop_all(list(children.values()))


def _await(children: Mapping[str, Child], stop: threading.Event, condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + _START
    while not condition() and not stop.wait(0.05):
        for child in children.values():
            child.check()
        if time.monotonic() > deadline:
            raise ChildError(f"{complaint} within {_START:.0f} s")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1.0):  # noqa: S310 - our own API
            return True
    except OSError:
        return False


def _watch(
    database: Connection,
    children: Mapping[str, Child],
    stop: threading.Event,
    *,
    base: Counts,
    began: float,
    duration: float | None,
) -> None:
    """Show figures until `stop` is set or the duration is over."""
    console = Console(stderr=True)
    started = time.monotonic()
    shown = started - _LINE_EVERY
    first_stored = False
    last, last_at, rate = base, started, 0.0
    with Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else nullcontext() as live:
        while not stop.is_set() and (duration is None or time.monotonic() - started < duration):
            for child in children.values():
                child.check()
            totals, now = ledger.totals(database), time.monotonic()
            if totals.stored > base.stored and not first_stored:
                first_stored = True
                say(f"first reading stored {now - began:.1f} s after the start")
            if now > last_at:
                rate += ((totals.received - last.received) / (now - last_at) - rate) * 0.3
            last, last_at = totals, now
            figures = _figures(totals - base, children, rate)
            if live is not None:
                live.update(_table(figures))
            elif now - shown >= _LINE_EVERY:
                say("  ".join(f"{name} {value}" for name, value in figures.items()))
                shown = now
            stop.wait(_TICK)


def _figures(run: Counts, children: Mapping[str, Child], rate: float) -> dict[str, str]:
    ingest = children["ingest"].said
    simulator = children["simulate"].said if "simulate" in children else {}
    published = simulator.get("readings", 0)
    return {
        "published": f"{published:,}",
        **{name: f"{getattr(run, name):,}" for name in ("received", *OUTCOMES)},
        "rate": f"{rate:,.0f}/s",
        "lag": f"{ingest.get('lag_s', 0.0) * 1000:,.0f} ms",
        "waiting": f"{ingest.get('waiting', 0):,}",
        "spooled": f"{ingest.get('spooled', 0):,}",
    }


def _table(figures: Mapping[str, str]) -> Table:
    table = Table(title="citybeat", show_header=False)
    for name, value in figures.items():
        table.add_row(name, value)
    return table


def _account(
    database: Connection,
    sent_report: Mapping[str, Any],
    base: Counts,
    children: dict[str, Child],
) -> reports.Report:
    """Wait until every acknowledged message is committed, stop ingest, and compare."""
    names = [source["source"] for source in sent_report["sources"]]
    deadline = time.monotonic() + _DRAIN
    while True:
        sent = reports.sent_by_source(sent_report, ledger.numbers(database, names))
        if not any(source.outstanding for source in sent) or time.monotonic() > deadline:
            break
        children["ingest"].check()
        time.sleep(_TICK / 5)
    children["ingest"].terminate()
    children["ingest"].wait()
    return reports.build(
        sent=sent,
        run=ledger.totals(database) - base,
        discrepancies=ledger.discrepancies(database),
        rollup_differences=ledger.rollup_differences(database),
    )
