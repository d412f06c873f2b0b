"""Scenario files: what they may say, that an error names file, line and key, and that every key is documented."""

import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

import pytest

from citybeat.simulator import yamltext
from citybeat.simulator.city import holidays, schedule
from citybeat.simulator.city.holidays import DayKind
from citybeat.simulator.city.layout import build
from citybeat.simulator.city.makes import BY_NAME, TYPES
from citybeat.simulator.errors import MapError, ScenarioError
from citybeat.simulator.faults.kinds import Fault
from citybeat.simulator.scenario import MAX_DEVICES, Scenario, gateway_names, load_scenario
from citybeat.simulator.yamltext import Keys

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.name for path in (files("citybeat.simulator") / "scenarios").iterdir())

FULL = """\
name: Everything
seed: 7
start: 2026-02-16T18:00:00.5+07:00
duration: 90m
speed: 2.5
city:
  districts:
    - {name: East, latitude: 13.8, longitude: 109.2}
    - {name: West, latitude: 13.8, longitude: 109.1}
  devices: 40
  mix:
    traffic: 2
    Feeder: 1.5
    Water main: 0
  gateways:
    - {name: gw-e, districts: East}
    - gw-w
holidays:
  days: [2026-04-30]
  quiet: ["2026-02-16", 2026-02-17]
intervals:
  scale: 2
  jitter: 0.25
  types:
    Feeder:
      scale: 0.5
      jitter: 0.1
      metrics: {totalActiveEnergyImport: 5m}
faults:
  - {kind: stuck, from: 60, until: 3600}
"""


def load(text: str, **arguments) -> Scenario:
    return load_scenario(text, "a.yaml", **arguments)


def test_every_key_is_read():
    found = load(FULL)
    assert (found.name, found.seed, found.duration, found.speed) == ("Everything", 7, 5400.0, 2.5)
    assert found.start == int(datetime(2026, 2, 16, 11, 0, 0, 500_000, tzinfo=UTC).timestamp() * 1e6)
    assert [(fault.kind, fault.from_, fault.until) for fault in found.faults] == [(Fault.STUCK, 60.0, 3600.0)]
    city = found.city
    assert [district.name for district in city.districts] == ["East", "West"]
    assert len(city) == 40
    names = Counter(device.tags["type"] for device in city.devices)
    assert names.keys() <= {make.name for make in TYPES if make.prefix == "trf"} | {"Feeder"}
    assert names["Feeder"] > 5
    assert {device.source for device in city.devices if device.district == "East"} == {"gw-e"}
    assert {device.source for device in city.devices if device.district == "West"} == {"gw-w"}
    kinds = city.series.almanac.kind
    assert [DayKind(kinds[(date(2026, m, d) - holidays.FIRST).days]) for m, d in ((4, 30), (2, 16), (2, 17), (5, 1), (9, 2))] == [
        DayKind.HOLIDAY,
        DayKind.TET,
        DayKind.TET,
        DayKind.WORKING,
        DayKind.WORKING,
    ]
    of = {make.name: make for make in city.types}
    assert {sensor.metric: sensor.interval for sensor in of["Feeder"].sensors} == {
        **dict.fromkeys(("phaseVoltage", "current", "frequency", "totalActivePower", "totalReactivePower"), 5.0),
        "totalActiveEnergyImport": 300.0,
    }
    assert (of["Feeder"].jitter, of["Road section"].jitter) == (0.1, 0.25)
    assert [sensor.interval for sensor in of["Road section"].sensors] == [600.0, 120.0]


def test_what_is_left_out_is_the_default_city():
    found = load("name: x\n")
    city = build(devices=200, gateways=gateway_names(8), seed=1)
    assert found.city.devices == city.devices
    assert (found.seed, found.start, found.duration, found.speed, found.faults) == (1, None, None, 1.0, ())
    assert found.city.series.almanac.kind.tobytes() == holidays.kinds(holidays.vietnam()).tobytes()
    assert not schedule.plan(found.city).late.any()


def test_the_default_scenario_is_what_is_left_out():
    text = (files("citybeat.simulator") / "scenarios" / "quy_nhon.yaml").read_text("utf-8")
    found, bare = load(text), load("name: x\n")
    assert replace(found, name="x", city=bare.city) == bare
    assert found.city.devices == bare.city.devices
    assert found.city.types == bare.city.types


@pytest.mark.parametrize("name", SHIPPED)
def test_scenarios_that_ship_can_be_read_and_summed_up(name: str):
    text = (files("citybeat.simulator") / "scenarios" / name).read_text("utf-8")
    summary = load_scenario(text, name).summary()
    assert summary["devices"] == sum(summary["types"].values()) > 0
    assert summary["sensors"] > 0
    assert summary["readings_per_second"] > 0


def test_there_is_a_small_scenario_too():
    assert {"quy_nhon.yaml", "market_town.yaml"} <= set(SHIPPED)


def test_options_replace_what_the_scenario_says():
    text = FULL.replace("  gateways:\n    - {name: gw-e, districts: East}\n    - gw-w\n", "  gateways: 3\n")
    found = load(text, devices=9, gateways=2, seed=3)
    assert (len(found.city), found.seed, found.city.seed) == (9, 3, 3)
    assert found.city.gateways == ("gw-01", "gw-02")


CITY = "name: x\ncity:\n"
DISTRICTS = CITY + "  districts:\n"
FEEDER = "name: x\nintervals:\n  types:\n    Feeder:\n"


@pytest.mark.parametrize(
    ("text", "arguments", "line", "message"),
    [
        (CITY + "  devices: {Feeder: 2}\n", {"devices": 5}, 3, "city.devices: it counts devices by type"),
        (CITY + "  gateways: [a, b]\n", {"gateways": 5}, 3, "city.gateways: it names the gateways"),
    ],
)
def test_options_that_conflict_are_refused(text: str, arguments: dict, line: int, message: str):
    with pytest.raises(ScenarioError, match=re.escape(f"a.yaml, line {line}: {message}")):
        load(text, **arguments)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("seed: 1\n", 1, "key 'name' is missing"),
        ("name: 5\n", 1, "name: a text is expected, not the number 5"),
        ("name: x\nspeeed: 2\n", 2, "speeed: no such key here"),
        ("name: x\nspeed: 0\n", 2, "speed: a number above 0 is expected, not 0"),
        ("name: x\nspeed: fast\n", 2, "speed: a number is expected, not 'fast'"),
        ("name: x\nduration: 5 weeks\n", 2, "duration: seconds, or a length of time such as"),
        ("name: x\nduration: 0s\n", 2, "duration: a number above 0"),
        ("name: x\nduration: -5\n", 2, "duration: seconds"),
        ("name: x\nseed: 1.5\n", 2, "seed: a whole number"),
        ("name: x\nstart: 2026-02-16T18:00:00\n", 2, "start: a time with an offset"),
        ("name: x\nstart: 2026-02-16\n", 2, "start: a time with an offset"),
        ("name: x\nstart: yesterday\n", 2, "start: a time with an offset"),
        ("name: x\nstart: 2026-02-30T00:00:00Z\n", 2, "there is no such date"),
        ("name: x\nholidays: france\n", 2, "holidays: one of vietnam, none is expected, not 'france'"),
        ("name: x\nholidays: [2026-01-01, 7]\n", 2, "holidays: dates such as 2026-02-17 are expected, not the number 7"),
        ("name: x\nholidays: [2026-01-01T00:00:00Z]\n", 2, "holidays: dates such as"),
        ("name: x\nholidays:\n  days: 2026-01-01\n", 3, "holidays.days: a list of dates is expected"),
        ("name: x\nholidays:\n  tet: []\n", 3, "holidays.tet: no such key here"),
        ("name: x\ncity: 5\n", 2, "city: a mapping is expected"),
        (CITY + "  devices: -1\n", 3, f"city.devices: a whole number from 0 to {MAX_DEVICES} is expected, not -1"),
        (CITY + "  devices: 2.5\n", 3, "city.devices: a whole number"),
        (CITY + "  devices: lots\n", 3, "city.devices: a number is expected"),
        (CITY + "  devices:\n    Feeder: 1\n    Radio: 2\n", 5, "city.devices.Radio: no such type of devices; there are"),
        (CITY + "  devices: {Feeder: 900000, Water main: 900000}\n", 3, "city.devices: at most"),
        (CITY + "  devices: {Feeder: 1}\n  mix: {Feeder: 1}\n", 4, "city.mix: devices are counted by type"),
        (CITY + "  mix:\n    Feeder: -1\n", 4, "city.mix.Feeder: a number of at least 0"),
        (CITY + "  mix: {Feeder: 0}\n", 3, "city.mix: a weight above 0 is needed"),
        (CITY + "  mix: {weather: 1}\n", 3, "city.mix.weather: no such type"),
        (CITY + "  districts: []\n", 3, "city.districts: a list is expected"),
        (
            DISTRICTS + "    - {name: a, latitude: 1, longitude: 2}\n    - {name: a, latitude: 1, longitude: 3}\n",
            5,
            "'a' stands twice",
        ),
        (DISTRICTS + "    - {name: a, latitude: 100, longitude: 2}\n", 4, "city.districts[0].latitude: a number from -85 to 85"),
        (DISTRICTS + "    - {name: '', latitude: 1, longitude: 2}\n", 4, "city.districts[0].name: a name is expected"),
        (DISTRICTS + "    - {name: a, latitude: 1}\n", 4, "city.districts[0]: key 'longitude' is missing"),
        (CITY + "  gateways: 0\n", 3, "city.gateways: a whole number from 1"),
        (CITY + "  gateways: [a, a]\n", 3, "gateway 'a' stands twice"),
        (CITY + "  gateways: [ingest]\n", 3, "city.gateways[0].name: source 'ingest' is reserved"),
        (
            CITY + "  gateways:\n    - name: a\n      districts: [Nowhere]\n",
            5,
            "city.gateways[0].districts: there is no district 'Nowhere'",
        ),
        (CITY + "  gateways:\n    - {name: a, districts: [Ngô Mây]}\n", 3, "city: no gateway serves district 'Nhơn Bình'"),
        (CITY + "  gateways: [7]\n", 3, "city.gateways: mappings are expected in the list, not the number 7"),
        ("name: x\nintervals:\n  jitter: 1\n", 3, "intervals.jitter: a share of the interval"),
        ("name: x\nintervals:\n  scale: 0\n", 3, "intervals.scale: a number above 0"),
        ("name: x\nintervals:\n  scale: 0.000000001\n", 3, "intervals: 'Junction detector' would measure intensity every"),
        ("name: x\nintervals:\n  scale: 1000000000\n", 3, "intervals.scale: sensor 'intensity': interval must be at most"),
        ("name: x\nintervals:\n  types:\n    Radio: {}\n", 4, "intervals.types.Radio: no such type"),
        (FEEDER + "      jitter: -1\n", 5, "intervals.types.Feeder.jitter: a share"),
        (FEEDER + "      metrics: {pm25: 5}\n", 5, "intervals.types.Feeder.metrics.pm25: a device of type"),
        (FEEDER + "      metrics: {current: 0}\n", 5, "metrics.current: a number above 0"),
        (FEEDER + "      metrics: {current: 20000d}\n", 5, "intervals.types.Feeder: sensor 'current'"),
        ("name: x\nfaults: {}\n", 2, "faults: a list is expected"),
        ("name: x\nfaults:\n  - {kind: stuck, colour: red}\n", 3, "faults[0].colour: no such key here"),
        ("name: x\nname: y\n", 2, "key 'name' stands twice"),
        ("name: [\n", 2, "not YAML"),
    ],
)
def test_mistakes_are_named_with_file_line_and_key(text: str, line: int, message: str):
    with pytest.raises(ScenarioError) as caught:
        load(text)
    assert not isinstance(caught.value, MapError)
    found = re.match(r"a\.yaml, line (\d+): (.*)", str(caught.value), re.DOTALL)
    assert found is not None, str(caught.value)
    assert message in found[2]
    assert abs(int(found[1]) - line) <= (1 if "scale: 0.000000001" in text or "no gateway" in message else 0), str(caught.value)


def test_no_document_at_all_is_a_mistake_of_the_scenario():
    with pytest.raises(ScenarioError, match="a mapping is expected"):
        load("")


def test_own_lists_of_holidays():
    kinds = load("name: x\nholidays: [2026-07-14]\n").city.series.almanac.kind
    assert (kinds >= DayKind.HOLIDAY).sum() == 1
    assert (load("name: x\nholidays: none\n").city.series.almanac.kind >= DayKind.HOLIDAY).sum() == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", "0.25"), ("1.5 h", "5400"), ("2d", "172800"), (30, "30"), ("45s", "45"), ("3m", "180")],
)
def test_lengths_of_time(text: str | int, seconds: str):
    assert yamltext.parse(f"a: {text}\n", origin="x").seconds("a") == Decimal(seconds)


def test_every_key_of_the_reader_is_documented(monkeypatch: pytest.MonkeyPatch):
    text = (ROOT / "docs/scenarios.md").read_text("utf-8")
    documented = set(re.findall(r"^\| `([a-z_]+)`", text, re.MULTILINE))
    asked: set[str] = set()
    take = Keys._take

    def taken(self: Keys, key: str, *rest: object):
        if not self.where.endswith(("mix", "devices", "types", "metrics", "faults[0]")):  # names, and docs/faults.md
            asked.add(key)
        return take(self, key, *rest)

    monkeypatch.setattr(Keys, "_take", taken)
    load_scenario(FULL, "a.yaml")
    assert {"name", "gateways", "quiet", "jitter", "metrics"} <= asked
    assert documented == asked


def test_every_type_is_documented_with_what_it_measures():
    text = (ROOT / "docs/simulator.md").read_text("utf-8")
    for make in TYPES:
        row = re.search(rf"^\| {make.name} \|(.*)$", text, re.MULTILINE)
        assert row is not None, make.name
        assert all(sensor.metric in row[1] for sensor in make.sensors), make.name
    assert set(BY_NAME) == {make.name for make in TYPES}
