"""Conversion of units, against independent arithmetic in fractions."""

import math
import re
import string
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citybeat.devices import units
from citybeat.devices.catalogue import builtin
from citybeat.devices.units import IDENTITY, MAX_LENGTH, SPELLINGS, Linear, UnitError, conversion

F = Fraction
PI = F("3.14159265358979323846264338327950288419716939937510")


@pytest.mark.parametrize(
    ("sent", "wanted", "scale", "offset"),
    [
        ("[degF]", "Cel", F(5, 9), F(-160, 9)),
        ("°F", "Cel", F(5, 9), F(-160, 9)),
        ("Cel", "[degF]", F(9, 5), 32),
        ("K", "Cel", 1, F("-273.15")),
        ("mK", "Cel", F(1, 1000), F("-273.15")),
        ("Cel", "K", 1, F("273.15")),
        ("[degR]", "Cel", F(5, 9), F("-273.15")),
        ("Cel{air}", "Cel", 1, 0),
        ("mCel", "Cel", F(1, 1000), 0),
        ("%", "1", F(1, 100), 0),
        ("%RH", "1", F(1, 100), 0),
        ("/100", "1", F(1, 100), 0),
        ("1", "%", 100, 0),
        ("ppm", "%", F(1, 10_000), 0),
        ("ppb", "[ppm]", F(1, 1000), 0),
        ("10*-6", "[ppm]", 1, 0),
        ("mph", "km/h", F("1.609344"), 0),
        ("m/s", "km/h", F("3.6"), 0),
        ("km/h", "m/s", F(5, 18), 0),
        ("[kn_i]", "m/s", F(1852, 3600), 0),
        ("knots", "km/h", F("1.852"), 0),
        ("kW", "W", 1000, 0),
        ("[HP]", "W", F("745.69987158227022"), 0),
        ("Wh", "kW.h", F(1, 1000), 0),
        ("kWh", "kW.h", 1, 0),
        ("MJ", "kW.h", F(1, 3600) * 1000, 0),
        ("J", "kW.h", F(1, 3_600_000), 0),
        ("ug/m³", "ug/m3", 1, 0),
        ("µg/m³", "ug/m3", 1, 0),
        ("μg·m⁻³", "ug/m3", 1, 0),
        ("ug/m^3", "ug/m3", 1, 0),
        ("mg/m3", "ug/m3", 1000, 0),
        ("ng/l", "ug/m3", 1, 0),
        ("Pa", "hPa", F(1, 100), 0),
        ("mbar", "hPa", 1, 0),
        ("kPa", "hPa", 10, 0),
        ("mmHg", "hPa", F("1.33322"), 0),
        ("inHg", "hPa", F("33.863788"), 0),
        ("psi", "hPa", F("68.94757293168361336722673445"), 0),
        ("l", "m3", F(1, 1000), 0),
        ("[gal_us]", "m3", F("0.003785411784"), 0),
        ("[cft_i]", "m3", F("0.028316846592"), 0),
        ("l/m2", "mm", 1, 0),
        ("inch", "mm", F("25.4"), 0),
        ("cm", "m", F(1, 100), 0),
        ("feet", "m", F("0.3048"), 0),
        ("min", "s", 60, 0),
        ("rad", "deg", 180 / PI, 0),
        ("°", "deg", 1, 0),
        ("'", "deg", F(1, 60), 0),
        ("gon", "deg", F(9, 10), 0),
        ("klx", "lx", 1000, 0),
        ("J/(m2.s)", "W/m2", 1, 0),
        ("kg.s-3", "W/m2", 1, 0),
        ("mA", "A", F(1, 1000), 0),
        ("kHz", "Hz", 1000, 0),
        ("/min", "Hz", F(1, 60), 0),
        ("1/min", "Hz", F(1, 60), 0),
        ("{vehicle}/min", "{vehicle}/h", 60, 0),
        ("veh/h", "{vehicle}/h", 1, 0),
        ("count", "{vehicle}", 1, 0),
        ("VA", "V.A{reactive}", 1, 0),
        ("kVA", "V.A{reactive}", 1000, 0),
        ("var", "V.A{reactive}", 1, 0),
        ("kvar", "V.A{reactive}", 1000, 0),
        ("kV.A", "V.A{reactive}", 1000, 0),
        ("B", "dB", 10, 0),
        ("dBA", "dB", 1, 0),
        ("dB[SPL]", "dB", 1, 0),
        ("Bspl", "dB[SPL]", 10, 0),
        ("10^3.m", "km", 1, 0),
        ("(kW.h)/(d)", "W", F(1000, 24), 0),
    ],
)
def test_the_floats_nearest_to_the_true_factors(sent, wanted, scale, offset):
    found = conversion(sent, wanted)
    assert found.scale == pytest.approx(float(scale), rel=1e-15 if sent == "psi" or "HP" in sent else 0)
    assert found.offset == float(offset)


@pytest.mark.parametrize(
    ("sent", "wanted", "words"),
    [
        ("ppm", "ug/m3", "a plain number, not m-3.g"),
        ("C", "Cel", "measures C, not K"),
        ("%", "deg", "a plain number, not rad"),
        ("kW", "kW.h", "correct the unit"),
        ("dB", "1", "logarithmic"),
        ("Pa", "dB[SPL]", "logarithmic"),
        ("dB[W]", "dB[SPL]", "different references"),
        ("Cel/h", "K/h", "stands alone"),
        ("m.Cel", "K.m", "stands alone"),
        ("Cel{air}/h", "Cel", "stands alone"),
        ("Cel{air", "Cel", "stands alone"),
        ("dB/m", "dB", "stands alone"),
        ("Fahrenheits", "Cel", "no unit 'Fahrenheits'"),
        ("KM/H", "km/h", "no unit 'KM'"),
        ("km/h", "mile/h", "'mile'"),
        ("kmin", "s", "no unit 'kmin'"),
        ("", "1", "a unit is missing"),
        ("m/", "m", "a unit is missing"),
        ("m//s", "m/s", "no unit at '/s'"),
        ("(m", "m", "not closed"),
        ("m)", "m", "not understood from ')'"),
        ("m s", "m", "not understood from ' s'"),
        ("m{a", "m", "not understood from '{a'"),
        ("0", "1", "no unit at '0'"),
        ("0.5", "1", "no unit at '0.5'"),
        ("m99", "m", "an exponent of 99"),
        ("km999999999999", "m", "an exponent"),
        ("10*300.10*300", "1", "beyond what a number can hold"),
        ("1", "10*300.10*300", "beyond what a number can hold"),
        ("(" * 39, "1", "a unit is missing"),
        ("m" * 41, "m", "longer than 40"),
        ("m" + ".m" * 8, "m9", "more than 8 factors"),
        ("m\x00", "m", "not understood"),
        ("°", "Cel", "measures rad"),
    ],
)
def test_what_cannot_be_converted_says_why(sent, wanted, words):
    for _ in range(2):  # mistakes are cached too
        with pytest.raises(UnitError) as caught:
            conversion(sent, wanted)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_equal_text_needs_no_unit():
    assert conversion("{score}", "{score}") is IDENTITY
    assert conversion("furlongs", "furlongs") is IDENTITY


def test_every_unit_of_the_catalogue_is_understood():
    for metric in builtin().values():
        assert units._read(metric.unit).size > 0


def test_spellings_are_units_but_not_of_ucum():
    for spelling, ucum in SPELLINGS.items():
        assert conversion(ucum, ucum + "{x}" if "{" not in ucum else ucum) == IDENTITY
        assert conversion(spelling, ucum) == IDENTITY
        with pytest.raises(units._NotUcumError):
            units._Parser(spelling.translate(units._CHARACTERS)).unit()


def test_every_unit_of_the_tables_is_defined():
    names = [*units._BASE, *units._METRIC, *units._OTHER]
    assert len(set(names)) == len(names)
    for name in names:
        assert units._Parser(name).unit().size > 0
    assert not {prefix + name for prefix in units._PREFIXES for name in (*units._BASE, *units._METRIC)} & set(names) - {
        "cd", "Pa", "min", "mo",
    }  # fmt: skip


def test_the_document_says_what_is_accepted():
    text = (Path(__file__).parents[2] / "docs" / "units.md").read_text("utf-8")
    for sent, _, wanted, stored in re.findall(r"^\| `([^`]+)`(, `[^`]+`)? \| `([^`]+)` \| ([0-9.]+) \|$", text, re.MULTILINE):
        found = conversion(sent, wanted)
        assert 50 * found.scale + found.offset == pytest.approx(float(stored), rel=1e-15)
    quoted = set(re.findall(r"`([^`\n]+)`", text))
    si = re.split(" ", "sr mol Hz N Pa J W A V F Ohm S Wb T H lm lx Bq Gy Sv kat ar circ [pi] [g] 10* 10^ m[Hg]")
    assert {*units._METRIC, *units._OTHER} - set(si) <= quoted
    assert f"{MAX_LENGTH} characters and {units._MAX_FACTORS} factors" in text.replace("\n", " ")


LENGTHS = ["m", "km", "mm", "[mi_i]", "[ft_i]", "[nmi_i]", "[in_i]", "um"]
TIMES = ["s", "min", "h", "d", "ms", "wk"]
TEMPERATURES = ["K", "Cel", "[degF]", "[degR]", "mK"]


@given(st.sampled_from(LENGTHS), st.sampled_from(LENGTHS), st.sampled_from(TIMES), st.sampled_from(TIMES))
def test_quotients_are_quotients(length, other, time, another):
    got = conversion(f"{length}/{time}", f"{other}/{another}").scale
    assert got == pytest.approx(conversion(length, other).scale / conversion(time, another).scale, rel=1e-15)


@given(st.sampled_from(TEMPERATURES), st.sampled_from(TEMPERATURES), st.floats(-1e4, 1e4))
def test_there_and_back(a, b, value):
    there, back = conversion(a, b), conversion(b, a)
    assert (value * there.scale + there.offset) * back.scale + back.offset == pytest.approx(value, abs=1e-6)


@given(st.text(max_size=MAX_LENGTH + 5) | st.text(string.ascii_letters[:8] + "kmsW/.()[]{}'*^%0123-", max_size=MAX_LENGTH))
def test_any_text_is_a_unit_or_a_unit_error(text):
    try:
        found = conversion(text, "km/h")
    except UnitError:
        return
    assert isinstance(found, Linear)
    assert 0 < found.scale < math.inf
