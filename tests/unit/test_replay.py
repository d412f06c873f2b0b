"""The shell of a replay, with a transport that keeps everything in memory; and our maps, on a few lines of each data set."""
# ruff: noqa: ARG002 - a transport has the arguments that it has

import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pytest

from citybeat.devices.wire import reports
from citybeat.simulator.errors import PublishError, PublishStoppedError, RecordingError
from citybeat.simulator.replay.files import replay
from citybeat.simulator.replay.maps import load_map

MAPS = Path(__file__).parents[1] / "maps"

MAP = """\
time: {columns: [t], format: unix}
devices:
  - {id: a, source: gw-1, domain: environment, where: {d: "a"}, columns: {x: {metric: pm25}, y: {metric: pm10}}}
  - {id: b, source: gw-2, domain: environment, where: {d: "b"}, columns: {x: {metric: pm25}}}
"""


class Memory:
    def __init__(self, log: list) -> None:
        self.sent = self.sent_readings = self.acknowledged_messages = self.acknowledged_readings = 0
        self.refused_messages = self.refused_readings = 0
        self.refused: Counter[str] = Counter()
        self.payloads: list[bytes] = []
        self.log = log

    def publish(self, channel: str, payload: bytes, *, readings: int) -> None:
        self.payloads.append(payload)
        self.log.append(time.monotonic())
        self.sent += 1
        self.sent_readings += readings
        self.acknowledged_messages += 1
        self.acknowledged_readings += readings

    def drain(self, timeout: float) -> bool:
        return True

    def close(self) -> None:
        self.log.append("closed")


class Setting:
    """A replay of some text, and what was sent."""

    def __init__(self, tmp_path: Path, text: str, *, replay_map: str = MAP, **options) -> None:
        self.path = tmp_path / "rec.csv"
        self.path.write_text(text)
        self.log: list = []
        self.links: dict[str, Memory] = {}
        self.registered: list = []
        self.report = replay(
            [self.path],
            load_map(replay_map, origin="map.yaml"),
            url="",
            passwords={"gw-1": None, "gw-2": None},
            register=self.register,
            connect=self.connect,
            **options,
        )

    def register(self, devices) -> None:
        assert not self.links
        self.registered += devices

    def connect(self, source: str, password: str | None) -> Memory:
        self.links[source] = Memory(self.log)
        return self.links[source]

    def decoded(self, source: str) -> reports.Decoded:
        payloads = self.links[source].payloads
        return reports.decode(payloads, [source] * len(payloads), np.zeros(len(payloads), np.int64))


ROWS = "t,d,x,y\n5,a,1,2\n3,b,3,\n,,,\n4,a,,7\n4,a,oops,7\n2,b,?,\n1,c,1,1\n9,a,8,9\n"


def test_rows_go_out_in_the_files_order_and_the_accounts_add_up(tmp_path: Path):
    done = Setting(tmp_path, ROWS, batch=2)
    assert [device.id for device in done.registered] == ["a", "b"]
    a, b = done.decoded("gw-1"), done.decoded("gw-2")
    assert a.time.tolist() == [5_000_000] * 2 + [4_000_000] * 2 + [9_000_000] * 2
    assert a.metric == ["pm25", "pm10"] * 3
    assert [None if np.isnan(v) else v for v in a.value.tolist()] == [1, 2, None, 7, 8, 9]
    assert (b.time.tolist(), b.value.tolist()) == ([3_000_000], [3.0])
    assert a.seq.tolist() == [0, 1]
    report = done.report
    assert (report.rows, report.replayed_rows, report.blank_rows, report.rejected_rows) == (8, 4, 1, 3)
    assert report.rejected_by_reason == {"number": 2, "no_device": 1}
    assert [(finding.file, finding.line, finding.reason) for finding in report.rejected] == [
        ("rec.csv", 6, "number"),
        ("rec.csv", 7, "number"),
        ("rec.csv", 8, "no_device"),
    ]
    assert (report.missing_cells, report.readings_read, report.readings, report.messages) == (1, 7, 7, 3)
    assert (report.unsent_readings, report.stopped, report.complete) == (0, False, True)
    assert [(source.source, source.last_seq, source.boot) for source in report.sources] == [
        ("gw-1", 1, a.boot[0]),
        ("gw-2", 0, b.boot[0]),
    ]


def test_the_report_is_json(tmp_path: Path):
    report = orjson.loads(orjson.dumps(Setting(tmp_path, ROWS).report.as_dict()))
    assert report["rejected"][0] == {
        "file": "rec.csv",
        "line": 6,
        "reason": "number",
        "detail": "column 'x': 'oops' is not a number",
    }
    assert report["readings"] == 7
    assert report["times"] == {"nonexistent": 0, "ambiguous": 0}
    assert report["policies"] == {"nonexistent": "reject", "ambiguous": "reject"}
    assert report["sources"][0]["source"] == "gw-1"


def test_the_list_of_rejected_rows_is_capped_and_the_count_is_not(tmp_path: Path):
    report = Setting(tmp_path, "t,d,x,y\n" + "1,a,bad,\n" * 1500).report
    assert report.rejected_rows == report.rejected_by_reason["number"] == 1500
    assert len(report.rejected) == 1000


def test_doubtful_times_are_counted_whatever_the_policy(tmp_path: Path):
    replay_map = MAP.replace("format: unix", "format: '%Y-%m-%d %H:%M', zone: Europe/Paris, ambiguous: later")
    rows = "t,d,x,y\n2013-03-31 02:30,a,1,1\n2013-10-27 02:30,a,1,1\n2013-10-27 02:40,a,1,1\n"
    report = Setting(tmp_path, rows, replay_map=replay_map).report
    assert report.times == {"nonexistent": 1, "ambiguous": 2}
    assert report.policies == {"nonexistent": "reject", "ambiguous": "later"}
    assert (report.rejected_rows, report.replayed_rows) == (1, 2)


def test_by_the_recordings_own_clock(tmp_path: Path):
    rows = "t,d,x,y\n" + "".join(f"{t},a,1,1\n" for t in (100, 110, 105, 130, 140))
    begun = time.monotonic()
    done = Setting(tmp_path, rows, speed=100)
    sent = [at - begun for at in done.log if at != "closed"]
    assert done.decoded("gw-1").time.tolist() == [t * 1_000_000 for t in (100, 100, 110, 110, 105, 105, 130, 130, 140, 140)]
    assert 0.3 <= sent[-1] < 5  # 40 s at a hundred times the speed; a busy machine may take longer
    assert len(sent) >= 3


def test_a_replay_can_be_stopped(tmp_path: Path):
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    report = Setting(tmp_path, "t,d,x,y\n1,a,1,1\n2,a,1,1\n9999,a,1,1\n", speed=1, stop=stop).report
    assert report.stopped
    assert report.unsent_readings > 0
    assert report.readings + report.unsent_readings == report.readings_read


def test_a_replay_that_waits_for_room_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self, channel: str, payload: bytes, *, readings: int) -> None:
        raise PublishStoppedError("full")

    monkeypatch.setattr(Memory, "publish", full)
    stop = threading.Event()
    stop.set()
    report = Setting(tmp_path, ROWS, batch=1, stop=stop).report
    assert (report.readings, report.unsent_readings) == (0, report.readings_read)


def test_progress_is_told(tmp_path: Path):
    told: list = []
    Setting(tmp_path, ROWS, progress=told.append)
    assert (told[-1].readings, told[-1].rejected_rows, told[-1].file, told[-1].time) == (7, 3, "rec.csv", 9_000_000)


def test_nothing_is_registered_or_sent_if_a_file_does_not_fit(tmp_path: Path):
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text(ROWS)
    bad.write_text("q\n")

    def never(*_arguments) -> None:
        raise AssertionError

    options = {"url": "", "passwords": {"gw-1": None, "gw-2": None}, "register": never, "connect": never}
    with pytest.raises(RecordingError, match=r"bad\.csv: column 't'"):
        replay([good, bad], load_map(MAP, origin="m"), **options)
    with pytest.raises(RecordingError, match=r"absent\.csv: cannot be read"):
        replay([tmp_path / "absent.csv"], load_map(MAP, origin="m"), **options)
    with pytest.raises(PublishError, match="no credentials for source gw-1, gw-2"):
        replay([good], load_map(MAP, origin="m"), **{**options, "passwords": {}})
    with pytest.raises(ValueError, match="speed"):
        replay([good], load_map(MAP, origin="m"), speed=0, **options)
    with pytest.raises(ValueError, match="hold 0 reports"):
        replay([good], load_map(MAP, origin="m"), batch=0, **options)


# --- recordings in the forms of the data sets of tests/maps, whose own files tests/acceptance/test_recorded.py replays

#: Of each map: files by name, and what the report says of them, beside NOTHING.
CASES: dict[str, tuple[dict[str, str], dict]] = {
    "lcl": (
        {
            "LCL_MAC000002.csv": """\
LCLid,DateTime,KWH/hh (per half hour)
MAC000002,2012-12-18 15:00:00.0000000, 0.219
MAC000002,2012-12-18 15:13:41.0000000,Null
MAC000002,2012-12-18 15:30:00.0000000, 0\x20
"""
        },
        {"rows": 3, "readings": 3, "missing_cells": 1},
    ),
    "household": (
        {
            "household.txt": """\
Date;Time;Global_active_power;Global_reactive_power;Voltage;Global_intensity;Sub_metering_1;Sub_metering_2;Sub_metering_3
16/12/2006;17:24:00;4.216;0.418;234.840;18.400;0.000;1.000;17.000
16/12/2006;17:25:00;?;?;?;?;?;?;
16/12/2006;17:26:00;5.374;0.498;233.290;23.000;0.000;2.000;17.000
16/12/2006;17:27:00;5.388;0.5
"""
        },
        {"rows": 4, "readings": 3 * 7, "missing_cells": 7, "rejected_by_reason": {"fields": 1}},
    ),
    "airquality": (
        {
            "AirQualityUCI.csv": """\
Date;Time;CO(GT);PT08.S1(CO);NMHC(GT);C6H6(GT);PT08.S2(NMHC);NOx(GT);PT08.S3(NOx);NO2(GT);PT08.S4(NO2);PT08.S5(O3);T;RH;AH;;
10/03/2004;18.00.00;2,6;1360;150;11,9;1046;166;1056;113;1692;1268;13,6;48,9;0,7578;;
10/03/2004;19.00.00;-200;1292;-200;9,4;955;103;1174;92;1559;972;13,3;-200;0,7255;;
;;;;;;;;;;;;;;;;
"""
        },
        {"rows": 3, "blank_rows": 1, "readings": 2 * 13, "sentinel_cells": 3},
    ),
    "nab": (
        {
            "speed_6005.csv": "timestamp,value\n2015-08-31 18:22:00,90\n2015-08-31 18:32:00,81\n",
            "occupancy_6005.csv": "timestamp,value\n2015-09-01 13:45:00,3.06\n",
            "TravelTime_387.csv": "timestamp,value\n2015-07-10 14:24:00,564\n",
        },
        {"rows": 4, "readings": 4},
    ),
    # The clock skipped 02:00 on 10 March 2019, and had 01:00 twice on 3 November.
    "fremont": (
        {
            "FremontBridge.csv": """\
Date,Fremont Bridge East Sidewalk,Fremont Bridge West Sidewalk
03/10/2019 01:00:00 AM,4,3
03/10/2019 02:00:00 AM,,
03/10/2019 03:00:00 AM,,2
11/03/2019 01:00:00 AM,5,6
"""
        },
        {
            "rows": 4,
            "readings": 3 * 2,
            "missing_cells": 1,
            "rejected_by_reason": {"nonexistent": 1},
            "times": {"nonexistent": 1, "ambiguous": 1},
        },
    ),
    "aberdeen_sds011": (
        {
            "2018-04-01_sds011_sensor_5331.csv": """\
sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2
5331;SDS011;3121;57.138;-2.077;2018-04-01T10:00:55;10.50;;;2.33;;
5331;SDS011;3121;57.138;-2.077;2018-04-01T10:03:26;;;;2.00;;
"""
        },
        {"rows": 2, "readings": 4, "missing_cells": 1},
    ),
    "aberdeen_dht22": (
        {
            "2018-04-01_dht22_sensor_5332.csv": """\
sensor_id;sensor_type;location;lat;lon;timestamp;temperature;humidity
5332;DHT22;3121;57.138;-2.077;2018-04-01T10:00:55;4.40;77.70
""",
            "2018-04-02_dht22_sensor_5332.csv": """\
sensor_id;sensor_type;location;lat;lon;timestamp;temperature;humidity
5332;DHT22;3121;57.138;-2.077;2018-04-02T00:01:30;-0.50;99.90
""",
        },
        {"rows": 2, "readings": 4},
    ),
    "aarhus": (
        {
            "trafficData158324.csv": """\
status,avgMeasuredTime,avgSpeed,extID,medianMeasuredTime,TIMESTAMP,vehicleCount,_id,REPORT_ID
OK,74,50,668,74,2014-08-01T07:50:00,5,20746220,158324
"""
        },
        {"rows": 1, "readings": 3},
    ),
}
NOTHING = {
    "blank_rows": 0,
    "rejected_by_reason": {},
    "missing_cells": 0,
    "sentinel_cells": 0,
    "omitted_cells": 0,
    "unsent_readings": 0,
}


@pytest.fixture
def recorded(tmp_path: Path):
    """The report on a recording of `CASES`, and the readings that were sent."""

    def recorded(name: str) -> tuple:
        paths = [tmp_path / file for file in CASES[name][0]]
        for path, text in zip(paths, CASES[name][0].values(), strict=True):
            path.write_text(text)
        links: dict[str, Memory] = {}
        replay_map = load_map((MAPS / f"{name}.yaml").read_text(), origin=f"{name}.yaml")
        report = replay(
            paths,
            replay_map,
            url="",
            passwords=dict.fromkeys(replay_map.sources),
            register=lambda _: None,
            connect=lambda source, _: links.setdefault(source, Memory([])),
        )
        ((source, link),) = links.items()
        return report, reports.decode(link.payloads, [source] * len(link.payloads), np.zeros(len(link.payloads), np.int64))

    return recorded


def values(rows: reports.Decoded, metric: str) -> list[float | None]:
    found = rows.value[np.array(rows.metric) == metric].tolist()
    return [None if np.isnan(value) else value for value in found]


def test_every_map_has_a_recording():
    assert set(CASES) == {path.stem for path in MAPS.glob("*.yaml")}


@pytest.mark.parametrize("name", CASES)
def test_a_recording_is_read_whole(recorded, name: str):
    report, rows = recorded(name)
    expected = NOTHING | CASES[name][1]
    assert {key: getattr(report, key) for key in expected} == expected
    assert report.rows == report.replayed_rows + report.blank_rows + report.rejected_rows
    assert rows.refused == []
    assert len(rows.value) == report.readings
    assert int(np.isnan(rows.value).sum()) == report.missing_cells


def test_a_truncated_row_is_named(recorded):
    report, _ = recorded("household")
    (finding,) = report.rejected
    assert (finding.line, finding.detail) == (5, "4 fields, where 9 are expected")


def test_values_are_those_of_the_file_times_their_scale(recorded):
    _, rows = recorded("household")
    assert values(rows, "totalActivePower") == [4216, None, 5374]
    assert rows.time[:7].tolist() == [1_166_286_240_000_000] * 7  # 16:24 UTC
    _, rows = recorded("aarhus")
    assert (values(rows, "intensity"), values(rows, "averageVehicleSpeed")) == ([60], [50])
    _, rows = recorded("fremont")
    assert values(rows, "bicycleCount") == [4, 3, None, 2, 5, 6]
    assert np.unique(rows.time).tolist() == [1_552_208_400_000_000, 1_552_212_000_000_000, 1_572_768_000_000_000]


def test_a_humidity_of_minus_200_percent_is_sent_as_it_is(recorded):
    _, rows = recorded("airquality")
    assert values(rows, "relativeHumidity") == [0.489, -200]
