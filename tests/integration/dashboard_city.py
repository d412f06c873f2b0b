"""A city for the tests of dashboards: simulated devices with a year behind them, and something wrong with some."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from citybeat.simulator.city import layout as cities
from citybeat.simulator.city import signals
from citybeat.storage.db.connection import Connection
from citybeat.storage.registry import records
from citybeat.storage.rollups import rollup

SECOND = 1_000_000  # us
HOUR = 3600 * SECOND
DAY = 24 * HOUR
GATEWAYS = ("gw-1", "gw-2")
#: Two of every type, and more.
DEVICES = 40


@dataclass(frozen=True, kw_only=True)
class City:
    """Names of notable devices in the database."""

    now: datetime
    overdue: str  # device
    silent: str
    stuck: str
    bad: str
    station: str  # measures particles


def fill(database: str, connection: Connection, fill_into: Callable[..., None], now: datetime) -> City:
    """The last hour every minute, the last eight days every half hour, a year twice a day."""
    built = cities.build(devices=DEVICES, gateways=GATEWAYS, seed=7)
    silent = built.devices[-1].id
    records.register(connection, built.devices)
    end = int(now.timestamp()) * SECOND
    grids = [np.arange(end - HOUR, end, 60 * SECOND), np.arange(end - 8 * DAY, end - HOUR, HOUR // 2)]
    grids.append(np.arange(end - 365 * DAY, end - 8 * DAY, DAY // 2))
    overdue = next(device.id for device in built.devices if device.id.startswith("nrg"))
    odd = {
        "stuck": (next(d.id for d in built.devices if d.id.startswith("env")), 4),
        "bad": (next(d.id for d in built.devices if d.id.startswith("trf")), 1),
    }
    for grid in reversed(grids):
        rows: list[Any] = []
        for i, device in enumerate(built.devices):
            if device.id == silent:
                continue
            times = grid[grid < end - HOUR] if device.id == overdue else grid
            for k in range(built.first[i], built.first[i + 1]):
                metric = built.series.metrics[built.series.metric[k]]
                values = signals.sample(built.series, np.full(len(times), k, np.int64), times)
                flags = np.zeros(len(times), np.int64)
                flags[::50] = 8
                for name, flag in odd.values():
                    if device.id == name and len(times):
                        flags[-3:] = flag
                rows += zip(
                    [device.id] * len(times), [metric] * len(times), times.tolist(), values.tolist(), flags.tolist(), strict=True
                )
        fill_into(database, connection, rows, received_at=end - 30 * SECOND)
    while rollup.advance(connection):
        pass
    _accounts(connection, now)
    stations = [d.id for d in built.devices if any(s.metric == "pm25" for s in d.sensors)]
    return City(now=now, overdue=overdue, silent=silent, stuck=odd["stuck"][0], bad=odd["bad"][0], station=stations[0])


def _accounts(connection: Connection, now: datetime) -> None:
    """A ledger by the minute with a gap, a little quarantine, numbers that never came, a declaration."""
    connection.execute(
        "INSERT INTO ledger SELECT m, s.id, 3, 0, 0, 30, 27, 1, 0, 1, 1, 0 FROM sources s,"
        " generate_series(%(now)s - INTERVAL '9 hours', %(now)s - INTERVAL '2 minutes', INTERVAL '1 minute') AS m"
        " WHERE s.name <> '?' AND m NOT BETWEEN %(now)s - INTERVAL '30 minutes' AND %(now)s - INTERVAL '20 minutes'"
        " ON CONFLICT DO NOTHING",
        {"now": now.replace(second=0, microsecond=0)},
    )
    connection.execute(
        "INSERT INTO ledger_totals SELECT source_id, sum(messages), sum(undecodable), sum(redelivered), sum(received), sum(stored),"
        " sum(duplicate), sum(conflict), sum(missing), sum(quarantined), sum(overflow) FROM ledger GROUP BY 1"
        " ON CONFLICT (source_id) DO UPDATE SET (messages, received, stored, duplicate, missing, quarantined) ="
        " (EXCLUDED.messages, EXCLUDED.received, EXCLUDED.stored, EXCLUDED.duplicate, EXCLUDED.missing, EXCLUDED.quarantined)"
    )
    connection.execute(
        "INSERT INTO quarantine (received_at, source_id, topic, payload, refused, reasons, readings)"
        " SELECT %s - make_interval(mins => 7 * i), s.id, 't', '\\x00', '[]', ARRAY['unknown_device'], 1"
        " FROM sources s, generate_series(1, 30) AS i WHERE s.name = 'gw-1'",
        (now,),
    )
    connection.execute(
        "INSERT INTO seqs (source_id, boot, seen, first_at, last_at)"
        " SELECT id, 'b', '{[1,5),[8,20)}', %(now)s, %(now)s FROM sources"
        " WHERE name = 'gw-1'",
        {"now": now},
    )
    connection.execute(
        "INSERT INTO source_state (source_id, status, status_at) SELECT id, 'online', %s FROM sources ON CONFLICT DO NOTHING",
        (now,),
    )
    connection.execute(
        'INSERT INTO declarations (series_id, "from", "to", verdict, "by", reason)'
        " SELECT id, %(since)s, %(now)s, 'bad', 'test', 'dust' FROM series",
        {"since": now - timedelta(hours=1), "now": now},
    )


def moment() -> datetime:
    """Now, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
