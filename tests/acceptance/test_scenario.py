"""Scenario files, run as a user runs them: what is in the database is what the scenario says, to the last bit."""

import json
from pathlib import Path

import numpy as np
import pytest

from citybeat.devices.flags import Flag
from citybeat.simulator.city import signals
from citybeat.simulator.scenario import load_scenario
from citybeat.storage.accounts import ledger
from tests.acceptance.conftest import Town, wait_for

TEXT = """\
name: A road
seed: 99
start: 2026-02-17T06:00:00+07:00
duration: 2
speed: 1200
city:
  districts: [{name: North, latitude: 14.0, longitude: 109.0}, {name: South, latitude: 13.9, longitude: 109.0}]
  devices: {Junction detector: 4, Air station: 2, Feeder: 3, Car park: 3}
  gateways: [{name: road-n, districts: [North]}, road-s]
intervals:
  jitter: 0.4
  types: {Feeder: {scale: 6}}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "road.yaml"
    path.write_text(TEXT, "utf-8")
    return path


def test_a_scenario_arrives_as_it_says(town: Town, scenario: Path):
    expected = load_scenario(TEXT, "road.yaml")
    ingest = town.start("ingest", "--stats")
    ingest.wait_ready()
    try:
        done = town.run("simulate", "run", "--scenario", str(scenario), "--json")
        report = json.loads(done.stdout.splitlines()[-1])["report"]
        assert (report["devices"], report["seed"]) == (12, 99)
        assert report["simulated_from"] == "2026-02-16T23:00:00+00:00"
        assert report["simulated_to"] == "2026-02-16T23:40:00+00:00"
        assert [source["source"] for source in report["sources"]] == ["road-n", "road-s"]
        sources = ["road-n", "road-s"]
        with town.database() as database:
            wait_for(
                lambda: ledger.totals(database, sources=sources).received >= report["readings"],
                lambda: (report, ledger.totals(database, sources=sources)),
            )
            totals = ledger.totals(database, sources=sources)
            rows = database.execute(
                "SELECT s.device_id, s.metric, (extract(epoch FROM r.time) * 1000000)::int8, r.value, r.flags"
                " FROM readings r JOIN series s ON s.id = r.series_id JOIN devices d ON d.id = s.device_id"
                " JOIN sources o ON o.id = d.source_id WHERE o.name = ANY(%s)",
                [sources],
            ).fetchall()
    finally:
        assert ingest.stop() == 0
    assert totals.stored == totals.received == report["readings"] == len(rows) > 1000
    city = expected.city
    number = {
        (device.id, sensor.metric): int(city.first[i]) + k
        for i, device in enumerate(city.devices)
        for k, sensor in enumerate(device.sensors)
    }
    series, time = np.array([number[row[0], row[1]] for row in rows]), np.array([row[2] for row in rows])
    assert signals.sample(city.series, series, time).tobytes() == np.array([row[3] for row in rows]).tobytes()
    assert {row[4] for row in rows} == {int(Flag.LATE)}  # months late, and nothing else is wrong with it


def test_options_that_conflict_name_the_line(town: Town, scenario: Path):
    done = town.run("simulate", "run", "--scenario", str(scenario), "--devices", "7", check=False)
    assert done.returncode == 1
    assert f"{scenario}, line 8: city.devices: it counts devices by type" in done.stderr
    done = town.run("simulate", "run", "--scenario", str(scenario), "--start", "2100-01-01T00:00:00+0000", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "citybeat: simulated time cannot start in the future"


def test_a_scenario_can_be_checked_without_servers(town: Town, scenario: Path):
    found = json.loads(town.run("simulate", "check", str(scenario)).stdout)
    assert (found["name"], found["devices"], found["types"]["Feeder"]) == ("A road", 12, 3)
    assert json.loads(town.run("simulate", "check", "market_town").stdout)["name"] == "Market town"
    done = town.run("simulate", "check", "atlantis", check=False)
    assert done.returncode == 1
    expected = "no such file, and citybeat ships no scenario of this name (market_town, quy_nhon)"
    assert done.stderr.strip() == f"citybeat: scenario atlantis: {expected}"
