"""Mistakes in a file of devices are all reported, with their lines, and nothing else is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citybeat.api.files import devices_csv, imports
from citybeat.api.files.devices_csv import written
from citybeat.api.files.imports import Form, read
from citybeat.devices.catalogue import Domain, builtin
from citybeat.devices.device import Device

CATALOGUE = builtin()
HEADER = "id,source,domain,name,latitude,longitude,district,tag.owner,metric,unit,high,sentinels"


def lines(*rows, header=HEADER):
    return "\r\n".join([header, *rows]).encode()


def told(content, form=Form.CSV):
    return [(each.place, each.column, each.message) for each in read(content, form, CATALOGUE)[1]]


#: What can be wrong with a line, and the columns that must be named for it.
WRONG = {
    "source": {"source"},
    "place": {"latitude"},
    "metric": {"metric"},
    "unit": {"unit"},
    "number": {"high"},
    "codes": {"sentinels"},
    "short": {""},
}
#: Of a line that only adds a sensor.
OF_SENSORS = ["metric", "unit", "number", "codes", "short"]


def line_of(device, sensor, wrong):
    """A line of the file: the device on its first line, a sensor on each."""
    cells = dict.fromkeys(HEADER.split(","), "")
    if sensor == 0:
        cells |= {"id": device, "source": "gw", "domain": "environment", "latitude": "10.5", "longitude": "106.7"}
    cells |= {"metric": ["pm25", "pm10", "no2"][sensor], "high": "100"}
    for each in wrong:
        cells |= {
            "source": {"source": "a b"},
            "place": {"latitude": '"10,5"'},
            "metric": {"metric": "pm52"},
            "unit": {"unit": "kV"},
            "number": {"high": "much"},
            "codes": {"sentinels": "-1 none"},
            "short": {},
        }[each]
    return ",".join(list(cells.values())[: 9 if "short" in wrong else None])


@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from(sorted(WRONG)), max_size=3),
            st.lists(st.sets(st.sampled_from(OF_SENSORS), max_size=3), max_size=2),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_every_wrong_cell_is_told_and_nothing_else(devices):
    """Whatever is wrong before it, beside it, or on the first line of its device."""
    rows, expected = [], set()
    for number, (first, others) in enumerate(devices):
        for sensor, wrong in enumerate([first, *others]):
            rows.append(line_of(f"env-{number}", sensor, wrong))
            place = f"line {len(rows) + 1}"
            if "short" in wrong:  # its cells may be anybody's
                expected.add((place, ""))
            else:
                # Without a metric that there is, nothing can be said of the unit.
                seen = wrong - {"unit"} if "metric" in wrong else wrong
                expected |= {(place, column) for each in seen for column in WRONG[each]}
    content = lines(*rows)
    assert {(place, column) for place, column, _ in told(content)} == expected


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode), st.sampled_from(Form))
def test_whatever_is_sent_is_devices_or_mistakes(content, form):
    _, mistakes = read(content, form, CATALOGUE)
    assert all(mistake.message for mistake in mistakes)


@pytest.mark.parametrize("unreadable", ["env-2,gw", '"env-2"x,gw,environment,,,,,,pm10,,,'])
def test_lines_behind_one_that_cannot_be_read_are_of_no_other_device(unreadable):
    content = lines(
        "env-1,gw,environment,,,,,,pm25,,,", unreadable, ",,,,,,,,pm25,,,", ",,,,,,,,pm52,,,", "env-3,gw,energy,,,,,,,,,"
    )
    assert [(place, column) for place, column, _ in told(content)] == [("line 3", ""), ("line 5", "metric")]


def test_a_wrong_header_is_told_whatever_follows_it():
    content = lines("env-1,gw,energy", '"env-2"x,gw,energy', "env-3,gw,energy", header="ID,source,domain")
    assert [(place, column) for place, column, _ in told(content)] == [("line 1", "ID"), ("line 1", "id"), ("line 3", "")]
    assert "did you mean 'id'" in told(content)[0][2]


@given(st.dictionaries(st.text(' ";,\t\r\n=@-x', min_size=1, max_size=60), st.text(' "x', max_size=3), max_size=3))
def test_tags_of_any_name_are_read_again(tags):
    device = Device(id="a", source="gw", domain=Domain.ENERGY, sensors=(), tags=tags)
    entries, mistakes = read(written([device]).encode(), Form.CSV, CATALOGUE)
    assert ([entry.device for entry in entries], mistakes) == ([device], [])


def test_json_tells_all_that_is_wrong_with_an_entry():
    sensors = [
        {"metric": "pm52"},
        {"metric": "pm25", "unit": "kV"},
        {"metric": "pm10"},
        {"metric": "pm10"},
        {"metric": "no2", "hgih": 1},
    ]
    entry = {"id": "a", "source": "gw", "domain": "wether", "sensors": sensors}
    assert [(place, column) for place, column, _ in told(json.dumps([entry]).encode(), Form.JSON)] == [
        ("entry 0", "domain"),
        ("entry 0", "sensors.4.hgih"),
        ("entry 0", "sensors.0.metric"),
        ("entry 0", "sensors.1.unit"),
        ("entry 0", "sensors.3.metric"),
    ]


def test_a_file_has_so_many_lines_at_most(monkeypatch):
    monkeypatch.setattr(devices_csv, "MAX_LINES", 3)
    rows = [f"env-{i},gw,environment,,,,,,,,," for i in range(4)]
    assert len(read(lines(*rows[:3]), Form.CSV, CATALOGUE)[0]) == 3
    assert told(lines(*rows)) == [("file", "", "more than 3 lines; divide it")]


def test_a_file_has_so_many_devices_at_most(monkeypatch):
    monkeypatch.setattr(imports, "MAX_DEVICES", 3)
    rows = [f"env-{i},gw,energy" for i in range(4)]
    assert len(read(lines(*rows[:3], header="id,source,domain"), Form.CSV, CATALOGUE)[0]) == 3
    assert told(lines(*rows, header="id,source,domain")) == [("file", "", "more than 3 devices; divide it")]
