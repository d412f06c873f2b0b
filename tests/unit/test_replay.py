"""The shell of a replay, with a transport that keeps everything in memory; and our maps of the recorded files, where those are."""
# ruff: noqa: ARG002 - a transport has the arguments that it has

import csv
import threading
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

import numpy as np
import orjson
import pytest

from citybeat.devices.wire import reports
from citybeat.simulator.errors import PublishError, PublishStoppedError, RecordingError
from citybeat.simulator.replay.files import replay
from citybeat.simulator.replay.maps import load_map

MAPS = Path(__file__).parents[1] / "maps"
DATA = Path(__file__).parents[2] / "../shared/data"

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


# --- the recorded files


CASES = {
    "lcl": ("energy/LCL_MAC000002.csv", {"rows": 24158, "readings": 24158, "missing_cells": 1}),
    "household": (
        "energy/household_power_consumption_first1MiB.txt",
        {"rows": 15923, "readings": 15922 * 7, "missing_cells": 14, "rejected_by_reason": {"fields": 1}},
    ),
    "airquality": (
        "environment/AirQualityUCI.csv",
        {"rows": 9357 + 114, "blank_rows": 114, "readings": 9357 * 13, "sentinel_cells": 1683 + 8443 + 1639 + 1642 + 9 * 366},
    ),
    "nab": ("traffic/nab_realTraffic/*.csv", {"rows": 15664, "readings": 15664}),
    "fremont": (
        "traffic/FremontBridge.csv",
        {
            "rows": 59088,
            "readings": 2 * (59088 - 7),
            "missing_cells": 2 * 4,
            "rejected_by_reason": {"nonexistent": 7},
            "times": {"nonexistent": 7, "ambiguous": 7},
        },
    ),
    "aberdeen_sds011": (
        "environment/sensor_community_aberdeen/*_sds011_*.csv",
        {"rows": 11854, "readings": 23708, "missing_cells": 2},
    ),
    "aberdeen_dht22": ("environment/sensor_community_aberdeen/*_dht22_*.csv", {"rows": 11881, "readings": 23762}),
    "aarhus": ("traffic/aarhus_trafficData158324.csv", {"rows": 12162, "readings": 3 * 12162}),
}
NOTHING = {
    "blank_rows": 0,
    "rejected_by_reason": {},
    "missing_cells": 0,
    "sentinel_cells": 0,
    "omitted_cells": 0,
    "unsent_readings": 0,
}


def recorded(name: str) -> tuple:
    if not DATA.is_dir():
        pytest.skip("the recorded data are not beside the checkout")
    pattern, expected = CASES[name]
    links: dict[str, Memory] = {}
    replay_map = load_map((MAPS / f"{name}.yaml").read_text(), origin=f"{name}.yaml")
    report = replay(
        sorted(DATA.glob(pattern)),
        replay_map,
        url="",
        passwords=dict.fromkeys(replay_map.sources),
        register=lambda _: None,
        connect=lambda source, _: links.setdefault(source, Memory([])),
    )
    ((source, link),) = links.items()
    return (
        report,
        {**NOTHING, **expected},
        reports.decode(link.payloads, [source] * len(link.payloads), np.zeros(len(link.payloads), np.int64)),
    )


@pytest.mark.shared
@pytest.mark.parametrize("name", sorted(CASES))
def test_recorded_files_are_read_whole(name: str):
    report, expected, rows = recorded(name)
    assert {key: getattr(report, key) for key in expected} == expected
    assert report.rows == report.replayed_rows + report.blank_rows + report.rejected_rows
    assert rows.refused == []
    assert len(rows.value) == report.readings
    assert int(np.isnan(rows.value).sum()) == report.missing_cells


@pytest.mark.shared
def test_the_truncated_row_is_named():
    report, _, _ = recorded("household")
    (finding,) = report.rejected
    assert (finding.line, finding.detail) == (15924, "5 fields, where 9 are expected")


@pytest.mark.shared
def test_values_are_those_of_the_file():
    _, _, rows = recorded("household")
    with next(iter(DATA.glob(CASES["household"][0]))).open(encoding="ascii") as file:
        cells = [row["Global_active_power"] for row in csv.DictReader(file, delimiter=";") if row["Sub_metering_3"] is not None]
    power = rows.value[np.array(rows.metric) == "totalActivePower"]
    assert power.tolist()[:100] == [float(Decimal(cell) * 1000) for cell in cells[:100]]
    watts = power[~np.isnan(power)]
    assert np.array_equal(watts, np.rint(watts))


@pytest.mark.shared
def test_the_humidity_of_minus_200_percent_is_sent_as_it_is():
    _, _, rows = recorded("airquality")
    humidity = rows.value[np.array(rows.metric) == "relativeHumidity"]
    assert (humidity == -200).sum() == 366
    good = humidity[humidity != -200]
    assert (good.min(), good.max()) == (0.092, 0.887)
