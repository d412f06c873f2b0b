"""A large city, and much going on."""

import json
import time
from collections.abc import Callable

import paho.mqtt.client as mqtt
from playwright.sync_api import expect

from citybeat.devices.device import Device, Sensor
from citybeat.storage.registry import records
from tests.acceptance.conftest import Service, connected
from tests.acceptance.console.browser import Visit
from tests.acceptance.console.conftest import until

#: Share of its time that the page's main thread may be busy.
BUSY = 0.5


def test_a_thousand_sensors_and_twenty_updates_a_second_leave_the_page_smooth(
    visitor: Callable[..., Visit], service: Service, source: mqtt.Client
):
    side = 32
    kinds = [("intensity", 400.0), ("temperature", 22.0), ("phaseVoltage", 230.0)]
    devices = [
        Device(id=f"load-{n:04d}", name=f"Load {n}", source="gw-load", domain=("traffic", "environment", "energy")[n % 3],
               district=f"Quarter {n % 12}", latitude=13.7 + n // side / 300, longitude=109.1 + n % side / 300,
               sensors=(Sensor(metric=kinds[n % 3][0], interval=3600.0),))  # not overdue while other tests run
        for n in range(1000)
    ]  # fmt: skip
    with service.town.database() as database:
        records.register(database, devices)
    columns = {"device": [d.id for d in devices], "metric": [d.sensors[0].metric for d in devices]}
    with visitor() as visit, connected(service.town, "gw-load") as client:
        page = visit.open(service.key)
        until(page, "Number(document.querySelector('#map').dataset.devices) >= 1000")
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        page.evaluate("""() => {
            window.frames_ = 0;
            const next = () => { window.frames_ += 1; requestAnimationFrame(next); };
            next();
        }""")
        windows = []
        turn = 0
        for _ in range(3):
            start = measured(session)
            began = time.monotonic()
            for step in range(100):  # 5 s
                # Fifty sensors a message: each reports once a second, however seldom it should.
                part = slice(turn % 20 * 50, turn % 20 * 50 + 50)
                turn += 1
                now = int(time.time() * 1000)
                payload = {name: values[part] for name, values in columns.items()} | {
                    "ts": [now] * 50,
                    "value": [kinds[n % 3][1] + turn % 30 / 60 for n in range(part.start, part.stop)],
                }
                client.publish("city/v1/gw-load/readings", json.dumps(payload), qos=1)
                page.wait_for_timeout(max(0.0, began + (step + 1) * 0.05 - time.monotonic()) * 1000)
            end = measured(session)
            windows.append((end["TaskDuration"] - start["TaskDuration"]) / (end["Timestamp"] - start["Timestamp"]))
            if windows[-1] < BUSY:
                break  # what else the machine does can only make it worse
        assert min(windows) < BUSY, windows
        assert page.evaluate("window.frames_") > 5 * 10 * len(windows)  # it did draw
        # And it is not behind: the last value of all is there.
        page.fill("#find", "Load 999")
        page.click("#tab-sensors")
        expect(page.locator(".entry[data-device]")).to_have_count(1)
        expect(page.locator('[data-device="load-0999"] .detail')).to_contain_text(f"{kinds[0][1] + turn % 30 / 60:.1f} /h")


def measured(session) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
