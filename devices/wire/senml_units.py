"""Names of units in SenML, from the registry of RFC 8428 (section 12.1) and RFC 8798, and the UCUM code of each.

This module maps names only; ingest converts values between UCUM units. Two names are misleading: `%` is the plain ratio (1.0 is the
whole; RFC 8428, table 6, note 1), and `B` is a byte.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Final

_PRIMARY: Final = """
m kg g s A K cd mol Hz rad sr N Pa J W C V F Ohm S Wb T H Cel lm lx Bq Gy Sv kat m2 m3 l m/s m/s2 m3/s l/s W/m2 cd/m2 bit bit/s
lat lon pH dB dBW Bspl count / % %RH %EL EL 1/s 1/min beat/min beats S/m
B VA VAs var vars J/m kg/m3 deg
"""
#: RFC 8428, section 12.1, and (the last line) RFC 8798, table 1: values of `u` and `bu` in version 10.
PRIMARY: Final = frozenset(_PRIMARY.split())


@dataclass(frozen=True, slots=True)
class Secondary:
    """A unit that is a linear function of a primary unit: primary value = value * scale + offset."""

    primary: str
    scale: Fraction
    offset: Fraction = Fraction(0)


#: RFC 8798, table 2. A sender should declare them with version 26 (RFC 9100); most do not, and the names are unambiguous without.
SECONDARY: Final[Mapping[str, Secondary]] = MappingProxyType(
    {
        "ms": Secondary("s", Fraction(1, 1000)),
        "min": Secondary("s", Fraction(60)),
        "h": Secondary("s", Fraction(3600)),
        "MHz": Secondary("Hz", Fraction(1_000_000)),
        "kW": Secondary("W", Fraction(1000)),
        "kVA": Secondary("VA", Fraction(1000)),
        "kvar": Secondary("var", Fraction(1000)),
        "Ah": Secondary("C", Fraction(3600)),
        "Wh": Secondary("J", Fraction(3600)),
        "kWh": Secondary("J", Fraction(3_600_000)),
        "varh": Secondary("vars", Fraction(3600)),
        "kvarh": Secondary("vars", Fraction(3_600_000)),
        "kVAh": Secondary("VAs", Fraction(3_600_000)),
        "Wh/km": Secondary("J/m", Fraction(36, 10)),
        "KiB": Secondary("B", Fraction(1024)),
        "GB": Secondary("B", Fraction(10**9)),
        "Mbit/s": Secondary("bit/s", Fraction(1_000_000)),
        "B/s": Secondary("bit/s", Fraction(8)),
        "MB/s": Secondary("bit/s", Fraction(8_000_000)),
        "mV": Secondary("V", Fraction(1, 1000)),
        "mA": Secondary("A", Fraction(1, 1000)),
        "dBm": Secondary("dBW", Fraction(1), Fraction(-30)),
        "ug/m3": Secondary("kg/m3", Fraction(1, 10**9)),
        "mm/h": Secondary("m/s", Fraction(1, 3_600_000)),
        "m/h": Secondary("m/s", Fraction(1, 3600)),
        "ppm": Secondary("/", Fraction(1, 10**6)),
        "/100": Secondary("/", Fraction(1, 100)),
        "/1000": Secondary("/", Fraction(1, 1000)),
        "hPa": Secondary("Pa", Fraction(100)),
        "mm": Secondary("m", Fraction(1, 1000)),
        "cm": Secondary("m", Fraction(1, 100)),
        "km": Secondary("m", Fraction(1000)),
        "km/h": Secondary("m/s", Fraction(10, 36)),
    }
)

_SAME: Final = """
m kg g s A K cd mol Hz rad sr N Pa J W C V F Ohm S Wb T H Cel lm lx Bq Gy Sv kat m2 m3 m/s m/s2 m3/s W/m2 cd/m2 bit bit/s
dB S/m J/m kg/m3 deg ms min h MHz kW Mbit/s mV mA ug/m3 mm/h m/h hPa mm cm km km/h
"""

#: UCUM code of each SenML unit, as the catalogue writes it. dBW and dBm are missing: no metric has UCUM's level units of power, and
#: a level cannot be converted linearly.
UCUM: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{name: name for name in _SAME.split()},
        "l": "L",
        "l/s": "L/s",
        "lat": "deg",
        "lon": "deg",
        "pH": "[pH]",
        "Bspl": "B[SPL]",
        "count": "1",
        "/": "1",
        "%": "1",
        "%RH": "%",
        "%EL": "%",
        "EL": "s",  # seconds of battery left
        "1/s": "/s",
        "1/min": "/min",
        "beat/min": "/min",
        "beats": "1",
        "B": "By",
        "VA": "V.A",
        "VAs": "V.A.s",
        "var": "V.A{reactive}",
        "vars": "V.A.s{reactive}",
        "kVA": "kV.A",
        "kvar": "kV.A{reactive}",
        "Ah": "A.h",
        "Wh": "W.h",
        "kWh": "kW.h",
        "varh": "V.A.h{reactive}",
        "kvarh": "kV.A.h{reactive}",
        "kVAh": "kV.A.h",
        "Wh/km": "W.h/km",
        "KiB": "KiBy",
        "GB": "GBy",
        "B/s": "By/s",
        "MB/s": "MBy/s",
        "ppm": "[ppm]",
        "/100": "%",
        "/1000": "[ppth]",
    }
)

#: The preferred name of a UCUM code with several SenML names: the one that says no more than the code.
_PLAIN: Final = {"1": "/", "%": "/100", "s": "s", "deg": "deg", "/min": "1/min"}
_NAMES: Final = {ucum: name for name, ucum in reversed([*UCUM.items()])} | _PLAIN


def name_of(ucum: str) -> str | None:
    """Return the SenML name of a UCUM code; None: it has none.

    Examples
    --------
    >>> name_of("Cel"), name_of("%"), name_of("kV.A{reactive}"), name_of("{vehicle}/h")
    ('Cel', '/100', 'kvar', None)
    """
    return _NAMES.get(ucum)
