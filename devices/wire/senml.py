"""Encoding and decoding of the `senml` and `senml-cbor` channels: SenML packs of RFC 8428, as docs/senml.md interprets them.

As in `devices.wire.reports`, decoding has two paths. The fast path takes the packs of many messages at once and resolves base
fields in arrays; it takes only packs whose records have a plain number as value and no unusual fields. The slow path takes the
others record by record, and names what is wrong. JSON and CBOR differ in their parsers and labels.

Seconds become integer microseconds by rint(seconds * 1e6) in float64. That is exact for every time that was written with at most
six decimals, until the year 2106: below 2^32 s the nearest float64 is within 2^-22 s = 0.238 us of the decimal, and the product,
below 2^52, is rounded by at most 0.25 us; together less than the 0.5 us that would reach another microsecond. Base time and time
are converted one by one and added as integers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, chain, repeat
from operator import add
from typing import Any, Final

import cbor2
import numpy as np
import orjson
from numpy.typing import NDArray

from citybeat.devices.batch import MICROSECOND, Float64, Int64
from citybeat.devices.errors import Reason
from citybeat.devices.flags import Flag
from citybeat.devices.wire import cbor, jsontext
from citybeat.devices.wire.columns import NotPlainError, doubles, text
from citybeat.devices.wire.decoded import MAX_MS, MIN_MS, Decoded, Finding, Refusal, Rows, short
from citybeat.devices.wire.jsontext import slices
from citybeat.devices.wire.names import Names, from_text, named
from citybeat.devices.wire.senml_records import (
    CBOR_LABELS,
    JSON_LABELS,
    NAME_BYTES,
    RELATIVE_BELOW,
    Labels,
    Resolver,
    split,
    understood,
)

#: s. Limit of the fast path's times: float64 seconds below it give exact microseconds (see above).
_EXACT_BELOW: Final = 2.0**32
_PLAIN_NUMBERS: Final = frozenset({float, int})
#: By byte: whether a name may begin with it, and (`_MARKS`) whether it precedes the last part of a name.
_BEGINS: Final = np.array([byte < 128 and chr(byte).isalnum() for byte in range(256)])
_LINE_BYTES: Final = NAME_BYTES + b"\n"
_MARKS: Final = np.array([chr(byte) in ":/" for byte in range(256)])


def decode(payloads: Sequence[bytes], sources: Sequence[str], received_at: Int64) -> Decoded:
    """Decode the payloads of messages of the `senml` channel.

    Parameters
    ----------
    payloads : sequence of bytes, length m
    sources : sequence of str, length m
        The source of each message, which is the device of a record whose name has one part only.
    received_at : (m,) int64
        Microseconds since 1970 UTC: "now" for times that are relative or absent (flag CLOCK).

    Returns
    -------
    Decoded
        `unit` has SenML's names. Records with base fields only are not readings: `index` and `received` do not count them.
    """
    return _decode(payloads, sources, received_at, jsontext.parse_all, JSON_LABELS)


def decode_cbor(payloads: Sequence[bytes], sources: Sequence[str], received_at: Int64) -> Decoded:
    """Decode the payloads of messages of the `senml-cbor` channel; see `decode`."""
    return _decode(payloads, sources, received_at, cbor.parse_all, CBOR_LABELS)


def _decode(
    payloads: Sequence[bytes],
    sources: Sequence[str],
    received_at: Int64,
    parse: Callable[[Sequence[bytes]], list[Any]],
    labels: Labels,
) -> Decoded:
    m = len(payloads)
    rows = Rows(m)
    for start, end in slices(payloads):
        packs: dict[int, list[Any]] = {}  # readable packs, by message and in order
        for i, parsed in enumerate(parse(payloads[start:end]), start):
            try:
                packs[i] = _as_pack(parsed)
            except Finding as finding:
                rows.refused.append(Refusal(message=i, index=None, reason=finding.reason, detail=finding.detail))
        if not packs:
            continue
        try:
            _fast(list(packs), packs, sources, received_at, rows, labels)
        except NotPlainError:
            for i, pack in packs.items():
                try:
                    _fast([i], packs, sources, received_at, rows, labels)
                except NotPlainError:
                    _slow(i, pack, sources[i], int(received_at[i]), rows, labels)
    return rows.decoded(np.full(m, -1, np.int64), [""] * m)


def _as_pack(parsed: Any) -> list[Any]:
    if type(parsed) is Finding:
        raise parsed
    if type(parsed) is not list:
        raise Finding(Reason.WRONG_TYPE, f"a SenML pack is an array of records, not {short(parsed)}")
    if not parsed:
        raise Finding(Reason.EMPTY, "an empty pack")
    return parsed


# --- the fast path -------------------------------------------------------------------------------------------------------------


def _fast(
    run: list[int],
    packs: Mapping[int, list[Any]],
    sources: Sequence[str],
    received_at: Int64,
    rows: Rows,
    labels: Labels,
) -> None:
    """Add the rows of a run of packs. Raises `NotPlainError` before it adds any row."""
    records = packs[run[0]] if len(run) == 1 else list(chain.from_iterable([packs[i] for i in run]))
    n = len(records)
    values = _everywhere(records, labels.v)
    if values is None:
        raise NotPlainError
    value = doubles(values)
    names, unnamed = _everywhere(records, labels.n), 0
    if names is None:
        told = [record.get(labels.n) for record in records]
        names, unnamed = ["" if name is None else name for name in told], told.count(None)
    times = _everywhere(records, labels.t)
    # Records are not searched for unknown fields: `left` counts the fields that are neither common to all records nor found below,
    # and what remains of it is unknown.
    try:
        sizes = np.frombuffer(bytearray(map(len, records)), np.uint8)  # the fastest way to make an array of small numbers
    except ValueError:  # 256 fields
        raise NotPlainError from None
    whole = 1 + (not unnamed) + (times is not None)
    left = int(sizes.sum()) - 2 * n + unnamed - (0 if times is None else n)
    others = np.flatnonzero(sizes > whole).tolist() if left else []  # records with more fields than the common ones
    found: dict[Any, tuple[list[int], list[Any]]] = {}  # by field: the records that have it, and its values
    for label in (labels.bn, labels.bt, labels.t, labels.u, labels.bu, labels.bver, labels.bv, labels.ut):
        wanted = left and not (label == labels.t and times is not None)
        found[label] = _found(records, others, label) if wanted else ([], [])
        left -= len(found[label][0])
    if left or not all(map(understood, found[labels.bver][1])):
        raise NotPlainError
    counts = [len(packs[i]) for i in run]
    starts = [0, *accumulate(counts[:-1])]

    def base(label: Any, default: Any, types: frozenset[type]) -> tuple[list[Any], Int64]:
        places, told = found[label]
        if not set(map(type, told)) <= types:
            raise NotPlainError
        return _spread(starts, places, told, default, n)

    pieces = _fast_names(base(labels.bn, "", frozenset({str})), names, [sources[i] for i in run], counts)
    unit: list[str] | None = None
    places, own = found[labels.u]
    if places or found[labels.bu][0]:
        unit = own
        if len(own) < n:
            unit = _repeated(*base(labels.bu, "", frozenset({str})))
            for i, name in zip(places, own, strict=True):
                unit[i] = name
        text(unit)
    if times is not None:
        time = _fast_seconds(times)
    else:
        time = np.zeros(n, np.int64)
        places, own = found[labels.t]
        time[places] = _fast_seconds(own)
    if found[labels.bt][0]:
        told, spans = base(labels.bt, 0, _PLAIN_NUMBERS)
        time += np.repeat(_fast_seconds(told), spans)
    relative = time < RELATIVE_BELOW * MICROSECOND
    flags = relative * np.int16(Flag.CLOCK)
    if relative.any():
        time = np.where(relative, time + np.repeat(received_at[run], counts), time)
    if found[labels.bv][0]:
        told, spans = base(labels.bv, -0.0, _PLAIN_NUMBERS)  # -0.0 leaves any number as it is
        with np.errstate(over="ignore", invalid="ignore"):
            value = value + np.repeat(doubles(told), spans)
    rows.add(run, counts, pieces, time, value, flags, unit)


def _everywhere(records: list[Any], label: Any) -> list[Any] | None:
    """Return the values of a field that all records have; None: some lack it. Raises `NotPlainError` if a record is not a dict."""
    try:
        return list(map(dict.__getitem__, records, repeat(label)))
    except KeyError:
        return None
    except TypeError:
        raise NotPlainError from None


def _found(records: list[Any], places: list[int], label: Any) -> tuple[list[int], list[Any]]:
    """Return the positions of those of these records that have a field, and its values."""
    try:
        return places, [records[i][label] for i in places]
    except KeyError:
        some = [i for i in places if label in records[i]]
        return some, [records[i][label] for i in some]


def _spread(starts: list[int], places: list[int], told: list[Any], default: Any, n: int) -> tuple[list[Any], Int64]:
    """Return the values of a base field and the number of records for which each holds: up to the next value, or the pack's end."""
    if not set(starts) <= set(places):
        changes = dict.fromkeys(starts, default)
        changes.update(zip(places, told, strict=True))
        places = sorted(changes)
        told = [changes[i] for i in places]
    return told, np.diff(np.array([*places, n]))


def _repeated(told: list[str], spans: Int64) -> list[str]:
    """Repeat each text as often as `spans` says; 1.5 times as fast as a chain of `repeat`."""
    repeated: list[str] = np.repeat(np.array(told, object), spans).tolist()
    return repeated


def _fast_seconds(seconds: list[Any]) -> Int64:
    """Convert seconds to microseconds."""
    if not set(map(type, seconds)) <= _PLAIN_NUMBERS:  # neither decimal fractions, which are exact, nor booleans
        raise NotPlainError
    exact = doubles(seconds)
    if not (np.abs(exact) <= _EXACT_BELOW).all():  # refuses NaN too
        raise NotPlainError
    return np.rint(exact * 1e6).astype(np.int64)


def _fast_names(bases: tuple[list[str], Int64], names: list[str], sources: list[str], counts: list[int]) -> list[Names]:
    """Return device and metric of each record, from the base names with the number of records of each, and the records' names."""
    stems, spans = bases
    if _are_metrics(names) and _are_stems(stems):
        return named(_repeated([stem[:-1] for stem in stems], spans), names, counts)
    if any(stems):
        names = list(map(add, _repeated(stems, spans), names))
    return _halves(names, sources, counts)


def _are_metrics(names: list[str]) -> bool:
    """Tell whether each text is a valid last part of a name."""
    all_ = text(names)
    return all(names) and ":" not in all_ and "/" not in all_ and _allowed(all_)


def _are_stems(stems: list[str]) -> bool:
    """Tell whether each text is a valid beginning of a name, up to the separator after the device."""
    if not all(stems):
        return False
    raw, starts, ends = _lines(stems)
    return bool(_BEGINS[raw[starts]].all() and _MARKS[raw[ends - 1]].all())


def _allowed(all_: str) -> bool:
    return all_.isascii() and not all_.encode().translate(None, NAME_BYTES)


def _lines(names: list[str]) -> tuple[NDArray[np.uint8], Int64, Int64]:
    """Join names to lines of one text: its bytes, and the start and end of each line. Raises `NotPlainError` for other bytes."""
    lines = "\n".join(names) + "\n"
    if not lines.isascii() or lines.encode().translate(None, _LINE_BYTES):
        raise NotPlainError
    raw = np.frombuffer(bytearray(lines, "ascii"), np.uint8)
    ends = np.flatnonzero(raw == ord("\n"))
    if len(ends) != len(names):
        raise NotPlainError
    return raw, np.append(0, ends[:-1] + 1), ends


def _halves(names: list[str], sources: list[str], counts: list[int]) -> list[Names]:
    """Divide whole names into device and metric, as `split` does.

    The last ':' or '/' of each name is replaced by a line feed in a text of all names. Name by name would take five times as long.
    """
    raw, starts, ends = _lines(names)
    marks = np.flatnonzero(_MARKS[raw])
    last = np.append(marks, -1)[np.searchsorted(marks, ends) - 1]  # last mark before each end, even of an earlier name; -1: none
    if not _BEGINS[raw[starts]].all() or (last == ends - 1).any():
        raise NotPlainError
    if (last > starts).all():
        raw[last] = ord("\n")
        return from_text(raw.tobytes().decode("ascii"), ends, counts)
    cuts = np.where(last > starts, last - starts, -1).tolist()
    own = chain.from_iterable(map(repeat, sources, counts))
    device = [name[:cut] if cut > 0 else source for name, cut, source in zip(names, cuts, own, strict=True)]
    return named(device, [name[cut + 1 :] for name, cut in zip(names, cuts, strict=True)], counts)


# --- the slow path -------------------------------------------------------------------------------------------------------------


def _slow(i: int, pack: list[Any], source: str, received_at: int, rows: Rows, labels: Labels) -> None:
    """Add a row or a refusal for each reading of one pack."""
    for record in pack:
        if type(record) is dict and labels.bver in record and not understood(record[labels.bver]):
            detail = f"SenML version {short(record[labels.bver])}; understood are 1 to 10, and 26"
            rows.refused.append(Refusal(message=i, index=None, reason=Reason.WRONG_TYPE, detail=detail))
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
            if at < RELATIVE_BELOW * MICROSECOND:
                at, flag = at + received_at, Flag.CLOCK
            if not MIN_MS * 1000 <= at <= MAX_MS * 1000:
                raise Finding(Reason.BAD_TIME, "a time beyond the year 9999; are these milliseconds?")
        except Finding as finding:
            rows.refused.append(Refusal(message=i, index=count, reason=finding.reason, detail=finding.detail))
        else:
            found.append((device or source, metric, at, flag, value, count))
            units.append(unit)
        count += 1
    if not count:
        rows.refused.append(
            Refusal(message=i, index=None, reason=Reason.EMPTY, detail="a pack without a reading: it has base fields only")
        )
        return
    columns: list[list[Any]] = [[row[k] for row in found] for k in range(6)]
    names = Names.of(columns[0], columns[1])
    rows.add_some(i, count, columns[5], names, columns[2], columns[4], columns[3], units if any(units) else None)


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
    """Encode readings as a pack.

    Parameters
    ----------
    device, metric : str, or sequence of str of length n
        "" as device: the source itself.
    time : (n,) int, or None
        Microseconds since 1970 UTC, from 1978-07-04T21:24:16Z (2^28 s): to SenML, earlier times are relative. None: no times.
    value : (n,) float
        NaN: missing, which SenML cannot express; sent as null, or as CBOR's NaN.
    unit : str, or sequence of str of length n
        SenML's name of the unit; "": none.
    binary : bool
        Encode for `senml-cbor` instead of `senml`.

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
    if times is not None and min(times) < RELATIVE_BELOW * MICROSECOND:
        raise ValueError("SenML reads times before 2^28 s since 1970 as relative to now")
    labels = CBOR_LABELS if binary else JSON_LABELS
    general = units[0] if len(set(units)) == 1 else ""
    start = times[0] // MICROSECOND if times is not None else 0
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
        if times is not None and times[k] != start * MICROSECOND:
            seconds, rest = divmod(times[k] - start * MICROSECOND, MICROSECOND)
            record[labels.t] = (times[k] - start * MICROSECOND) / MICROSECOND if rest else seconds
        record[labels.v] = None if math.isnan(number_) and not binary else number_
        pack.append(record)
    return cbor2.dumps(pack) if binary else orjson.dumps(pack)


def _is_name(device: str, metric: str) -> bool:
    try:
        return split(f"{device}:{metric}" if device else metric) == (device, metric)
    except Finding:
        return False
