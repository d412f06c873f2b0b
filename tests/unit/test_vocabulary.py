"""The catalogue, flags, devices and the registry's snapshot."""

import doctest
import importlib
import math
import re
from datetime import UTC, datetime

import numpy as np
import pytest

from citybeat.devices import catalogue, flags
from citybeat.devices.catalogue import Domain, Kind, Metric, builtin, extended, parse
from citybeat.devices.device import Calibration, Device, Sensor, check_source
from citybeat.devices.errors import CatalogueError, DeviceError, Reason
from citybeat.devices.flags import Flag
from citybeat.devices.registry.snapshot import DEFAULT_SENTINELS, Corrected, SeriesRow, build

#: Name, domain, unit, kind, plausible range and usual range of each metric, as docs and senders rely on them; -: open.
METRICS = """
intensity                traffic      {vehicle}/h    gauge      0    3600    -     -
averageVehicleSpeed      traffic      km/h           gauge      0    250     -     -
occupancy                traffic      1              gauge      0    1       -     -
averageHeadwayTime       traffic      s              gauge      0    3600    -     -
averageGapDistance       traffic      m              gauge      0    2000    -     -
vehicleCount             traffic      {vehicle}      counter    0    -       -     -
travelTime               traffic      s              gauge      0    7200    -     -
pedestrianCount          traffic      1              amount     0    20000   -     -
bicycleCount             traffic      1              amount     0    20000   -     -
availableSpotNumber      traffic      1              gauge      0    -       -     -
temperature              environment  Cel            gauge      -60  60      -40   50
relativeHumidity         environment  1              gauge      0    1       -     -
atmosphericPressure      environment  hPa            gauge      600  1060    -     -
windSpeed                environment  m/s            gauge      0    75      -     -
windDirection            environment  deg            direction  0    360     -     -
precipitation            environment  mm             amount     0    50      -     -
solarRadiation           environment  W/m2           gauge      -5   1500    -     -
illuminance              environment  lx             gauge      0    150000  -     -
pm25                     environment  ug/m3          gauge      0    1000    -     -
pm10                     environment  ug/m3          gauge      0    1000    -     -
no2                      environment  ug/m3          gauge      0    1000    -     -
o3                       environment  ug/m3          gauge      0    600     -     -
co                       environment  mg/m3          gauge      0    100     -     -
so2                      environment  ug/m3          gauge      0    1500    -     -
co2                      environment  [ppm]          gauge      300  5000    -     -
LAeq                     environment  dB             level      20   140     -     -
waterLevel               environment  m              gauge      -5   30      -     -
phaseVoltage             energy       V              gauge      0    500     207   253
current                  energy       A              gauge      0    -       -     -
frequency                energy       Hz             gauge      45   55      49.5  50.5
totalActivePower         energy       W              gauge      -    -       -     -
totalReactivePower       energy       V.A{reactive}  gauge      -    -       -     -
totalActiveEnergyImport  energy       kW.h           counter    0    -       -     -
activeEnergyPerInterval  energy       kW.h           amount     0    -       -     -
totalPowerFactor         energy       1              gauge      -1   1       -     -
streetlightPower         energy       W              gauge      0    1000    -     -
waterConsumption         energy       m3             counter    0    -       -     -
"""


def test_the_catalogue_is_what_senders_rely_on():
    listed = [line.split() for line in METRICS.strip().splitlines()]
    assert [row[0] for row in listed] == list(builtin())
    for name, domain, unit, kind, *bounds in listed:
        metric = builtin()[name]
        assert (metric.domain, metric.unit, metric.kind) == (domain, unit, kind), name
        found = (metric.low, metric.high, metric.suspect_low, metric.suspect_high)
        assert ["-" if math.isinf(bound) else f"{bound:g}" for bound in found] == bounds, name


def test_a_city_adds_and_replaces_metrics():
    own = (
        '[noiseIndex]\ndomain = "environment"\nunit = "1"\nkind = "gauge"\n'
        '[pm25]\ndomain = "environment"\nunit = "ug/m3"\nkind = "gauge"\nhigh = 500\n'
    )
    both = extended(own, origin="city.toml")
    assert len(both) == len(builtin()) + 1
    assert both["pm25"].high == 500
    assert builtin()["pm25"].high == 1000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[x", "city.toml: not TOML"),
        ("x = 1", "'x': expected a table"),
        ("[x]\n", "'domain' is missing"),
        ('[x]\ndomain = "sea"', "'sea'; expected one of traffic, environment, energy"),
        ('[x]\ndomain = "energy"\nunit = "W"\nkind = "mean"', "column 'kind'"),
        ('[x]\ndomain = "energy"\nunit = 5', "'unit' must be text"),
        ('[x]\ndomain = "energy"\nunit = "W"\nkind = "gauge"\nlow = 5\nhigh = 1', "low bound is above"),
        ('[x]\ndomain = "energy"\nunit = "W"\nkind = "gauge"\nhigh = "5"', "'high' must be a number"),
        ('[x]\ndomain = "energy"\nunit = "W"\nkind = "gauge"\nhigh = nan', "'high' must be a number"),
        ('[x]\ndomain = "energy"\nunit = "W"\nkind = "gauge"\ncolour = 5', "unknown column 'colour'"),
        ('[x]\ndomain = "energy"\nunit = "W"\nkind = "gauge"\ninterval = 0', "above 0 seconds"),
        ('[x]\ndomain = "energy"\nunit = "W"\nkind = "gauge"\nrating_per_hour = 1', "true or false"),
        ('[x]\ndomain = "energy"\nunit = "W"\nkind = "gauge"\nsentinels = ["a"]', "list of numbers"),
        ('["2x"]\ndomain = "energy"\nunit = "W"\nkind = "gauge"', "a letter, then letters"),
    ],
)
def test_a_wrong_catalogue_says_where(text, words):
    with pytest.raises(CatalogueError, match=re.escape(words)):
        parse(text, origin="city.toml")


def test_the_range_hangs_on_rating_and_interval():
    assert builtin()["totalActivePower"].plausible() == (-math.inf, math.inf)
    assert builtin()["totalActivePower"].plausible(rating=5000) == (-5000, 5000)
    assert builtin()["current"].plausible(rating=100) == (0, 120)
    assert builtin()["availableSpotNumber"].plausible(rating=80) == (0, 80)
    assert builtin()["pm25"].plausible(interval=3600) == (0, 1000)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"id": "a/b"},
        {"id": "x" * 129},
        {"source": "ingest"},
        {"source": "-x"},
        {"source": "a b"},
        {"latitude": 10.0},
        {"latitude": 91.0, "longitude": 0.0},
        {"latitude": 0.0, "longitude": 181.0},
        {"sensors": (Sensor(metric="a"), Sensor(metric="a"))},
    ],
)
def test_a_device_is_checked(changes):
    good = {"id": "env-1", "source": "gw", "domain": Domain.ENVIRONMENT, "sensors": ()}
    assert Device(**good).id == "env-1"
    with pytest.raises(DeviceError):
        Device(**(good | changes))


def test_a_sensor_is_checked():
    for wrong in ({"interval": 0.0}, {"high": math.nan}, {"low": -math.inf}, {"unit": ""}, {"unit": "m" * 41}, {"unit": "m\n"}):
        with pytest.raises(DeviceError):
            Sensor(metric="pm25", **wrong)


def test_a_calibration_is_checked():
    assert Calibration(scale=-1.0, valid_from=datetime(2026, 1, 1, tzinfo=UTC)).offset == 0.0
    for wrong in ({"scale": 0.0}, {"scale": math.nan}, {"offset": math.inf}, {"valid_from": datetime(2026, 1, 1)}):  # noqa: DTZ001
        with pytest.raises(DeviceError, match="calibration"):
            Calibration(**wrong)


def test_urns_are_device_ids():
    Device(id="urn:dev:mac:0024befffe804ff1", source="gw", domain=Domain.ENERGY, sensors=())
    assert check_source("GW-1.a_b") == "GW-1.a_b"


def test_flags_that_keep_a_reading_out():
    every = np.arange(512, dtype=np.int16)
    expected = [bool(i & (1 | 2 | 4 | 128)) and not i & 256 for i in range(512)]
    assert flags.is_bad(every).tolist() == expected
    assert max(Flag) < 2**15


def test_reasons_fit_their_names():
    assert all(reason.value == reason.name.lower() for reason in Reason)


def test_default_sentinels_only_outside_the_range():
    rows = [
        SeriesRow(id=i + 1, device="d", source=1, retired=False, metric=builtin()[s.metric], sensor=s)
        for i, s in enumerate(
            [
                Sensor(metric="totalActivePower"),
                Sensor(metric="illuminance"),
                Sensor(metric="pm25", sentinels=(-1.0,)),
                Sensor(metric="vehicleCount"),
            ]
        )
    ]
    registry = build(version=1, sources={}, devices={"d": 1}, rows=rows)
    codes = [set(row[~np.isnan(row)].tolist()) for row in registry.sentinels]
    assert codes[1:] == [
        set(),
        {-200.0, -999.0, -9999.0},
        {-200.0, -999.0, -9999.0, 65535.0, -1.0},
        {-200.0, -999.0, -9999.0},
    ]


@pytest.mark.parametrize(
    ("sensor", "codes"),
    [  # which of -200, -999, -9999 and 65535, as sent, would be implausible values
        (Sensor(metric="illuminance"), {-200, -999, -9999}),
        (Sensor(metric="illuminance", unit="klx"), {-200, -999, -9999, 65535}),  # 65,535,000 lx
        (Sensor(metric="temperature", unit="[degF]"), {-200, -999, -9999, 65535}),
        (Sensor(metric="temperature", unit="[degF]", low=-130), {-999, -9999, 65535}),  # -200 [degF] is -128.9 Cel
        (Sensor(metric="temperature", unit="mCel"), {65535}),  # -9.999 Cel is a winter's day
        (Sensor(metric="atmosphericPressure", unit="Pa"), {-200, -999, -9999}),
        (Sensor(metric="relativeHumidity", unit="%"), {-200, -999, -9999, 65535}),
        (Sensor(metric="totalActivePower", rating=1e5), set()),
        (Sensor(metric="totalActivePower", rating=1e5, unit="kW"), {-200, -999, -9999, 65535}),
        (Sensor(metric="temperature", unit="furlong", sentinels=(85,)), {85}),  # the meaning of its values is unknown
    ],
)
def test_default_sentinels_are_what_would_be_implausible_as_sent(sensor, codes):
    row = SeriesRow(id=1, device="d", source=1, retired=False, metric=builtin()[sensor.metric], sensor=sensor)
    registry = build(version=1, sources={}, devices={"d": 1}, rows=[row])
    found = set(registry.sentinels[1][~np.isnan(registry.sentinels[1])].tolist())
    assert found == codes
    assert set(registry.declared[1].tolist()) == found - set(DEFAULT_SENTINELS)


def test_the_snapshot_of_units_and_calibrations():
    later, first = Corrected(200, 2.0, 0.5), Corrected(100, 1.5, 0.0)
    rows = [
        SeriesRow(id=i, device="d", source=1, retired=False, metric=builtin()[s.metric], sensor=s, calibrations=c)
        for i, s, c in [
            (5, Sensor(metric="temperature", unit="°F"), (later, first)),
            (2, Sensor(metric="pm25"), ()),
            (3, Sensor(metric="windSpeed"), (first,)),
            (4, Sensor(metric="pm10", unit="ppm"), ()),
        ]
    ]
    registry = build(version=1, sources={}, devices={"d": 1}, rows=rows)
    assert [registry.units[i] for i in registry.unit[2:]] == ["ug/m3", "m/s", "ug/m3", "Cel"]
    assert registry.sent == ("", "", "ug/m3", "m/s", "ppm", "°F")
    assert registry.convertible.tolist() == [True, True, True, True, False, True]
    assert registry.converted.tolist() == [False, False, False, True, True, True]
    assert registry.scale.tolist() == [1, 1, 1, 1, 1, 5 / 9]
    assert registry.offset.tolist() == [0, 0, 0, 0, 0, -160 / 9]
    assert registry.calibration_start.tolist() == [0, 0, 0, 0, 1, 1, 3]
    assert registry.calibration_from.tolist() == [100, 100, 200]
    assert registry.calibration_scale.tolist() == [1.5, 1.5, 2.0]
    assert registry.calibration_offset.tolist() == [0.0, 0.0, 0.5]


def test_an_empty_registry():
    registry = build(version=1, sources={}, devices={}, rows=[])
    assert registry.owner.tolist() == [0]
    assert registry.sentinels.shape == (1, 0)
    assert registry.calibration_start.tolist() == [0, 0]


@pytest.mark.parametrize(
    "module",
    [
        "devices.catalogue",
        "devices.flags",
        "devices.units",
        "citybeat.storage.db.pgcopy",
        "citybeat.commands.up",
        "dashboards.sql",
        "dashboards.texts",
    ],
)
def test_examples_in_docstrings(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_metrics_are_keyed_by_their_names():
    assert all(isinstance(metric, Metric) and metric.name == name for name, metric in catalogue.builtin().items())
    assert {metric.kind for metric in builtin().values()} == set(Kind) - {Kind.STATE}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("decimals = 1.5", "decimals"),
        ('color = "red"', "#1F60C4"),
        ("limits = [1]", "each entry of 'limits' must be a table"),
        ('limits = [{ standard = "x", span = "2h", value = 1, source = "s", since = 2026-01-01 }]', "one of 1h, 8h, 24h, 1y"),
        (
            'limits = [{ standard = "x", span = "1h", value = "1", source = "s", since = 2026-01-01 }]',
            "the value of a limit must be a number",
        ),
        ('limits = [{ standard = "x", span = "1h", value = 1, source = "s", since = "2026" }]', "a date such as 2026-01-01"),
    ],
)
def test_what_dashboards_show_of_a_metric_is_checked(line, words):
    text = f'[x]\ndomain = "energy"\nunit = "W"\nkind = "gauge"\n{line}\n'
    with pytest.raises(CatalogueError, match=re.escape(words)):
        extended(text, origin="t")
