"""/v1/ledger."""

from uuid import uuid4

import pytest

from citybeat.api.http import models
from citybeat.devices.device import Device, Sensor
from citybeat.storage.batches.rows import Tally
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.registry import records

T0 = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
MINUTE = 60_000_000


@pytest.fixture
def ledger(database, connection):
    """Two sources, three minutes; the second source's last minute does not balance."""
    records.register(
        connection,
        [Device(id=f"d{i}", source=f"gw-{i}", domain="traffic", sensors=(Sensor(metric="intensity"),)) for i in (1, 2)],
    )
    ids = records.ensure_sources(connection, ["gw-1", "gw-2"])
    tallies = [
        Tally(
            minute=T0 + m * MINUTE,
            source=ids[s],
            messages=2,
            received=10,
            stored=5,
            duplicate=2,
            conflict=1,
            missing=1,
            quarantined=1,
        )
        for m in range(3)
        for s in ("gw-1", "gw-2")
    ]
    tallies.append(Tally(minute=T0 + 2 * MINUTE, source=ids["gw-2"], undecodable=1, redelivered=1, received=1))
    store = BatchWriter(database, quarantine_quota=1)
    with store.batch(uuid4(), list(ids.values())) as transaction:
        transaction.add_ledger(tallies, {(T0, ids["gw-1"]): 1})
    store.close()


def test_everything(api, ledger):
    answer = models.LedgerModel.model_validate(api.get("/v1/ledger").json())
    assert answer.totals.model_dump() == {
        "messages": 12,
        "undecodable": 1,
        "redelivered": 1,
        "received": 61,
        "stored": 30,
        "duplicate": 12,
        "conflict": 6,
        "missing": 6,
        "quarantined": 6,
        "overflow": 1,
        "balanced": False,
    }
    assert answer.columns.source == ["gw-1", "gw-2"] * 3
    assert answer.columns.minute == [(T0 + m * MINUTE) // 1000 for m in (0, 0, 1, 1, 2, 2)]
    assert answer.columns.received == [10, 10, 10, 10, 10, 11]


def test_by_source_and_range(api, ledger):
    answer = api.get("/v1/ledger", source="gw-1", **{"from": "2026-01-01T00:01:00Z", "to": "2026-01-01T00:02:00Z"}).json()
    assert answer["totals"]["received"] == 10
    assert answer["totals"]["balanced"] is True
    assert answer["columns"]["minute"] == [T0 // 1000 + 60_000]
    assert api.get("/v1/ledger", source=["gw-1", "gw-2"]).json()["count"] == 6
    nobody = api.get("/v1/ledger", source="nobody").json()
    assert nobody["totals"]["received"] == nobody["count"] == 0


def test_pages(api, ledger):
    whole = api.get("/v1/ledger").json()
    seen, cursor = [], {}
    while cursor is not None:
        page = api.get("/v1/ledger", limit=4, **cursor).json()
        assert page["totals"] == whole["totals"]
        seen += zip(*page["columns"].values(), strict=True)
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
    assert seen == list(zip(*whole["columns"].values(), strict=True))
