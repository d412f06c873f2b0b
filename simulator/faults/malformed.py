"""Malformed messages: the forms that broken devices send, each with its expected outcome. Pure.

A form takes a sound message (its reports, number and boot) and returns bytes and the readings that it hits. **Whole** forms leave
nothing that can be read: every intended reading is *undecodable*. **Single** forms spoil one report or one reading: that one is
*quarantined*, and its neighbours are stored. docs/faults.md lists all forms.
"""

import copy
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from citybeat.devices.clock import from_us
from citybeat.devices.errors import Reason
from citybeat.devices.wire import reports as wire


class Form(enum.StrEnum):
    """Form of a malformed message."""

    TRUNCATED = "truncated"  # the connection or a buffer ended in its middle
    TWICE = "twice"  # two documents in one payload
    TEXT = "text"  # no JSON at all
    DEEP = "deep"  # thousands of brackets that nobody closes
    NOTHING = "nothing"  # no bytes
    BLANK = "blank"  # white space
    LATIN = "latin"  # text in another encoding than UTF-8
    BINARY = "binary"  # compressed, or another protocol
    SCALAR = "scalar"  # one number
    SHAPE = "shape"  # an object of some other contract
    NESTED = "nested"  # an envelope in an envelope
    NO_READINGS = "no_readings"  # an empty batch
    LENGTHS = "lengths"  # columns of different lengths
    BAD_SEQ = "bad_seq"  # a number that is a text
    LONG_BOOT = "long_boot"  # a boot of a thousand characters
    CHANNEL = "channel"  # the wrong topic

    VALUE_TEXT = "value_text"  # "12.3"
    VALUE_LIST = "value_list"  # [12.3]
    VALUE_OBJECT = "value_object"  # {"v": 12.3}
    VALUE_HUGE = "value_huge"  # 1e300
    UNKNOWN_DEVICE = "unknown_device"  # a device that is not registered
    LONG_DEVICE = "long_device"  # its name of 10,000 characters
    FOREIGN_DEVICE = "foreign_device"  # a device of another gateway
    NUMBER_DEVICE = "number_device"  # a device that is a number
    UNKNOWN_METRIC = "unknown_metric"  # a sensor that the device does not have
    LONG_METRIC = "long_metric"
    TIME_NAIVE = "time_naive"  # without an offset
    TIME_TEXT = "time_text"  # "yesterday"
    TIME_FLOAT = "time_float"  # milliseconds with a fraction
    TIME_NULL = "time_null"
    TIME_MICROSECONDS = "time_microseconds"
    TIME_SECONDS = "time_seconds"  # taken for milliseconds they are in 1970
    NO_REPORT = "no_report"  # a number where a report belongs
    NO_VALUES = "no_values"  # a report without values


#: Reason for which a form that leaves nothing is refused, and whether the message's number can still be read.
WHOLE: Final[dict[Form, tuple[Reason, bool]]] = {
    Form.TRUNCATED: (Reason.MALFORMED, False),
    Form.TWICE: (Reason.MALFORMED, False),
    Form.TEXT: (Reason.MALFORMED, False),
    Form.DEEP: (Reason.MALFORMED, False),
    Form.NOTHING: (Reason.MALFORMED, False),
    Form.BLANK: (Reason.MALFORMED, False),
    Form.LATIN: (Reason.INVALID_UTF8, False),
    Form.BINARY: (Reason.INVALID_UTF8, False),
    Form.SCALAR: (Reason.WRONG_TYPE, False),
    Form.SHAPE: (Reason.WRONG_TYPE, False),
    Form.NESTED: (Reason.WRONG_TYPE, True),
    Form.NO_READINGS: (Reason.EMPTY, True),
    Form.LENGTHS: (Reason.COLUMN_LENGTH, True),
    Form.BAD_SEQ: (Reason.BAD_ENVELOPE, False),
    Form.LONG_BOOT: (Reason.BAD_ENVELOPE, False),
    Form.CHANNEL: (Reason.UNKNOWN_CHANNEL, False),
}
#: Forms that spoil one report with all its readings, and the reason for which each reading is refused.
REPORTS: Final[dict[Form, Reason]] = {
    Form.UNKNOWN_DEVICE: Reason.UNKNOWN_DEVICE,
    Form.LONG_DEVICE: Reason.UNKNOWN_DEVICE,
    Form.FOREIGN_DEVICE: Reason.SOURCE_MISMATCH,
    Form.NUMBER_DEVICE: Reason.BAD_NAME,
    Form.TIME_NAIVE: Reason.BAD_TIME,
    Form.TIME_TEXT: Reason.BAD_TIME,
    Form.TIME_FLOAT: Reason.BAD_TIME,
    Form.TIME_NULL: Reason.BAD_TIME,
    Form.TIME_MICROSECONDS: Reason.BAD_TIME,
    Form.TIME_SECONDS: Reason.TOO_OLD,
    Form.NO_REPORT: Reason.BAD_REPORT,
    Form.NO_VALUES: Reason.BAD_REPORT,
}
#: Forms that spoil one reading.
READINGS: Final[dict[Form, Reason]] = {
    Form.VALUE_TEXT: Reason.NOT_A_NUMBER,
    Form.VALUE_LIST: Reason.NOT_A_NUMBER,
    Form.VALUE_OBJECT: Reason.NOT_A_NUMBER,
    Form.VALUE_HUGE: Reason.NOT_FINITE,
    Form.UNKNOWN_METRIC: Reason.UNKNOWN_METRIC,
    Form.LONG_METRIC: Reason.UNKNOWN_METRIC,
}
#: Forms of an invalid report: it is received as one reading, and its other readings never were in the message.
SWALLOWED: Final = frozenset({Form.NO_REPORT, Form.NO_VALUES})
HUGE: Final = 1e300


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoiled:
    """A malformed message."""

    channel: str
    payload: bytes
    reason: Reason
    whole: bool  # nothing can be read
    numbered: bool  # its number can be read
    report: int = -1  # which report is hit; -1: all
    metric: str | None = None  # which of its readings; None: all
    claimed: int | None = None  # us: what time the hit report says; None: none that can be read


def spoil(
    form: Form, reports: list[dict[str, Any]], *, seq: int, boot: str, chance: float, foreign: str | None = None
) -> Spoiled | None:
    """Make a message malformed.

    Parameters
    ----------
    form : Form
    reports : list of dict
        Reports made by `wire.encode_report`, at least one. They are not changed.
    seq, boot
        Number and boot of the message.
    chance : float
        In [0, 1): which report, which reading, which byte.
    foreign : str, optional
        A device of another source.

    Returns
    -------
    Spoiled or None
        None: the form cannot be had of this message.
    """
    if form in WHOLE:
        reason, numbered = WHOLE[form]
        sound = wire.encode(reports, seq=seq, boot=boot)
        payload = _WHOLE[form](sound, reports, seq, boot, chance)
        channel = "telemetry" if form is Form.CHANNEL else "readings"
        return Spoiled(channel=channel, payload=payload, reason=reason, whole=True, numbered=numbered)
    which = int(chance * len(reports))
    report: Any = copy.deepcopy(reports[which])
    metrics = list(report["values"])
    metric = metrics[int(chance * len(reports) * len(metrics)) % len(metrics)]
    claimed = None
    if form is Form.FOREIGN_DEVICE:
        if foreign is None:
            return None
        report["device"] = foreign
    elif form in READINGS:
        if report["values"][metric] is None:
            return None
        _spoil_value(form, report["values"], metric)
    elif form in SWALLOWED:
        report = 7 if form is Form.NO_REPORT else {**report, "values": {}}
    elif form in {Form.UNKNOWN_DEVICE, Form.LONG_DEVICE, Form.NUMBER_DEVICE}:
        report["device"] = {Form.UNKNOWN_DEVICE: "nobody-00000", Form.LONG_DEVICE: "x" * 10_000}.get(form, 17)
    else:
        ms = report.get("ts")
        if type(ms) is not int:
            return None
        report["ts"] = _time(form, ms)
        claimed = ms // 1000 * 1000 if form is Form.TIME_SECONDS else None  # seconds, read as milliseconds
    spoiled = [*reports[:which], report, *reports[which + 1 :]]
    return Spoiled(
        channel="readings",
        payload=wire.encode(spoiled, seq=seq, boot=boot),
        reason=(READINGS | REPORTS)[form],
        whole=False,
        numbered=True,
        report=which,
        metric=metric if form in READINGS else None,
        claimed=claimed,
    )


def _spoil_value(form: Form, values: dict[str, Any], metric: str) -> None:
    value = values[metric]
    if form in {Form.UNKNOWN_METRIC, Form.LONG_METRIC}:
        name = "happiness" if form is Form.UNKNOWN_METRIC else "m" * 10_000
        renamed = {name if key == metric else key: each for key, each in values.items()}  # in its place
        values.clear()
        values.update(renamed)
    else:
        values[metric] = {
            Form.VALUE_TEXT: str(value),
            Form.VALUE_LIST: [value],
            Form.VALUE_OBJECT: {"v": value},
            Form.VALUE_HUGE: HUGE,
        }[form]


def _time(form: Form, ms: int) -> Any:
    return {
        Form.TIME_NAIVE: from_us(ms * 1000).replace(tzinfo=None).isoformat(),
        Form.TIME_TEXT: "yesterday",
        Form.TIME_FLOAT: ms + 0.5,
        Form.TIME_NULL: None,
        Form.TIME_MICROSECONDS: ms * 1000,
        Form.TIME_SECONDS: ms // 1000,
    }[form]


_Spoiler = Callable[[bytes, list[dict[str, Any]], int, str, float], bytes]
_WHOLE: Final[dict[Form, _Spoiler]] = {
    Form.TRUNCATED: lambda sound, _reports, _seq, _boot, chance: sound[: 1 + int(chance * (len(sound) - 1))],
    Form.TWICE: lambda sound, _reports, _seq, _boot, _chance: sound + sound,
    Form.TEXT: lambda _sound, reports, _seq, _boot, _chance: b"device=%s;ERROR 17" % str(reports[0].get("device")).encode(),
    Form.DEEP: lambda _sound, _reports, _seq, _boot, _chance: b"[" * 5000,
    Form.NOTHING: lambda _sound, _reports, _seq, _boot, _chance: b"",
    Form.BLANK: lambda _sound, _reports, _seq, _boot, _chance: b" \r\n",
    Form.LATIN: lambda sound, _reports, _seq, _boot, _chance: sound[:-1] + b',"place":"Quy Nh\xf5n"}',
    Form.BINARY: lambda _sound, _reports, seq, _boot, _chance: b"\x1f\x8b\x08\x00" + seq.to_bytes(8, "little") + b"\xff" * 20,
    Form.SCALAR: lambda _sound, _reports, _seq, _boot, _chance: b"42",
    Form.SHAPE: lambda _sound, reports, _seq, _boot, _chance: orjson.dumps({"id": reports[0].get("device"), "status": "ok"}),
    Form.NESTED: lambda _sound, reports, seq, boot, _chance: wire.encode({"readings": {"readings": reports}}, seq=seq, boot=boot),
    Form.NO_READINGS: lambda _sound, _reports, seq, boot, _chance: wire.encode([], seq=seq, boot=boot),
    Form.LENGTHS: lambda _sound, _reports, seq, boot, _chance: wire.encode(
        {"metric": ["pm25", "pm10"], "ts": [0, 0], "value": [1.0, 2.0, 3.0]}, seq=seq, boot=boot
    ),
    Form.BAD_SEQ: lambda _sound, reports, seq, boot, _chance: orjson.dumps({"seq": str(seq), "boot": boot, "readings": reports}),
    Form.LONG_BOOT: lambda _sound, reports, seq, boot, _chance: wire.encode(reports, seq=seq, boot=boot * 125),
    Form.CHANNEL: lambda sound, _reports, _seq, _boot, _chance: sound,
}
