"""The `senml` and `senml-cbor` channels, both ways: SenML packs of RFC 8428 (docs/senml.md says how we read them).

As in `devices.wire`, decoding works in two gears. The fast one takes the packs of many messages at once and resolves base fields in
arrays; it takes only packs whose records have a plain number as value and none but the usual fields. Whatever it does not take goes
record by record through the slow one, which names what is wrong. JSON and CBOR differ in how they are parsed and in their labels.

Seconds become integer microseconds by rint(seconds * 1e6) in float64. That is exact for every time that was written with at most
six decimals, until the year 2106: below 2^32 s the nearest float64 is within 2^-22 s = 0.238 us of the decimal, and the product,
below 2^52, is rounded by at most 0.25 us; together less than the 0.5 us that would reach another microsecond. Base time and time
are converted one by one and added as integers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import add
from typing import Any, Final

import cbor2
import numpy as np
import orjson

from devices import cbor, jsontext
from devices.batch import Float64, Int64
from devices.decoded import MAX_MS, MIN_MS, Decoded, Finding, Refusal, Rows, joined, short
from devices.errors import Reason
from devices.flags import Flag
from devices.jsontext import slices
from devices.senml_records import CBOR_LABELS, JSON_LABELS, NAME_BYTES, RELATIVE_BELOW, Labels, Resolver, split, understood

#: s. The fast gear's times: float64 seconds below it give exact microseconds, see above.
_EXACT_BELOW: Final = 2.0**32
_US: Final = 1_000_000
_PLAIN_NUMBERS: Final = frozenset({float, int})


class _Irregular(Exception):  # noqa: N818 - a signal between the two gears, not an error
    """The fast gear cannot take this; the slow one will."""


def decode(payloads: Sequence[bytes], sources: Sequence[str], received_at: Int64) -> Decoded:
    """Decode the payloads of messages of the `senml` channel.

    Parameters
    ----------
    payloads : sequence of bytes, length m
    sources : sequence of str, length m
        The source of each message: the device of a record whose name has one part only.
    received_at : (m,) int64
        Microseconds since 1970 UTC: "now" of times that are relative to it, or absent (flag CLOCK).

    Returns
    -------
    Decoded
        `unit` as SenML names it. Records of base fields only are not readings: `index` and `received` do not count them.
    """
    return _decode(payloads, sources, received_at, jsontext.parse_all, JSON_LABELS)


def decode_cbor(payloads: Sequence[bytes], sources: Sequence[str], received_at: Int64) -> Decoded:
    """Decode the payloads of messages of the `senml-cbor` channel; as `decode`."""
    return _decode(payloads, sources, received_at, cbor.parse_all, CBOR_LABELS)


@dataclass(slots=True)
class _Gathered:
    """What has been decoded so far of m messages."""

    rows: Rows
    received: Any  # (m,) int32
    refused: list[Refusal] = field(default_factory=list)
    unit: list[str] = field(default_factory=list)  # of the first rows; the others have none

    def add_units(self, unit: list[str]) -> None:
        """Units of rows that are about to be added."""
        self.unit += repeat("", len(self.rows.device) - len(self.unit))
        self.unit += unit


def _decode(
    payloads: Sequence[bytes],
    sources: Sequence[str],
    received_at: Int64,
    parse: Callable[[Sequence[bytes]], list[Any]],
    labels: Labels,
) -> Decoded:
    m = len(payloads)
    out = _Gathered(Rows(), np.zeros(m, np.int32))
    for start, end in slices(payloads):
        packs: dict[int, list[Any]] = {}  # that can be read, by message and in order
        for i, parsed in enumerate(parse(payloads[start:end]), start):
            try:
                packs[i] = _as_pack(parsed)
            except Finding as finding:
                out.refused.append(Refusal(message=i, index=None, reason=finding.reason, detail=finding.detail))
        if not packs:
            continue
        try:
            _fast(list(packs), packs, sources, received_at, out, labels)
        except _Irregular:
            for i, pack in packs.items():
                try:
                    _fast([i], packs, sources, received_at, out, labels)
                except _Irregular:
                    _slow(i, pack, sources[i], int(received_at[i]), out, labels)
    rows = out.rows
    if out.unit:
        out.add_units([])
    return Decoded(
        device=rows.device,
        metric=rows.metric,
        time=joined(rows.time, np.int64),
        value=joined(rows.value, np.float64),
        flags=joined(rows.flags, np.int16),
        message=joined(rows.message, np.int32),
        index=joined(rows.index, np.int32),
        received=out.received,
        seq=np.full(m, -1, np.int64),
        boot=[""] * m,
        refused=out.refused,
        unit=out.unit,
    )


def _as_pack(parsed: Any) -> list[Any]:
    if type(parsed) is Finding:
        raise parsed
    if type(parsed) is not list:
        raise Finding(Reason.WRONG_TYPE, f"a SenML pack is an array of records, not {short(parsed)}")
    if not parsed:
        raise Finding(Reason.EMPTY, "an empty pack")
    return parsed


# --- the fast gear -------------------------------------------------------------------------------------------------------------


class _NoName(str):
    """Stands where a record has no name: the empty one."""

    __slots__ = ()


_NO_NAME: Final = _NoName()
_NAME_TYPES: Final = frozenset({str, _NoName})


def _fast(
    run: list[int],
    packs: Mapping[int, list[Any]],
    sources: Sequence[str],
    received_at: Int64,
    out: _Gathered,
    labels: Labels,
) -> None:
    """Rows of a run of plain packs. Raises `_Irregular` before it adds any row."""
    records = packs[run[0]] if len(run) == 1 else list(chain.from_iterable([packs[i] for i in run]))
    if set(map(type, records)) != {dict}:
        raise _Irregular
    n = len(records)
    label = labels.v
    try:
        values = [record[label] for record in records]
    except KeyError:
        raise _Irregular from None
    if not set(map(type, values)) <= _PLAIN_NUMBERS:
        raise _Irregular
    names, named = _names(records, labels.n)
    times = _everywhere(records, labels.t)
    # No record is searched for fields that we do not know: they are found by counting what is left of those that we do.
    sizes = np.fromiter(map(len, records), np.int64, n)
    whole = 1 + (named == n) + (times is not None)
    left = int(sizes.sum()) - n - named - (0 if times is None else n)
    others = np.flatnonzero(sizes > whole).tolist() if left else []  # records with more than what all have
    found: dict[Any, list[int]] = {}
    for label in (labels.bn, labels.bt, labels.t, labels.u, labels.bu, labels.bver, labels.bv, labels.ut):
        wanted = left and not (label == labels.t and times is not None)
        found[label] = [i for i in others if label in records[i]] if wanted else []
        left -= len(found[label])
    if left or not all(understood(records[i][labels.bver]) for i in found[labels.bver]):
        raise _Irregular
    counts = np.array([len(packs[i]) for i in run])
    starts = (np.cumsum(counts) - counts).tolist()

    def base(label: Any, default: Any, types: frozenset[type]) -> tuple[list[Any], list[int]]:
        places = found[label]
        told = [records[i][label] for i in places]
        if not set(map(type, told)) <= types:
            raise _Irregular
        return _spread(starts, places, told, default, n)

    bases = base(labels.bn, "", frozenset({str}))
    device, metric = _fast_names(bases, names, [sources[i] for i in run], counts)
    unit: list[str] | None = None
    if found[labels.u] or found[labels.bu]:
        label = labels.u
        if len(found[label]) == n:
            unit = [record[label] for record in records]
        else:
            general = chain.from_iterable(map(repeat, *base(labels.bu, "", frozenset({str}))))
            unit = [record.get(label, usual) for record, usual in zip(records, general, strict=True)]
        if set(map(type, unit)) != {str}:
            raise _Irregular
    if times is not None:
        time = _fast_seconds(times)
    else:
        time = np.zeros(n, np.int64)
        if found[labels.t]:
            time[found[labels.t]] = _fast_seconds([records[i][labels.t] for i in found[labels.t]])
    if found[labels.bt]:
        told, spans = base(labels.bt, 0, _PLAIN_NUMBERS)
        time += np.repeat(_fast_seconds(told), spans)
    which = np.repeat(np.array(run, np.int32), counts)
    relative = time < RELATIVE_BELOW * _US
    flags = np.where(relative, Flag.CLOCK, 0).astype(np.int16)
    if relative.any():
        time = np.where(relative, time + received_at[which], time)
    value = _floats(values)
    if found[labels.bv]:
        told, spans = base(labels.bv, -0.0, _PLAIN_NUMBERS)  # -0.0 leaves any number as it is
        with np.errstate(over="ignore", invalid="ignore"):
            value = value + np.repeat(_floats(told), spans)
    if unit is not None:
        out.add_units(unit)
    rows = out.rows
    rows.device += device
    rows.metric += metric
    rows.time.append(time)
    rows.value.append(value)
    rows.flags.append(flags)
    rows.message.append(which)
    rows.index.append((np.arange(n) - np.repeat(starts, counts)).astype(np.int32))
    out.received[run] = counts


def _everywhere(records: list[Any], label: Any) -> list[Any] | None:
    """What each record has under a label; None: not all have it."""
    try:
        return [record[label] for record in records]
    except KeyError:
        return None


def _names(records: list[Any], label: Any) -> tuple[list[str], int]:
    """The name of each record, or the empty one; and how many have one."""
    names = _everywhere(records, label)
    if names is None:
        names = list(map(dict.get, records, repeat(label), repeat(_NO_NAME)))
    types = list(map(type, names))
    if not set(types) <= _NAME_TYPES:
        raise _Irregular
    return names, len(names) - types.count(_NoName)


def _spread(starts: list[int], places: list[int], told: list[Any], default: Any, n: int) -> tuple[list[Any], list[int]]:
    """Values of a base field, and for how many of n records each holds: from its place on, up to the next or the pack's end."""
    if places != starts:
        changes = dict.fromkeys(starts, default)
        changes.update(zip(places, told, strict=True))
        places = sorted(changes)
        told = [changes[i] for i in places]
    return told, [end - start for start, end in zip(places, [*places[1:], n], strict=True)]


def _fast_seconds(seconds: list[Any]) -> Int64:
    """Seconds as microseconds."""
    if not set(map(type, seconds)) <= _PLAIN_NUMBERS:
        raise _Irregular
    exact = _floats(seconds)
    if not (np.abs(exact) <= _EXACT_BELOW).all():  # NaN neither
        raise _Irregular
    return np.rint(exact * 1e6).astype(np.int64)


def _floats(numbers: list[Any]) -> Float64:
    try:
        return np.array(numbers, np.float64)
    except OverflowError:
        raise _Irregular from None


def _fast_names(
    bases: tuple[list[str], list[int]], names: list[str], sources: list[str], counts: Int64
) -> tuple[list[str], list[str]]:
    """Device and metric of each record, from base names with the number of records of each, and names."""
    stems, spans = bases
    distinct = set(names)
    if distinct == {""}:  # the base name is the whole name
        device, metric = _halves(stems)
        device = list(chain.from_iterable(map(repeat, device, spans)))
        metric = list(chain.from_iterable(map(repeat, metric, spans)))
    elif _are_stems(stems) and _are_metrics(distinct):
        return list(chain.from_iterable(map(repeat, [stem[:-1] for stem in stems], spans))), names
    else:
        whole = list(map(add, chain.from_iterable(map(repeat, stems, spans)), names)) if any(stems) else names
        device, metric = _halves(whole)
    if not all(device):
        own = chain.from_iterable(map(repeat, sources, counts.tolist()))
        device = [name or source for name, source in zip(device, own, strict=True)]
    return device, metric


def _are_stems(stems: list[str]) -> bool:
    """Whether each is a valid beginning of a name that ends the device's part."""
    return _begin_well(stems) and all(map(str.endswith, stems, repeat((":", "/"))))


def _are_metrics(names: set[str]) -> bool:
    """Whether each is a valid last part of a name."""
    text = "".join(names)
    return "" not in names and ":" not in text and "/" not in text and _allowed(text)


def _halves(names: list[str]) -> tuple[list[str], list[str]]:
    """Device and metric of each name, as `split` gives them."""
    if not _begin_well(names):
        raise _Irregular
    text = "".join(names)
    if "/" not in text:
        parts = [name.rpartition(":") for name in names]
    elif ":" not in text:
        parts = [name.rpartition("/") for name in names]
    else:
        parts = [name.rpartition(":" if name.rfind(":") > name.rfind("/") else "/") for name in names]
    metric = [part[2] for part in parts]
    if not all(metric):
        raise _Irregular
    return [part[0] for part in parts], metric


def _begin_well(names: list[str]) -> bool:
    """Whether each begins as a name must, and goes on so."""
    heads = "".join([name[:1] for name in names])
    return len(heads) == len(names) and heads.isalnum() and _allowed("".join(names))


def _allowed(text: str) -> bool:
    return text.isascii() and not text.encode().translate(None, NAME_BYTES)


# --- the slow gear -------------------------------------------------------------------------------------------------------------


def _slow(i: int, pack: list[Any], source: str, received_at: int, out: _Gathered, labels: Labels) -> None:
    """One pack, record by record: a row for each reading that can be read, a refusal for each that cannot."""
    for record in pack:
        if type(record) is dict and labels.bver in record and not understood(record[labels.bver]):
            detail = f"SenML version {short(record[labels.bver])}; understood are 1 to 10, and 26"
            out.refused.append(Refusal(message=i, index=None, reason=Reason.WRONG_TYPE, detail=detail))
            return
    resolver = Resolver(labels)
    found: list[tuple[str, str, int, int, float, int]] = []
    units: list[str] = []
    count = 0
    for record in pack:
        try:
            reading = resolver.take(record)
            if reading is None:
                continue
            device, metric, at, value, unit = reading
            flag = Flag(0)
            if at < RELATIVE_BELOW * _US:
                at, flag = at + received_at, Flag.CLOCK
            if not MIN_MS * 1000 <= at <= MAX_MS * 1000:
                raise Finding(Reason.BAD_TIME, "a time beyond the year 9999; are these milliseconds?")
        except Finding as finding:
            out.refused.append(Refusal(message=i, index=count, reason=finding.reason, detail=finding.detail))
        else:
            found.append((device or source, metric, at, flag, value, count))
            units.append(unit)
        count += 1
    if not count:
        out.refused.append(Refusal(message=i, index=None, reason=Reason.EMPTY, detail="a pack of base fields only"))
        return
    if any(units):
        out.add_units(units)
    rows = out.rows
    rows.device += [row[0] for row in found]
    rows.metric += [row[1] for row in found]
    rows.time.append(np.array([row[2] for row in found], np.int64))
    rows.flags.append(np.array([row[3] for row in found], np.int16))
    rows.value.append(np.array([row[4] for row in found], np.float64))
    rows.index.append(np.array([row[5] for row in found], np.int32))
    rows.message.append(np.full(len(found), i, np.int32))
    out.received[i] = count


# --- encoding ------------------------------------------------------------------------------------------------------------------


def encode(
    device: str | Sequence[str],
    metric: str | Sequence[str],
    time: Sequence[int] | Int64 | None,
    value: Sequence[float] | Float64,
    *,
    unit: str | Sequence[str] = "",
    binary: bool = False,
) -> bytes:
    """A pack of readings.

    Parameters
    ----------
    device, metric : str, or sequence of str of length n
        "" as device: the source itself.
    time : (n,) int, or None
        Microseconds since 1970 UTC, from 1978-07-04T21:24:16Z (2^28 s): SenML reads what is earlier as relative. None: no times.
    value : (n,) float
        NaN: missing, which SenML has no word for; sent as null, or as CBOR's NaN.
    unit : str, or sequence of str of length n
        SenML's name of the unit; "": none.
    binary : bool
        A payload of `senml-cbor` instead of `senml`.

    Raises
    ------
    ValueError
        A name, a time or a value that SenML cannot carry, or no reading.

    Examples
    --------
    >>> encode("env-7", ["pm25", "no2"], [1767225600000000, 1767225601500000], [12.5, 30.0])
    b'[{"bn":"env-7:","bt":1767225600,"n":"pm25","v":12.5},{"n":"no2","t":1.5,"v":30.0}]'
    """
    values = np.asarray(value, np.float64).tolist()
    n = len(values)
    devices, metrics, units = ([column] * n if isinstance(column, str) else list(column) for column in (device, metric, unit))
    times = None if time is None else np.asarray(time, np.int64).tolist()
    if any(len(column) != n for column in (devices, metrics, units, times or values)) or not n:
        raise ValueError("a pack needs at least one reading, and columns of one length")
    if any(map(math.isinf, values)):
        raise ValueError("SenML carries no infinite values")
    if times is not None and min(times) < RELATIVE_BELOW * _US:
        raise ValueError("SenML reads times before 2^28 s since 1970 as relative to now")
    labels = CBOR_LABELS if binary else JSON_LABELS
    general = units[0] if len(set(units)) == 1 else ""
    start = times[0] // _US if times is not None else 0
    stem = ""
    pack: list[dict[Any, Any]] = []
    for k, (owner, name, number_, own_unit) in enumerate(zip(devices, metrics, values, units, strict=True)):
        prefix = f"{owner}:" if owner else ""
        if not _is_name(owner, name):
            raise ValueError(f"SenML cannot carry the name {prefix + name!r}")
        record: dict[Any, Any] = {}
        if prefix != stem:
            record[labels.bn] = stem = prefix
        if k == 0 and times is not None:
            record[labels.bt] = start
        if k == 0 and general:
            record[labels.bu] = general
        record[labels.n] = name
        if own_unit and not general:
            record[labels.u] = own_unit
        if times is not None and times[k] != start * _US:
            seconds, rest = divmod(times[k] - start * _US, _US)
            record[labels.t] = (times[k] - start * _US) / _US if rest else seconds
        record[labels.v] = None if math.isnan(number_) and not binary else number_
        pack.append(record)
    return cbor2.dumps(pack) if binary else orjson.dumps(pack)


def _is_name(device: str, metric: str) -> bool:
    try:
        return split(f"{device}:{metric}" if device else metric) == (device, metric)
    except Finding:
        return False
