"""Units and calibrations: from a file of devices through the database into ingest's snapshot."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from citybeat import devices_file
from citybeat.devices.batch import MICROSECOND, NEVER
from citybeat.devices.catalogue import builtin, extended
from citybeat.devices.device import Calibration, Device, Sensor
from citybeat.devices.errors import DeviceError
from citybeat.storage import migrate
from citybeat.storage.registry import records

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MARCH = datetime(2026, 3, 1, 8, 30, 0, 123_457, tzinfo=UTC)


def put(connection, **sensor):
    sensor = {"metric": "temperature"} | sensor
    records.register(connection, [Device(id="env-1", source="gw", domain="environment", sensors=(Sensor(**sensor),))])


def calibrations(connection):
    """(since in us, scale, offset) in the snapshot."""
    snapshot = records.load(connection, builtin())
    number = snapshot.series["env-1", "temperature"]
    some = slice(snapshot.calibration_start[number], snapshot.calibration_start[number + 1])
    columns = (snapshot.calibration_from, snapshot.calibration_scale, snapshot.calibration_offset)
    return list(zip(*(column[some].tolist() for column in columns), strict=True))


def us(moment):
    return (moment - EPOCH) // timedelta(microseconds=1)


def rows(connection):
    return connection.execute("SELECT count(*) FROM calibrations").fetchone()[0]


def test_a_unit_becomes_a_factor(connection):
    put(connection, unit="°F")
    snapshot = records.load(connection, builtin())
    number = snapshot.series["env-1", "temperature"]
    assert (snapshot.scale[number], snapshot.offset[number]) == (5 / 9, -160 / 9)
    assert snapshot.sent[number] == "°F"
    put(connection, unit="K")
    later = records.load(connection, builtin())
    assert later.version > snapshot.version
    assert (later.scale[number], later.offset[number]) == (1.0, -273.15)
    put(connection)
    assert not records.load(connection, builtin()).converted.any()


def test_a_unit_that_cannot_be_converted_is_refused_and_nothing_is_written(connection):
    before = records.version(connection)
    good = Device(id="env-1", source="gw", domain="environment", sensors=(Sensor(metric="pm25"),))
    bad = Device(id="env-2", source="gw", domain="environment", sensors=(Sensor(metric="no2", unit="ppb"),))
    with pytest.raises(DeviceError, match=r"device 'env-2'.*'no2'.*'ppb'.*'ug/m3'"):
        records.register(connection, [good, bad])
    assert records.version(connection) == before
    assert records.load(connection, builtin()).devices == {}


def test_a_unit_that_the_catalogue_no_longer_takes_does_not_stop_anybody(connection):
    put(connection, unit="°F")
    own = '[temperature]\ndomain = "environment"\nunit = "hPa"\nkind = "gauge"\n'
    snapshot = records.load(connection, extended(own, origin="t"))
    number = snapshot.series["env-1", "temperature"]
    assert not snapshot.convertible[number]
    assert snapshot.converted[number]
    migrate.migrate(connection, extended(own, origin="t"), chunk_days={})
    with pytest.raises(DeviceError, match="hPa"):
        put(connection, unit="°F")


def test_the_first_calibration_is_of_every_reading_and_another_is_from_now(connection):
    put(connection, calibration=Calibration(scale=1.1, offset=-0.5))
    assert calibrations(connection) == [(NEVER, 1.1, -0.5)]
    put(connection, calibration=Calibration(scale=1.1, offset=-0.5))  # the same file again
    put(connection)  # a description without: it stays
    assert rows(connection) == 1
    put(connection, calibration=Calibration(scale=1.2))
    first, second = calibrations(connection)
    assert first == (NEVER, 1.1, -0.5)
    assert second[1:] == (1.2, 0.0)
    now = connection.execute("SELECT now()").fetchone()[0]
    assert 0 <= us(now) - second[0] < 60 * MICROSECOND
    put(connection, calibration=Calibration())  # no correction any more
    assert [each[1:] for each in calibrations(connection)] == [(1.1, -0.5), (1.2, 0.0), (1.0, 0.0)]


def test_what_was_stored_without_is_not_calibrated_afterwards(connection, fill):
    put(connection)
    at = us(MARCH)
    fill([("env-1", "temperature", at, 20.0, 0)], received_at=at)
    put(connection, calibration=Calibration(scale=1.1))
    ((since, scale, _),) = calibrations(connection)
    assert since > at
    assert scale == 1.1


def test_every_calibration_is_kept(connection):
    put(connection, calibration=Calibration(scale=1.1, valid_from=MARCH, by="lab 7", reason="certificate 12"))
    put(connection, calibration=Calibration(scale=1.2, valid_from=MARCH - timedelta(days=30)))
    assert calibrations(connection) == [(us(MARCH - timedelta(days=30)), 1.2, 0.0), (us(MARCH), 1.1, 0.0)]
    put(connection, calibration=Calibration(scale=1.3, valid_from=MARCH))  # a correction of the first
    put(connection, calibration=Calibration(scale=1.3, valid_from=MARCH))
    assert calibrations(connection) == [(us(MARCH - timedelta(days=30)), 1.2, 0.0), (us(MARCH), 1.3, 0.0)]
    put(connection, calibration=Calibration(scale=1.3, valid_from=MARCH + timedelta(days=1)))  # checked, and as good as it was
    assert rows(connection) == 4
    kept = connection.execute('SELECT scale, "by", reason FROM calibrations ORDER BY id').fetchall()
    assert kept[:2] == [(1.1, "lab 7", "certificate 12"), (1.2, "", "")]


def test_several_devices_each_with_its_own(connection):
    devices = [
        Device(
            id=f"env-{i}",
            source="gw",
            domain="environment",
            sensors=(
                Sensor(metric="pm25"),
                Sensor(metric="temperature", calibration=Calibration(offset=float(i)) if i % 2 else None),
            ),
        )
        for i in range(6)
    ]
    records.register(connection, devices)
    snapshot = records.load(connection, builtin())
    for i in range(6):
        number = snapshot.series[f"env-{i}", "temperature"]
        start, end = snapshot.calibration_start[number : number + 2]
        assert snapshot.calibration_offset[start:end].tolist() == ([float(i)] if i % 2 else [])
        assert snapshot.converted[number] == bool(i % 2)
    assert not np.diff(snapshot.calibration_start)[[snapshot.series[f"env-{i}", "pm25"] for i in range(6)]].any()


def test_listeners_hear_of_calibrations(connection):
    put(connection)
    before = records.version(connection)
    put(connection, calibration=Calibration(offset=1.0, valid_from=MARCH))
    assert records.version(connection) > before


def test_the_schema_refuses_what_would_ruin_readings(connection):
    put(connection)
    for scale, offset, since in ((0, 0, "now"), ("NaN", 0, "now"), ("Infinity", 0, "now"), (1, "NaN", "now"), (1, 0, "infinity")):
        with pytest.raises(Exception, match="check constraint"):
            connection.execute(
                'INSERT INTO calibrations (series_id, valid_from, scale, "offset") SELECT id, %s, %s, %s FROM series',
                (since, scale, offset),
            )


def parsed(tmp_path, **sensor):
    file = tmp_path / "devices.json"
    device = {"id": "env-1", "source": "gw", "domain": "environment", "sensors": [{"metric": "temperature"} | sensor]}
    file.write_text(json.dumps([device]), "utf-8")
    return devices_file.parse(file, builtin())


def test_a_file_of_devices(connection, tmp_path):
    calibration = {"scale": 1.02, "offset": -0.4, "valid_from": "2026-03-01T15:30:00.123457+07:00", "by": "lab", "reason": "c 12"}
    records.register(connection, parsed(tmp_path, unit="[degF]", calibration=calibration))
    assert calibrations(connection) == [(us(MARCH), 1.02, -0.4)]
    records.register(connection, parsed(tmp_path, unit="[degF]", calibration={"offset": 1}))
    assert len(calibrations(connection)) == 2


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ({"valid_from": "2026-03-01T08:00:00"}, "sensors.0.calibration.valid_from: .*offset"),
        ({"valid_from": "yesterday"}, "sensors.0.calibration.valid_from"),
        ({"scale": 0}, "scale must be"),
        ({"gain": 2}, "gain"),
        (2, "sensors.0.calibration"),
    ],
)
def test_a_wrong_calibration_in_a_file_says_where(tmp_path, calibration, words):
    with pytest.raises(DeviceError, match=words):
        parsed(tmp_path, calibration=calibration)
