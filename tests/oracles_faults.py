"""Slow twins of what faults do to values: one reading at a time, in plain numbers, and every slot of time looked at."""

import math

import numpy as np

from citybeat.devices.batch import FOREVER, MICROSECOND, MINUTE
from citybeat.devices.catalogue import Kind, builtin
from citybeat.devices.device import Sensor
from citybeat.devices.registry.snapshot import DEFAULT_SENTINELS, MEMORY, STUCK_INTERVALS
from citybeat.devices.units import conversion
from citybeat.simulator.city import noise, signals
from citybeat.simulator.faults.kinds import Fault

HOUR = 3600 * MICROSECOND


def chance(key, step):
    """A number in [0, 1) of one key and one step."""
    return float(noise.uniform(np.array([key], np.uint64), np.array([step], np.int64))[0])


def salted(key, salt):
    return int(noise.mix(np.array([key], np.uint64), np.array([noise.key(0, salt)], np.uint64))[0])


def episodes(key, begin, end, slot, duration, until):
    """All episodes that begin before `until`: (number, onset, end), as they are cut by the window."""
    if slot is None:
        return [(0, begin, end)]
    found, number = [], 0
    length = min(duration, slot)
    while begin + number * slot <= min(until, end):
        onset = begin + number * slot + math.floor(chance(key, number) * (slot - length + 1))
        if onset < end:
            found.append((number, onset, min(onset + length, end)))
        number += 1
    return found


def limits(sensor: Sensor):
    """(low, high, limit, scale, stuck_after in us) of a sensor, from the catalogue's text."""
    metric = builtin()[sensor.metric]
    low, high = metric.low, metric.high
    if metric.range_per_interval:
        low, high = low * sensor.interval / metric.interval, high * sensor.interval / metric.interval
    if sensor.rating is not None:
        scale = sensor.rating * (sensor.interval / 3600 if metric.rating_per_hour else 1)
        low = low if metric.rating_low is None else max(low, metric.rating_low * scale)
        high = high if metric.rating_high is None else min(high, metric.rating_high * scale)
    floor = metric.step_floor * max(1.0, sensor.interval / metric.interval)
    rate = metric.step_per_minute / 60
    if metric.step_rating_per_hour and sensor.rating is not None:
        floor = metric.step_rating_per_hour * sensor.rating * sensor.interval / 3600
        rate += metric.step_rating_per_hour * sensor.rating / 3600
    limit = floor + rate * sensor.interval
    scale = min(limit, 0.05 * (high - low))
    stuck = max(metric.stuck_after, STUCK_INTERVALS * sensor.interval)
    return low, high, limit, scale, int(FOREVER) if math.isinf(stuck) else int(stuck * MICROSECOND)


def sentinels(sensor: Sensor):
    low, high, *_ = limits(sensor)
    return {code for code in DEFAULT_SENTINELS if not low <= code <= high} | set(builtin()[sensor.metric].sentinels)


def rounded(value):
    return float(np.rint(value * 1000.0) / 1000.0)


class Reading:
    """One reading of a city, and what a specification makes of it."""

    def __init__(self, city, spec, number, series, time, begin):
        self.city, self.spec, self.time, self.begin = city, spec, time, begin
        self.series = series
        device = city.device(int(city.series.device[series]))
        self.sensor = device.sensors[series - int(city.first[city.series.device[series]])]
        self.metric = builtin()[self.sensor.metric]
        self.low, self.high, self.limit, self.scale, self.stuck_after = limits(self.sensor)
        self.key = int(noise.mix(city.series.key[[series]], np.array([noise.key(city.seed, "fault", number)], np.uint64))[0])
        self.true = self.at(time)

    def at(self, time):
        return float(signals.sample(self.city.series, np.array([self.series]), np.array([time]))[0])

    def episode(self):
        """(number, onset) of what goes on, or None."""
        spec, interval = self.spec, round(self.sensor.interval * MICROSECOND)
        begin = self.begin + round(spec.from_ * MICROSECOND)
        end = 2**61 if spec.until is None else self.begin + round(spec.until * MICROSECOND)
        points = {Fault.SPIKE, Fault.RANGE, Fault.SENTINEL, Fault.DROPOUT}
        each = spec.chance
        if each is None and spec.rate is not None and spec.duration is None and spec.kind in points:
            each = min(spec.rate * interval / HOUR, 1.0)
        if each is not None:
            hit = begin <= self.time < end and chance(self.key ^ noise.key(0, "chance"), self.time) < each
            return (self.time, self.time) if hit else None
        own = {
            Fault.STUCK: min(self.stuck_after, 2**61) + 12 * interval,
            Fault.STEP: 8 * interval,
            Fault.NOISE: 20 * interval,
            Fault.RESET: 1,
        }.get(spec.kind, HOUR)
        duration = own if spec.duration is None else round(spec.duration * MICROSECOND)
        slot = None if spec.rate is None else round(HOUR / spec.rate)
        listed = episodes(self.key, begin, end, slot, duration, self.time)
        if spec.kind is Fault.RESET:
            begun = [each for each in listed if each[1] <= self.time]
            return begun[-1][:2] if begun else None
        going = [each for each in listed if each[1] <= self.time < each[2]]
        return going[0][:2] if going else None

    def jump(self, true, up):
        margin = (self.high - self.low) * 0.001 if math.isfinite(self.high - self.low) else 0.0
        above, below = self.high - margin - true, true - self.low - margin
        need = 1.8 * self.limit
        if self.metric.kind is Kind.COUNTER:
            up = True
        elif up and above < need:
            up = False
        elif not up and below < need:
            up = True
        room = above if up else below
        if room < need:
            return None
        size = min((self.spec.magnitude or 3.0) * self.limit, room)
        return size if up else -size

    def clipped(self, value):
        margin = (self.high - self.low) * 0.001
        if self.metric.kind is Kind.DIRECTION:
            return rounded(value - 360.0 * math.floor(value / 360.0))
        if math.isfinite(margin):
            return rounded(min(max(value, self.low + margin), self.high - margin))
        return rounded(min(max(value, self.low), self.high))

    def shown(self):
        """(value, number of the episode), or None where the fault leaves it alone."""
        found = self.episode()
        if found is None:
            return None
        number, onset = found
        value = self.value(number, onset)
        if value is None:
            return None
        if self.spec.kind is not Fault.SENTINEL and value in sentinels(self.sensor):
            value += 0.125
        return value, number

    def value(self, number, onset):
        kind, counter = self.spec.kind, self.metric.kind is Kind.COUNTER
        once = lambda salt: chance(salted(self.key, salt), number)  # noqa: E731
        each = lambda salt: chance(salted(self.key, salt), self.time)  # noqa: E731
        magnitude = self.spec.magnitude
        if kind in {Fault.SPIKE, Fault.STEP}:
            if not math.isfinite(self.limit) or self.high - self.low < 1.8 * self.limit:
                return None
            if kind is Fault.SPIKE:
                size = self.jump(self.true, each("up") < 0.5)
                return None if size is None else rounded(self.true + size)
            size = self.jump(self.at(onset), once("up") < 0.5)
            return None if size is None else self.clipped(self.true + size)
        if kind in {Fault.DRIFT, Fault.OFFSET, Fault.NOISE}:
            if counter or not math.isfinite(self.scale):
                return None
            sign = 1.0 if once("sign") < 0.5 else -1.0
            if kind is Fault.DRIFT:
                return self.clipped(self.true + sign * (magnitude or 1.0) * self.scale * ((self.time - onset) / HOUR))
            if kind is Fault.OFFSET:
                return self.clipped(self.true + sign * (magnitude or 0.5) * self.scale)
            return self.clipped(self.true + (2.0 * each("noise") - 1.0) * (magnitude or 2.0) * self.scale)
        if kind is Fault.STUCK:
            held = self.at(onset)
            return None if self.stuck_after == int(FOREVER) or held in self.metric.may_repeat else held
        if kind is Fault.RANGE:
            if not math.isfinite(self.low) and not math.isfinite(self.high):
                return None
            up = math.isfinite(self.high) and (each("up") < 0.5 or not math.isfinite(self.low))
            bound = self.high if up else self.low
            width = self.high - self.low if math.isfinite(self.high - self.low) else max(abs(bound), 1.0)
            away = (0.05 + each("away")) * width
            return rounded(bound + (away if up else -away))
        if kind is Fault.SENTINEL:
            codes = sorted(sentinels(self.sensor))
            if self.spec.code is not None:
                return self.spec.code if self.spec.code in codes else None
            return codes[math.floor(each("code") * len(codes))] if codes else None
        if kind is Fault.UNIT:
            other = {"Cel": "[degF]", "1": "%", "km/h": "m/s", "m/s": "km/h", "hPa": "Pa", "m": "cm", "mm": "cm", "W": "kW"}
            other |= {"W/m2": "kW/m2", "ug/m3": "mg/m3", "mg/m3": "ug/m3", "s": "ms", "kW.h": "W.h", "m3": "L", "V": "mV"}
            other |= {"A": "mA", "deg": "rad"}
            if self.metric.unit not in other or (self.metric.unit == "1" and self.high != 1):
                return None
            by = conversion(self.metric.unit, other[self.metric.unit])
            return self.true * by.scale + by.offset
        if kind is Fault.RESET:
            if not counter:
                return None
            since = self.true - self.at(onset)
            if since < 0:
                make = int(self.city.series.type[self.city.series.device[self.series]])
                since += float(self.city.series.registers[make, self.city.series.metric[self.series]])
            return rounded(since)
        return math.nan  # dropout


__all__ = ["MEMORY", "MINUTE", "Reading", "chance", "episodes", "limits", "sentinels"]
