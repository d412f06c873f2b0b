"""SenML as RFC 8428 tells it, one record at a time: the slow twin of `devices.wire.senml`."""

import io
import json
import math
import re
from decimal import Decimal

import cbor2

NUMBERS = {"bver": -1, "bn": -2, "bt": -3, "bu": -4, "bv": -5, "bs": -6}
NUMBERS |= {"n": 0, "u": 1, "v": 2, "vs": 3, "vb": 4, "s": 5, "t": 6, "ut": 7, "vd": 8}
NAME = re.compile(r"[A-Za-z0-9][-A-Za-z0-9:./_]*")
CLOCK = 64
YEAR_10000 = 253_402_300_800 * 10**6
YEAR_1 = -62_135_596_800 * 10**6


class Refused(Exception):  # noqa: N818 - not an error
    """A reading that is refused."""


def from_json(payload):
    try:
        return json.loads(payload.decode("utf-8")), None
    except UnicodeDecodeError:
        return None, "invalid_utf8"
    except (ValueError, RecursionError):
        return None, "malformed"


def from_cbor(payload):
    """Decodes CBOR without tags, except decimal fractions; integer labels become names, other keys stay."""
    stream = io.BytesIO(payload)
    try:
        pack = cbor2.CBORDecoder(stream, read_size=1, max_depth=7).decode()
    except Exception:
        return None, "malformed"
    if stream.read():
        return None, "malformed"
    if isinstance(pack, list):
        names = {number: name for name, number in NUMBERS.items()}

        def renamed(key):
            if isinstance(key, str) and key in NUMBERS:
                return "misnamed " + key
            return names.get(key, key)

        pack = [{renamed(k): v for k, v in r.items()} if isinstance(r, dict) else r for r in pack]
    return pack, None


def decode_message(payload, source, received_at, parse=from_json):
    """(readings, refusals): (index, device, metric, us, value, flags, unit) each, and (index or None, reason) each."""
    pack, wrong = parse(payload)
    if wrong:
        return [], [(None, wrong)]
    if type(pack) is not list:
        return [], [(None, "wrong_type")]
    if not pack:
        return [], [(None, "empty")]
    for record in pack:
        if type(record) is dict and "bver" in record:
            version = record["bver"]
            if type(version) is not int or not (1 <= version <= 10 or version == 26):
                return [], [(None, "wrong_type")]
    readings, refusals = [], []
    bases = {}
    foreign = False
    for record in pack:
        index = len(readings) + len(refusals)
        if type(record) is not dict:
            refusals.append((index, "bad_report"))
            continue
        words = [key for key in record if isinstance(key, str)]
        bases |= {key: record[key] for key in ("bn", "bt", "bu", "bv", "bs") if key in record}
        foreign = foreign or any(key.startswith("b") and key.endswith("_") for key in words)
        if any(key.startswith("misnamed ") for key in words):
            refusals.append((index, "bad_report"))
            continue
        regular = any((key in NUMBERS or key.endswith("_")) and key[0] != "b" for key in words)
        if not regular and any(key.startswith("b") for key in words):
            continue
        try:
            if foreign or any(key.endswith("_") for key in words):
                raise Refused("bad_report")
            readings.append((index, *resolve(record, bases, source, received_at)))
        except Refused as no:
            refusals.append((index, str(no)))
    if not readings and not refusals:
        return [], [(None, "empty")]
    return readings, refusals


def resolve(record, bases, source, received_at):
    stem, name = bases.get("bn", ""), record.get("n", "")
    if type(stem) is not str or type(name) is not str or not NAME.fullmatch(stem + name):
        raise Refused("bad_name")
    *device, metric = re.split("([:/])", stem + name)
    if not metric:
        raise Refused("bad_name")
    value = value_of(record, bases)
    unit = record.get("u", bases.get("bu", ""))
    if type(unit) is not str:
        raise Refused("unit_mismatch")
    at = micros(bases.get("bt", 0)) + micros(record.get("t", 0))
    relative = at < 2**28 * 10**6
    if relative:
        at += received_at
    if not YEAR_1 <= at < YEAR_10000 - 999:
        raise Refused("bad_time")
    return "".join(device[:-1]) or source, metric, at, value, CLOCK if relative else 0, unit


def value_of(record, bases):
    told = [key for key in ("v", "vs", "vb", "vd") if key in record]
    if len(told) > 1:
        raise Refused("bad_report")
    if told in (["vs"], ["vd"]):
        raise Refused("not_a_number")
    if told == ["vb"]:
        if type(record["vb"]) is not bool:
            raise Refused("not_a_number")
        return 1.0 if record["vb"] else 0.0
    if not told and "s" not in record:
        raise Refused("bad_report")
    own = record["v"] if told else record["s"]
    base = bases.get("bv" if told else "bs", 0)
    if own is None:
        own = math.nan
    if isinstance(base, bool) or not isinstance(own, int | float | Decimal) or not isinstance(base, int | float | Decimal):
        raise Refused("not_a_number")
    for each in (own, base):
        if isinstance(each, int) and abs(each) >= 2**1024 - 2**970:
            raise Refused("not_finite")
    return float(own) + float(base) if ("bv" if told else "bs") in bases else float(own)


def micros(seconds):
    if type(seconds) not in (int, float, Decimal) or not abs(seconds) <= 506_804_601_599:
        raise Refused("bad_time")
    if type(seconds) is float:
        return round(seconds * 1e6)
    return round(seconds * 10**6)
