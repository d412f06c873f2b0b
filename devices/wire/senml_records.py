"""Interpretation of SenML records one by one, as RFC 8428 defines them: labels, names, base fields, values and times."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, NamedTuple

from citybeat.devices.batch import MICROSECOND
from citybeat.devices.errors import Reason
from citybeat.devices.wire.decoded import MAX_MS, Finding, number, short

#: s. RFC 8428, section 4.5.3: a time below it is relative to now.
RELATIVE_BELOW: Final = 2**28
#: Supported versions: those of drafts and RFC 8428 (10), and RFC 9100's version with secondary units (10 + 2^4).
VERSIONS: Final = frozenset({*range(1, 11), 26})
#: RFC 8428, section 4.5.1: the characters of a name, which begins with a letter or digit.
NAME_BYTES: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-:./_"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-:./_]*")
#: s. Beyond it no sum of base time and time is a date.
_MAX_SECONDS: Final = 2 * MAX_MS // 1000


class Labels(NamedTuple):
    """Names of the fields in a representation (RFC 8428, tables 1 and 4)."""

    bver: Any
    bn: Any
    bt: Any
    bu: Any
    bv: Any
    bs: Any
    n: Any
    u: Any
    v: Any
    vs: Any
    vb: Any
    s: Any
    t: Any
    ut: Any
    vd: Any


JSON_LABELS: Final = Labels(*Labels._fields)
CBOR_LABELS: Final = Labels(-1, -2, -3, -4, -5, -6, *range(9))


def understood(version: Any) -> bool:
    """Tell whether a `bver` is one of `VERSIONS`."""
    return type(version) is int and version in VERSIONS


def split(name: str) -> tuple[str, str]:
    """Divide a name into device ("": it has none) and metric.

    Raises
    ------
    Finding
        BAD_NAME.
    """
    if not _NAME.fullmatch(name):
        raise Finding(
            Reason.BAD_NAME, f"a name must be a letter or digit, then letters, digits, '-', ':', '.', '/', '_', not {short(name)}"
        )
    end = max(name.rfind(":"), name.rfind("/"))
    if end == len(name) - 1:
        raise Finding(Reason.BAD_NAME, f"no metric after the last ':' or '/' of {short(name)}")
    return name[: max(end, 0)], name[end + 1 :]


class Resolver:
    """Resolves the records of one pack, in order, with the base fields in force at each.

    A base field with an invalid value makes the readings that it applies to invalid, up to the next record that has the field.
    """

    def __init__(self, labels: Labels) -> None:
        self._labels: Final = labels
        self._base_labels: Final = frozenset(labels[:6])
        self._known: Final = frozenset(labels)
        # A value may be a Finding. Adding -0.0 changes no number, whereas adding 0.0 would change -0.0 to 0.0.
        self._bases: dict[str, Any] = {"bn": "", "bt": 0, "bu": "", "bv": -0.0, "bs": -0.0}
        self._foreign: list[str] = []  # unknown base fields that must be understood

    def take(self, record: Any) -> tuple[str, str, int, float, str] | None:
        """Resolve a record to device, metric, time (us since 1970, or from now), value and unit; None: it has base fields only.

        Raises
        ------
        Finding
            The record is not a reading that citybeat can store.
        """
        labels = self._labels
        if type(record) is not dict:
            raise Finding(Reason.BAD_REPORT, f"expected a record, not {short(record)}")
        self._rebase(record)
        unknown = [key for key in record if type(key) is str and key not in self._known]
        foreign = [key for key in unknown if key.endswith("_")]
        self._foreign += [key for key in foreign if key.startswith("b")]
        for key in unknown:
            if key in Labels._fields:
                number_ = labels[Labels._fields.index(key)]
                raise Finding(Reason.BAD_REPORT, f"in CBOR the label {key!r} is the integer {number_}")
        if self._has_base_only(record):
            return None
        if foreign or self._foreign:
            raise Finding(Reason.BAD_REPORT, f"the field {short((foreign or self._foreign)[0])} must be understood, and is not")
        name = record.get(labels.n, "")
        if type(name) is not str:
            raise Finding(Reason.BAD_NAME, f"n must be a string, not {short(name)}")
        device, metric = split(self._base("bn") + name)
        value = self._value(record)
        unit = record[labels.u] if labels.u in record else self._base("bu")
        if type(unit) is not str:
            raise Finding(Reason.UNIT_MISMATCH, f"u must be a string, not {short(unit)}")
        return device, metric, self._base("bt") + _seconds(record.get(labels.t, 0)), value, unit

    def _has_base_only(self, record: dict[Any, Any]) -> bool:
        """Tell whether a record has base fields and no others; unknown base fields begin with b too."""
        based = False
        for key in record:
            if key in self._base_labels or (type(key) is str and key.startswith("b") and key not in self._known):
                based = True
            elif key in self._known or (type(key) is str and key.endswith("_")):
                return False
        return based

    def _rebase(self, record: dict[Any, Any]) -> None:
        labels = self._labels
        readers: list[tuple[str, Any, Callable[[Any], Any]]] = [
            ("bn", labels.bn, _text),
            ("bt", labels.bt, _seconds),
            ("bu", labels.bu, _unit),
            ("bv", labels.bv, _real),
            ("bs", labels.bs, _real),
        ]
        for name, label, read in readers:
            if label in record:
                try:
                    self._bases[name] = read(record[label])
                except Finding as finding:
                    self._bases[name] = Finding(finding.reason, f"{name}: {finding.detail}")

    def _base(self, name: str) -> Any:
        value = self._bases[name]
        if isinstance(value, Finding):
            raise value
        return value

    def _value(self, record: dict[Any, Any]) -> float:
        labels = self._labels
        told = [key for key in (labels.v, labels.vb, labels.vs, labels.vd) if key in record]
        if len(told) > 1:
            raise Finding(Reason.BAD_REPORT, "more than one of v, vb, vs, vd")
        if not told:
            if labels.s not in record:
                raise Finding(Reason.BAD_REPORT, "neither a value (v, vb) nor a sum (s)")
            return _number(record[labels.s]) + float(self._base("bs"))
        if told[0] == labels.v:
            return _number(record[labels.v]) + float(self._base("bv"))
        if told[0] == labels.vb:
            if type(record[labels.vb]) is not bool:
                raise Finding(Reason.NOT_A_NUMBER, f"vb must be true or false, not {short(record[labels.vb])}")
            return float(record[labels.vb])
        raise Finding(Reason.NOT_A_NUMBER, "a string (vs) or data (vd) is not stored; send a number (v) or a boolean (vb)")


def _text(raw: Any) -> str:
    if type(raw) is not str:
        raise Finding(Reason.BAD_NAME, f"expected a string, not {short(raw)}")
    return raw


def _unit(raw: Any) -> str:
    if type(raw) is not str:
        raise Finding(Reason.UNIT_MISMATCH, f"expected a string, not {short(raw)}")
    return raw


def _number(raw: Any) -> float:
    return number(float(raw) if type(raw) is Decimal else raw)


def _real(raw: Any) -> float:
    if type(raw) not in (int, float, Decimal):
        raise Finding(Reason.NOT_A_NUMBER, f"expected a number, not {short(raw)}")
    return _number(raw)


def _seconds(raw: Any) -> int:
    """Convert seconds, of an absolute time or a part of one, to microseconds."""
    if type(raw) not in (int, float, Decimal):
        raise Finding(Reason.BAD_TIME, f"expected seconds, not {short(raw)}")
    if not -_MAX_SECONDS <= raw <= _MAX_SECONDS:  # refuses NaN too
        raise Finding(Reason.BAD_TIME, f"{short(raw)} s is no date; are these milliseconds?")
    if type(raw) is int:
        return raw * MICROSECOND
    return round(raw * MICROSECOND if type(raw) is Decimal else raw * 1e6)
