"""`make screenshots`: pictures of the console for docs/, from a city that runs for them.

A simulated city with a day behind it, and five stations of our own that are each wrong in another way: the simulator's sensors
never are.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import httpx
import paho.mqtt.client as mqtt
from playwright.sync_api import Browser

from citybeat import stack
from citybeat.devices.device import Device, Sensor
from citybeat.stack.process import free_port
from citybeat.storage.db.connection import connect
from citybeat.storage.registry import records
from tests.acceptance.conftest import PATIENCE, wait_for
from tests.acceptance.console import browser as browsers
from tests.conftest import CHECKOUT, root_directory

DOCS: Final = CHECKOUT / "docs"
DEVICES: Final = 120
#: Simulated seconds a second until the city has caught up with the clock: a day in a minute or so.
SPEED: Final = 2_000
#: s; the day has to go through one machine's ingest.
CATCH_UP: Final = 600.0
HOUR: Final = 3600.0

FAULTY: Final = [
    Device(id="air-harbour", name="Air station harbour gate", source="gw-own", domain="environment", district="Hải Cảng",
           latitude=13.7765, longitude=109.2555, tags={"owner": "port authority"},
           sensors=(Sensor(metric="pm25", interval=300.0), Sensor(metric="temperature", interval=300.0))),
    Device(id="lvl-quang", name="Sound meter Quang Trung", source="gw-own", domain="environment", district="Quang Trung",
           latitude=13.7682, longitude=109.2033, sensors=(Sensor(metric="LAeq", interval=60.0, stuck_after=1500.0),)),
    Device(id="grid-phu", name="Feeder Trần Phú 4", source="gw-own", domain="energy", district="Trần Phú",
           latitude=13.7745, longitude=109.2282, sensors=(Sensor(metric="phaseVoltage", interval=60.0),)),
    Device(id="cnt-binh", name="Counter Nhơn Bình north", source="gw-own", domain="traffic", district="Nhơn Bình",
           latitude=13.8115, longitude=109.2035, sensors=(Sensor(metric="intensity", interval=5.0),)),
    Device(id="met-rang", name="Weather mast Ghềnh Ráng", source="gw-own", domain="environment", district="Ghềnh Ráng",
           latitude=13.7112, longitude=109.2125, sensors=(Sensor(metric="temperature", interval=60.0),)),
]  # fmt: skip


def main() -> None:
    if browsers.program() is None:
        sys.exit("there is no Chromium on this machine: apt-get install chromium")
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        settings = stack.StackSettings(home=home, root=root_directory(), pg_port=free_port(), mqtt_port=free_port())
        env = {name: value for name, value in os.environ.items() if not name.startswith("CITYBEAT_")} | {
            "CITYBEAT_HOME": str(home),
            "CITYBEAT_ROOT": str(root_directory().absolute()),
            "CITYBEAT_PG_PORT": str(settings.pg_port),
            "CITYBEAT_MQTT_PORT": str(settings.mqtt_port),
            "CITYBEAT_API_PORT": str(free_port()),
            "CITYBEAT_INGEST_PORT": "0",
            "CITYBEAT_ZONE": "Asia/Ho_Chi_Minh",
        }
        url = f"http://127.0.0.1:{env['CITYBEAT_API_PORT']}"
        children = [_start(env, "up", "--devices", "0")]
        try:
            wait_for(lambda: _answers(url), lambda: "the API does not answer")
            children.append(_start(env, "simulate", "run", "--devices", str(DEVICES), "--speed", str(SPEED), "--json"))
            key = (home / "api-key").read_text("ascii").strip()
            print("waiting until a simulated day has passed")
            wait_for(lambda: _caught_up(url, key), lambda: "the city does not catch up", CATCH_UP)
            with stack.running(settings) as servers, closing(connect(servers.database_url, application="screenshots")) as database:
                records.register(database, FAULTY)
            _go_wrong(settings)
            with browsers.browser() as made:
                _take(made, url, key)
        finally:
            for child in reversed(children):
                child.send_signal(signal.SIGINT)
                child.wait(PATIENCE)


def _start(env: dict[str, str], *arguments: str) -> "subprocess.Popen[bytes]":
    return stack.spawn(
        [sys.executable, "-m", "citybeat", *arguments], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _caught_up(url: str, key: str) -> bool:
    """True if the newest reading is of this minute."""
    time.sleep(1.0)  # each look reads every sensor's newest reading
    ages = httpx.get(f"{url}/v1/latest", params={"limit": 10_000}, headers={"X-API-Key": key}, timeout=30).json()["columns"][
        "age_s"
    ]
    return bool(ages) and sorted(ages)[len(ages) // 2] < 60.0


def _go_wrong(settings: stack.StackSettings) -> None:
    """A day of a station that was silent for a while, with readings that cannot be, and what is wrong now."""
    now = time.time()

    def report(device: str, ago: float, **values: float) -> dict[str, Any]:
        return {"device": device, "ts": int((now - ago) * 1000), "values": values}

    steps = [300.0 * n for n in range(24 * 12, 0, -1)]
    silent = (9.0 * HOUR, 11.5 * HOUR)
    impossible = [(5.2 * HOUR, -4.0), (5.1 * HOUR, -7.0), (16.4 * HOUR, -2.0)]
    reports = [
        report("air-harbour", ago, pm25=28 + 14 * math.sin(ago / 5000), temperature=27 + 3 * math.cos(ago / 13_750))
        for ago in steps
        if not silent[0] < ago < silent[1]
    ]
    reports += [report("air-harbour", ago, pm25=value) for ago, value in impossible]
    reports += [report("air-harbour", 20, pm25=1_240.0)]
    reports += [report("lvl-quang", 60.0 * n, LAeq=61.4) for n in range(120, 0, -1)]
    reports += [report("grid-phu", 60.0 * n, phaseVoltage=236 + n % 3) for n in range(120, 1, -1)]
    reports += [report("grid-phu", 5, phaseVoltage=256.4)]
    reports += [report("met-rang", 60.0 * n, temperature=26.5 + 0.1 * (n % 4)) for n in range(120, 1, -1)]
    reports += [report("met-rang", 5, temperature=48.0)]
    reports += [report("cnt-binh", ago, intensity=420.0 + ago) for ago in range(900, 300, -5)]
    reports.sort(key=lambda each: int(each["ts"]))
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set("gw-own", stack.credentials(settings, ["gw-own"])["gw-own"])
    client.connect("127.0.0.1", settings.mqtt_port)
    client.loop_start()
    try:
        client.publish("city/v1/gw-own/readings", json.dumps(reports), qos=1).wait_for_publish(PATIENCE)
    finally:
        client.disconnect()
        client.loop_stop()


def _take(made: Browser, url: str, key: str) -> None:
    desktop = {"viewport": {"width": 1440, "height": 860}}
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    pictures = [
        ("console", {**desktop, "locale": "en-GB", "color_scheme": "light"}, "wrong", "air-harbour/pm25"),
        ("console-dark.vi", {**desktop, "locale": "vi-VN", "color_scheme": "dark"}, "ledger", "air-harbour/pm25"),
        ("console-map", {**desktop, "locale": "en-GB", "color_scheme": "dark"}, "sensors", None),
        ("console-phone", {**phone, "locale": "en-GB", "color_scheme": "light"}, "wrong", None),
        ("console-phone.vi", {**phone, "locale": "vi-VN", "color_scheme": "dark"}, "wrong", "air-harbour/pm25"),
    ]
    for name, options, tab, sensor in pictures:
        with browsers.visit(made, url, **options) as visit:
            page = visit.open(key)
            # Everything that is wrong has been noticed: the overdue counter last.
            page.wait_for_selector('#wrong [data-sensor="cnt-binh/intensity"] .badge.overdue', state="attached")
            if sensor:
                page.eval_on_selector(f'#wrong [data-sensor="{sensor}"]', "row => row.click()")
                page.wait_for_selector("#chart .main-svg")
                page.click('[data-range="24h"]')
                page.wait_for_selector('#chart[data-gaps="1"]')
            page.eval_on_selector(f"#tab-{tab}", "tab => tab.click()")
            if tab == "ledger":
                page.wait_for_selector("#ledger tbody tr:nth-child(3)")
            page.mouse.move(0, 0)
            page.wait_for_timeout(1500)  # rings, the chart's last drawing
            path = DOCS / f"{name}.png"
            page.screenshot(path=path)
            print(f"{path.relative_to(CHECKOUT)}: {path.stat().st_size // 1000} kB", *visit.complaints, *visit.strangers)


if __name__ == "__main__":
    main()
