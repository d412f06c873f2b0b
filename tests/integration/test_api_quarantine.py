"""/v1/quarantine: pages, one message, and another try; /v1/liveness; the ledger in longer buckets."""

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from citybeat.api.http import models
from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.http_ingest import Replays
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.settings import Settings
from citybeat.storage.accounts import ledger
from citybeat.storage.batches.rows import Tally
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.reads import overdue as liveness
from citybeat.storage.registry import records

MS = 1_767_225_600_000
US = MS * 1000
MINUTE = 60_000_000


def device(name, source="gw-1", **more):
    return Device(id=name, source=source, domain="environment", sensors=(Sensor(metric="temperature"),), **more)


@pytest.fixture
def city(connection):
    records.register(connection, [device("env-0"), device("b-0", "gw-2")])
    return connection


@pytest.fixture
def api(start_api, database, city):
    return start_api(database, replay=Replays(Settings(database_url=database), database))


@pytest.fixture
def arrive(database):
    pipeline = Pipeline(database, catalogue=builtin(), limits=Limits(), max_bytes=1_000_000, quarantine_quota=10_000_000)

    def do(*messages):
        """(source, payload, us of receipt)."""
        made = [Message(f"city/v1/{source}/readings", payload, at, False, 1, 1, 1) for source, payload, at in messages]
        assert pipeline.process(made, lambda: True) is not None

    yield do
    pipeline.close()


def report(name, at=MS, **values):
    return json.dumps({"device": name, "ts": at, "values": values or {"temperature": 20.0}}).encode()


def test_pages_and_filters(api, arrive):
    messages = [("gw-1", report(f"new-{i}"), US + i * MINUTE) for i in range(5)]
    arrive(*messages, ("gw-2", b"\xff", US + 9 * MINUTE), ("gw-2", report("env-0"), US + 9 * MINUTE))
    whole = models.QuarantineModel.model_validate(api.get("/v1/quarantine").json())
    assert whole.count == 7
    assert [row.reasons for row in whole.messages] == [["unknown_device"]] * 5 + [["invalid_utf8"], ["source_mismatch"]]
    assert whole.messages[0].refused[0].model_dump() == {
        "index": 0,
        "reason": "unknown_device",
        "detail": "no device 'new-0' is registered",
    }
    seen, cursor = [], {}
    while cursor is not None:
        page = api.get("/v1/quarantine", limit=3, **cursor).json()
        seen += [row["id"] for row in page["messages"]]
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
    assert seen == [row.id for row in whole.messages]

    def ids(**query):
        return [row["id"] - seen[0] for row in api.get("/v1/quarantine", **query).json()["messages"]]

    assert ids(source="gw-2") == [5, 6]
    assert ids(reason="source_mismatch") == [6]
    assert ids(source="gw-1", reason="source_mismatch") == []
    assert ids(**{"from": "2026-01-01T00:01:00Z", "to": "2026-01-01T00:03:00Z"}) == [1, 2]
    first = models.QuarantinedDetailModel.model_validate(api.get(f"/v1/quarantine/{seen[0]}").json())
    assert (first.encoding, json.loads(first.payload)["device"]) == ("utf-8", "new-0")
    odd = api.get(f"/v1/quarantine/{seen[5]}").json()
    assert (odd["encoding"], odd["payload"], odd["refused"][0]["index"]) == ("base64", "/w==", None)
    assert api.get(f"/v1/quarantine/{seen[-1] + 1}").status_code == 404
    assert api.get("/v1/quarantine/99999999999999999999").status_code in {404, 422}


def test_a_list_shows_ten_of_a_message_and_one_all(api, arrive):
    arrive(("gw-1", json.dumps([{"device": f"new-{i}", "ts": MS, "values": {"temperature": 1}} for i in range(15)]).encode(), US))
    (row,) = api.get("/v1/quarantine").json()["messages"]
    assert (len(row["refused"]), row["refused_left_out"], row["readings"]) == (10, 5, 15)
    assert len(api.get(f"/v1/quarantine/{row['id']}").json()["refused"]) == 15


def test_replay_a_bounded_number_at_a_time(api, arrive, city):
    arrive(*[("gw-1", report(f"new-{i % 2}", MS + i), US + i * MINUTE) for i in range(10)])
    records.register(city, [device("new-0")])
    totals, body, rounds = dict.fromkeys(models.ReplayedModel.model_fields, 0), {"reason": "unknown_device", "limit": 3}, 0
    while True:
        answer = api.ask("POST", "/v1/quarantine/replay", json=body)[0]
        told = models.ReplayedModel.model_validate(answer.json()).model_dump()
        assert told["messages"] <= 3
        totals = {name: totals[name] + told[name] for name in ("messages", "stored", "quarantined")}
        rounds += 1
        assert told["more"] == (told["next_cursor"] is not None)
        if not told["more"]:
            break
        body["cursor"] = told["next_cursor"]
    assert (totals, rounds) == ({"messages": 10, "stored": 5, "quarantined": 5}, 4)
    assert api.get("/v1/quarantine").json()["count"] == 5
    assert ledger.discrepancies(city) == []
    # What was tried and stayed does not keep a second round from its end.
    assert api.ask("POST", "/v1/quarantine/replay", json={})[0].json()["quarantined"] == 5
    none = api.ask("POST", "/v1/quarantine/replay", json={"source": "gw-2"})[0].json()
    assert (none["messages"], none["more"]) == (0, False)


def test_replay_sees_what_was_stored_meanwhile(api, arrive, city):
    """Readings that others stored between two transactions of a replay are their past, as for everybody who writes."""
    arrive(("gw-1", report("new-0", MS + 120_000, temperature=28.0), US))
    records.register(city, [device("new-0")])
    arrive(("gw-1", report("new-0", MS, temperature=20.0), US + MINUTE))
    assert api.ask("POST", "/v1/quarantine/replay", json={})[0].json()["stored"] == 1
    arrive(("gw-1", report("new-0", MS + 180_000, temperature=20.5), US + MINUTE))
    flags = [row[0] & 2 for row in city.execute("SELECT flags FROM readings ORDER BY time")]
    assert flags == [0, 2, 0]


def test_liveness(api, arrive, city):
    now = datetime.now(UTC)
    ms = int(now.timestamp() * 1000)
    records.register(city, [device("env-1", district="north"), device("old-1")])
    records.retire(city, "old-1")
    at = ms * 1000
    arrive(("gw-1", report("env-0", ms), at), ("gw-2", report("b-0", ms - 600_000), at))
    city.execute("UPDATE series SET created_at = now() - interval '1 day'")
    told = models.LivenessModel.model_validate(api.get("/v1/liveness").json())
    rows = dict(zip(told.columns.device, zip(*told.columns.model_dump().values(), strict=True), strict=True))
    assert list(rows) == ["b-0", "env-0", "env-1"]
    assert rows["env-0"] == ("env-0", "temperature", "gw-1", 60.0, ms, ms, ms + 180_000, False)
    assert rows["b-0"][4:] == (ms - 600_000, ms - 600_000, ms - 420_000, True)
    assert rows["env-1"][4:6] == (None, None)
    assert rows["env-1"][7]
    assert api.get("/v1/liveness", district="north").json()["columns"]["device"] == ["env-1"]
    assert api.get("/v1/liveness", stale=False).json()["columns"]["device"] == ["env-0"]
    overdue = api.get("/v1/liveness", stale=True).json()["columns"]["device"]
    assert overdue == sorted(sensor.device for sensor in liveness.overdue(city)) == ["b-0", "env-1"]
    seen, cursor = [], {}
    while cursor is not None:
        page = api.get("/v1/liveness", limit=1, **cursor).json()
        seen += page["columns"]["device"]
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
    assert seen == list(rows)


@pytest.mark.parametrize(
    ("bucket", "zone"), [("1h", "UTC"), ("1d", "Asia/Ho_Chi_Minh"), ("1d", "Europe/Berlin"), ("1h", "Asia/Kathmandu")]
)
def test_the_ledger_in_longer_buckets(api, database, city, bucket, zone):
    """Against a plain loop; over a day that has 23 hours in Berlin."""
    ids = records.ensure_sources(city, ["gw-1", "gw-2"])
    start = datetime(2026, 3, 28, 20, tzinfo=UTC)
    minutes = [start + timedelta(minutes=17 * i) for i in range(200)]
    tallies = [
        Tally(minute=int(at.timestamp()) * 1_000_000, source=ids[f"gw-{1 + i % 2}"], messages=1, received=i, stored=i)
        for i, at in enumerate(minutes)
    ]
    store = BatchWriter(database, quarantine_quota=1)
    with store.batch(uuid4(), list(ids.values())) as transaction:
        transaction.add_ledger(tallies, {})
    store.close()
    expected = {}
    for i, at in enumerate(minutes):
        local = at.astimezone(ZoneInfo(zone))
        began = local.replace(hour=0, minute=0) if bucket == "1d" else at - timedelta(minutes=local.minute)
        key = (int(began.timestamp() * 1000), f"gw-{1 + i % 2}")
        expected[key] = expected.get(key, 0) + i
    answer = api.get("/v1/ledger", bucket=bucket, tz=zone).json()
    models.LedgerModel.model_validate(answer)
    columns = answer["columns"]
    found = dict(zip(zip(columns["minute"], columns["source"], strict=True), columns["received"], strict=True))
    assert found == expected
    assert list(found) == sorted(found)
    assert answer["totals"]["received"] == sum(expected.values())
    seen, cursor = [], {}
    while cursor is not None:
        page = api.get("/v1/ledger", bucket=bucket, tz=zone, limit=3, **cursor).json()
        seen += zip(*page["columns"].values(), strict=True)
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
    assert seen == list(zip(*columns.values(), strict=True))
    assert api.get("/v1/ledger", bucket="1d", tz="Mars/Base").status_code == 422
