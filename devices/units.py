"""Conversion of numbers between units of measure, from the unit that a sensor sends to its metric's unit.

Units are UCUM codes (case-sensitive) or the common spellings of `SPELLINGS`. Factors are computed exactly, in fractions, and
rounded once to the nearest float. An unknown unit is refused, never guessed. The module handles only text and numbers: it knows
neither devices nor a clock.

UCUM's grammar, in short: a term is components joined by `.` and `/`, from left to right (`W/m2`, `kW.h`, `/min`); a component is a
unit with a prefix and an exponent, an integer, a term in parentheses, or an annotation in braces, which has no meaning
(`{vehicle}/h`).
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from typing import Final, NamedTuple

from citybeat.devices.errors import CitybeatError

#: Characters of a unit, and (`_MAX_FACTORS`) its factors. Units that people use are half as long. Senders name units in every
#: record, so refusing one must be cheap (about 0.1 ms).
MAX_LENGTH: Final = 40
_MAX_FACTORS: Final = 8


class UnitError(CitybeatError, ValueError):
    """A unit is unknown, or cannot be converted to another; the message names the units and a remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """A linear conversion: wanted = sent * scale + offset."""

    scale: float = 1.0
    offset: float = 0.0  # in the wanted unit


IDENTITY: Final = Linear()


def conversion(sent: str, wanted: str) -> Linear:
    """Return the conversion of numbers from one unit to another.

    Parameters
    ----------
    sent, wanted : str
        UCUM, or one of `SPELLINGS`. Equal texts need no conversion, even if they are not a known unit.

    Returns
    -------
    Linear
        The floats nearest to the true factors.

    Raises
    ------
    UnitError
        A unit is unknown, the units measure different quantities, or the scale of one is not linear in the other's.

    Examples
    --------
    >>> conversion("kW", "W")
    Linear(scale=1000.0, offset=0.0)
    >>> conversion("%", "1").scale
    0.01
    >>> conversion("°F", "Cel") == Linear(scale=5 / 9, offset=-160 / 9)
    True
    """
    found = IDENTITY if sent == wanted else _found(sent, wanted)
    if isinstance(found, str):
        raise UnitError(found)
    return found


# --- spellings -----------------------------------------------------------------------------------------------------------------

#: Common spellings that UCUM does not have, with their UCUM codes. None of them is a UCUM unit itself (a test makes sure): `C`
#: stays coulomb, `kt` kilotonne, `ft` femtotonne, `F` farad and `pH` picohenry.
SPELLINGS: Final = {
    "°C": "Cel", "℃": "Cel", "degC": "Cel", "celsius": "Cel", "Celsius": "Cel",
    "°F": "[degF]", "℉": "[degF]", "degF": "[degF]", "fahrenheit": "[degF]", "Fahrenheit": "[degF]",
    "°": "deg", "degree": "deg", "degrees": "deg",
    "percent": "%", "%RH": "%", "ppm": "[ppm]", "ppb": "[ppb]", "/": "1", "count": "1",
    "mph": "[mi_i]/h", "kmh": "km/h", "kmph": "km/h", "km/hr": "km/h", "knot": "[kn_i]", "knots": "[kn_i]", "kn": "[kn_i]",
    "inch": "[in_i]", "in": "[in_i]", "feet": "[ft_i]", "foot": "[ft_i]", "mi": "[mi_i]",
    "inHg": "[in_i'Hg]", "mmHg": "mm[Hg]", "psi": "[psi]",
    "lux": "lx", "Lux": "lx", "sec": "s", "hr": "h", "NTU": "[NTU]",
    "Wh": "W.h", "kWh": "kW.h", "MWh": "MW.h", "GWh": "GW.h", "Ah": "A.h", "mAh": "mA.h",
    "VA": "V.A", "kVA": "kV.A", "MVA": "MV.A", "VAh": "V.A.h", "kVAh": "kV.A.h",
    "var": "V.A{reactive}", "VAr": "V.A{reactive}", "VAR": "V.A{reactive}", "varh": "V.A.h{reactive}",
    "kvar": "kV.A{reactive}", "kVAr": "kV.A{reactive}", "kVAR": "kV.A{reactive}", "kvarh": "kV.A.h{reactive}",
    "Mvar": "MV.A{reactive}", "MVAr": "MV.A{reactive}", "MVAR": "MV.A{reactive}",
    "dBA": "dB[SPL]", "dB(A)": "dB[SPL]", "dBspl": "dB[SPL]", "Bspl": "B[SPL]", "dBW": "dB[W]",
    "veh/h": "{vehicle}/h", "vph": "{vehicle}/h",
}  # fmt: skip
#: Characters that UCUM does not have, and its characters for them: µ (the micro sign and the Greek letter), powers, middle dots.
_CHARACTERS: Final = str.maketrans({"µ": "u", "μ": "u", "²": "2", "³": "3", "⁻": "-", "¹": "1", "·": ".", "⋅": ".", "º": "°"})
#: The sign of a power in most programming languages; `10^` is UCUM's own.
_CARET: Final = re.compile(r"(?<!10)\^")


# --- conversion ----------------------------------------------------------------------------------------------------------------


class _Unit(NamedTuple):
    """A quantity x of this unit is x * size + zero in base units."""

    size: Fraction
    dimension: tuple[int, ...]  # exponents of _BASE
    zero: Fraction = Fraction(0)  # other than 0 for a scale with a zero of its own, as temperatures have
    level: str | None = None  # the quantity of a logarithmic unit's reference level ("": unspecified); `size` counts such units


@lru_cache(maxsize=4096)  # senders repeat the units that they name, wrong ones too, so refusals are cached as well
def _found(sent: str, wanted: str) -> Linear | str:
    """Return the conversion, or the reason why there is none."""
    try:
        a, b = _read(sent), _read(wanted)
    except UnitError as exc:
        return str(exc)
    between = f"unit {_quoted(sent)} cannot become {_quoted(wanted)}"
    if (a.level is None) != (b.level is None):
        return f"{between}: one is logarithmic; have the sender convert, or register another metric"
    if a.level and b.level and a.level != b.level:
        return f"{between}: levels of different references; have the sender convert"
    if a.dimension != b.dimension:
        return f"{between}: it measures {_dimension(a)}, not {_dimension(b)}; correct the unit, or choose another metric"
    try:
        scale, offset = float(a.size / b.size), float((a.zero - b.zero) / b.size)
    except OverflowError:
        scale, offset = math.inf, math.inf
    if not (math.isfinite(scale) and math.isfinite(offset) and scale > 0):
        return f"{between}: the factor is beyond what a number can hold"
    return Linear(scale=scale, offset=offset)


@lru_cache(maxsize=4096)
def _read(text: str) -> _Unit:
    if len(text) > MAX_LENGTH:
        raise UnitError(f"unit {_quoted(text)} is longer than {MAX_LENGTH} characters; write it in UCUM")
    if text.count(".") + text.count("/") >= _MAX_FACTORS:
        raise UnitError(f"unit {_quoted(text)} has more than {_MAX_FACTORS} factors; write it in UCUM")
    plain = _CARET.sub("", text.strip().translate(_CHARACTERS))
    try:
        return _Parser(SPELLINGS.get(plain, plain)).unit()
    except _NotUcumError as exc:
        raise UnitError(
            f"unit {_quoted(text)} is not known ({exc}); write it in UCUM, such as Cel, [degF], km/h, % or ug/m3 (docs/units.md)"
        ) from None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= MAX_LENGTH else text[:MAX_LENGTH] + "…")


def _dimension(unit: _Unit) -> str:
    """Return a dimension in base units, such as `m.s-1`."""
    parts = [f"{base}{'' if power == 1 else power}" for base, power in zip(_BASE, unit.dimension, strict=True) if power]
    return ".".join(parts) or "a plain number"


# --- UCUM ----------------------------------------------------------------------------------------------------------------------

#: UCUM's base units: metre, second, gram, radian, kelvin, coulomb, candela. An angle is not a plain number, so % cannot become deg.
_BASE: Final = ("m", "s", "g", "rad", "K", "C", "cd")
_PREFIXES: Final = {
    "da": "1e1",
    "Y": "1e24", "Z": "1e21", "E": "1e18", "P": "1e15", "T": "1e12", "G": "1e9", "M": "1e6", "k": "1e3", "h": "1e2",
    "d": "1e-1", "c": "1e-2", "m": "1e-3", "u": "1e-6", "n": "1e-9", "p": "1e-12", "f": "1e-15", "a": "1e-18",
    "Ki": "1024", "Mi": "1048576", "Gi": "1073741824", "Ti": "1099511627776",
}  # fmt: skip
#: Definitions of units that take prefixes: a number and a unit. The values are those of UCUM 2.2.
_METRIC: Final = {
    "mol": "6.02214076e23 1", "sr": "1 rad2", "Hz": "1 s-1", "N": "1 kg.m/s2", "Pa": "1 N/m2", "J": "1 N.m", "W": "1 J/s",
    "A": "1 C/s", "V": "1 J/C", "F": "1 C/V", "Ohm": "1 V/A", "S": "1 Ohm-1", "Wb": "1 V.s", "T": "1 Wb/m2", "H": "1 Wb/A",
    "lm": "1 cd.sr", "lx": "1 lm/m2", "Bq": "1 s-1", "Gy": "1 J/kg", "Sv": "1 J/kg", "kat": "1 mol/s", "l": "1 dm3", "L": "1 dm3",
    "ar": "100 m2", "t": "1000 kg", "bar": "100000 Pa", "cal": "4.184 J", "m[H2O]": "9.80665 kPa", "m[Hg]": "133.3220 kPa",
    "gf": "9.80665 g.m/s2", "eV": "1.602176634e-19 J", "bit": "1 1", "By": "8 bit", "Bd": "1 s-1",
}  # fmt: skip
#: Definitions of units without prefixes.
_OTHER: Final = {
    "10*": "10 1", "10^": "10 1", "%": "0.01 1", "[ppth]": "1e-3 1", "[ppm]": "1e-6 1", "[ppb]": "1e-9 1", "[pptr]": "1e-12 1",
    "[pi]": "3.1415926535897932384626433832795028841971693993751 1", "deg": "2 [pi].rad/360", "'": "1 deg/60", "''": "1 deg/3600",
    "gon": "0.9 deg", "circ": "2 [pi].rad", "min": "60 s", "h": "60 min", "d": "24 h", "wk": "7 d", "a": "365.25 d", "mo": "1 a/12",
    "atm": "101325 Pa", "[g]": "9.80665 m/s2", "[in_i]": "2.54 cm", "[ft_i]": "12 [in_i]", "[yd_i]": "3 [ft_i]",
    "[mi_i]": "5280 [ft_i]", "[nmi_i]": "1852 m", "[kn_i]": "1 [nmi_i]/h", "[gr]": "64.79891 mg", "[lb_av]": "7000 [gr]",
    "[oz_av]": "1 [lb_av]/16", "[lbf_av]": "1 [lb_av].[g]", "[psi]": "1 [lbf_av]/[in_i]2", "[in_i'Hg]": "1 m[Hg].[in_i]/m",
    "[in_i'H2O]": "1 m[H2O].[in_i]/m", "[gal_us]": "231 [in_i]3", "[gal_br]": "4.54609 l", "[cft_i]": "1 [ft_i]3",
    "[sft_i]": "1 [ft_i]2", "[HP]": "550 [ft_i].[lbf_av]/s", "[Btu_IT]": "1.05505585262 kJ", "[degR]": "5 K/9", "[NTU]": "1 1",
    "[FNU]": "1 1",
}  # fmt: skip
#: Temperatures: whether the unit takes prefixes, the K of one degree, and the K of its zero.
_ZEROS: Final = {"Cel": (True, "1", "273.15"), "[degF]": (False, "5/9", "45967/180")}
#: Logarithmic units, with the quantity of their reference level; "": unspecified. B and dB are compatible with all of them, since
#: the name of a metric in dB says which level it is.
_LEVELS: Final = {"B": "", "B[SPL]": "pressure", "B[W]": "power", "B[V]": "voltage"}

#: The largest exponents: of 10*, for every factor that a float can hold; of units, more than any quantity has.
_MAX_POWER: Final = {"10*": 300, "10^": 300}
_MAX_UNIT_POWER: Final = 9
_NUMBER: Final = re.compile(r"[0-9]+")
_NAME: Final = re.compile(r"10[*^]|(?:[A-Za-z%'_]|\[[^\[\]{}()\s]*\])+")
_POWER: Final = re.compile(r"[+-]?[0-9]+")
_ANNOTATION: Final = re.compile(r"\{[!-z|~ ]*\}")
_ONE: Final = _Unit(Fraction(1), (0,) * len(_BASE))


class _NotUcumError(Exception):
    """Carries the description of a mistake to `_read`."""


class _Parser:
    """A recursive-descent parser of UCUM; MAX_LENGTH bounds its depth and its time."""

    def __init__(self, text: str) -> None:
        self._text: Final = text
        self._at = 0

    def unit(self) -> _Unit:
        """Parse the whole text as a unit."""
        special = self._special()
        if special is not None:
            return special
        found = self._term()
        if self._at < len(self._text):
            raise _NotUcumError(f"not understood from {self._text[self._at :]!r} on")
        return found

    def _special(self) -> _Unit | None:
        """Parse a unit that must stand alone: a temperature with a zero of its own, or a level. None: it is another unit."""
        name, brace, note = self._text.partition("{")
        if brace and not _ANNOTATION.fullmatch(brace + note):
            return None
        for prefix, factor in (("", "1"), *_PREFIXES.items()):
            if not name.startswith(prefix):
                continue
            rest = name[len(prefix) :]
            if rest in _ZEROS and (not prefix or _ZEROS[rest][0]):
                _, step, zero = _ZEROS[rest]
                return _Unit(Fraction(step) * Fraction(factor), _unit("K").dimension, Fraction(zero))
            if rest in _LEVELS:
                return _Unit(Fraction(factor), _ONE.dimension, level=_LEVELS[rest])
        return None

    def _term(self) -> _Unit:
        found = _ONE if self._peek() == "/" else self._component()
        while self._peek() in (".", "/"):
            sign = 1 if self._take() == "." else -1
            found = _times(found, self._component(), sign)
        return found

    def _component(self) -> _Unit:
        if self._peek() == "(":
            self._take()
            found = self._term()
            if self._peek() != ")":
                raise _NotUcumError("a parenthesis is not closed")
            self._take()
            return found
        if self._match(_ANNOTATION):
            return _ONE
        name = self._match(_NAME)
        if name:
            power = int(self._match(_POWER) or 1)
            if abs(power) > _MAX_POWER.get(name, _MAX_UNIT_POWER):
                raise _NotUcumError(f"an exponent of {power}")
            found = _times(_ONE, _unit(name), power)
        else:
            what = self._text[self._at :]
            number = self._match(_NUMBER)
            if not number or int(number) == 0:
                raise _NotUcumError(f"no unit at {what!r}" if what else "a unit is missing")
            found = _Unit(Fraction(int(number)), _ONE.dimension)
        self._match(_ANNOTATION)
        return found

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found[0]


def _times(a: _Unit, b: _Unit, power: int) -> _Unit:
    """Return a * b ** power."""
    return _Unit(a.size * b.size**power, tuple(x + y * power for x, y in zip(a.dimension, b.dimension, strict=True)))


@cache
def _known(name: str) -> _Unit:
    """Look up a unit of the tables, without prefix."""
    if name in _BASE:
        return _Unit(Fraction(1), tuple(int(base == name) for base in _BASE))
    value, definition = (_METRIC.get(name) or _OTHER[name]).split()
    found = _Parser(definition).unit()
    return found._replace(size=found.size * Fraction(value))


def _unit(name: str) -> _Unit:
    """Look up a unit of the tables, with or without prefix."""
    if name in _BASE or name in _METRIC or name in _OTHER:
        return _known(name)
    for prefix, factor in _PREFIXES.items():
        rest = name[len(prefix) :]
        if name.startswith(prefix) and (rest in _BASE or rest in _METRIC):
            found = _known(rest)
            return found._replace(size=found.size * Fraction(factor))
    if name in _ZEROS or name in _LEVELS or name[1:] in _ZEROS or name[1:] in _LEVELS:
        raise _NotUcumError(f"{name} stands alone or not at all; a difference of temperatures is in K")
    raise _NotUcumError(f"no unit {name!r}")
