"""MQTT QoS 1 to committed, as shipped: `python -m bench.end_to_end --workload live|catchup|singles [--seconds 20] [--workers 1]`.

Messages are offered as fast as they are *taken*: at most a window of them is between the sender and the commit, which is read from
the ledger. The broker takes far more than ingest can store; `--flood` offers as much, which is an overload: messages pile up, and
the spool takes them.

Only commits in the steady part of a run count: from the first commit after `RAMP` to the last one that was seen before
the sender had sent everything. The rate is of readings *stored*; duplicates, which are taken as well, are not counted. At the end
everything has to be accounted for, reading by reading, or there is no figure.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import drain, scene, store
from bench.sender import Payloads, Sender, prepare
from bench.workload import SHAPES, City, Shape, Traffic
from citybeat.devices.ledger import Counts
from citybeat.storage.accounts import ledger

#: s from the first commit on that are not counted: caches, plans and the first growth of tables.
RAMP = 3.0
#: Least number of commits in a figure, however slow the machine is.
_COMMITS = 5
#: s between two looks at the ledger.
_LOOK = 0.01
#: Readings/s for which payloads are made ahead; a system that takes more has a shorter run.
MOST = {"live": 200_000, "catchup": 350_000, "singles": 35_000}
#: Messages between sender and commit. Under two full batches (8 MiB, or 5,000 messages): one is being written while the next fills.
WINDOW = {100: 2_000, 1: 9_000}
#: s for the rest to be committed when the sender has ended.
_DRAIN = 60.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of one run."""

    workload: str
    workers: int
    stored_per_s: float  # readings
    taken_per_s: float  # readings, duplicates included
    messages_per_s: float
    seconds: float  # of the steady part
    cpu: Mapping[str, float]  # s of processor time in it, by process
    peaks: Mapping[str, int]  # bytes
    spooled: int  # messages, the most that were seen
    totals: Mapping[str, int]  # of the whole run, as the ledger has them
    wrong: Sequence[str]  # what does not balance
    log: str  # the end of ingest's

    @property
    def rss(self) -> int:
        """Highest resident memory of the largest process of ingest, in bytes."""
        return max(self.peaks.values())


@dataclass(frozen=True, slots=True)
class Sample:
    """State of the ledger when it had changed."""

    at: float
    messages: int
    received: int
    stored: int
    cpu: Mapping[str, float]


def run(
    opened: scene.Scene,
    traffic: Traffic,
    payloads: Payloads,
    *,
    seconds: float,
    workers: int = 1,
    window: int | None = None,
    settings: Mapping[str, str] | None = None,
    ramp: float = RAMP,
) -> Result:
    """Send, and count what is committed. `window` 0: flood."""
    window = WINDOW[traffic.shape.size] if window is None else window
    passwords = opened.servers.passwords(traffic.city.sources)
    before = ledger.totals(opened.connection)
    with scene.ingesting(opened, workers, settings) as ingest:
        with Sender(opened.servers.mqtt_url, passwords, payloads) as sender:
            pids = {"publisher": sender.pid, **opened.servers.pids(), "ingest": ingest.pid}
            looks, spooled = _watch(opened, before, sender, ingest, pids, window or len(payloads), ramp, seconds)
        sent = sender.sent  # when it has ended: it may have been in the middle of a round
        _drain(opened, ingest, before.messages + sent)
        peaks, log = ingest.peaks(), ingest.tail()
    totals = ledger.totals(opened.connection) - before
    wrong = _wrong(opened, totals, payloads, sent)
    first, last = steady(looks, ramp)
    took = last.at - first.at
    return Result(
        workload=traffic.shape.name,
        workers=workers,
        stored_per_s=(last.stored - first.stored) / took,
        taken_per_s=(last.received - first.received) / took,
        messages_per_s=(last.messages - first.messages) / took,
        seconds=took,
        cpu={name: last.cpu[name] - first.cpu[name] for name in first.cpu},
        peaks=peaks,
        spooled=spooled,
        totals=asdict(totals),
        wrong=wrong,
        log=log,
    )


def _watch(
    opened: scene.Scene,
    before: Counts,
    sender: Sender,
    ingest: scene.Ingest,
    pids: Mapping[str, int],
    window: int,
    ramp: float,
    seconds: float,
) -> tuple[list[Sample], int]:
    """Let the sender send, and record the ledger whenever it has changed."""
    looks: list[Sample] = []
    total, began, spooled = len(sender.sent_at), time.monotonic(), 0
    sender.allow(window)
    flood = window >= total
    while sender.sent < total or (flood and (not looks or looks[-1].messages < total)):
        now = time.monotonic()
        if looks and now - looks[0].at > ramp + seconds and looks[-_COMMITS:][0].at >= looks[0].at + ramp:
            sender.allow(0)
            break
        if not looks and now - began > 60:
            raise TimeoutError(f"nothing is committed:\n{ingest.tail()}")
        counted = ledger.totals(opened.connection) - before
        if counted.messages and (not looks or counted.messages != looks[-1].messages):
            cpu = {name: scene.cpu(pid) for name, pid in pids.items()}
            looks.append(Sample(time.monotonic(), counted.messages, counted.received, counted.stored, cpu))
            sender.allow(counted.messages + window)
        spooled = max(spooled, ingest.said.get("spooled") or 0)
        sender.check()
        ingest.check()
        time.sleep(_LOOK)
    return looks, spooled


def steady(looks: Sequence[Sample], ramp: float) -> tuple[Sample, Sample]:
    """Return the first and the last look of the steady part of a run."""
    after = [look for look in looks if look.at >= looks[0].at + ramp]
    if len(after) < _COMMITS - 1:
        told = ", ".join(f"{look.messages:,} after {look.at - looks[0].at:.1f} s" for look in looks[-20:])
        raise RuntimeError(f"too few commits for a figure: messages {told}")
    return after[0], after[-1]


def _drain(opened: scene.Scene, ingest: scene.Ingest, messages: int) -> None:
    deadline = time.monotonic() + _DRAIN
    while ledger.totals(opened.connection).messages < messages and time.monotonic() < deadline:
        ingest.check()
        time.sleep(0.05)


def _wrong(opened: scene.Scene, totals: Counts, payloads: Payloads, sent: int) -> list[str]:
    """Compare what was sent with the ledger, and the ledger with the tables."""
    found = ledger.discrepancies(opened.connection)
    readings = int(payloads.packets["readings"][:sent].sum())
    for name, ours, theirs in (("messages", sent, totals.messages), ("readings", readings, totals.received)):
        if ours != theirs and not (totals.redelivered and ours < theirs):  # what is delivered again is counted again
            found.append(f"{ours:,} {name} were sent, {theirs:,} received")
    if totals.stored + totals.duplicate != totals.received:
        found.append(f"not stored and no duplicates: {totals.received - totals.stored - totals.duplicate:,} readings")
    bad = opened.connection.execute("SELECT count(*) FROM readings WHERE flags & ~16 <> 0").fetchone()
    if bad is None or bad[0]:
        found.append(f"readings that are not good: {bad}")
    return found


def measure(
    running: scene.Servers, *, shapes: Sequence[Shape] = tuple(SHAPES.values()), seconds: float = 15.0, rounds: int = 8
) -> list[dict[str, Any]]:
    """Measure each workload: a row each."""
    rows = []
    for shape in shapes:
        with scene.opened(running, City().registrations()) as opened:
            rows.append(against_limit(opened, shape, seconds=seconds, alone=_alone(opened, shape, rounds)))
    return rows


def against_limit(opened: scene.Scene, shape: Shape, *, seconds: float, alone: float | None, ramp: float = RAMP) -> dict[str, Any]:
    """Measure a workload and its limit in the same run: the smaller of the store alone and the broker alone.

    `alone`: readings a second that the store alone takes; None: the broker is the limit.
    """
    traffic = Traffic(city=City(), shape=shape, start=scene.next_start(opened), boot=f"whole-{shape.name}")
    readings = round((seconds + ramp) * MOST[shape.name])
    payloads = prepare(opened.place / "packets", traffic, traffic.city.sources, readings=readings)
    result = run(opened, traffic, payloads, seconds=seconds, ramp=ramp)
    drained = drain.run(opened.servers, traffic, payloads, seconds=min(seconds, 4.0), window=5_000).readings_per_s
    limit = drained if alone is None else min(alone, drained)
    return {
        **as_row(result),
        "ours_per_s": result.stored_per_s,
        "limit_per_s": limit,
        "ratio": result.stored_per_s / limit,
        "limit": "the store alone" if limit == alone else "the broker, drained by a client that only acknowledges",
        "store_per_s": alone,
        "broker_per_s": drained,
        "rss": result.rss,
    }


def _alone(opened: scene.Scene, shape: Shape, rounds: int) -> float:
    """Return readings a second that the store alone takes, by the median batch."""
    traffic = Traffic(city=City(), shape=shape, start=scene.next_start(opened), boot="alone")
    with closing(store.Writer(opened, traffic)) as writer:
        took = [writer.next() for _ in range(store.WARM + rounds)][store.WARM :]
    return float(np.median([len(new) / spent for spent, new in took]))


def show(result: Result) -> None:
    """Print the result."""
    took = result.seconds
    print(
        f"{result.workload}, {result.workers} worker(s): {result.stored_per_s:,.0f} readings/s stored "
        f"({result.taken_per_s:,.0f} taken), {result.messages_per_s:,.0f} messages/s, over {took:.1f} s"
    )
    each = ", ".join(f"{name} {seconds / took:.2f}" for name, seconds in result.cpu.items())
    print(f"  cores: {each}; in all {sum(result.cpu.values()) / took:.2f}")
    peaks = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in result.peaks.items())
    print(f"  highest resident memory, MB: {peaks}; most in the spool: {result.spooled:,} messages")
    told = ", ".join(f"{name} {count:,}" for name, count in result.totals.items() if count)
    print(f"  {told}; " + ("; ".join(result.wrong) or "the ledger balances"))


def as_row(result: Result) -> dict[str, Any]:
    """Return the result for JSON."""
    return {"name": f"end to end, {result.workload}, {result.workers} worker(s)", **asdict(result)}


def arguments() -> argparse.ArgumentParser:
    """Options of a run."""
    parser = argparse.ArgumentParser(prog="python -m bench.end_to_end", description=__doc__)
    parser.add_argument("--workload", choices=sorted(SHAPES), default="live")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the steady part")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--window", type=int, help="messages between sender and commit")
    parser.add_argument("--flood", action="store_true", help="offer as much as the broker takes, whatever is committed")
    parser.add_argument("--grouped", action="store_true", help="a device's readings of one time in one report")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of ingest to try out")
    parser.add_argument("--no-late", action="store_true", help="send no late readings, to measure their cost")
    parser.add_argument("--no-duplicates", action="store_true", help="send no duplicates, to measure their cost")
    parser.add_argument("--log", action="store_true", help="print the end of ingest's log")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser


def main() -> int:
    """Result of one run."""
    told = arguments().parse_args()
    shape = SHAPES[told.workload]
    traffic = Traffic(
        city=City(),
        shape=shape,
        start=scene.start(),
        grouped=told.grouped,
        late=not told.no_late,
        repeated=not told.no_duplicates,
    )
    with scene.servers() as running, scene.opened(running, traffic.city.registrations()) as opened:
        readings = round((told.seconds + RAMP) * MOST[shape.name])
        payloads = prepare(opened.place / "packets", traffic, traffic.city.sources, readings=readings)
        print(f"{len(payloads):,} messages are ready", file=sys.stderr)
        result = run(
            opened,
            traffic,
            payloads,
            seconds=told.seconds,
            workers=told.workers,
            window=0 if told.flood else told.window,
            settings=dict(each.split("=", 1) for each in told.set),
        )
    show(result)
    if told.log:
        print(result.log, file=sys.stderr)
    if told.json:
        told.json.write_text(json.dumps(as_row(result), indent=2) + "\n", "utf-8")
    return int(bool(result.wrong))


if __name__ == "__main__":
    sys.exit(main())
