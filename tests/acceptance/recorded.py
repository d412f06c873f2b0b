"""The recorded files, read independently of the simulator: csv, zoneinfo, Decimal, one row at a time.

Each reader gives what was measured: a list of (device, metric, time in us, value or None for missing), in the file's order.
"""

import csv
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

DATA = Path(__file__).parents[3] / "shared" / "data"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def us(naive, zone):
    """None for a wall-clock time that does not exist; the earlier of two."""
    aware = naive.replace(tzinfo=ZoneInfo(zone))
    if aware.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) != naive:
        return None
    return (aware - EPOCH) // timedelta(microseconds=1)


def lcl():
    out = []
    with (DATA / "energy/LCL_MAC000002.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            at = us(datetime.strptime(row["DateTime"][:26], "%Y-%m-%d %H:%M:%S.%f"), "UTC")
            text = row["KWH/hh (per half hour)"].strip()
            out.append(("lcl-MAC000002", "activeEnergyPerInterval", at, None if text == "Null" else float(text)))
    return out


def household():
    columns = {
        "Global_active_power": ("household-main", "totalActivePower", "1000"),
        "Global_reactive_power": ("household-main", "totalReactivePower", "1000"),
        "Voltage": ("household-main", "phaseVoltage", "1"),
        "Global_intensity": ("household-main", "current", "1"),
        "Sub_metering_1": ("household-sub1", "activeEnergyPerInterval", "0.001"),
        "Sub_metering_2": ("household-sub2", "activeEnergyPerInterval", "0.001"),
        "Sub_metering_3": ("household-sub3", "activeEnergyPerInterval", "0.001"),
    }
    out = []
    with (DATA / "energy/household_power_consumption_first1MiB.txt").open(newline="") as file:
        for row in csv.DictReader(file, delimiter=";"):
            if row["Sub_metering_3"] is None:
                continue  # the truncated last row
            at = us(datetime.strptime(f"{row['Date']} {row['Time']}", "%d/%m/%Y %H:%M:%S"), "Europe/Paris")
            for column, (device, metric, scale) in columns.items():
                text = row[column]
                out.append((device, metric, at, None if text in {"?", ""} else float(Decimal(text) * Decimal(scale))))
    return out


def airquality():
    columns = {
        "CO(GT)": "co",
        "PT08.S1(CO)": "pt08S1",
        "NMHC(GT)": "nmhc",
        "C6H6(GT)": "c6h6",
        "PT08.S2(NMHC)": "pt08S2",
        "NOx(GT)": "nox",
        "PT08.S3(NOx)": "pt08S3",
        "NO2(GT)": "no2",
        "PT08.S4(NO2)": "pt08S4",
        "PT08.S5(O3)": "pt08S5",
        "T": "temperature",
        "RH": "relativeHumidity",
        "AH": "absoluteHumidity",
    }
    out = []
    with (DATA / "environment/AirQualityUCI.csv").open(newline="") as file:
        for row in csv.DictReader(file, delimiter=";"):
            if not row["Date"]:
                continue  # padding
            at = us(datetime.strptime(f"{row['Date']} {row['Time']}", "%d/%m/%Y %H.%M.%S"), "UTC")
            for column, metric in columns.items():
                number = Decimal(row[column].replace(",", "."))
                scaled = number / 100 if metric == "relativeHumidity" else number
                out.append(("uci-airquality", metric, at, None if number == -200 else float(scaled)))
    return out


def nab():
    files = {
        "TravelTime_387": ("nab-traveltime-387", "travelTime", "1"),
        "TravelTime_451": ("nab-traveltime-451", "travelTime", "1"),
        "occupancy_6005": ("nab-occupancy-6005", "occupancy", "0.01"),
        "occupancy_t4013": ("nab-occupancy-t4013", "occupancy", "0.01"),
        "speed_6005": ("nab-speed-6005", "averageVehicleSpeed", "1.609344"),
        "speed_7578": ("nab-speed-7578", "averageVehicleSpeed", "1.609344"),
        "speed_t4013": ("nab-speed-t4013", "averageVehicleSpeed", "1.609344"),
    }
    out = []
    for name, (device, metric, scale) in files.items():
        with (DATA / f"traffic/nab_realTraffic/{name}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                at = us(datetime.strptime(row["timestamp"], "%Y-%m-%d %H:%M:%S"), "America/Chicago")
                out.append((device, metric, at, float(Decimal(row["value"]) * Decimal(scale))))
    return out


def fremont():
    out = []
    with (DATA / "traffic/FremontBridge.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            at = us(datetime.strptime(row["Date"], "%m/%d/%Y %I:%M:%S %p"), "America/Los_Angeles")
            for side in ("East", "West"):
                text = row[f"Fremont Bridge {side} Sidewalk"]
                out.append((f"fremont-{side.lower()}", "bicycleCount", at, float(text) if text else None))
    return out


def aarhus():
    out = []
    with (DATA / "traffic/aarhus_trafficData158324.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            at = us(datetime.fromisoformat(row["TIMESTAMP"]), "UTC")
            for column, metric, scale in (
                ("avgSpeed", "averageVehicleSpeed", 1),
                ("avgMeasuredTime", "travelTime", 1),
                ("vehicleCount", "intensity", 12),
            ):
                out.append(("aarhus-158324", metric, at, float(Decimal(row[column]) * scale)))
    return out


def aberdeen(kind):
    number, columns = {
        "sds011": ("5331", {"P1": ("pm10", "1"), "P2": ("pm25", "1")}),
        "dht22": ("5332", {"temperature": ("temperature", "1"), "humidity": ("relativeHumidity", "0.01")}),
    }[kind]
    out = []
    for path in aberdeen_files(kind):
        with path.open(newline="") as file:
            for row in csv.DictReader(file, delimiter=";"):
                at = us(datetime.fromisoformat(row["timestamp"]), "UTC")
                for column, (metric, scale) in columns.items():
                    text = row[column]
                    out.append((f"sensor-community-{number}", metric, at, float(Decimal(text) * Decimal(scale)) if text else None))
    return out


def aberdeen_files(kind):
    return sorted((DATA / "environment/sensor_community_aberdeen").glob(f"*_{kind}_*.csv"))
