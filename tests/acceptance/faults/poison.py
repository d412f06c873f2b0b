"""Mistakes of devices, each kind with the outcome that it must have. No two payloads are equal, so that each can be found."""

import json
from collections.abc import Callable
from dataclasses import dataclass

#: (device, metric, us since 1970 UTC, value)
Reading = tuple[str, str, int, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Poison:
    """A message that is wrong."""

    payload: bytes
    channel: str = "readings"  # below city/v1/{source}/
    reasons: frozenset[str] = frozenset()  # why quarantine keeps it; none: it is not there
    numbered: bool = False  # its envelope could be read, so that its number counts
    readings: tuple[Reading, ...] = ()  # what is stored of it all the same


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Who sends it, and when."""

    device: str  # of the source
    foreign: str  # a device of another source
    number: int  # no other message on this database has it
    ms: int  # since 1970 UTC: a time at which `device` has no reading


def _report(place: Place, **changes: object) -> dict[str, object]:
    return {"device": place.device, "ts": place.ms, "values": {"pm25": 7.0}, "n": place.number} | changes


def _whole(reason: str, make: Callable[[Place], bytes]) -> Callable[[Place, Callable[[object], bytes]], Poison]:
    return lambda place, _number: Poison(payload=make(place), reasons=frozenset({reason}))


def _reading(reason: str | None, make: Callable[[Place], object]) -> Callable[[Place, Callable[[object], bytes]], Poison]:
    reasons = frozenset() if reason is None else frozenset({reason})
    return lambda place, number: Poison(payload=number(make(place)), reasons=reasons, numbered=True)


def _bare(text: str) -> Callable[[Place, Callable[[object], bytes]], Poison]:
    """A value that JSON itself does not have, or not so."""
    reason = None if text == "NaN" else "not_finite"

    def make(place: Place, number: Callable[[object], bytes]) -> Poison:
        payload = number(_report(place, values={"pm25": "@"})).replace(b'"@"', text.encode())
        return Poison(payload=payload, reasons=frozenset({reason} - {None}), numbered=True)

    return make


def _half(place: Place, number: Callable[[object], bytes]) -> Poison:
    """A good reading beside a bad one."""
    return Poison(
        payload=number(_report(place, values={"pm25": 7.5, "happiness": 1})),
        reasons=frozenset({"unknown_metric"}),
        numbered=True,
        readings=((place.device, "pm25", place.ms * 1000, 7.5),),
    )


def _elsewhere(channel: str, reason: str) -> Callable[[Place, Callable[[object], bytes]], Poison]:
    return lambda place, _number: Poison(payload=json.dumps(_report(place)).encode(), channel=channel, reasons=frozenset({reason}))


#: Kind -> what it makes, of a place and of a function that puts a body into a numbered envelope where the source has such.
KINDS: dict[str, Callable[[Place, Callable[[object], bytes]], Poison]] = {
    "malformed": _whole("malformed", lambda p: b'{"n":%d,"device":"' % p.number),
    "invalid utf-8": _whole("invalid_utf8", lambda p: b'{"n":%d,"values":{"pm25":\xff}}' % p.number),
    "a number": _whole("wrong_type", lambda p: b"%d" % (p.number + 10**9)),
    "another shape": _whole("wrong_type", lambda p: json.dumps({"n": p.number, "hello": "world"}).encode()),
    "columns of two lengths": _whole(
        "column_length",
        lambda p: json.dumps({"n": p.number, "device": p.device, "metric": "pm25", "ts": [1, 2], "value": [1.0]}).encode(),
    ),
    "a number that is none": _whole("bad_envelope", lambda p: json.dumps({"seq": f"x{p.number}", "readings": []}).encode()),
    "nothing in it": _whole("empty", lambda p: f"[{p.number:b}]".translate({48: 32, 49: 9}).encode()),  # spaces and tabs
    "an unknown channel": _elsewhere("nonsense", "unknown_channel"),
    "an unknown topic": _elsewhere("readings/deeper", "unknown_topic"),
    "a string": _reading("not_a_number", lambda p: _report(p, values={"pm25": f"{p.number}"})),
    "infinity": _bare("Infinity"),
    "a huge number": _bare("-1e300"),
    "a number with 400 digits": _bare("9" * 400),
    "NaN": _bare("NaN"),
    "null": _reading(None, lambda p: _report(p, values={"pm25": None})),
    "a sentinel": _reading(None, lambda p: _report(p, values={"pm25": -9999})),
    "an unknown device": _reading("unknown_device", lambda p: _report(p, device=f"nobody-{p.number}")),
    "an unknown metric": _reading("unknown_metric", lambda p: _report(p, values={"happiness": p.number})),
    "another's device": _reading("source_mismatch", lambda p: _report(p, device=p.foreign)),
    "seconds for milliseconds": _reading("too_old", lambda p: _report(p, ts=p.ms // 1000)),
    "the year 2100": _reading("too_far_ahead", lambda p: _report(p, ts=4_102_444_800_000)),
    "a naive time": _reading("bad_time", lambda p: _report(p, ts="2026-01-01T00:00:00")),
    "no report": _reading("bad_report", lambda p: [p.number]),
    "no name": _reading("bad_name", lambda p: _report(p, device=p.number)),
    "half of it": _half,
}
