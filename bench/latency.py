"""Latency from handing a message to the broker's socket until its readings are committed.

Messages of one reading at an even rate. Another connection looks at the numbers in `seqs` every `_LOOK` to see what is committed;
so a figure is too large by at most that and one look. The limit is the sum, percentile by percentile, of the broker's own way to a
client that only acknowledges, at the same rate, and of a bare COPY and merge of one row, committed.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any, Final

import numpy as np

from bench import drain, scene, store
from bench.sender import Payloads, Sender, prepare
from bench.workload import SINGLES, City, Traffic
from citybeat.devices.aggregate import downsample
from citybeat.devices.batch import Float64
from citybeat.storage.accounts import ledger
from citybeat.storage.batches.rows import encode_readings
from citybeat.storage.db.connection import connect
from citybeat.storage.rollups import minutes

#: Messages a second.
RATES: Final = (1_000, 5_000)
#: s between two looks.
_LOOK: Final = 0.002
#: s that are not counted.
_RAMP: Final = 2.0
_SEEN: Final = """
SELECT s.name, upper(q.seen) FROM seqs q JOIN sources s ON s.id = q.source_id WHERE q.boot = %s
"""
#: Bare transactions of one row that are timed.
_BARE: Final = 200


def measure(running: scene.Servers, *, rates: Sequence[int] = RATES, seconds: float = 10.0) -> list[dict[str, Any]]:
    """Measure each rate: a row for each percentile."""
    rows = []
    for rate in rates:
        traffic = Traffic(city=City(), shape=SINGLES, start=scene.start())
        with scene.opened(running, traffic.city.registrations()) as opened:
            wanted = round(rate * (seconds + _RAMP))
            payloads = prepare(opened.place / "packets", traffic, traffic.city.sources, readings=wanted)
            late = _run(opened, traffic, payloads, rate)
            bare = _bare(opened, traffic)
            way = drain.run(running, traffic, payloads, seconds=min(seconds, 4.0), window=len(payloads), rate=rate)
        for percent, through in zip((50, 99), way.latencies, strict=True):
            ours = float(np.percentile(late, percent))
            least = through + float(np.percentile(bare, percent))
            rows.append(
                {
                    "name": f"publish to committed, {rate:,} messages/s, {percent} %",
                    "ours_ms": 1000 * ours,
                    "limit_ms": 1000 * least,
                    "ratio": least / ours,
                    "limit": "the broker's way to a client that only acknowledges, and a bare COPY and merge of one row",
                    "messages": len(late),
                }
            )
    return rows


def _run(opened: scene.Scene, traffic: Traffic, payloads: Payloads, rate: float) -> Float64:
    """Return s of each message that was counted."""
    names = traffic.city.sources
    passwords = opened.servers.passwords(names)
    committed = np.zeros(len(payloads))  # s, of the monotonic clock
    # A gateway's packets in order of their numbers, which are 0, 1, 2, …
    of = {name: np.flatnonzero(payloads.packets["gateway"] == number) for number, name in enumerate(names)}
    known = dict.fromkeys(names, 0)
    with (
        scene.ingesting(opened) as ingest,
        Sender(opened.servers.mqtt_url, passwords, payloads, rate) as sender,
    ):
        sender.allow(len(payloads))
        deadline = time.monotonic() + len(payloads) / rate + 30
        while sum(known.values()) < len(payloads):
            for name, upper in opened.connection.execute(_SEEN, (traffic.boot,)).fetchall():
                if upper > known[name]:
                    committed[of[name][known[name] : upper]] = time.monotonic()
                    known[name] = upper
            if time.monotonic() > deadline:
                raise TimeoutError(f"{sum(known.values()):,} of {len(payloads):,} messages were committed:\n{ingest.tail()}")
            time.sleep(_LOOK)
        sent = sender.sent_at / 1e9
    wrong = ledger.discrepancies(opened.connection)
    if wrong:
        raise RuntimeError("; ".join(wrong))
    took: Float64 = (committed - sent)[sent >= sent[0] + _RAMP]
    return took


def _bare(opened: scene.Scene, traffic: Traffic) -> list[float]:
    """Return s of bare transactions of one row."""
    store.make_tables(opened.connection)
    with closing(store.Writer(opened, traffic)) as writer, closing(connect(opened.url, application="bench")) as bare:
        store.prepare(bare)
        new = writer.judged().judged.batch
        took = []
        for number in range(_BARE):
            one = new.take(np.array([number]))
            rows, partials = encode_readings(one), minutes.encode_partials(downsample(one, writer.registry.kind))
            took.append(store.timed(bare, partial(store.merge, bare, list(rows), list(partials))))
    return took[_BARE // 10 :]
