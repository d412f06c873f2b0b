"""/metrics: what the database has, what was asked of this process, and an answer when the database is away; /readyz beside it."""

import json
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.storage.registry import records

NOW = 0  # us since 1970 UTC, of each test


@pytest.fixture(autouse=True)
def _now(monkeypatch):
    """Tests may run long after they were read."""
    monkeypatch.setitem(globals(), "NOW", int(datetime.now(UTC).timestamp()) * 1_000_000)


def scrape(api):
    answer = api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(api, name, **labels):
    return scrape(api).get((f"citybeat_{name}", *sorted(labels.items())))


@pytest.fixture
def city(database, connection):
    records.register(
        connection,
        [
            Device(id="env-1", source="gw-a", domain="environment", sensors=(Sensor(metric="pm25"),)),
            Device(id="car-1", source="gw-b", domain="traffic", sensors=(Sensor(metric="intensity"), Sensor(metric="occupancy"))),
        ],
    )
    connection.execute("UPDATE series SET created_at = now() - interval '1 day'")
    pipeline = Pipeline(database, catalogue=builtin(), limits=Limits(), max_bytes=100_000, quarantine_quota=1_000)
    pipeline.open()
    bodies = [
        {"seq": seq, "boot": "x", "readings": {"device": "env-1", "ts": NOW // 1000 + seq, "values": {"pm25": 1}}} for seq in (1, 4)
    ]
    bodies += [
        {"device": "nobody", "values": {"pm25": 1}},
        [],
        {"device": "env-1", "ts": NOW // 1000 + 1, "values": {"pm25": None}},
    ]
    messages = [Message("city/v1/gw-a/readings", json.dumps(body).encode(), NOW, False, 1, 1, 1) for body in bodies]
    pipeline.process(messages, lambda: True)
    pipeline.close()
    connection.execute("UPDATE seqs SET last_at = now() - interval '1 hour'")


def test_what_the_database_has(api, city):
    found = scrape(api)
    expected = {
        ("database_up",): 1,
        ("ledger_messages_total", ("source", "gw-a")): 5,
        ("ledger_undecodable_messages_total", ("source", "gw-a")): 1,
        ("ledger_redelivered_messages_total", ("source", "gw-a")): 0,
        ("ledger_received_readings_total", ("source", "gw-a")): 4,
        ("ledger_overflow_readings_total", ("source", "gw-a")): 0,
        ("ledger_readings", ("outcome", "stored"), ("source", "gw-a")): 2,
        ("ledger_readings", ("outcome", "missing"), ("source", "gw-a")): 1,
        ("ledger_readings", ("outcome", "quarantined"), ("source", "gw-a")): 1,
        ("quarantine_open_messages", ("reason", "unknown_device")): 1,
        ("quarantine_open_messages", ("reason", "empty")): 1,
        ("lost_before_broker_messages", ("source", "gw-a")): 2,
        ("rollup_marks",): 1,
        ("sensors", ("domain", "environment")): 1,
        ("sensors", ("domain", "traffic")): 2,
        ("sensors_overdue", ("domain", "environment")): 0,
        ("sensors_overdue", ("domain", "traffic")): 2,
    }
    assert {key: found.get((f"citybeat_{key[0]}", *key[1:])) for key in expected} == expected


def test_requests_by_route_and_status(api):
    api.get("/v1/devices/env-1")
    api.get("/v1/devices/env-2")
    api.get("/nothing/here")
    api.get("/v1/series")
    api.ask("BREW", "/healthz")
    api.ask("DELETE", "/healthz")
    found = scrape(api)

    def count(method, route, status):
        return found.get(("citybeat_http_requests_total", ("method", method), ("route", route), ("status", status)))

    assert count("GET", "/v1/devices/{device}", "404") == 2
    assert count("GET", "other", "404") == 1
    assert count("GET", "/v1/series", "422") == 1
    assert sum(value for key, value in found.items() if key[0] == "citybeat_http_requests_total") == 6
    assert not [key for key in found if "BREW" in str(key) or "env-1" in str(key)]
    assert value(api, "http_requests_total", method="GET", route="/metrics", status="200") == 1
    duration = {"method": "GET", "route": "/v1/devices/{device}"}
    assert value(api, "http_request_duration_seconds_count", **duration) == 2
    assert 0 < value(api, "http_request_duration_seconds_sum", **duration) < 60


def test_a_mistake_of_ours_counts_as_one(api, connection):
    connection.execute("ALTER TABLE ledger RENAME TO gone")
    assert api.get("/v1/ledger").status_code == 500
    assert value(api, "http_requests_total", method="GET", route="/v1/ledger", status="500") == 1


def test_without_a_database_it_answers_all_the_same(start_api, caplog):
    api = start_api("postgresql://citybeat:s3cret@127.0.0.1:1/citybeat")
    assert api.get("/readyz").status_code == 503
    found = scrape(api)
    assert found["citybeat_database_up",] == 0
    assert found["citybeat_http_requests_total", ("method", "GET"), ("route", "/readyz"), ("status", "503")] == 1
    assert not [key for key in found if "ledger" in key[0]]
    assert "s3cret" not in caplog.text


def test_a_schema_without_these_figures_is_not_the_end(api, connection):
    connection.execute("DROP TABLE ledger_totals")
    assert value(api, "database_up") == 0


def test_open_metrics(api, city):
    answer = api.ask("GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})[0]
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_many_scrapes_at_once(api, city):
    assert {answer.status_code for answer in api.ask("GET", *["/metrics"] * 20)} == {200}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DELETE FROM schema_migrations WHERE number = (SELECT max(number) FROM schema_migrations)", "citybeat migrate"),
        ("INSERT INTO schema_migrations (number, name, checksum) VALUES (999, 'future', 'x')", "newer"),
        ("DROP TABLE schema_migrations", "citybeat migrate"),
    ],
)
def test_a_schema_that_does_not_fit_is_told(api, connection, change, words):
    assert api.get("/readyz").status_code == 200
    connection.execute(change)
    answer = api.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:citybeat:problem:schema-mismatch"
    assert words in answer.json()["detail"]
