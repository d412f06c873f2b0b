"""Replay maps: what they may say, and that an error names the line and the key."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from citybeat.devices.catalogue import builtin, extended
from citybeat.devices.device import Sensor
from citybeat.simulator.errors import MapError
from citybeat.simulator.replay.localtime import Ambiguous, Nonexistent, Oddity, OddTimeError, TimeFormatError, TimeReader
from citybeat.simulator.replay.maps import BlankCells, BlankRows, load_map

MAPS = Path(__file__).parents[1] / "maps"

FULL = """\
file:
  encoding: latin-1
  delimiter: ";"
  decimal: ","
  blank_rows: reject
  blank_cells: omit
time:
  columns: [Date, Time]
  format: "%d/%m/%Y %H:%M:%S"
  zone: Europe/Paris
  nonexistent: shift_forward
  ambiguous: later
missing: ["?"]
devices:
  - id: main
    source: gw-1
    domain: energy
    name: Main
    district: Sceaux
    latitude: 48.8
    longitude: 2.3
    tags: {floor: "1"}
    files: ["a*.csv", b.csv]
    where: {id: "7"}
    columns:
      Power:
        metric: totalActivePower
        scale: 1000
        missing: ["Null"]
        sentinels: [-200, 1.5]
        low: -1
        high: 9000.5
        suspect_low: 0
        suspect_high: 8000
        rating: 10000
        interval: 60
"""


def test_every_key_is_read():
    found = load_map(FULL, origin="full.yaml")
    assert (found.text.encoding, found.text.delimiter, found.text.decimal) == ("latin-1", ";", ",")
    assert (found.text.blank_rows, found.text.blank_cells) == (BlankRows.REJECT, BlankCells.OMIT)
    assert found.time.columns == ("Date", "Time")
    assert str(found.time.zone) == "Europe/Paris"
    assert (found.time.nonexistent, found.time.ambiguous) == (Nonexistent.SHIFT_FORWARD, Ambiguous.LATER)
    (binding,) = found.bindings
    assert (binding.files, binding.where) == (("a*.csv", "b.csv"), (("id", "7"),))
    (column,) = binding.columns
    assert column.scale == Decimal(1000)
    assert column.missing == {"?", "Null"}
    assert column.sentinels == {Decimal(-200), Decimal("1.5")}
    (device,) = found.devices
    assert (device.id, device.source, device.name, device.district) == ("main", "gw-1", "Main", "Sceaux")
    assert (device.latitude, device.longitude, dict(device.tags)) == (48.8, 2.3, {"floor": "1"})
    assert device.sensors == (
        Sensor(
            metric="totalActivePower",
            low=-1,
            high=9000.5,
            suspect_low=0,
            suspect_high=8000,
            rating=10000,
            interval=60,
            sentinels=(-200.0, 1.5),
        ),
    )
    assert found.sources == ("gw-1",)


def test_scales_are_taken_digit_by_digit():
    found = load_map(FULL.replace("scale: 1000", "scale: 0.1000000000000000055511151231257827"), origin="m")
    assert found.bindings[0].columns[0].scale == Decimal("0.1000000000000000055511151231257827")


def test_devices_are_chosen_by_file_name():
    found = load_map(FULL, origin="m")
    assert found.devices_of(["a1.csv"]) == found.devices
    assert found.devices_of(["b.csv"]) == found.devices
    assert found.devices_of(["c.csv"]) == ()


def test_aliases_of_yaml_may_repeat_columns():
    text = """\
time: {columns: [t], format: unix}
devices:
  - {id: a, source: s, domain: traffic, files: a.csv, columns: &columns {v: {metric: occupancy, scale: 0.01}}}
  - {id: b, source: s, domain: traffic, files: b.csv, columns: *columns}
"""
    a, b = load_map(text, origin="m").bindings
    assert a.columns == b.columns


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("file:", "fyle:", "line 1: fyle: no such key"),
        ('delimiter: ";"', 'delimiter: ";;"', "line 3: file.delimiter: one character"),
        ('decimal: ","', "decimal: x", "line 4: file.decimal: one of ., ,"),
        ("encoding: latin-1", "encoding: latin-99", "line 2: file.encoding: no such encoding"),
        ("encoding: latin-1", "encoding: utf-16", "line 2: file.encoding: utf-16 has no lines"),
        ("blank_rows: reject", "blank_rows: drop", "line 5: file.blank_rows: one of count, reject"),
        ("blank_cells: omit", "columns: [a]", "line 6: file.columns: the header names"),
        ("blank_cells: omit", "header: false", "file: columns: without a header|file.columns: without a header"),
        ("blank_cells: omit", "header: yes please", "file.header: true or false"),
        ("columns: [Date, Time]", "columns: []", "time.columns: at least one"),
        ("columns: [Date, Time]", "columns: [1]", "time.columns: a list of texts is expected"),
        ('format: "%d/%m/%Y %H:%M:%S"', "format: german", "line 9: time.format"),
        ("zone: Europe/Paris", "zone: Europe/Berlin West", "line 10: time.zone: no such time zone"),
        ("  zone: Europe/Paris\n", "", "key 'zone' is missing"),
        ("nonexistent: shift_forward", "nonexistent: ignore", "line 11: time.nonexistent: one of reject"),
        ("ambiguous: later", "ambiguous: both", "line 12: time.ambiguous: one of reject"),
        ("ambiguous: later", "ambigous: later", "line 12: time.ambigous: no such key"),
        ("id: main", "id: 17", "line 15: devices.0.\\.id: a text is expected, not the number 17; put it in quotes"),
        ("  - id: main\n    source", "  - source", "line 15: devices.0.: key 'id' is missing"),
        ("source: gw-1", "source: ingest", "source 'ingest' is reserved"),
        ("domain: energy", "domain: money", "line 17: devices.0.\\.domain: one of traffic"),
        ("latitude: 48.8", "latitude: 98.8", "latitude 98.8"),
        ("latitude: 48.8", "latitude: north", "line 20: devices.0.\\.latitude: a number is expected, not 'north'"),
        ('where: {id: "7"}', "where: {id: 7}", "where.id: a text is expected"),
        ("metric: totalActivePower", "name: x", "columns.Power: key 'metric' is missing"),
        ("scale: 1000", "scale: 0", "line 28: devices.0.\\.columns.Power.scale"),
        ("scale: 1000", "scale: .inf", "line 28: .inf is not a plain decimal number"),
        ('missing: ["Null"]', "missing: [No]", "a list of texts is expected"),
        ("sentinels: [-200, 1.5]", "sentinels: -200", "line 30: .*sentinels: a list of numbers"),
        ("interval: 60", "interval: 0", "interval must be above 0"),
        ("high: 9000.5", "low: 9000.5", "line 32: key 'low' stands twice"),
        ("devices:", "devices: []\nx:", "line 14: devices: a list is expected"),
        ("devices:", "devices: [1]\nx:", "mappings are expected"),
        ("time:", "time: [1]\ny:", "time: a mapping is expected"),
        ("file:", "file: }", "line 1: not YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, message: str):
    assert old in FULL
    with pytest.raises(MapError, match=f"^bad.yaml.*{message}"):
        load_map(FULL.replace(old, new, 1), origin="bad.yaml")


@pytest.mark.parametrize("text", ["", "[]", "just text", "3"])
def test_a_map_is_a_mapping(text: str):
    with pytest.raises(MapError, match=r"^m: a mapping is expected"):
        load_map(text, origin="m")


def test_a_device_stands_once():
    text = FULL + FULL.partition("devices:\n")[2]
    with pytest.raises(MapError, match="device 'main' stands twice"):
        load_map(text, origin="m")


def test_without_a_header_all_columns_are_named():
    text = """\
file: {header: false, columns: [t, v]}
time: {columns: [t], format: unix}
devices: [{id: a, source: s, domain: traffic, columns: {w: {metric: occupancy}}}]
"""
    with pytest.raises(MapError, match=r"file\.columns has no column 'w'"):
        load_map(text, origin="m")
    assert load_map(text.replace("w:", "v:"), origin="m").text.columns == ("t", "v")


@pytest.mark.parametrize("path", sorted(MAPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_maps_load_and_name_metrics_that_exist(path: Path):
    catalogue = builtin()
    more = path.with_name(f"{path.stem}_catalogue.toml")
    if more.exists():
        catalogue = extended(more.read_text(), origin=more.name)
    found = load_map(path.read_text(), origin=path.name)
    assert {sensor.metric for device in found.devices for sensor in device.sensors} <= catalogue.keys()


# --- times


def us(text: str) -> int:
    return round((datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)


def wall(zone: str, **policies: object) -> TimeReader:
    text = f"time: {{columns: [t], format: '%Y-%m-%d %H:%M', zone: {zone}, {', '.join(f'{k}: {v}' for k, v in policies.items())}}}"
    return load_map(text + "\ndevices: [{id: a, source: s, domain: traffic, columns: {v: {metric: occupancy}}}]", origin="m").time


@pytest.mark.parametrize(
    ("zone", "before", "gap", "forward", "backward"),
    [
        ("America/Los_Angeles", "2019-03-10 01:59", "2019-03-10 02:30", "2019-03-10T03:30-07:00", "2019-03-10T01:30-08:00"),
        ("Europe/Paris", "2013-03-31 01:59", "2013-03-31 02:00", "2013-03-31T03:00+02:00", "2013-03-31T01:00+01:00"),
        ("Australia/Lord_Howe", "2019-10-06 01:59", "2019-10-06 02:15", "2019-10-06T02:45+11:00", "2019-10-06T01:45+10:30"),
    ],
)
def test_a_time_that_the_clock_skipped(zone: str, before: str, gap: str, forward: str, backward: str):
    assert wall(zone).read(before)[1] is None
    with pytest.raises(OddTimeError, match="does not exist") as caught:
        wall(zone).read(gap)
    assert caught.value.oddity is Oddity.NONEXISTENT
    assert wall(zone, nonexistent="shift_forward").read(gap) == (us(forward), Oddity.NONEXISTENT)
    assert wall(zone, nonexistent="shift_backward").read(gap) == (us(backward), Oddity.NONEXISTENT)


@pytest.mark.parametrize(
    ("zone", "text", "earlier", "later"),
    [
        ("America/Los_Angeles", "2018-11-04 01:30", "2018-11-04T01:30-07:00", "2018-11-04T01:30-08:00"),
        ("Europe/Paris", "2013-10-27 02:00", "2013-10-27T02:00+02:00", "2013-10-27T02:00+01:00"),
    ],
)
def test_a_time_that_the_clock_showed_twice(zone: str, text: str, earlier: str, later: str):
    with pytest.raises(OddTimeError, match="exists twice") as caught:
        wall(zone).read(text)
    assert caught.value.oddity is Oddity.AMBIGUOUS
    assert wall(zone, ambiguous="earlier").read(text) == (us(earlier), Oddity.AMBIGUOUS)
    assert wall(zone, ambiguous="later").read(text) == (us(later), Oddity.AMBIGUOUS)


def test_the_edges_of_a_change_are_exact():
    reader = wall("Europe/Paris", ambiguous="earlier")
    assert reader.read("2013-10-27 01:59") == (us("2013-10-27T01:59+02:00"), None)
    assert reader.read("2013-10-27 03:00") == (us("2013-10-27T03:00+01:00"), None)
    assert reader.read("2013-03-31 03:00") == (us("2013-03-31T03:00+02:00"), None)


@pytest.mark.parametrize(
    ("reader", "text", "expected"),
    [
        (TimeReader(columns=("t",), format="iso"), "2018-04-02T11:49:00Z", "2018-04-02T11:49:00+00:00"),
        (TimeReader(columns=("t",), format="iso"), "2018-04-02T11:49:00.123456+02:00", "2018-04-02T11:49:00.123456+02:00"),
        (TimeReader(columns=("t",), format="iso"), "2018-04-02T11:49:00.1234560Z", "2018-04-02T11:49:00.123456+00:00"),
        (TimeReader(columns=("t",), format="%Y-%m-%d %H:%M:%S %z"), "2018-04-02 11:49:00 -0330", "2018-04-02T11:49:00-03:30"),
        (TimeReader(columns=("t",), format="unix"), "1522669740.25", "2018-04-02T11:49:00.25+00:00"),
        (TimeReader(columns=("t",), format="unix_ms"), "1522669740250", "2018-04-02T11:49:00.25+00:00"),
        (TimeReader(columns=("t",), format="unix"), "-1", "1969-12-31T23:59:59+00:00"),
    ],
)
def test_formats(reader: TimeReader, text: str, expected: str):
    assert reader.read(text) == (us(expected), None)


def test_a_fraction_of_any_length():
    reader = TimeReader(columns=("t",), format="%Y-%m-%dT%H:%M:%S%z", fraction=True)
    iso = TimeReader(columns=("t",), format="iso", fraction=True, zone=wall("UTC").zone)
    assert iso.read("2012-10-12 00:30:00.0000000") == (us("2012-10-12T00:30+00:00"), None)
    assert iso.read("2012-10-12 00:30:00.1234560") == (us("2012-10-12T00:30:00.123456+00:00"), None)
    assert iso.read("2012-10-12 00:30:00,5") == (us("2012-10-12T00:30:00.5+00:00"), None)
    with pytest.raises(TimeFormatError, match="finer than a microsecond"):
        iso.read("2012-10-12 00:30:00.1234567")
    with pytest.raises(TimeFormatError, match="no fraction"):
        reader.read("2012-10-12T00:30:00+0000")


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("iso", "2018-04-02T11:49:00", "no offset"),
        ("iso", "yesterday", "not a time"),
        ("iso", "2018-04-02T11:49:00.1234567Z", "finer"),
        ("iso", "", "not a time"),
        ("%d/%m/%Y", "30/02/2018", "not a time"),
        ("unix", "soon", "not a number"),
        ("unix", "nan", "not a number|outside"),
        ("unix", "1e30", "outside the years"),
        ("unix", "1.0000001", "finer"),
        ("unix_ms", "253402300800000", "outside the years"),
    ],
)
def test_what_is_no_time(form: str, text: str, message: str):
    with pytest.raises(TimeFormatError, match=message):
        TimeReader(columns=("t",), format=form).read(text)


def test_the_first_and_last_years():
    reader = wall("America/Los_Angeles")
    with pytest.raises(TimeFormatError, match="outside the years"):
        wall("Asia/Tokyo").read("0001-01-01 00:00")
    assert reader.read("0001-01-01 00:00")[0] < 0
