"""Maps the catalogue's units (UCUM) to Grafana's. Pure. A unit without an entry is shown as written."""

from types import MappingProxyType
from typing import Final

from grafana_foundation_sdk.models import units

from citybeat.devices.catalogue import Metric

_UNITS: Final = MappingProxyType(
    {
        "1": units.Short,
        "Cel": units.Celsius,
        "hPa": units.Hectopascals,
        "km/h": units.KilometersPerHour,
        "m/s": units.MetersPerSecond,
        "s": units.Seconds,
        "m": units.Meter,
        "mm": units.Millimeter,
        "deg": units.Degrees,
        "lx": units.Lux,
        "W/m2": units.WattPerSquareMeter,
        "ug/m3": units.MicrogramPerCubicMeter,
        "mg/m3": units.MilligramPerCubicMeter,
        "[ppm]": units.PartsPerMillion,
        "dB": units.Decibel,
        "V": units.Volt,
        "A": units.Ampere,
        "Hz": units.Hertz,
        "W": units.Watt,
        "V.A{reactive}": units.VoltAmpereReactive,
        "kW.h": units.KiloWattHour,
        "m3": "suffix: m³",
        "{vehicle}": units.Short,
    }
)


def unit_of(metric: Metric, per_hour: str) -> str:
    """Grafana's unit of a metric.

    Parameters
    ----------
    metric : Metric
    per_hour : str
        "vehicles/h" in the language of the dashboards: the only unit that contains a word.
    """
    if metric.unit == "1" and (metric.low, metric.high) == (0.0, 1.0):
        return units.PercentUnit
    if metric.unit == "{vehicle}/h":
        return f"suffix: {per_hour}"
    return _UNITS.get(metric.unit, f"suffix: {metric.unit}")
