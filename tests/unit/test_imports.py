"""Files of devices: every mistake is told with its place, and what is written is read again."""

import csv
import json
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citybeat.api.files.devices_csv import written
from citybeat.api.files.imports import Form, read
from citybeat.devices.catalogue import Domain, builtin
from citybeat.devices.device import Device, Sensor
from citybeat.devices.units import UnitError, conversion

CATALOGUE = builtin()
HEADER = "id,source,domain,name,latitude,longitude,district,tag.owner,metric,unit,high,sentinels"


def lines(*rows, header=HEADER, separator=","):
    return "\r\n".join([header, *rows]).replace(",", separator).encode()


def converts(unit, metric):
    try:
        conversion(unit, metric.unit)
    except UnitError:
        return False
    return True


def devices_of(content, form=Form.CSV):
    entries, mistakes = read(content, form, CATALOGUE)
    assert mistakes == []
    return [entry.device for entry in entries]


def told(content, form=Form.CSV):
    return [(each.place, each.column, each.message) for each in read(content, form, CATALOGUE)[1]]


#: Whatever may be said, and often what a spreadsheet would take for something else.
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from("\"=+-@ ,;\t\r\n'"), max_size=8).map(
    lambda text: unicodedata.normalize("NFC", text)
)
NUMBERS = st.none() | st.floats(-1e6, 1e6)
UNITS = {
    metric.name: [unit for unit in ("Cel", "[degF]", "%", "kW", metric.unit) if converts(unit, metric)]
    for metric in CATALOGUE.values()
}
SENSORS = st.lists(
    st.builds(
        Sensor,
        metric=st.sampled_from(sorted(CATALOGUE)),
        high=NUMBERS,
        interval=st.none() | st.floats(0.1, 1e5),
        step_floor=st.none() | st.floats(0, 1e5),
        sentinels=st.lists(st.floats(-1e4, 1e4), max_size=3).map(tuple),
    ).flatmap(lambda sensor: st.sampled_from([None, *UNITS[sensor.metric]]).map(lambda unit: replace(sensor, unit=unit))),
    max_size=4,
    unique_by=lambda sensor: sensor.metric,
)
DEVICES = st.lists(
    st.builds(
        Device,
        id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,20}", fullmatch=True),
        source=st.from_regex(r"gw-[0-9]{1,3}", fullmatch=True),
        domain=st.sampled_from(Domain),
        name=WORDS,
        district=WORDS,
        tags=st.dictionaries(WORDS.map(str.strip).filter(bool), WORDS, max_size=3),
        sensors=SENSORS.map(tuple),
    ),
    max_size=6,
    unique_by=lambda device: device.id,
)


@given(DEVICES)
def test_what_is_written_is_read_to_the_same(devices):
    assert devices_of(written(devices).encode()) == devices


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_line_a_sensor(separator, mark):
    content = mark + lines(
        "env-1,gw,environment,Bến Thành,10.5,106.7,north,parks,pm25,,999.9,-1 -2",
        ",,,,,,,,temperature,[degF],,",
        "",
        "env-2,gw,environment,,,,,,,,,",
        separator=separator,
    )
    first, second = devices_of(content)
    assert first == Device(
        id="env-1",
        source="gw",
        domain=Domain.ENVIRONMENT,
        name="Bến Thành",
        latitude=10.5,
        longitude=106.7,
        district="north",
        tags={"owner": "parks"},
        sensors=(Sensor(metric="pm25", high=999.9, sentinels=(-1.0, -2.0)), Sensor(metric="temperature", unit="[degF]")),
    )
    assert second == Device(id="env-2", source="gw", domain=Domain.ENVIRONMENT, sensors=())


def test_json_and_geojson_say_the_same():
    one = {"id": "env-1", "source": "gw", "domain": "environment", "sensors": [{"metric": "pm25"}], "tags": {"owner": "parks"}}
    plain = devices_of(json.dumps([one | {"latitude": 10.5, "longitude": 106.7}]).encode(), Form.JSON)
    feature = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [106.7, 10.5]}, "properties": one}
    assert devices_of(json.dumps({"type": "FeatureCollection", "features": [feature]}).encode(), Form.GEOJSON) == plain


@pytest.mark.parametrize(
    ("content", "place", "column", "words"),
    [
        (lines("env-1,gw,environment,,10,5,x,,pm25,,1,2,3"), "line 2", "", "13 cells, the header has 12"),
        (lines("env-1,gw,weather,,,,,,,,,"), "line 2", "domain", "Input should be"),
        (lines("env 1,gw,environment,,,,,,,,,"), "line 2", "id", "pattern"),
        (lines(",gw,environment,,,,,,,,,"), "line 2", "id", "required"),
        (lines("env-1,admin,environment,,,,,,,,,"), "line 2", "source", "reserved"),
        (lines('env-1;gw;environment;;"10,5";106;;;;;;', header=HEADER.replace(",", ";")), "line 2", "latitude", "decimal point"),
        (lines("env-1,gw,environment,,99,106,,,,,,"), "line 2", "latitude", "less than or equal to 90"),
        (lines("env-1,gw,environment,,10,,,,,,,"), "line 2", "", "together"),
        (lines("env-1,gw,environment,,,,,,pm52,,,"), "line 2", "metric", "did you mean 'pm25'"),
        (lines("env-1,gw,environment,,,,,,pm25,,,", ",,,,,,,,pm25,,,"), "line 3", "metric", "on line 2 already"),
        (lines("env-1,gw,environment,,,,,,pm25,,,", ",,,,,,,,no2,,x,"), "line 3", "high", "not a number"),
        (lines("env-1,gw,environment,,,,,,pm25,,,", ",,,,,,,,no2,,nan,"), "line 3", "high", "not a number"),
        (lines("env-1,gw,environment,,,,,,pm25,,1_000,"), "line 2", "high", "not a number"),
        (lines("env-1,gw,environment,,,,,,pm25,,1e999,"), "line 2", "high", "finite"),
        (lines("env-1,gw,environment,,,,,,pm25,,,-1 x"), "line 2", "sentinels", "'x': not a number"),
        (lines("env-1,gw,environment,,,,,,pm25,Cel,,", ",,,,,,,,no2,ppb,,"), "line 2", "unit", "'Cel' cannot become 'ug/m3'"),
        (lines("env-1,gw,environment,,,,,,pm25,Cel,,", ",,,,,,,,no2,ppb,,"), "line 3", "unit", "ppb"),
        (lines("env-1,gw,environment,,,,,,,,5,"), "line 2", "metric", "needs its metric"),
        (lines("env-1,gw,environment,,,,,,pm25,,,", "env-1,gw-2,environment,,,,,,no2,,,"), "line 3", "source", "'gw' on line 2"),
        (lines("a,gw,environment,,,,,,,,,", "b,gw,environment,,,,,,,,,", "a,gw,environment,,,,,,,,,"), "line 4", "id", "line 2"),
        (lines("x", header="id,sorce,domain"), "line 1", "sorce", "did you mean 'source'"),
        (lines("x", header="id,domain"), "line 1", "source", "missing"),
        (lines("x", header="id,id,source,domain"), "line 1", "id", "twice"),
        (b'id,source,domain\r\n"env-1,gw,environment', "line 2", "", "not CSV"),
        (b"id,source,domain\nenv-1,gw,environment\nc\xe0u,gw,environment", "line 3", "", "UTF-8"),
        (b"", "line 1", "", "header"),
        (lines("env-1,gw,environment,,,,,,pm52,,,").decode().encode("utf-16"), "file", "", "UTF-16"),
        (b"sep=;\r\n" + lines("env-1,gw,environment,,,,,,pm52,,,", separator=";"), "line 3", "metric", "pm25"),
        (lines('env-1,gw,environment,"two\nlines",,,,,,,,', "env-2,gw,weather,,,,,,,,,"), "line 4", "domain", "Input"),
        (lines('"env-1"x,gw,environment,,,,,,,,,', "env-2,gw,weather,,,,,,,,,"), "line 3", "domain", "Input"),
    ],
)
def test_what_is_wrong_with_csv(content, place, column, words):
    assert any((p, c) == (place, column) and words in message for p, c, message in told(content)), told(content)


@pytest.mark.parametrize(
    ("content", "form", "place", "column", "words"),
    [
        (b"{}", Form.JSON, "file", "", "array"),
        (b"[\n{,}]", Form.JSON, "line 2", "", "not JSON"),
        (b'[{"id": "a", "source": "gw"}, 7]', Form.JSON, "entry 0", "domain", "required"),
        (b'[{"id": "a", "source": "gw"}, 7]', Form.JSON, "entry 1", "", "Input should be"),
        (
            b'[{"id": "a", "source": "gw", "domain": "energy", "sensors": [{"metric": "pm25", "hgih": 1}]}]',
            Form.JSON,
            "entry 0",
            "sensors.0.hgih",
            "no such",
        ),
        (
            b'[{"id": "a", "source": "gw", "domain": "energy", "sensors": [{"metric": "pm25", "high": "1"}]}]',
            Form.JSON,
            "entry 0",
            "sensors.0.high",
            "number",
        ),
        (b"[]", Form.GEOJSON, "file", "", "FeatureCollection"),
        (b'{"type": "FeatureCollection", "features": [{}]}', Form.GEOJSON, "entry 0", "", "Feature"),
        (
            b'{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {}, "geometry": {"type": "Line"}}]}',
            Form.GEOJSON,
            "entry 0",
            "geometry",
            "Point",
        ),
    ],
)
def test_what_is_wrong_with_json(content, form, place, column, words):
    assert any((p, c) == (place, column) and words in message for p, c, message in told(content, form)), told(content, form)


def test_a_spreadsheet_takes_no_text_for_a_formula():
    device = Device(id="a", source="gw", domain=Domain.ENERGY, sensors=(), name="=HYPERLINK(1)", tags={"x": "@sum", "y": ""})
    (_, row) = written([device]).splitlines()
    cells = next(csv.reader([row]))
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert devices_of(written([device]).encode()) == [device]


def test_of_a_wrong_device_only_what_is_wrong_is_told():
    """Lines without an id are of the device above them, though that is wrong itself."""
    content = lines(
        "env-1,gw,environment,one,,,,,pm25,,,",
        'env-2,gw,environment,two,"10,5",106,,,pm25,,,',
        ",,,two,,,,,temperature,,,",
        ",,,two,,,,,no2,,x,",
        "env-3,gw,environment,,,,,,pm25,,,",
    )
    assert [(place, column) for place, column, _ in told(content)] == [("line 3", "latitude"), ("line 5", "high")]


@given(
    st.lists(
        st.sampled_from(["good", "domain", "metric", "number", "short", "unit", "twice", "more", "bad more", "quote"]),
        min_size=1,
        max_size=30,
    )
)
def test_every_bad_line_is_told(kinds):
    rows = {
        "unit": "{id},gw,environment,,,,,,pm25,Cel,,",
        "quote": '"{id}"x,gw,environment,,,,,,pm25,,,',
        "twice": "first,gw,environment,,,,,,pm25,,,",
        "more": ",,,,,,,,{metric},,,",
        "bad more": ",,,,,,,,{metric},,-,",
        "good": "{id},gw,environment,,,,,,pm25,,,",
        "domain": "{id},gw,wether,,,,,,pm25,,,",
        "metric": "{id},gw,environment,,,,,,pm52,,,",
        "number": '{id},gw,environment,,,,,,pm25,,"1,5",',
        "short": "{id},gw",
    }
    metrics = sorted(set(CATALOGUE) - {"pm25"})
    filled = [rows[kind].format(id=f"env-{i}", metric=metrics[i % len(metrics)]) for i, kind in enumerate(kinds)]
    content = lines("first,gw,environment,,,,,,,,,", "second,gw,environment,,,,,,,,,", *filled)
    bad = {f"line {i + 4}" for i, kind in enumerate(kinds) if kind not in {"good", "more"}}
    assert {place for place, _, _ in told(content)} == bad
    places = [place for place, _, _ in told(content)]
    assert places == sorted(places, key=lambda place: int(place.split()[1]))
