"""Messages of the load generator: payloads that were prepared before, or readings of made-up stations, made while sending.

A message of made-up readings is a row of bytes that was made once, with holes of fixed width for what changes: its number, its
times, its values. NumPy fills the holes of many messages at once. No two messages are alike: numbers count up, and a series never
says one time twice. Values move by one tenth from one reading of a series to the next, so that no quality check has a reason to
flag them, however fast they come. Nothing here reads a clock.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.catalogue import Domain
from citybeat.devices.device import Device, Sensor
from citybeat.devices.wire import reports
from citybeat.devices.wire.mqtt import Frame, Packets

Form = Literal["reports", "columns"]

#: Metrics of a station, and the tens that their values start with. Names of one length, so that all messages have one length.
METRICS: Final = {"pm25": 2, "pm10": 4, "LAeq": 5}
#: Bytes made at once, about: small enough to stay in the processor's cache until the socket has taken them.
_SLAB: Final = 131_072
#: Holes. JSON allows spaces before a number, but no leading zeros.
_SEQ: Final = 10  # digits
_TS: Final = 13  # digits of ms since 1970 UTC, from 2001 to 2286
_MARK_TS: Final = 10 ** (_TS - 1) + 1
#: Steps of a value, up and down in tenths: 0.0, 0.1, … 9.9, … 0.1.
_TENTHS: Final = 100
_WAVE: Final = np.concatenate([np.arange(_TENTHS), np.arange(_TENTHS - 2, 0, -1)])
#: A value "u.t": its two digits, by place in the wave.
_DIGITS: Final = np.stack([_WAVE // 10, _WAVE % 10], axis=1).astype(np.uint8) + ord("0")
#: Neighbouring series are not at the same place of the wave.
_PHASE: Final = 7


class Prepared:
    """Payloads that were made before; each is sent once, in order.

    Parameters
    ----------
    payloads : sequence of bytes
    readings : int or sequence of int
        In each message.
    """

    def __init__(self, payloads: Sequence[bytes], readings: int | Sequence[int] = 1) -> None:
        self._payloads = payloads
        self._readings = readings
        self._at = 0

    def take(self, count: int, frame: Frame, now: int) -> Packets | None:  # noqa: ARG002 (they have times of their own)
        """Return the next payloads: `simulator.load.link.Supply`."""
        start, size = self._at, 0
        while self._at < min(start + count, len(self._payloads)) and size < _SLAB:
            size += len(self._payloads[self._at])
            self._at += 1
        which = slice(start, self._at)
        return frame.pack(self._payloads[which], self._readings if isinstance(self._readings, int) else self._readings[which])


def stations(source: str, count: int) -> list[Device]:
    """Make devices of a source, with a sensor for each of `METRICS`."""
    sensors = tuple(Sensor(metric=metric) for metric in METRICS)
    return [Device(id=f"{source}-{i:06d}", source=source, domain=Domain.ENVIRONMENT, sensors=sensors) for i in range(count)]


def stations_for(size: int, at_least: int) -> int:
    """Return the number of stations that messages of `size` readings, one of each series, divide evenly."""
    need = np.lcm(size, len(METRICS)) // len(METRICS)
    return int(-(-max(at_least, 1) // need) * need)


@dataclass(frozen=True, slots=True)
class _Template:
    """Messages of one length, a row each, and the places of the holes."""

    rows: NDArray[np.uint8]  # (templates, bytes)
    id_at: int
    seq_at: int
    ts_at: NDArray[np.int64]  # (times,)
    value_at: NDArray[np.int64]  # (size,) the digit before the point; the one behind it follows


class Traffic:
    """Endless made-up readings of a source.

    Parameters
    ----------
    source : str
    boot : str
        Name of this run, in which numbers start at 0.
    devices : int
        Stations of the source; a multiple of what `stations_for` gives.
    size : int
        Readings a message.
    form : "reports" or "columns"
        A message of several readings is a batch of reports, or columns; one reading is always a report.
    """

    def __init__(self, source: str, *, boot: str, devices: int, size: int, form: Form = "reports") -> None:
        series = devices * len(METRICS)
        if size < 1 or series % size:
            raise ValueError(f"{series} series of {source} do not come out even in messages of {size} readings")
        self._source, self._boot, self._size, self._form = source, boot, size, form
        self._names = [f"{source}-{i:06d}" for i in range(devices)]
        self._templates = series // size
        self._phase = (np.arange(series, dtype=np.int64) * _PHASE).reshape(self._templates, size)
        self._template: _Template | None = None
        self._seq = 0
        self._time = 0  # ms: of the message before

    def take(self, count: int, frame: Frame, now: int) -> Packets:
        """Return the next messages: `simulator.load.link.Supply`. `now` is the time of readings whose series has none as late."""
        if self._template is None:
            self._template = self._make(frame)
        made = self._template
        length = made.rows.shape[1]
        count = max(1, min(count, _SLAB // length))
        seq = np.arange(self._seq, self._seq + count, dtype=np.int64)
        sweep, which = np.divmod(seq, self._templates)
        # Within a sweep time stands or goes on, with each new one it goes on: by a millisecond where the clock has not moved.
        first = max(now // 1000, self._time + (1 if which[0] == 0 else 0))
        time = first + (sweep - sweep[0])
        self._seq += count
        self._time = int(time[-1])
        data = made.rows[which]
        digits = _digits(seq, _SEQ)
        digits[:, :-1][np.cumsum(digits[:, :-1] != ord("0"), axis=1) == 0] = ord(" ")
        data[:, made.seq_at : made.seq_at + _SEQ] = digits
        stamp = _digits(time, _TS)
        if len(made.ts_at) == 1:
            at = int(made.ts_at[0])
            data[:, at : at + _TS] = stamp
        else:
            data[:, (made.ts_at[:, None] + np.arange(_TS)).ravel()] = np.tile(stamp, len(made.ts_at))
        values = _DIGITS[(sweep[:, None] + self._phase[which]) % len(_WAVE)]
        data[:, made.value_at] = values[:, :, 0]
        data[:, made.value_at + 2] = values[:, :, 1]
        start = np.arange(count + 1, dtype=np.int64) * length
        return Packets(
            data=data.reshape(-1),
            start=start,
            id_at=start[:-1] + made.id_at,
            readings=np.full(count, self._size, np.int64),
        )

    def _make(self, frame: Frame) -> _Template:
        """Make a row for each message of a sweep by `wire.encode`; marks show the holes, whose places must be the same in all."""
        payloads = [self._payload(i) for i in range(self._templates)]
        head, id_at = frame.head(len(payloads[0]))
        if len({len(payload) for payload in payloads}) != 1:
            raise ValueError(f"{self._source}: messages are not of one length")
        rows = np.frombuffer(b"".join(head + payload for payload in payloads), np.uint8).reshape(self._templates, -1)
        first = head + payloads[0]
        seq_at = len(head) + len(b'{"seq":')
        return _Template(rows, id_at, seq_at, _found(first, rb"%d" % _MARK_TS), _found(first, rb"\d0\.5") + 1)

    def _payload(self, template: int) -> bytes:
        series = range(template * self._size, (template + 1) * self._size)
        metrics = list(METRICS)
        device = [self._names[i // len(METRICS)] for i in series]
        metric = [metrics[i % len(METRICS)] for i in series]
        value = [METRICS[name] * 10 + 0.5 for name in metric]
        time = _MARK_TS * 1000
        if self._size == 1:
            body = reports.encode_report(device[0], time, {metric[0]: value[0]})
        elif self._form == "columns":
            body = reports.encode_columns(device, metric, [time] * self._size, value)
        else:
            body = [  # type: ignore[assignment]
                reports.encode_report(d, time, {m: v}) for d, m, v in zip(device, metric, value, strict=True)
            ]
        whole = reports.encode(body, seq=0, boot=self._boot)
        return whole.replace(b'{"seq":0,', b'{"seq":' + b" " * (_SEQ - 1) + b"0,", 1)


def _digits(numbers: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """Return (n, width) ASCII digits, with leading zeros."""
    powers = 10 ** np.arange(width - 1, -1, -1, dtype=np.int64)
    return (numbers[:, None] // powers % 10).astype(np.uint8) + np.uint8(ord("0"))


def _found(text: bytes, pattern: bytes) -> NDArray[np.int64]:
    """Find where numbers of this form begin; strings have none, since no name contains one of the signs before a number."""
    return np.array([match.start(1) for match in re.finditer(rb"[:,\[](" + pattern + rb")", text)], np.int64)
